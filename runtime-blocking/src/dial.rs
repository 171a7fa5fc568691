//! Connections of the agent to the host: exempted from the redirect one by one, before they connect (S-10).

use azure_proxy_agent_core::effect::ConnectError;
use redirect_ebpf::RedirectError;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with, sockopt};
use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// A peer that is silent for this long is asked whether it is still there,
const KEEP_IDLE: Duration = Duration::from_secs(60);
/// again and again after this time,
const KEEP_INTERVAL: Duration = Duration::from_secs(10);
/// and given up after so many questions without an answer.
const KEEP_COUNT: u32 = 6;

/// Begins a connection: a non-blocking socket that is connected when it becomes writable and [`outcome`] says so. `exempt` takes it out of
/// the redirect ([`Machine::exempt`](crate::machine::Machine::exempt)).
///
/// # Errors
/// The connection failed at once, or the socket could not be exempted: it would be redirected to ourselves.
pub fn begin(
    to: SocketAddrV4,
    exempt: impl FnOnce(BorrowedFd<'_>) -> Result<(), RedirectError>,
) -> Result<TcpStream, ConnectError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        socket_with(AddressFamily::INET, SocketType::STREAM, flags, Some(ipproto::TCP)).map_err(|_| ConnectError::Local)?;
    exempt(socket.as_fd()).map_err(|e| {
        log::error!("A connection to {to} was given up, because it cannot be exempted from the redirect: {e}");
        ConnectError::Local
    })?;
    // Heads and bodies go out in one write each; waiting for more would only delay them.
    sockopt::set_tcp_nodelay(&socket, true).map_err(|_| ConnectError::Local)?;
    keep_alive(socket.as_fd()).map_err(|_| ConnectError::Local)?;
    match connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(e) => Err(reason(e)),
    }
}

/// Has the kernel give up on a peer that vanished without a word (tcp(7)): it would hold the place of a connection for ever.
pub(crate) fn keep_alive(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    sockopt::set_tcp_keepidle(socket, KEEP_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEP_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEP_COUNT)?;
    sockopt::set_socket_keepalive(socket, true)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    #[test]
    fn a_vanished_peer_is_noticed_on_both_kinds_of_sockets() {
        let told = |socket: BorrowedFd<'_>| {
            let times = (sockopt::tcp_keepidle(socket)?, sockopt::tcp_keepintvl(socket)?, sockopt::tcp_keepcnt(socket)?);
            Ok::<_, Errno>((sockopt::socket_keepalive(socket)?, times))
        };
        let wanted = Ok((true, (Duration::from_secs(60), Duration::from_secs(10), 6)));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        crate::listener::prepare(listener.as_fd()).expect("options");
        let Ok(std::net::SocketAddr::V4(to)) = listener.local_addr() else { panic!("bound to IPv4") };
        let dialled = begin(to, |_| Ok(())).expect("loopback");
        // The connection is in the backlog, or will be: the listener still waits for it.
        let mut poll = [rustix::event::PollFd::new(&listener, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut poll, None).expect("poll");
        let (accepted, _) = crate::listener::accept(&listener).expect("accepted");
        assert_eq!(told(dialled.as_fd()), wanted);
        assert_eq!(told(accepted.as_fd()), wanted, "inherited from the listener");
        assert_eq!(sockopt::tcp_nodelay(&accepted), Ok(true), "inherited from the listener");
    }
}
