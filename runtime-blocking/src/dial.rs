//! Connections of the agent to the host: exempted from the redirect one by one, before they connect (S-10).

use azure_proxy_agent_core::effect::ConnectError;
use redirect_ebpf::Redirector;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with, sockopt};
use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::AsFd;

/// Begins a connection: a non-blocking socket that is connected when it becomes writable and [`outcome`] says so.
///
/// # Errors
/// The connection failed at once, or the socket could not be exempted: it would be redirected to ourselves.
pub fn begin(to: SocketAddrV4, redirector: Option<&dyn Redirector>) -> Result<TcpStream, ConnectError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        socket_with(AddressFamily::INET, SocketType::STREAM, flags, Some(ipproto::TCP)).map_err(|_| ConnectError::Local)?;
    if let Some(redirector) = redirector {
        redirector.exempt(socket.as_fd()).map_err(|e| {
            log::error!("A connection to {to} was given up, because it cannot be exempted from the redirect: {e}");
            ConnectError::Local
        })?;
    }
    // Heads and bodies go out in one write each; waiting for more would only delay them.
    sockopt::set_tcp_nodelay(&socket, true).map_err(|_| ConnectError::Local)?;
    match connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(e) => Err(reason(e)),
    }
}

/// How a connection attempt ended, once the socket is writable.
///
/// # Errors
/// Why it failed.
pub fn outcome(socket: &TcpStream) -> Result<(), ConnectError> {
    match sockopt::socket_error(socket) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) | Err(e) => Err(reason(e)),
    }
}

const fn reason(errno: Errno) -> ConnectError {
    match errno {
        Errno::CONNREFUSED | Errno::CONNRESET => ConnectError::Refused,
        Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::NETDOWN => ConnectError::Unreachable,
        Errno::TIMEDOUT => ConnectError::TimedOut,
        _ => ConnectError::Local,
    }
}
