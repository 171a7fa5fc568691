//! Nobody but the agent listens where the redirect ends.

use crate::sandbox::{listen_exempt, mapped, new_network_namespace, tcp};
use azure_proxy_agent_core::identity::{LISTENER, TargetMode};
use redirect_ebpf::{EbpfRedirector, Redirector};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, SocketType, sockopt};
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

fn bind(socket: &OwnedFd, addr: SocketAddr) -> Result<(), Errno> {
    sockopt::set_socket_reuseaddr(socket, true).unwrap();
    sockopt::set_socket_reuseport(socket, true).unwrap();
    rustix::net::bind(socket, &addr)
}

fn try_bind(addr: &str) -> Result<(), Errno> {
    let addr: SocketAddr = addr.parse().unwrap();
    bind(&tcp(if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }), addr)
}

const IN_THE_WAY: [&str; 7] = [
    "127.0.0.1:3080",
    "0.0.0.0:3080",
    "127.0.0.2:3080",
    "[::]:3080",
    "[::1]:3080",
    "[::ffff:127.0.0.1]:3080",
    "[::ffff:0.0.0.0]:3080",
];

sandboxed! {
    fn others_cannot_take_the_port(sandbox) {
        for addr in IN_THE_WAY {
            assert_eq!(try_bind(addr), Ok(()), "without the guard: {addr}");
        }
        let redirector = EbpfRedirector::load(&sandbox.options()).unwrap();
        for addr in IN_THE_WAY {
            assert_eq!(try_bind(addr), Err(Errno::PERM), "{addr}");
        }
        assert_eq!(redirector.counters().unwrap().bind_refused, 7);
        // Not in the way: another address, another port, UDP.
        assert_eq!(try_bind("169.254.169.254:3080"), Ok(()));
        assert_eq!(try_bind("127.0.0.1:3081"), Ok(()));
        UdpSocket::bind(LISTENER).unwrap();

        // Nor beside the agent.
        let _listener = listen_exempt(&redirector, LISTENER);
        for addr in IN_THE_WAY {
            assert_eq!(try_bind(addr), Err(Errno::PERM), "{addr}");
        }
    }
}

sandboxed! {
    fn the_agent_can(sandbox) {
        let redirector = EbpfRedirector::load(&sandbox.options()).unwrap();
        listen_exempt(&redirector, LISTENER);
        let v6 = tcp(AddressFamily::INET6);
        redirector.exempt(v6.as_fd()).unwrap();
        assert_eq!(bind(&v6, mapped(LISTENER)), Ok(()));
    }
}

sandboxed! {
    fn multipath_listeners_are_refused_too(sandbox) {
        let _redirector = EbpfRedirector::load(&sandbox.options()).unwrap();
        let protocol = Protocol::from_raw(262.try_into().unwrap());
        if let Ok(socket) = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, Some(protocol)) {
            assert_eq!(bind(&socket, LISTENER.into()), Err(Errno::PERM));
        }
    }
}

sandboxed! {
    /// The kernel chooses the port: only post_bind sees which.
    fn a_port_that_the_kernel_chooses_is_seen(sandbox) {
        let _agent = EbpfRedirector::load(&sandbox.options()).unwrap();
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "3080 3081").unwrap();
        let mut results = Vec::new();
        let mut sockets = Vec::new();
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            for _ in 0..2 {
                let any: SocketAddr = if family == AddressFamily::INET { "127.0.0.1:0" } else { "[::]:0" }.parse().unwrap();
                let socket = tcp(family);
                results.push(rustix::net::bind(&socket, &any));
                sockets.push(socket);
            }
        }
        let taken = sockets.iter().filter_map(|s| rustix::net::getsockname(s).ok()).filter_map(|a| SocketAddr::try_from(a).ok());
        assert!(taken.map(|a| a.port()).all(|p| p != LISTENER.port()), "{results:?}");
        assert!(results.iter().any(Result::is_err));
    }
}

sandboxed! {
    /// A container with its own network namespace has its own port 3080.
    fn other_network_namespaces_have_their_own_port(sandbox) {
        let _agent = sandbox.agent(TargetMode::Enforce);
        std::thread::spawn(|| {
            new_network_namespace();
            let addr: SocketAddrV4 = LISTENER;
            assert_eq!(bind(&tcp(AddressFamily::INET), addr.into()), Ok(()));
        })
        .join()
        .unwrap();
    }
}
