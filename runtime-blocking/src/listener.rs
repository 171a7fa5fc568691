//! The listening socket on 127.0.0.1:3080 (PX-01 to PX-05).

use crate::dial;
use crate::host::Host;
use crate::redirector::client::Client;
use azure_proxy_agent_core::identity::LISTENER;
use redirect_ebpf::RedirectError;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, acceptfrom_with, bind, ipproto, listen, socket_with, sockopt};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::{fmt, io};

/// Connections that may wait for being accepted: a burst of clients is queued, not refused.
const BACKLOG: i32 = 4096;

/// Why there is no listener.
#[derive(Debug)]
pub enum ListenError {
    /// Somebody listens there: another agent, most likely (CLI-11). Worth another try.
    Busy,
    /// The port guard of a running agent refused us. Worth another try.
    Guarded,
    /// Anything else.
    Other(io::Error),
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => write!(f, "Cannot listen on {LISTENER}: the address is in use. Is another agent running?"),
            Self::Guarded => write!(f, "Cannot listen on {LISTENER}: the port guard of another agent refused it."),
            Self::Other(e) => write!(f, "Cannot listen on {LISTENER}: {e}"),
        }
    }
}

/// Binds and listens. `exempt` marks the socket first: the port guard that is in force refuses all others.
///
/// # Errors
/// [`ListenError`].
pub fn open(exempt: impl FnOnce(BorrowedFd<'_>) -> Result<(), RedirectError>) -> Result<TcpListener, ListenError> {
    let other = |e: Errno| ListenError::Other(e.into());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, Some(ipproto::TCP)).map_err(other)?;
    exempt(socket.as_fd()).map_err(|e| ListenError::Other(io::Error::other(e.to_string())))?;
    sockopt::set_socket_reuseaddr(&socket, true).map_err(other)?;
    prepare(socket.as_fd()).map_err(other)?;
    bind(&socket, &LISTENER).map_err(|e| match e {
        Errno::ADDRINUSE => ListenError::Busy,
        Errno::PERM => ListenError::Guarded,
        e => other(e),
    })?;
    listen(&socket, BACKLOG).map_err(other)?;
    Ok(TcpListener::from(socket))
}

/// Takes a listener that the service manager kept or made, if it is exactly ours: listening, TCP, IPv4, [`LISTENER`], in our network
/// namespace. Connections that wait in its backlog are served.
///
/// # Errors
/// Why it is not; it is closed.
pub(crate) fn adopt(socket: OwnedFd, redirector: Option<&Client>) -> Result<TcpListener, String> {
    let other = |e: Errno| e.to_string();
    is_ours(socket.as_fd(), redirector)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC).map_err(other)?;
    rustix::io::ioctl_fionbio(&socket, true).map_err(other)?;
    prepare(socket.as_fd()).map_err(other)?;
    // Whoever made it may have thought of another length of the queue.
    listen(&socket, BACKLOG).map_err(other)?;
    Ok(TcpListener::from(socket))
}

fn is_ours(socket: BorrowedFd<'_>, redirector: Option<&Client>) -> Result<(), String> {
    let other = |e: Errno| e.to_string();
    if sockopt::socket_domain(socket).map_err(other)? != AddressFamily::INET
        || sockopt::socket_type(socket).map_err(other)? != SocketType::STREAM
        || sockopt::socket_protocol(socket).map_err(other)? != Some(ipproto::TCP)
    {
        return Err("it is not TCP over IPv4".into());
    }
    let address = rustix::net::getsockname(socket).map_err(other)?;
    match SocketAddrV4::try_from(address) {
        Ok(LISTENER) => {}
        Ok(address) => return Err(format!("its address is {address}")),
        Err(e) => return Err(e.to_string()),
    }
    if !sockopt::socket_acceptconn(socket).map_err(other)? {
        return Err("it does not listen".into());
    }
    // Older kernels tell only who may configure the network.
    let ours = match (Host::is_in_our_network(socket), redirector) {
        (Ok(ours), _) => Ok(ours),
        (Err(e), None) => Err(e.to_string()),
        (Err(_), Some(redirector)) => match redirector.is_ours(socket) {
            Ok(Some(ours)) => Ok(ours),
            // Without whom nobody can be told apart, wherever he comes from: he gets his refusal instead of waiting in the queue.
            Ok(None) => return Ok(()),
            Err(e) => Err(e.to_string()),
        },
    };
    match ours {
        Ok(true) => Ok(()),
        Ok(false) => Err("it belongs to another network namespace".into()),
        Err(e) => Err(format!("whether it belongs to this network namespace cannot be told: {e}")),
    }
}

/// What all connections have in common is set here, once: accepted sockets inherit it.
pub(crate) fn prepare(listener: BorrowedFd<'_>) -> Result<(), Errno> {
    sockopt::set_tcp_nodelay(listener, true)?;
    dial::keep_alive(listener)
}

/// Accepts one connection, non-blocking from the start.
///
/// # Errors
/// As accept(2); `WouldBlock` if none is waiting.
pub fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddrV4)> {
    loop {
        match acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok((socket, address)) => {
                let address = address.and_then(|a| SocketAddrV4::try_from(a).ok());
                // The listener is IPv4: there is always such an address.
                let address = address.ok_or_else(|| io::Error::other("peer without an IPv4 address"))?;
                return Ok((TcpStream::from(socket), address));
            }
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn only_our_listener_is_adopted() {
        let refused = |socket: OwnedFd| adopt(socket, None).expect_err("not ours");
        let file = std::fs::File::open("/dev/null").expect("there").into();
        assert!(refused(file).to_lowercase().contains("socket"));
        let (pair, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        assert_eq!(refused(pair.into()), "it is not TCP over IPv4");
        let udp = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        assert_eq!(refused(udp.into()), "it is not TCP over IPv4");
        let elsewhere = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = elsewhere.local_addr().expect("bound");
        assert_eq!(refused(elsewhere.into()), format!("its address is {address}"));
    }
}
