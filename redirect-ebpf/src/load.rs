//! From the object file to maps and programs in the kernel, stepping down where an older kernel cannot follow.
//!
//! aya parses the object, puts in the offsets of the running kernel, and loads. Nothing of it stays: what the redirector keeps
//! are file descriptors.

use crate::attach::{EGRESS, HOOKS, Hook, Program};
use crate::caps::Capability;
use crate::error::RedirectError;
use crate::layout::{Config, Record};
use crate::sys::{self, Map, SocketStorage};
use aya::maps::MapError;
use aya::programs::{Program as AyaProgram, ProgramError, ProgramFd};
use aya::{Ebpf, EbpfError, EbpfLoader};
use std::borrow::Cow;
use std::error::Error;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

static EMBEDDED: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/redirect.bpf.o"));

const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";

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
const LADDER: [Step; 3] = [
    Step { name: "full set", no_ns_ops: false, no_task_reads: false },
    Step { name: "network namespaces by inode number (kernel before 5.15)", no_ns_ops: true, no_task_reads: false },
    Step { name: "no executable identity (kernel memory may not be read)", no_ns_ops: false, no_task_reads: true },
];

/// What the kernel holds for us.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) step: Step,
    /// In the order of attaching.
    pub(crate) programs: Vec<Program>,
    pub(crate) maps: Maps,
}

/// The maps that user space looks into.
#[derive(Debug)]
pub(crate) struct Maps {
    pub(crate) config: Map<u32, Config>,
    pub(crate) targets: Map<u32, u32>,
    pub(crate) counters: Map<u32, u64>,
    pub(crate) peer_who: SocketStorage<Record>,
    pub(crate) sk_exempt: SocketStorage<u32>,
}

/// Loads everything; attaches nothing.
pub(crate) fn load(options: &LoadOptions) -> Result<Loaded, RedirectError> {
    fs::metadata(KERNEL_TYPES).map_err(RedirectError::NoBtf)?;
    let object = object(options.object.as_deref())?;
    let mut hooks = HOOKS.to_vec();
    if options.egress_backstop {
        hooks.insert(0, EGRESS);
    }
    climb_down(&object, &hooks, options.first_step)
}

/// `override_path`'s contents, or the embedded object.
fn object(override_path: Option<&Path>) -> Result<Cow<'static, [u8]>, RedirectError> {
    let Some(path) = override_path else { return Ok(Cow::Borrowed(EMBEDDED)) };
    fs::read(path).map(Cow::Owned).map_err(|source| RedirectError::ObjectFile { path: path.to_owned(), source })
}

fn climb_down(object: &[u8], hooks: &[Hook], first: usize) -> Result<Loaded, RedirectError> {
    let [rest @ .., last] = &LADDER;
    for step in rest.iter().skip(first) {
        match load_step(object, hooks, *step) {
            Err(e @ RedirectError::Load { .. }) => log::warn!("eBPF: {e}; stepping down from \"{}\"", step.name),
            other => return other,
        }
    }
    load_step(object, hooks, *last)
}

fn load_step(object: &[u8], hooks: &[Hook], step: Step) -> Result<Loaded, RedirectError> {
    let (no_ns_ops, no_task_reads) = (u32::from(step.no_ns_ops), u32::from(step.no_task_reads));
    let mut ebpf = EbpfLoader::new()
        .override_global("no_ns_ops", &no_ns_ops, true)
        .override_global("no_task_reads", &no_task_reads, true)
        .load(object)
        .map_err(object_error)?;
    let maps = Maps::take(&mut ebpf)?;
    let programs = hooks.iter().map(|hook| load_program(&mut ebpf, *hook)).collect::<Result<_, _>>()?;
    maps.config.set(0, agent(step)?).map_err(|source| RedirectError::Map { map: "config", source })?;
    Ok(Loaded { step, programs, maps })
}

fn load_program(ebpf: &mut Ebpf, hook: Hook) -> Result<Program, RedirectError> {
    let name = hook.program;
    let program = ebpf.program_mut(name).ok_or_else(|| RedirectError::Object(format!("program {name} is missing")))?;
    match program {
        AyaProgram::CgroupSockAddr(p) => p.load(),
        AyaProgram::CgroupSock(p) => p.load(),
        AyaProgram::CgroupSkb(p) => p.load(),
        AyaProgram::SockOps(p) => p.load(),
        _ => return Err(RedirectError::Object(format!("program {name} is of another type"))),
    }
    .map_err(|e| program_error(name, e))?;
    let fd = program.fd().map_err(|e| program_error(name, e)).and_then(clone_fd)?;
    let id = sys::program_id(fd.as_fd()).map_err(|source| RedirectError::System { what: "reading a program's id", source })?;
    Ok(Program { hook, fd, id })
}

fn clone_fd(fd: &ProgramFd) -> Result<OwnedFd, RedirectError> {
    fd.as_fd().try_clone_to_owned().map_err(|source| RedirectError::System { what: "keeping a program", source })
}

impl Maps {
    fn take(ebpf: &mut Ebpf) -> Result<Self, RedirectError> {
        Ok(Self {
            config: usable("config", Map::new(map_fd(ebpf, "config")?, "config"))?,
            targets: usable("targets", Map::new(map_fd(ebpf, "targets")?, "targets"))?,
            counters: usable("counters", Map::new(map_fd(ebpf, "counters")?, "counters"))?,
            peer_who: usable("peer_who", SocketStorage::new(map_fd(ebpf, "peer_who")?, "peer_who"))?,
            sk_exempt: usable("sk_exempt", SocketStorage::new(map_fd(ebpf, "sk_exempt")?, "sk_exempt"))?,
        })
    }
}

fn usable<M>(name: &'static str, map: io::Result<Option<M>>) -> Result<M, RedirectError> {
    map.map_err(|source| RedirectError::Map { map: name, source })?.ok_or(RedirectError::Layout { map: name })
}

fn map_fd(ebpf: &mut Ebpf, name: &'static str) -> Result<OwnedFd, RedirectError> {
    use aya::maps::Map as M;
    let map = ebpf.map(name).ok_or_else(|| RedirectError::Object(format!("map {name} is missing")))?;
    let (M::Array(data) | M::SkStorage(data)) = map else { return Err(RedirectError::Layout { map: name }) };
    data.fd().as_fd().try_clone_to_owned().map_err(|source| RedirectError::Map { map: name, source })
}

/// What tells this thread's network namespace from others: the listener is in it, so connections from it may be redirected.
fn agent(step: Step) -> Result<Config, RedirectError> {
    let agent_netns = if step.no_ns_ops {
        fs::metadata("/proc/thread-self/ns/net").map(|m| m.ino())
    } else {
        std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| sys::netns_cookie(socket.as_fd()))
    }
    .map_err(|source| RedirectError::System { what: "identifying the agent's network namespace", source })?;
    Ok(Config { agent_netns })
}

fn program_error(name: &'static str, error: ProgramError) -> RedirectError {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => refused(name, io_error, last_line(&verifier_log.to_string())),
        ProgramError::SyscallError(e) => refused(name, e.io_error, String::new()),
        other => RedirectError::Object(format!("program {name}: {}", chain(&other))),
    }
}

fn object_error(error: EbpfError) -> RedirectError {
    match error {
        EbpfError::MapError(MapError::CreateError { io_error, .. }) => refused("maps", io_error, String::new()),
        EbpfError::MapError(MapError::SyscallError(e)) => refused("maps", e.io_error, String::new()),
        other => RedirectError::Object(chain(&other)),
    }
}

/// Who asks, or what was asked for? Without `CAP_PERFMON` the verifier says `EINVAL`, as if the kernel were too old: hence no look at
/// the error alone, and no stepping down before the capabilities are complete.
fn refused(what: &'static str, source: io::Error, verifier: String) -> RedirectError {
    let capabilities = Capability::missing();
    if source.raw_os_error() == Some(libc::EPERM) || !capabilities.is_empty() {
        RedirectError::Missing { what, capabilities }
    } else {
        RedirectError::Load { what, source, verifier }
    }
}

/// The verifier's verdict: its last line before the statistics.
fn last_line(log: &str) -> String {
    let statistics = ["processed ", "verification time", "stack depth"];
    let verdict = log.lines().rev().map(str::trim).find(|l| !l.is_empty() && !statistics.iter().any(|s| l.starts_with(s)));
    verdict.unwrap_or_default().to_owned()
}

/// An error with its causes: aya's texts alone say only that something failed.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text.push_str(": ");
        text.push_str(&e.to_string());
        cause = e.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_found_behind_the_statistics() {
        let log = "0: (85) call bpf_get_netns_cookie#122\nunknown func bpf_get_netns_cookie#122\nverification time 5 usec\n\
                   stack depth 16\nprocessed 3 insns (limit 1000000)\n";
        assert_eq!(last_line(log), "unknown func bpf_get_netns_cookie#122");
        assert_eq!(last_line(""), "");
    }

    #[test]
    fn a_file_that_is_no_object_is_said_so() {
        let error = load_step(b"not an object", &HOOKS, LADDER[0]).unwrap_err();
        assert!(matches!(error, RedirectError::Object(_)), "{error}");
    }
}
