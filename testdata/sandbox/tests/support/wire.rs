//! Bytes on real sockets: connections that a process of some user makes inside the sandbox and hands over to the test, and
//! answers read from them strictly.
//!
//! A test's own thread is not in the machine's cgroup, so its sockets are never redirected. A [`Caller`] is: the kernel notes
//! who it is at `connect()`, and the connection keeps that identity whoever writes to it afterwards (SEC-03).

use std::io::{self, ErrorKind, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sandbox::{Sandbox, User};
use serde_json::Value;

use super::PATIENCE;

/// IMDS (W-03).
pub(crate) const IMDS: &str = "169.254.169.254:80";
/// The WireServer (W-01).
pub(crate) const WIRESERVER: &str = "168.63.129.16:80";
/// The host plug-in (W-02).
pub(crate) const HOSTGA: &str = "168.63.129.16:32526";
/// The agent's listener (W-04).
pub(crate) const LISTENER: &str = "127.0.0.1:3080";

/// Connects to each address that it reads and answers with an errno, and with the socket if that is 0.
const CONNECTOR: &str = r"
import socket
control = socket.socket(fileno=0)
for line in control.makefile('r'):
    ip, port = line.split()
    s = socket.socket(socket.AF_INET6 if ':' in ip else socket.AF_INET)
    e = s.connect_ex((ip, int(port)))
    socket.send_fds(control, [e.to_bytes(4, 'little')], [] if e else [s.fileno()])
    s.close()
";

/// A process inside the sandbox that connects on demand.
#[derive(Debug)]
pub(crate) struct Caller {
    child: Child,
    control: Mutex<UnixStream>,
}

impl Caller {
    /// A caller that is `user`.
    pub(crate) fn new(sandbox: &Sandbox, user: &User) -> Self {
        raise_descriptor_limit();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut command = sandbox.command_as(user, "/usr/bin/python3");
        let child = command.args(["-c", CONNECTOR]).stdin(Stdio::from(OwnedFd::from(theirs))).spawn().unwrap();
        Self { child, control: Mutex::new(ours) }
    }

    /// The user `nobody`.
    pub(crate) fn nobody(sandbox: &Sandbox) -> Self {
        Self::new(sandbox, &User::new(65534, 65534, &[]))
    }

    /// Root.
    pub(crate) fn root(sandbox: &Sandbox) -> Self {
        Self::new(sandbox, &User::new(0, 0, &[]))
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// A connection to `to`.
    pub(crate) fn connect(&self, to: &str) -> Wire {
        self.try_connect(to).unwrap_or_else(|e| panic!("connecting to {to}: {e}"))
    }

    /// As many connections, made one after the other.
    pub(crate) fn connect_many(&self, to: &str, count: usize) -> Vec<Wire> {
        (0..count).map(|_| self.connect(to)).collect()
    }

    /// A connection, or why there is none.
    pub(crate) fn try_connect(&self, to: &str) -> io::Result<Wire> {
        let (ip, port) = to.rsplit_once(':').expect("ADDRESS:PORT");
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(control, "{} {port}", ip.trim_matches(['[', ']']))?;
        let mut errno = [0; 4];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(&*control, &mut [IoSliceMut::new(&mut errno)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        assert_eq!(received.bytes, errno.len(), "the connector ended");
        match i32::from_le_bytes(errno) {
            0 => {}
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
        let socket = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        Wire::new(TcpStream::from(socket.expect("a socket comes with errno 0")))
    }

    /// Sends one request on a connection of its own and returns the answer.
    pub(crate) fn ask(&self, to: &str, request: impl AsRef<[u8]>) -> Answer {
        let mut wire = self.connect(to);
        wire.send(request);
        wire.answer()
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Both ends of all connections, but the agent's, are in this process.
fn raise_descriptor_limit() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the limit of open files can be raised");
    });
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// In order.
    Closed,
    /// With a reset.
    Reset,
}

/// A connection and what was received on it but not yet looked at.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    received: Vec<u8>,
    at: usize,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::new(), at: 0 })
    }

    /// The socket itself.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends all of it.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap_or_else(|e| panic!("sending a request: {e}"));
    }

    /// Sends all of it, unless the other side will not have it.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Says that nothing more will be sent.
    pub(crate) fn half_close(&mut self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).unwrap();
    }

    /// The next answer, also an interim one.
    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer(false).unwrap_or_else(|e| panic!("reading an answer: {e}; so far {:?}", self.rest()))
    }

    /// The next answer, which answers a HEAD: it has no body.
    pub(crate) fn answer_to_head(&mut self) -> Answer {
        self.try_answer(true).unwrap_or_else(|e| panic!("reading an answer: {e}; so far {:?}", self.rest()))
    }

    /// The next answer, or why there is none. `UnexpectedEof` with an untouched [`Self::rest`]: it was closed.
    pub(crate) fn try_answer(&mut self, to_head: bool) -> io::Result<Answer> {
        let head = loop {
            let unread = &self.received[self.at..];
            if let Some(end) = unread.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = unread[..end].to_vec();
                self.at += end + 4;
                break String::from_utf8(head).map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?;
            }
            self.fill()?;
        };
        let mut lines = head.split("\r\n");
        let status_line = lines.next().unwrap_or_default().to_owned();
        let fields = lines
            .map(|line| line.split_once(':').map(|(n, v)| (n.to_owned(), v.trim().to_owned())))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, format!("odd head {head:?}")))?;
        let status = status_line.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status: u16 = status.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, format!("odd {status_line:?}")))?;
        let mut answer = Answer { status_line, status, fields, body: Vec::new(), trailers: Vec::new() };
        if to_head || status < 200 || status == 204 || status == 304 {
            return Ok(answer);
        }
        if answer.values("transfer-encoding") == ["chunked"] {
            (answer.body, answer.trailers) = self.chunks()?;
        } else if let Some(length) = answer.length() {
            answer.body = self.take(length.parse().map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?)?;
        } else {
            loop {
                match self.fill() {
                    Ok(()) => {}
                    Err(e) if e.kind() == ErrorKind::UnexpectedEof => break,
                    Err(e) => return Err(e),
                }
            }
            answer.body = self.take(self.received.len() - self.at)?;
        }
        Ok(answer)
    }

    /// Waits until the other side ends the connection, and says how. Fails if it says anything before.
    pub(crate) fn end(&mut self) -> End {
        assert!(self.rest().is_empty(), "more came: {:?}", self.rest());
        match self.fill() {
            Ok(()) => panic!("more came: {:?}", self.rest()),
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => End::Closed,
            Err(e) if e.kind() == ErrorKind::ConnectionReset => End::Reset,
            Err(e) => panic!("the connection was not ended: {e}"),
        }
    }

    /// What was received and not yet looked at, as text.
    pub(crate) fn rest(&self) -> String {
        let rest = &self.received[self.at..];
        String::from_utf8_lossy(&rest[..rest.len().min(1000)]).into_owned()
    }

    /// `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.received.len() - self.at < count {
            self.fill()?;
        }
        let taken = self.received[self.at..self.at + count].to_vec();
        self.at += count;
        Ok(taken)
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.received[self.at..].windows(2).position(|w| w == b"\r\n") {
                let line = self.take(end + 2)?;
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.fill()?;
        }
    }

    fn chunks(&mut self) -> io::Result<(Vec<u8>, Vec<String>)> {
        let odd = |line: &str| io::Error::new(ErrorKind::InvalidData, format!("odd chunk line {line:?}"));
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let digits = line.split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(digits, 16).map_err(|_| odd(&line))?;
            if size == 0 {
                break;
            }
            body.extend(self.take(size)?);
            let after = self.line()?;
            if !after.is_empty() {
                return Err(odd(&after));
            }
        }
        let mut trailers = Vec::new();
        loop {
            match self.line()? {
                line if line.is_empty() => return Ok((body, trailers)),
                line => trailers.push(line),
            }
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        if self.at == self.received.len() {
            self.received.clear();
            self.at = 0;
        }
        let before = self.received.len();
        self.received.resize(before + 64 * 1024, 0);
        let read = (&self.stream).read(&mut self.received[before..]);
        self.received.truncate(before + read.as_ref().map_or(0, |n| *n));
        if read? == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

/// One answer as the client got it.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status_line: String,
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    /// Without transfer coding.
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<String>,
}

impl Answer {
    /// All values of a field.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    /// The one value of `Content-Length`, which may have been said twice.
    fn length(&self) -> Option<&str> {
        let all = self.values("content-length");
        assert!(all.iter().all(|l| *l == all[0]), "{all:?}");
        all.first().copied()
    }

    /// Whether it carries the marker of the host's responses (W-69), once and with the value that it must have.
    pub(crate) fn is_marked(&self) -> bool {
        let marks = self.values("x-ms-azure-host-authorization");
        assert!(marks.is_empty() || marks == ["value"], "{marks:?}");
        !marks.is_empty()
    }

    /// Whether it says that the connection ends.
    pub(crate) fn closes(&self) -> bool {
        self.values("connection") == ["close"]
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }
}
