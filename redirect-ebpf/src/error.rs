//! What can go wrong, in words that say what to do about it.

use crate::caps::Capability;
use std::io;
use std::path::PathBuf;
use std::{error, fmt};

/// Why the redirection cannot be loaded, attached or used. The text goes to log and status as it is.
#[derive(Debug)]
#[non_exhaustive]
pub enum RedirectError {
    /// No cgroup2 file system is mounted.
    NoCgroup2,
    /// The cgroup directory cannot be opened.
    Cgroup {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel gives no type information.
    NoBtf(io::Error),
    /// The object file cannot be read.
    ObjectFile {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The object cannot be parsed or relocated, or lacks something.
    Object(String),
    /// The object's map has another layout than this program expects.
    Layout {
        /// Name of the map.
        map: &'static str,
    },
    /// The kernel refused for want of privilege.
    Missing {
        /// What was tried.
        what: &'static str,
        /// What it needs and does not have; empty if it has all.
        capabilities: Vec<Capability>,
    },
    /// The kernel refused a map or a program.
    Load {
        /// Name of the map or program.
        what: &'static str,
        /// Why.
        source: io::Error,
        /// The verifier's last line, if it said anything.
        verifier: String,
    },
    /// The kernel refused to attach a program.
    Attach {
        /// Name of the program.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The cgroup is taken by a program that tolerates no other.
    Exclusive {
        /// Name of the program that could not be attached.
        program: &'static str,
    },
    /// A map operation failed.
    Map {
        /// Name of the map.
        map: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The directory for what outlives the agent cannot be used.
    PinRoot {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Something in that directory cannot be read, made or removed.
    Pin {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent holds the directory for what outlives it: only one at a time may change what is there.
    Busy {
        /// Which directory.
        path: PathBuf,
    },
    /// Any other system call failed.
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The process that has the redirect said so, or cannot be asked.
    Elsewhere(String),
    /// A test said so ([`MemoryRedirector`](crate::MemoryRedirector)).
    Injected(String),
}

impl fmt::Display for RedirectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCgroup2 => f.write_str(
                "no cgroup2 file system is mounted, so nothing can be redirected: mount one (mount -t cgroup2 none DIR) or set \
                 cgroupRoot to one",
            ),
            Self::Cgroup { path, source } => write!(f, "cgroup {} cannot be opened: {source}", path.display()),
            Self::NoBtf(source) => write!(
                f,
                "the kernel offers no type information (/sys/kernel/btf/vmlinux: {source}): a kernel with CONFIG_DEBUG_INFO_BTF \
                 is needed"
            ),
            Self::ObjectFile { path, source } => write!(f, "eBPF object {} cannot be read: {source}", path.display()),
            Self::Object(reason) => write!(f, "eBPF object is not usable: {reason}"),
            Self::Layout { map } => write!(f, "eBPF object was built for another version of the agent: map {map} differs"),
            Self::Missing { what, capabilities } => missing(f, what, capabilities),
            Self::Load { what, source, verifier } => {
                write!(f, "the kernel refused eBPF {what}: {source}")?;
                if verifier.is_empty() { Ok(()) } else { write!(f, " ({verifier})") }
            }
            Self::Attach { program, source } => write!(f, "eBPF program {program} cannot be attached: {source}"),
            Self::Exclusive { program } => write!(
                f,
                "eBPF program {program} cannot be attached: another program was attached to this cgroup exclusively (without \
                 BPF_F_ALLOW_MULTI); it must be detached, or attached so that others may be there too"
            ),
            Self::Map { map, source } => write!(f, "eBPF map {map}: {source}"),
            Self::PinRoot { path, reason } => write!(f, "pin directory {}: {reason}", path.display()),
            Self::Pin { path, source } => write!(f, "pin {}: {source}", path.display()),
            Self::Busy { path } => write!(f, "another agent is running: it holds {}", path.display()),
            Self::System { what, source } => write!(f, "{what}: {source}"),
            Self::Elsewhere(reason) | Self::Injected(reason) => f.write_str(reason),
        }
    }
}

fn missing(f: &mut fmt::Formatter<'_>, what: &str, capabilities: &[Capability]) -> fmt::Result {
    write!(f, "the kernel refused eBPF {what}: ")?;
    if capabilities.is_empty() {
        return f.write_str("EPERM although no capability is missing: a security module, seccomp or lockdown forbids bpf(2)");
    }
    f.write_str("missing")?;
    for (i, c) in capabilities.iter().enumerate() {
        write!(f, "{}{}", if i == 0 { " " } else { ", " }, c.name())?;
    }
    f.write_str("; run as root or grant them (AmbientCapabilities= in the unit)")
}

impl error::Error for RedirectError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Cgroup { source, .. }
            | Self::NoBtf(source)
            | Self::ObjectFile { source, .. }
            | Self::Load { source, .. }
            | Self::Attach { source, .. }
            | Self::Map { source, .. }
            | Self::Pin { source, .. }
            | Self::System { source, .. } => Some(source),
            _ => None,
        }
    }
}
