//! Questions and answers between daemon and redirector: one message each, integers in the machine's order (it is the same program on both
//! sides, and an upgrade restarts both), with at most one descriptor.

use azure_proxy_agent_core::identity::{
    Destination, ExeFact, ExeHash, ExeId, KernelRecord, PerDestination, ProcessFacts, RawText, Route, TargetMode,
};
use log::Level;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{BorrowedFd, OwnedFd};

/// Longest question. Bytes.
pub(super) const REQUEST_MAX: usize = 512;
/// Longest answer: an argument vector and two paths. Bytes.
pub(super) const REPLY_MAX: usize = 80 * 1024;
/// Longest text in an answer. Bytes.
const TEXT_MAX: usize = 8 * 1024;

/// What the daemon can ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    /// The version of who asks, first on each line: during an upgrade the other side may still be the one before.
    Hello(String),
    /// The next line for the log, which has one writer: the daemon.
    Said,
    /// Whether an earlier agent left something in the kernel.
    Succeeds,
    /// Load what is not loaded, or take over what an earlier agent left. Only for who has the listener (CLI-11).
    Load,
    /// [`Redirector::describe`](redirect_ebpf::Redirector::describe).
    Describe,
    /// Whose connection the descriptor is.
    Identify,
    /// Takes the descriptor, a socket of the daemon's own, out of redirect and port guard.
    Exempt,
    /// [`Redirector::set_targets`](redirect_ebpf::Redirector::set_targets).
    SetTargets(PerDestination<TargetMode>),
    /// [`Redirector::check`](redirect_ebpf::Redirector::check).
    Check,
    /// [`Redirector::heartbeat`](redirect_ebpf::Redirector::heartbeat).
    Heartbeat,
    /// [`Redirector::next_foreign`](redirect_ebpf::Redirector::next_foreign).
    NextForeign,
    /// [`examine`](redirect_ebpf::verify::examine).
    Examine(KernelRecord),
    /// The path of a control group.
    CgroupPath(u64),
    /// The hash of the executable that the descriptor is.
    Hash,
    /// Whether the descriptor, a socket, belongs to the machine's network.
    IsOurs,
}

/// What it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Done; or yes.
    Done,
    /// There is none; or no.
    None,
    /// Nothing is loaded: [`Request::Load`] comes first. A redirector that was started anew says so.
    NotLoaded,
    /// In words.
    Text(String),
    /// About a connection.
    Record(KernelRecord),
    /// About a process; with the executable's descriptor if there is one.
    Facts(ProcessFacts),
    /// A path.
    Path(Vec<u8>),
    /// A hash.
    Hash(ExeHash),
    /// It could not be done, and why.
    Failed(String),
    /// A line for the log.
    Line(Level, String),
}

impl Request {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        match self {
            Self::Succeeds => to.u8(0),
            Self::Load => to.u8(1),
            Self::Describe => to.u8(2),
            Self::Identify => to.u8(3),
            Self::Exempt => to.u8(4),
            Self::SetTargets(modes) => {
                to.u8(5);
                Destination::ALL.into_iter().for_each(|destination| to.u8(*modes.get(destination) as u8));
            }
            Self::Check => to.u8(6),
            Self::Heartbeat => to.u8(7),
            Self::NextForeign => to.u8(8),
            Self::Examine(record) => {
                to.u8(9);
                to.record(record);
            }
            Self::CgroupPath(id) => {
                to.u8(10);
                to.u64(*id);
            }
            Self::Hash => to.u8(11),
            Self::IsOurs => to.u8(12),
            Self::Hello(version) => {
                to.u8(13);
                to.text(version);
            }
            Self::Said => to.u8(14),
        }
        to.0
    }

    /// `None`: it is none.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let request = match from.u8()? {
            0 => Self::Succeeds,
            1 => Self::Load,
            2 => Self::Describe,
            3 => Self::Identify,
            4 => Self::Exempt,
            5 => {
                let mut modes = PerDestination::default();
                for destination in Destination::ALL {
                    *modes.get_mut(destination) = from.mode()?;
                }
                Self::SetTargets(modes)
            }
            6 => Self::Check,
            7 => Self::Heartbeat,
            8 => Self::NextForeign,
            9 => Self::Examine(from.record()?),
            10 => Self::CgroupPath(from.u64()?),
            11 => Self::Hash,
            12 => Self::IsOurs,
            13 => Self::Hello(from.text()),
            14 => Self::Said,
            _ => return None,
        };
        from.0.is_empty().then_some(request)
    }

    /// How much room the answer wants.
    pub(super) const fn reply_max(&self) -> usize {
        match self {
            Self::Examine(_) => REPLY_MAX,
            _ => TEXT_MAX + 2,
        }
    }
}

impl Reply {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        match self {
            Self::Done => to.u8(0),
            Self::None => to.u8(1),
            Self::NotLoaded => to.u8(2),
            Self::Text(text) => {
                to.u8(3);
                to.text(text);
            }
            Self::Record(record) => {
                to.u8(4);
                to.record(record);
            }
            Self::Facts(facts) => {
                to.u8(5);
                let (kind, path) = match &facts.exe {
                    ExeFact::Verified(path) => (0, path.as_bytes()),
                    ExeFact::OtherMount(path) => (1, path.as_bytes()),
                    ExeFact::Gone => (2, &[][..]),
                };
                to.u8(kind);
                to.part(path);
                to.u8(u8::from(facts.cmdline.is_some()));
                to.part(facts.cmdline.as_deref().unwrap_or_default());
            }
            Self::Path(path) => {
                to.u8(6);
                to.part(path);
            }
            Self::Hash(hash) => {
                to.u8(7);
                to.0.extend_from_slice(&hash.0);
            }
            Self::Failed(text) => {
                to.u8(8);
                to.text(text);
            }
            Self::Line(level, text) => {
                to.u8(9);
                to.u8(*level as u8);
                to.text(text);
            }
        }
        to.0
    }

    /// `None`: it is none.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let reply = match from.u8()? {
            0 => Self::Done,
            1 => Self::None,
            2 => Self::NotLoaded,
            3 => Self::Text(from.text()),
            4 => Self::Record(from.record()?),
            5 => {
                let (kind, path) = (from.u8()?, RawText::from(from.part()?));
                let exe = match kind {
                    0 => ExeFact::Verified(path),
                    1 => ExeFact::OtherMount(path),
                    2 => ExeFact::Gone,
                    _ => return None,
                };
                let (known, cmdline) = (from.bool()?, from.part()?.to_vec());
                Self::Facts(ProcessFacts { exe, cmdline: known.then_some(cmdline) })
            }
            6 => Self::Path(from.part()?.to_vec()),
            7 => Self::Hash(ExeHash(from.array()?)),
            8 => Self::Failed(from.text()),
            9 => Self::Line(from.level()?, from.text()),
            _ => return None,
        };
        from.0.is_empty().then_some(reply)
    }
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn u8(&mut self, n: u8) {
        self.0.push(n);
    }

    fn u32(&mut self, n: u32) {
        self.0.extend_from_slice(&n.to_ne_bytes());
    }

    fn u64(&mut self, n: u64) {
        self.0.extend_from_slice(&n.to_ne_bytes());
    }

    /// Bytes with their length.
    fn part(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(bytes);
    }

    /// All that is left of the message.
    fn text(&mut self, text: &str) {
        self.0.extend_from_slice(text.get(..text.floor_char_boundary(TEXT_MAX)).unwrap_or_default().as_bytes());
    }

    fn record(&mut self, record: &KernelRecord) {
        let exe = record.exe.unwrap_or_default();
        self.u8(match record.route {
            Route::Redirected => 0,
            Route::Direct => 1,
            Route::Passed => 2,
            Route::Refused => 3,
        });
        self.u8(u8::from(record.exe.is_some()));
        self.u8(u8::from(record.mapped_v6));
        self.u32(record.original.ip().to_bits());
        self.u32(record.original.port().into());
        for n in [record.tgid, record.tid, record.ppid, record.uid, record.gid, record.pid_ns, record.ns_tgid] {
            self.u32(n);
        }
        for n in [exe.ctime_ns, exe.dev, exe.generation] {
            self.u32(n);
        }
        for n in [exe.inode, exe.ctime_s.cast_unsigned(), record.start_boottime, record.exec_id, record.task_cgroup] {
            self.u64(n);
        }
        for n in [record.socket_cgroup, record.netns, record.socket_cookie, record.connected_at] {
            self.u64(n);
        }
        self.0.extend_from_slice(&record.comm);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[n]| n)
    }

    fn bool(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_ne_bytes)
    }

    fn part(&mut self) -> Option<&'a [u8]> {
        let (part, rest) = self.u32().and_then(|len| self.0.split_at_checked(len as usize))?;
        self.0 = rest;
        Some(part)
    }

    fn text(&mut self) -> String {
        String::from_utf8_lossy(std::mem::take(&mut self.0)).into_owned()
    }

    fn level(&mut self) -> Option<Level> {
        let number = usize::from(self.u8()?);
        Level::iter().find(|level| *level as usize == number)
    }

    fn mode(&mut self) -> Option<TargetMode> {
        [TargetMode::Off, TargetMode::Audit, TargetMode::Enforce].get(usize::from(self.u8()?)).copied()
    }

    fn record(&mut self) -> Option<KernelRecord> {
        let routes = [Route::Redirected, Route::Direct, Route::Passed, Route::Refused];
        let route = *routes.get(usize::from(self.u8()?))?;
        let (has_exe, mapped_v6) = (self.bool()?, self.bool()?);
        let original = SocketAddrV4::new(Ipv4Addr::from_bits(self.u32()?), u16::try_from(self.u32()?).ok()?);
        let [tgid, tid, ppid, uid] = [self.u32()?, self.u32()?, self.u32()?, self.u32()?];
        let [gid, pid_ns, ns_tgid] = [self.u32()?, self.u32()?, self.u32()?];
        let [ctime_ns, dev, generation] = [self.u32()?, self.u32()?, self.u32()?];
        let [inode, ctime_s, start_boottime, exec_id] = [self.u64()?, self.u64()?, self.u64()?, self.u64()?];
        let [task_cgroup, socket_cgroup, netns, socket_cookie, connected_at] =
            [self.u64()?, self.u64()?, self.u64()?, self.u64()?, self.u64()?];
        let exe = has_exe.then_some(ExeId { inode, ctime_s: ctime_s.cast_signed(), ctime_ns, dev, generation });
        Some(KernelRecord {
            route,
            original,
            tgid,
            tid,
            ppid,
            uid,
            gid,
            start_boottime,
            exec_id,
            exe,
            pid_ns,
            ns_tgid,
            task_cgroup,
            socket_cgroup,
            netns,
            socket_cookie,
            connected_at,
            mapped_v6,
            comm: self.array()?,
        })
    }
}

/// Sends one message.
pub(super) fn send(socket: BorrowedFd<'_>, message: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let rights: Option<[BorrowedFd<'_>; 1]> = descriptor.map(|fd| [fd]);
    if let Some(rights) = &rights {
        // The space is made for exactly this.
        ancillary.push(SendAncillaryMessage::ScmRights(rights));
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(message)], &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Receives one message of at most `room` bytes; `None` if the other side has gone.
pub(super) fn receive(socket: BorrowedFd<'_>, room: usize) -> io::Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
    let mut message = vec![0; room];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut message)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            other => break other?,
        }
    };
    let mut descriptor = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptor = rights.last();
        }
    }
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is longer than any"));
    }
    message.truncate(got.bytes);
    // There are no empty messages.
    Ok((got.bytes > 0).then_some((message, descriptor)))
}
