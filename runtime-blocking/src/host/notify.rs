//! Telling the service manager how we are (sd_notify(3)): one datagram to the socket that it named.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// What there is to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State<'a> {
    /// Start-up is complete.
    Ready,
    /// Shutting down.
    Stopping,
    /// One line for `systemctl status`.
    Status(&'a str),
}

/// Tells the service manager named by `NOTIFY_SOCKET`; without one (or if it does not listen) nothing happens.
pub fn notify(state: State<'_>) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET") {
        send(&socket, state);
    }
}

fn send(socket: &OsStr, state: State<'_>) {
    let message = match state {
        State::Ready => "READY=1\n".to_owned(),
        State::Stopping => "STOPPING=1\n".to_owned(),
        // One assignment per line: a line feed in the text would start another one.
        State::Status(text) => format!("STATUS={}\n", text.replace(|c: char| c.is_control(), " ")),
    };
    let sent = match socket.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(socket),
    }
    .and_then(|addr| {
        let sender = UnixDatagram::unbound()?;
        sender.set_nonblocking(true)?;
        sender.send_to_addr(message.as_bytes(), &addr)
    });
    if let Err(e) = sent {
        log::debug!("The service manager was not notified: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let n = socket.recv(&mut buffer).expect("received");
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    }

    #[test]
    fn messages_arrive_at_a_path_and_at_an_abstract_name() {
        let scratch = Scratch::new("notify");
        let path = scratch.path().join("socket");
        let listener = UnixDatagram::bind(&path).expect("bind");
        send(path.as_os_str(), State::Ready);
        assert_eq!(received(&listener), "READY=1\n");
        send(path.as_os_str(), State::Status("two\nlines READY=1"));
        assert_eq!(received(&listener), "STATUS=two lines READY=1\n");

        let name = format!("agent-notify-{}", std::process::id());
        let listener = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).expect("name")).expect("bind");
        send(OsStr::new(&format!("@{name}")), State::Stopping);
        assert_eq!(received(&listener), "STOPPING=1\n");
    }

    #[test]
    fn nobody_there_is_not_an_error() {
        send(OsStr::new("/nonexistent/socket"), State::Ready);
        send(OsStr::new(""), State::Ready);
    }
}
