//! Packets that went around `connect()`.

use crate::bpf;
use crate::sandbox::{Agent, all, check, connect, listen_exempt, real};
use azure_proxy_agent_core::identity::{Destination, TargetMode};
use redirect_ebpf::{LoadOptions, Redirector};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

const IMDS: std::net::SocketAddrV4 = Destination::Imds.addr();

/// Sends a TCP packet made by hand, with `flags` and `payload`, from a raw socket.
fn send_raw(to: std::net::SocketAddrV4, flags: u8, fragment: u8, payload: &[u8]) -> io::Result<()> {
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW) });
    // SAFETY: made just now.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let ip = to.ip().octets();
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, fragment, 0, 64, 6, 0, 0];
    packet.extend(ip);
    packet.extend(ip);
    packet.extend(1234u16.to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 4, 0, 0, 0, 0, 0]);
    packet.extend(payload);
    let addr = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from(*to.ip()).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: `packet` and `addr` are of the sizes given.
    let n = unsafe { libc::sendto(socket.as_raw_fd(), packet.as_ptr().cast(), packet.len(), 0, (&raw const addr).cast(), 16) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

sandboxed! {
    fn off_means_not_even_loaded(sandbox) {
        let agent = sandbox.agent(TargetMode::Enforce);
        assert_eq!(bpf::attached(&sandbox.cgroup, bpf::EGRESS), 0);
        assert_eq!(bpf::held("bpf-prog").len(), 9);
        send_raw(IMDS, SYN, 0, b"").expect("the effect before the cure");
        drop(agent);
    }
}

sandboxed! {
    /// SEC-B1a
    fn raw_packets_to_guarded_endpoints_are_refused(sandbox) {
        let options = LoadOptions { egress_backstop: true, ..sandbox.options() };
        let agent = Agent::start(&options, TargetMode::Audit);
        assert_eq!(bpf::attached(&sandbox.cgroup, bpf::EGRESS), 1);
        let refused = |r: io::Result<()>| r.is_err_and(|e| e.kind() == ErrorKind::PermissionDenied);
        for destination in Destination::ALL {
            assert!(refused(send_raw(destination.addr(), SYN, 0, b"")), "{}", destination.name());
        }
        assert!(refused(send_raw(IMDS, ACK, 0, b"GET / HTTP/1.1")), "payload of an established connection");
        assert!(refused(send_raw(IMDS, SYN, 0x20, b"12345678")), "fragments hide what they are");
        send_raw(IMDS, ACK, 0, b"").expect("a bare ACK carries nothing");
        send_raw(IMDS, RST, 0, b"").expect("nor does a reset");
        send_raw("169.254.169.254:81".parse().unwrap(), SYN, 0, b"").expect("not guarded");
        assert_eq!(agent.redirector.counters().unwrap().egress_dropped, 5);

        agent.redirector.set_targets(all(TargetMode::Off)).unwrap();
        send_raw(IMDS, SYN, 0, b"").expect("off");
    }
}

sandboxed! {
    fn the_agents_own_traffic_passes_and_the_redirect_works(sandbox) {
        let options = LoadOptions { egress_backstop: true, ..sandbox.options() };
        let agent = Agent::start(&options, TargetMode::Enforce);
        let imds = listen_exempt(&agent.redirector, IMDS);
        let socket = agent.exempt_socket();
        rustix::net::connect(&socket, &IMDS).unwrap();
        let mut upstream = TcpStream::from(socket);
        upstream.write_all(b"request").unwrap();
        let mut host = crate::sandbox::accept(&imds);
        let mut bytes = [0; 7];
        host.read_exact(&mut bytes).unwrap();
        connect(IMDS).unwrap();
        assert_eq!(agent.record().original, IMDS);
        assert_eq!(agent.redirector.counters().unwrap().egress_dropped, 0);
    }
}

sandboxed! {
    fn connections_older_than_the_redirect_are_cut_off(sandbox) {
        let imds = real(Destination::Imds);
        let mut client = connect(IMDS).unwrap();
        let mut host = crate::sandbox::accept(&imds);
        let options = LoadOptions { egress_backstop: true, ..sandbox.options() };
        let agent = Agent::start(&options, TargetMode::Enforce);
        client.write_all(b"request").unwrap();
        host.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert_eq!(host.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(agent.redirector.counters().unwrap().egress_dropped > 0);
    }
}
