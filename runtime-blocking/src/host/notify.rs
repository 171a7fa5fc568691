//! Talking to the service manager (sd_notify(3)): one datagram for each thing to say, to the socket that it named.

use crate::clock;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::net::{sendmsg_addr, socket_with};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Name of the listener among the descriptors that the service manager keeps for the next start.
pub const LISTENER_NAME: &str = "listener";

/// What there is to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Start-up, or reading the configuration anew, is complete.
    Ready,
    /// The configuration is being read anew.
    Reloading,
    /// Shutting down.
    Stopping,
    /// The sign of life that the watchdog wants.
    Alive,
}

/// The service manager, if one started us and wants to know how we are.
#[derive(Debug, Default)]
pub struct Manager {
    socket: Option<(OwnedFd, SocketAddrUnix)>,
    watchdog: Option<Duration>,
    /// The status line that was sent last.
    said: Mutex<String>,
    /// What it had no room for, in order: it is busy, as at boot, and would wait for ever for what is not said again.
    owed: Mutex<VecDeque<(String, Option<OwnedFd>)>>,
}

/// Whether a message that cannot be sent now is sent later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Late {
    Better,
    /// Another one will come anyway.
    Useless,
}

/// Most messages that wait: it does not read at all.
const MAX_OWED: usize = 16;

impl Manager {
    /// As `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` say; `environment` answers for them.
    #[must_use]
    pub fn new(environment: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let socket = environment("NOTIFY_SOCKET").filter(|name| !name.is_empty()).and_then(|name| match connect(&name) {
            Ok(socket) => Some(socket),
            Err(e) => {
                log::warn!("The service manager's socket {name:?} cannot be used: {e}");
                None
            }
        });
        let number = |name| environment(name).and_then(|value| value.to_str()?.parse::<u64>().ok());
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| *usec > 0 && ours && socket.is_some()).map(Duration::from_micros);
        Self { socket, watchdog, said: Mutex::default(), owed: Mutex::default() }
    }

    /// Whether somebody listens.
    #[must_use]
    pub const fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// How often a sign of life is wanted at least; `None`: never.
    #[must_use]
    pub const fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Tells it; without a service manager nothing happens. What it has no room for is told with what comes next.
    pub fn tell(&self, state: State) {
        let (message, late) = match state {
            State::Ready => ("READY=1\n".to_owned(), Late::Better),
            // The time tells this from an earlier one that crossed with the request (systemd.service(5), notify-reload).
            State::Reloading => (format!("RELOADING=1\nMONOTONIC_USEC={}\n", clock::monotonic_micros()), Late::Better),
            State::Stopping => ("STOPPING=1\n".to_owned(), Late::Better),
            State::Alive => ("WATCHDOG=1\n".to_owned(), Late::Useless),
        };
        self.send(message, None, late);
    }

    /// Sets the line of `systemctl status`. The same line twice is sent once. To be called now and then: sends what is owed, too.
    pub fn status(&self, text: &str) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if *said == text {
            let _: bool = self.pay(&mut self.owed());
            return;
        }
        // One assignment per line: a line feed in the text would start another one.
        if self.send(format!("STATUS={}\n", text.replace(|c: char| c.is_control(), " ")), None, Late::Useless) {
            text.clone_into(&mut said);
        }
    }

    /// Gives it the listener to keep for the next start: connections then wait in its backlog while no agent runs. It is not watched
    /// (`FDPOLL=0`): a listener has no end that the service manager should notice.
    pub fn keep(&self, listener: BorrowedFd<'_>) {
        self.send(format!("FDSTORE=1\nFDNAME={LISTENER_NAME}\nFDPOLL=0\n"), Some(listener), Late::Better);
    }

    /// `false`: it is to be said again.
    fn send(&self, message: String, descriptor: Option<BorrowedFd<'_>>, late: Late) -> bool {
        let mut owed = self.owed();
        if self.pay(&mut owed) && self.try_send(&message, descriptor) {
            return true;
        }
        if late == Late::Better && owed.len() < MAX_OWED {
            // Without a copy of the descriptor there is nothing to be said about it.
            if let Ok(descriptor) = descriptor.map(|fd| fd.try_clone_to_owned()).transpose() {
                owed.push_back((message, descriptor));
            }
        }
        false
    }

    fn owed(&self) -> MutexGuard<'_, VecDeque<(String, Option<OwnedFd>)>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what is owed; `true` if nothing is any more.
    fn pay(&self, owed: &mut VecDeque<(String, Option<OwnedFd>)>) -> bool {
        while let Some((message, descriptor)) = owed.front() {
            if !self.try_send(message, descriptor.as_ref().map(OwnedFd::as_fd)) {
                return false;
            }
            owed.pop_front();
        }
        true
    }

    /// `false`: there is no room now. Any other failure would only come again.
    fn try_send(&self, message: &str, descriptor: Option<BorrowedFd<'_>>) -> bool {
        let Some((socket, address)) = &self.socket else { return true };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let rights: Option<[BorrowedFd<'_>; 1]> = descriptor.map(|fd| [fd]);
        if let Some(rights) = &rights {
            // The space is made for exactly this.
            ancillary.push(SendAncillaryMessage::ScmRights(rights));
        }
        let text = [IoSlice::new(message.as_bytes())];
        let sent = loop {
            match sendmsg_addr(socket, address, &text, &mut ancillary, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                other => break other,
            }
        };
        if let Err(e) = sent {
            log::debug!("The service manager was not told {message:?}: {e}");
        }
        !matches!(sent, Err(Errno::AGAIN | Errno::NOBUFS))
    }
}

/// Never waits: a service manager that does not read must not hold us up.
fn connect(name: &OsStr) -> Result<(OwnedFd, SocketAddrUnix), Errno> {
    let address = match name.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddrUnix::new_abstract_name(name)?,
        _ => SocketAddrUnix::new(name)?,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok((socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?, address))
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let n = socket.recv(&mut buffer).expect("received");
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    }

    fn manager(variables: &[(&str, &OsStr)]) -> Manager {
        Manager::new(&|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn messages_arrive_at_a_path_and_at_an_abstract_name() {
        let scratch = Scratch::new("notify");
        let path = scratch.path().join("socket");
        let listener = UnixDatagram::bind(&path).expect("bind");
        let there = manager(&[("NOTIFY_SOCKET", path.as_os_str())]);
        assert!(there.is_there());
        there.tell(State::Ready);
        assert_eq!(received(&listener), "READY=1\n");
        there.status("two\nlines READY=1");
        there.status("two\nlines READY=1");
        there.status("another");
        assert_eq!(received(&listener), "STATUS=two lines READY=1\n");
        assert_eq!(received(&listener), "STATUS=another\n");
        there.tell(State::Reloading);
        let text = received(&listener);
        let time = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|t| t.strip_suffix('\n')).expect("both");
        assert!(time.parse::<u64>().expect("a number") <= clock::monotonic_micros());

        let name = format!("agent-notify-{}", std::process::id());
        let listener = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).expect("name")).expect("bind");
        manager(&[("NOTIFY_SOCKET", OsStr::new(&format!("@{name}")))]).tell(State::Stopping);
        assert_eq!(received(&listener), "STOPPING=1\n");
    }

    #[test]
    fn the_listener_goes_with_its_name() {
        let scratch = Scratch::new("fdstore");
        let path = scratch.path().join("socket");
        let socket = UnixDatagram::bind(&path).expect("bind");
        let (kept, _other) = UnixDatagram::pair().expect("a pair");
        manager(&[("NOTIFY_SOCKET", path.as_os_str())]).keep(kept.as_fd());
        let (mut text, mut space) = ([0; 256], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))]);
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [std::io::IoSliceMut::new(&mut text)];
        let got = recvmsg(&socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).expect("received");
        let descriptors: usize = ancillary
            .drain()
            .map(|message| if let RecvAncillaryMessage::ScmRights(rights) = message { rights.count() } else { 0 })
            .sum();
        assert_eq!((&text[..got.bytes], descriptors), (&b"FDSTORE=1\nFDNAME=listener\nFDPOLL=0\n"[..], 1));
    }

    #[test]
    fn what_a_busy_service_manager_had_no_room_for_is_told_later() {
        let scratch = Scratch::new("notify");
        let path = scratch.path().join("socket");
        let listener = UnixDatagram::bind(&path).expect("bind");
        let others = UnixDatagram::unbound().expect("a socket");
        others.set_nonblocking(true).expect("set");
        let mut before = 0;
        while others.send_to(b"X", &path).is_ok() {
            before += 1;
        }
        let there = manager(&[("NOTIFY_SOCKET", path.as_os_str())]);
        there.keep(listener.as_fd());
        there.tell(State::Ready);
        there.tell(State::Alive);
        there.status("well");
        for _ in 0..before {
            assert_eq!(received(&listener), "X");
        }
        there.status("well");
        there.status("well");
        let told = [received(&listener), received(&listener), received(&listener)];
        assert_eq!(told, ["FDSTORE=1\nFDNAME=listener\nFDPOLL=0\n", "READY=1\n", "STATUS=well\n"]);
        listener.set_nonblocking(true).expect("set");
        listener.recv(&mut [0]).expect_err("once");
        // One that never reads costs no memory.
        while others.send_to(b"X", &path).is_ok() {}
        for _ in 0..100 {
            there.tell(State::Ready);
        }
        assert_eq!(there.owed().len(), MAX_OWED);
    }

    #[test]
    fn nobody_there_is_not_an_error() {
        manager(&[("NOTIFY_SOCKET", OsStr::new("/nonexistent/socket"))]).tell(State::Ready);
        for nobody in [manager(&[("NOTIFY_SOCKET", OsStr::new(""))]), Manager::default()] {
            assert!(!nobody.is_there());
            nobody.tell(State::Ready);
        }
    }

    #[test]
    fn a_watchdog_is_one_for_this_process() {
        let (socket, pid) = (OsString::from("@x"), OsString::from(std::process::id().to_string()));
        let watchdog = |usec: &str, pid: &OsStr| {
            manager(&[("NOTIFY_SOCKET", &socket), ("WATCHDOG_USEC", OsStr::new(usec)), ("WATCHDOG_PID", pid)]).watchdog()
        };
        assert_eq!(watchdog("3000000", &pid), Some(Duration::from_secs(3)));
        assert_eq!(watchdog("3000000", OsStr::new("1")), None);
        assert_eq!(watchdog("0", &pid), None);
        assert_eq!(watchdog("soon", &pid), None);
        let without_pid = manager(&[("NOTIFY_SOCKET", &socket), ("WATCHDOG_USEC", OsStr::new("5"))]);
        assert_eq!(without_pid.watchdog(), Some(Duration::from_micros(5)));
        assert_eq!(manager(&[("WATCHDOG_USEC", OsStr::new("5"))]).watchdog(), None, "nobody to tell");
    }
}
