//! What is redirected, and what is not.

use crate::sandbox::{Caller, accept, all, connect, listen_exempt, mapped, real, tcp};
use azure_proxy_agent_core::identity::{Destination, LISTENER, PerDestination, Route, TargetMode};
use redirect_ebpf::{EbpfRedirector, Redirector};
use rustix::net::{AddressFamily, Protocol, SocketType};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

sandboxed! {
    /// I-23
    fn every_guarded_endpoint_leads_to_the_listener(sandbox) {
        let agent = sandbox.agent(TargetMode::Enforce);
        for destination in Destination::ALL {
            let client = connect(destination.addr()).unwrap();
            let (accepted, record) = agent.accept();
            let record = record.unwrap();
            assert_eq!((record.route, record.original), (Route::Redirected, destination.addr()));
            assert!(!record.mapped_v6);
            assert_eq!(accepted.peer_addr().unwrap(), client.local_addr().unwrap());
            assert_eq!(client.peer_addr().unwrap(), destination.addr().into(), "the client sees what it asked for");
        }
        assert_eq!(agent.redirector.counters().unwrap().handed_over, 3);
        println!("report: {}", agent.redirector.describe());
    }
}

sandboxed! {
    /// W-42
    fn endpoints_that_are_off_are_left_alone(sandbox) {
        let agent = sandbox.agent(TargetMode::Off);
        let imds = real(Destination::Imds);
        let client = connect(Destination::Imds.addr()).unwrap();
        assert_eq!(accept(&imds).peer_addr().unwrap(), client.local_addr().unwrap());

        // Each on its own.
        let modes = PerDestination { wireserver: TargetMode::Audit, ..all(TargetMode::Off) };
        agent.redirector.set_targets(modes).unwrap();
        connect(Destination::WireServer.addr()).unwrap();
        assert_eq!(agent.record().original, Destination::WireServer.addr());
        connect(Destination::Imds.addr()).unwrap();
        accept(&imds);
        assert_eq!(connect(Destination::HostGaPlugin.addr()).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(agent.nobody_came());
    }
}

sandboxed! {
    fn other_ports_and_addresses_are_left_alone(sandbox) {
        let agent = sandbox.agent(TargetMode::Enforce);
        for addr in ["169.254.169.254:81", "169.254.169.254:32526", "168.63.129.16:8080", "127.0.0.1:80", "127.0.0.2:3080"] {
            let addr: SocketAddrV4 = addr.parse().unwrap();
            assert_eq!(connect(addr).unwrap_err().kind(), io::ErrorKind::ConnectionRefused, "{addr}");
        }
        assert!(agent.nobody_came());
    }
}

sandboxed! {
    /// Java and every dual-stack client: S-01.
    fn v4_mapped_addresses_are_redirected_s01(sandbox) {
        let agent = sandbox.agent(TargetMode::Enforce);
        for destination in Destination::ALL {
            let client = connect(mapped(destination.addr())).unwrap();
            let record = agent.record();
            assert_eq!((record.route, record.original, record.mapped_v6), (Route::Redirected, destination.addr(), true));
            assert_eq!(record.tgid, std::process::id());
            assert_eq!(client.peer_addr().unwrap(), mapped(destination.addr()));
        }
    }
}

sandboxed! {
    fn real_ipv6_addresses_are_left_alone(sandbox) {
        let agent = sandbox.agent(TargetMode::Enforce);
        let other = std::net::TcpListener::bind("[::1]:80").unwrap();
        connect(SocketAddr::from((Ipv6Addr::LOCALHOST, 80))).unwrap();
        accept(&other);
        assert!(connect(SocketAddr::from((Ipv6Addr::LOCALHOST, 3080))).is_err());
        assert!(agent.nobody_came());
    }
}

sandboxed! {
    /// W-06
    fn an_exempt_socket_reaches_the_host_s10(sandbox) {
        let agent = sandbox.agent(TargetMode::Enforce);
        let imds = real(Destination::Imds);
        let socket = agent.exempt_socket();
        rustix::net::connect(&socket, &Destination::Imds.addr()).unwrap();
        let upstream = TcpStream::from(socket);
        assert_eq!(accept(&imds).peer_addr().unwrap(), upstream.local_addr().unwrap());
        assert!(agent.nobody_came());

        // It is the socket that is exempt: neither the process nor its children, nor what its listener accepts.
        let child = Caller::start(|_| drop(connect(Destination::Imds.addr()).unwrap()));
        assert_eq!(agent.record().tgid, child.pid);
        child.finish();
        connect(Destination::Imds.addr()).unwrap();
        assert_eq!(agent.record().tgid, std::process::id());
    }
}

sandboxed! {
    fn something_that_is_no_socket_can_be_neither_exempted_nor_identified(sandbox) {
        let agent = sandbox.agent(TargetMode::Off);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(agent.redirector.exempt(file.as_fd()).is_err());
        assert!(agent.redirector.identify(file.as_fd()).is_err());
    }
}

sandboxed! {
    fn connections_to_the_listener_itself_are_direct(sandbox) {
        let agent = sandbox.agent(TargetMode::Enforce);
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, LISTENER.port());
        // "Any" as a destination means loopback.
        for addr in [SocketAddr::from(LISTENER), any.into(), mapped(LISTENER), mapped(any)] {
            let client = connect(addr).unwrap();
            let record = agent.record();
            assert_eq!((record.route, record.tgid), (Route::Direct, std::process::id()), "{addr}");
            let seen = client.peer_addr().unwrap();
            assert_eq!(seen, if addr.is_ipv4() { LISTENER.into() } else { mapped(LISTENER) }, "{addr}");
        }
        // An IPv6 socket that is bound to a v4-mapped address: even [::] is 127.0.0.1 then.
        let socket = tcp(AddressFamily::INET6);
        rustix::net::bind(&socket, &mapped(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))).unwrap();
        rustix::net::connect(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, LISTENER.port()))).unwrap();
        assert_eq!(agent.record().route, Route::Direct);
    }
}

sandboxed! {
    /// S-07: a connection that never arrives leaves a note; whoever has the same source port later must not inherit it.
    /// PX-07
    fn a_failed_connection_leaves_nothing_to_inherit_s07(sandbox) {
        let redirector = EbpfRedirector::load(&sandbox.options()).unwrap();
        redirector.set_targets(all(TargetMode::Enforce)).unwrap();
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, LISTENER.port());
        let ports = [45_000, 45_001, 45_002];
        let victim = Caller::start(|_| {
            for port in ports {
                let socket = bound_to(port);
                rustix::net::connect(&socket, &Destination::Imds.addr()).expect_err("nobody listens yet");
            }
        });
        victim.finish();

        let listener = listen_exempt(&redirector, LISTENER);
        let record_of = |socket: &OwnedFd, to: SocketAddrV4| {
            rustix::net::connect(socket, &to).unwrap();
            redirector.identify(accept(&listener).as_fd()).unwrap()
        };
        for (port, to) in ports.into_iter().zip([LISTENER, any]) {
            let record = record_of(&bound_to(port), to).unwrap();
            assert_eq!((record.route, record.tgid), (Route::Direct, std::process::id()), "{to}");
        }
        // The agent's own connection to itself passes connect4 unrecorded: there must be nothing for it.
        let own = bound_to(ports[2]);
        redirector.exempt(own.as_fd()).unwrap();
        assert_eq!(record_of(&own, LISTENER), None);
    }
}

fn bound_to(port: u16) -> OwnedFd {
    let socket = tcp(AddressFamily::INET);
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).unwrap();
    socket
}

sandboxed! {
    fn source_address_and_port_may_be_chosen(sandbox) {
        let agent = sandbox.agent(TargetMode::Enforce);
        for source in ["127.0.0.1:45678", "127.0.0.9:45678", "169.254.169.254:45678", "0.0.0.0:45679"] {
            let source: SocketAddrV4 = source.parse().unwrap();
            let socket = tcp(AddressFamily::INET);
            rustix::net::bind(&socket, &source).unwrap();
            rustix::net::connect(&socket, &Destination::Imds.addr()).unwrap();
            let (accepted, record) = agent.accept();
            assert_eq!(record.unwrap().original, Destination::Imds.addr(), "{source}");
            assert_eq!(accepted.peer_addr().unwrap().port(), source.port());
        }
    }
}

sandboxed! {
    fn udp_is_left_alone(sandbox) {
        let agent = sandbox.agent(TargetMode::Enforce);
        let host = UdpSocket::bind(Destination::Imds.addr()).unwrap();
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        client.connect(Destination::Imds.addr()).unwrap();
        assert_eq!(client.peer_addr().unwrap(), Destination::Imds.addr().into());
        client.send(b"hello").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(host.recv(&mut buffer).unwrap(), 5);
        assert!(agent.nobody_came());
    }
}

sandboxed! {
    fn a_socket_that_is_used_again_is_recorded_again_s06(sandbox) {
        let agent = sandbox.agent(TargetMode::Enforce);
        let socket = tcp(AddressFamily::INET);
        let to = |addr: SocketAddrV4| {
            rustix::net::connect(&socket, &addr).unwrap();
            let record = agent.record();
            rustix::net::connect_unspec(&socket).unwrap();
            (record.route, record.original)
        };
        assert_eq!(to(Destination::Imds.addr()), (Route::Redirected, Destination::Imds.addr()));
        assert_eq!(to(LISTENER), (Route::Direct, LISTENER));
        assert_eq!(to(Destination::HostGaPlugin.addr()), (Route::Redirected, Destination::HostGaPlugin.addr()));
        assert_eq!(to(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, LISTENER.port())).0, Route::Direct);
    }
}

sandboxed! {
    fn non_blocking_connections_are_recorded(sandbox) {
        let agent = sandbox.agent(TargetMode::Enforce);
        let socket = rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            rustix::net::SocketFlags::NONBLOCK,
            None,
        )
        .unwrap();
        let first = rustix::net::connect(&socket, &Destination::Imds.addr());
        assert!(matches!(first, Ok(()) | Err(rustix::io::Errno::INPROGRESS)), "{first:?}");
        assert_eq!(agent.record().original, Destination::Imds.addr());
    }
}

sandboxed! {
    /// Multipath TCP: the hooks run on its subflow (S-01).
    fn mptcp_is_redirected_s01(sandbox) {
        let agent = sandbox.agent(TargetMode::Enforce);
        let protocol = Protocol::from_raw(262.try_into().unwrap());
        let Ok(socket) = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, Some(protocol)) else {
            return println!("report: no MPTCP in this kernel");
        };
        rustix::net::connect(&socket, &Destination::Imds.addr()).unwrap();
        let record = agent.record();
        assert_eq!((record.original, record.tgid), (Destination::Imds.addr(), std::process::id()));
    }
}

sandboxed! {
    /// TCP fast open: connect by sending, and connect later (S-01).
    fn fast_open_is_redirected_s01(sandbox) {
        std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3").unwrap();
        let agent = sandbox.agent(TargetMode::Enforce);
        set_tcp_option(&agent.listener, libc::TCP_FASTOPEN, 16);
        // The first gets a cookie, the second sends its data with the SYN.
        for round in 0..2 {
            let socket = tcp(AddressFamily::INET);
            send_fast_open(&socket, Destination::Imds.addr());
            let (mut accepted, record) = agent.accept();
            assert_eq!(record.unwrap().original, Destination::Imds.addr(), "round {round}");
            let mut bytes = [0; 5];
            io::Read::read_exact(&mut accepted, &mut bytes).unwrap();
            assert_eq!(&bytes, b"hello");
            assert_eq!(TcpStream::from(socket).peer_addr().unwrap(), Destination::Imds.addr().into());
        }
        // The SYN leaves with the first write, from another process: the one that called connect() counts (I-01).
        let socket = tcp(AddressFamily::INET);
        set_tcp_option(&socket, libc::TCP_FASTOPEN_CONNECT, 1);
        rustix::net::connect(&socket, &Destination::Imds.addr()).unwrap();
        let other = Caller::start(|_| assert_eq!(rustix::io::write(&socket, b"hello").unwrap(), 5));
        let record = agent.record();
        assert_eq!((record.original, record.tgid), (Destination::Imds.addr(), std::process::id()));
        other.finish();
    }
}

fn set_tcp_option(socket: &impl AsRawFd, option: libc::c_int, value: libc::c_int) {
    // SAFETY: the kernel reads one integer.
    crate::sandbox::check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, (&raw const value).cast(), 4)
    });
}

fn send_fast_open(socket: &impl AsRawFd, to: SocketAddrV4) {
    let to = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*to.ip()).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: five bytes to read, and a sockaddr_in of the size given.
    let n =
        unsafe { libc::sendto(socket.as_raw_fd(), b"hello".as_ptr().cast(), 5, libc::MSG_FASTOPEN, (&raw const to).cast(), 16) };
    assert_eq!(n, 5, "{}", io::Error::last_os_error());
}

sandboxed! {
    /// The record belongs to the socket: many at once, accepted late and in any order, keep apart.
    /// I-24
    fn many_at_once_keep_apart_s04(sandbox) {
        let agent = sandbox.agent(TargetMode::Enforce);
        rustix::net::listen(&agent.listener, 512).unwrap();
        let callers: Vec<_> = (0..8)
            .map(|_| {
                Caller::start(|stage| {
                    let sockets: Vec<_> = (0..40).map(|_| connect(Destination::Imds.addr()).unwrap()).collect();
                    stage.pause();
                    drop(sockets);
                })
            })
            .collect();
        let mut count = std::collections::HashMap::new();
        for _ in 0..8 * 40 {
            *count.entry(agent.record().tgid).or_insert(0) += 1;
        }
        for caller in callers {
            assert_eq!(count.remove(&caller.pid), Some(40));
            caller.finish();
        }
        assert!(count.is_empty());
    }
}
