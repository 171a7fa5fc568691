//! What a running process uses, from `/proc`.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use sandbox::{Sandbox, sys};

/// A look at a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// Open descriptors.
    pub(crate) descriptors: usize,
    /// Threads.
    pub(crate) threads: u64,
    /// Resident memory now, in KiB.
    pub(crate) resident: u64,
    /// The most it ever was, or since [`forget_peak`], in KiB.
    pub(crate) peak: u64,
}

/// What process `pid` uses now.
pub(crate) fn usage(pid: u32) -> Usage {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let field = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {status}"));
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{line}"))
    };
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").count();
    Usage { descriptors, threads: field("Threads:"), resident: field("VmRSS:"), peak: field("VmHWM:") }
}

/// Lets [`Usage::peak`] begin anew (proc_pid_clear_refs(5)).
pub(crate) fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("clear_refs is writable");
}

/// What there is in the kernel as long as an agent runs: programs at the hooks of the sandbox's cgroup, and what is pinned.
pub(crate) fn in_kernel(sandbox: &Sandbox, pid: u32) -> BTreeSet<String> {
    // The mounts are those of the sandbox.
    let inside = |path: &Path| PathBuf::from(format!("/proc/{pid}/root")).join(path.strip_prefix("/").expect("absolute"));
    let cgroup = File::open(inside(&sandbox.cgroup())).expect("the cgroup");
    let attached = sys::attached_programs(cgroup.as_fd()).expect("the programs of the cgroup");
    let mut found: BTreeSet<String> = attached.iter().map(|(hook, count)| format!("{count} at hook {hook}")).collect();
    found.extend(pins(&inside(Path::new("/sys/fs/bpf"))));
    found
}

/// How many eBPF programs, links and maps a process has open.
pub(crate) fn open_bpf(pid: u32) -> usize {
    let infos = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("the process runs").flatten();
    let texts = infos.filter_map(|info| fs::read_to_string(info.path()).ok());
    texts.filter(|text| ["prog_id:", "link_id:", "map_id:"].iter().any(|kind| text.contains(kind))).count()
}

fn pins(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(pins(&path)),
            path => found.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned()),
        }
    }
    found
}

/// The local addresses on which process `pid` listens with TCP, as `/proc/net/tcp` and `tcp6` write them.
pub(crate) fn listeners(pid: u32) -> Vec<String> {
    let sockets: HashSet<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("the process runs")
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()?.to_str().map(str::to_owned))
        .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let columns: Vec<&str> = line.split_whitespace().collect();
            if let [_, local, _, "0A", _, _, _, _, _, inode, ..] = columns[..]
                && sockets.contains(inode)
            {
                found.push(local.to_owned());
            }
        }
    }
    found
}
