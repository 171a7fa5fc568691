//! The listening socket on 127.0.0.1:3080 (PX-01 to PX-05).

use crate::dial;
use azure_proxy_agent_core::identity::LISTENER;
use redirect_ebpf::Redirector;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, acceptfrom_with, bind, ipproto, listen, socket_with, sockopt};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
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

/// Binds and listens. If a redirector is loaded already the socket is marked first, because its port guard refuses all others.
///
/// # Errors
/// [`ListenError`].
pub fn open(redirector: Option<&dyn Redirector>) -> Result<TcpListener, ListenError> {
    let other = |e: Errno| ListenError::Other(e.into());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, Some(ipproto::TCP)).map_err(other)?;
    if let Some(redirector) = redirector {
        redirector.exempt(socket.as_fd()).map_err(|e| ListenError::Other(io::Error::other(e.to_string())))?;
    }
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
