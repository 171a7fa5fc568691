//! From the object file to maps and programs in the kernel, stepping down where an older kernel cannot follow.

use crate::attach::{EGRESS, HOOKS, Hook, Program};
use crate::error::RedirectError;
use crate::layout::{Config, Record, fingerprint};
use crate::object::ObjectFile;
use crate::sys::{self, Kind, Map, Queue, SocketStorage};
use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::{fs, io};

/// Words of the object, for the parser.
#[repr(align(8))]
struct Aligned<T: ?Sized>(T);

static EMBEDDED: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/redirect.bpf.o")));

/// What to load, and where to attach it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Directory of a cgroup2 file system (`cgroupRoot`); otherwise the first cgroup2 mount is used.
    pub cgroup_root: Option<PathBuf>,
    /// Object file to load instead of the embedded one (`ebpfFileFullPath`). Must have the same layout.
    pub object: Option<PathBuf>,
    /// Whether to drop packets to guarded endpoints that went around `connect()` (`egressBackstop`). Costs about 0.1 µs for
    /// each packet that the machine sends.
    pub egress_backstop: bool,
    /// Directory in a bpffs for what outlives the agent (S-03): `/sys/fs/bpf/azure-proxy-agent`. What an earlier agent left there is
    /// taken over. `None`: nothing outlives the process.
    pub pins: Option<PathBuf>,
    /// How many steps of the ladder to leave out: what an older kernel gets, on this one. For tests.
    #[doc(hidden)]
    pub first_step: usize,
    /// Pretends that the maps have a layout of this number. For tests.
    #[doc(hidden)]
    pub layout: Option<u32>,
    /// Ends the process before the change of this number to what is pinned or attached, from 0. For tests.
    #[doc(hidden)]
    pub crash_at: Option<usize>,
}

impl LoadOptions {
    /// The programs asked for, in the order of attaching.
    pub(crate) fn hooks(&self) -> Vec<Hook> {
        let backstop = self.egress_backstop.then_some(EGRESS);
        backstop.into_iter().chain(HOOKS).collect()
    }

    /// `object`'s contents, or the embedded object.
    pub(crate) fn bytes(&self) -> Result<Cow<'static, [u8]>, RedirectError> {
        let Some(path) = &self.object else { return Ok(Cow::Borrowed(&EMBEDDED.0)) };
        fs::read(path).map(Cow::Owned).map_err(|source| RedirectError::ObjectFile { path: path.clone(), source })
    }

    /// What tells links to the programs of these options from links to others. Never 0.
    pub(crate) fn fingerprint(&self, object: &[u8]) -> u64 {
        let switches = fingerprint(&[u8::from(self.egress_backstop), self.first_step as u8]);
        (fingerprint(object) ^ switches).max(1)
    }
}

/// One try: which features the programs do without. The names are the `.rodata` switches of `bpf/maps.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// For log and status.
    pub(crate) name: &'static str,
    no_ns_ops: bool,
    no_task_reads: bool,
}

/// From best to least. Each kernel stops at the first that its verifier takes.
pub(crate) const LADDER: [Step; 3] = [
    Step { name: "full set", no_ns_ops: false, no_task_reads: false },
    Step { name: "network namespaces by inode number (kernel before 5.15)", no_ns_ops: true, no_task_reads: false },
    Step { name: "no executable identity (kernel memory may not be read)", no_ns_ops: false, no_task_reads: true },
];

/// The step with that number; the last one if there is none.
pub(crate) fn step(index: usize) -> Step {
    let [.., last] = LADDER;
    LADDER.get(index).copied().unwrap_or(last)
}

impl Step {
    /// Loads the programs for `hooks` with the switches of this step.
    pub(crate) fn load(self, object: &ObjectFile, maps: &Maps, hooks: &[Hook]) -> Result<Vec<Program>, RedirectError> {
        let switches = [("no_ns_ops", u32::from(self.no_ns_ops)), ("no_task_reads", u32::from(self.no_task_reads))];
        let bound = object.bind(&switches, &maps.all())?;
        hooks.iter().map(|hook| bound.load(*hook)).collect()
    }
}

/// Loads the programs for `hooks`, from the step of the ladder with the number `first` on. Returns the number of the one that did it.
pub(crate) fn load(
    object: &ObjectFile,
    maps: &Maps,
    hooks: &[Hook],
    first: usize,
) -> Result<(usize, Vec<Program>), RedirectError> {
    let last = LADDER.len() - 1;
    for index in first..last {
        match step(index).load(object, maps, hooks) {
            Err(e @ RedirectError::Load { .. }) => log::warn!("eBPF: {e}; stepping down from \"{}\"", step(index).name),
            other => return other.map(|programs| (index, programs)),
        }
    }
    step(last).load(object, maps, hooks).map(|programs| (last, programs))
}

/// Every map of the object.
#[derive(Debug)]
pub(crate) struct Maps {
    pub(crate) config: Map<u32, Config>,
    pub(crate) targets: Map<u32, u32>,
    pub(crate) heartbeat: Map<u32, u64>,
    pub(crate) counters: Map<u32, u64>,
    pub(crate) foreign: Queue<Record>,
    pub(crate) peer_who: SocketStorage<Record>,
    pub(crate) sk_exempt: SocketStorage<u32>,
    /// Between programs only.
    sk_who: SocketStorage<Record>,
    /// Between programs only.
    flows: OwnedFd,
}

impl Maps {
    /// Their names in the object.
    pub(crate) const NAMES: [&'static str; 9] =
        ["config", "targets", "heartbeat", "sk_exempt", "sk_who", "peer_who", "flows", "counters", "foreign"];

    /// Takes maps into use that `fd` finds or makes.
    pub(crate) fn new(mut fd: impl FnMut(&'static str) -> Result<OwnedFd, RedirectError>) -> Result<Self, RedirectError> {
        Ok(Self {
            config: usable("config", Map::new(fd("config")?, "config"))?,
            targets: usable("targets", Map::new(fd("targets")?, "targets"))?,
            heartbeat: usable("heartbeat", Map::new(fd("heartbeat")?, "heartbeat"))?,
            counters: usable("counters", Map::new(fd("counters")?, "counters"))?,
            foreign: usable("foreign", Queue::new(fd("foreign")?, "foreign"))?,
            peer_who: usable("peer_who", SocketStorage::new(fd("peer_who")?, "peer_who"))?,
            sk_exempt: usable("sk_exempt", SocketStorage::new(fd("sk_exempt")?, "sk_exempt"))?,
            sk_who: usable("sk_who", SocketStorage::new(fd("sk_who")?, "sk_who"))?,
            flows: usable("flows", fd("flows").map(some_map)?)?,
        })
    }

    /// For programs, and to be pinned.
    pub(crate) fn all(&self) -> [(&'static str, BorrowedFd<'_>); 9] {
        [
            ("config", self.config.fd()),
            ("targets", self.targets.fd()),
            ("heartbeat", self.heartbeat.fd()),
            ("sk_exempt", self.sk_exempt.fd()),
            ("sk_who", self.sk_who.fd()),
            ("peer_who", self.peer_who.fd()),
            ("flows", self.flows.as_fd()),
            ("counters", self.counters.fd()),
            ("foreign", self.foreign.fd()),
        ]
    }
}

fn some_map(fd: OwnedFd) -> io::Result<Option<OwnedFd>> {
    Ok((sys::kind(fd.as_fd())? == Kind::Map).then_some(fd))
}

fn usable<M>(name: &'static str, map: io::Result<Option<M>>) -> Result<M, RedirectError> {
    map.map_err(|source| RedirectError::Map { map: name, source })?.ok_or(RedirectError::Layout { map: name })
}

/// What tells this thread's network namespace from others: the listener is in it, so connections from it may be redirected.
pub(crate) fn agent(step: Step) -> Result<Config, RedirectError> {
    let error = |source| RedirectError::System { what: "identifying the agent's network namespace", source };
    let agent_netns_inode = fs::metadata("/proc/thread-self/ns/net").map(|m| m.ino()).map_err(error)?;
    // A socket of any family has it.
    let cookie = std::os::unix::net::UnixDatagram::unbound().and_then(|socket| sys::netns_cookie(socket.as_fd()));
    // Missing before 5.14, where nothing compares it.
    let agent_netns = if step.no_ns_ops { cookie.unwrap_or(0) } else { cookie.map_err(error)? };
    Ok(Config { agent_netns, agent_netns_inode })
}
