//! The layout of map keys and values, as in `bpf/layout.h`. Sizes and offsets are asserted on both sides.

use azure_proxy_agent_core::identity::{Destination, ExeId, KernelRecord, Route, TargetMode};
use core::mem::{offset_of, size_of};
use core::net::{Ipv4Addr, SocketAddrV4};

/// Any bit pattern is a value, and there is no padding: may be copied from and to the kernel.
///
/// # Safety
/// Implement it for such types only.
pub(crate) unsafe trait Plain: Copy {
    /// Nothing but zeros.
    const ZERO: Self;
}

// SAFETY: integers.
unsafe impl Plain for u32 {
    const ZERO: Self = 0;
}

// SAFETY: integers.
unsafe impl Plain for i32 {
    const ZERO: Self = 0;
}

// SAFETY: integers.
unsafe impl Plain for u64 {
    const ZERO: Self = 0;
}

/// Number of the layout: of everything in `bpf/layout.h` and of every map in `bpf/maps.h`. Maps that are pinned under another number
/// are not reused; see `takeover.rs` for what is carried over.
pub(crate) const LAYOUT: u32 = 1;

/// Value of the map `config`: the agent's network namespace.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Config {
    /// Its cookie; 0 on kernels that have none (before 5.14).
    pub(crate) agent_netns: u64,
    /// Its inode number.
    pub(crate) agent_netns_inode: u64,
}

// SAFETY: integers.
unsafe impl Plain for Config {
    const ZERO: Self = Self { agent_netns: 0, agent_netns_inode: 0 };
}

/// Value of the map `build`: what the pinned links hold. User space only.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Build {
    /// Of the object's bytes and of what was asked for; 0 while a take-over is under way.
    pub(crate) fingerprint: u64,
    /// Ids of the programs in the order of `HOOKS`, the packet backstop last; 0 for one that is not attached.
    pub(crate) programs: [u32; PROGRAMS],
    /// Index of the step of the ladder.
    pub(crate) step: u32,
    pub(crate) zero: u32,
}

/// Programs that there can be.
pub(crate) const PROGRAMS: usize = 10;

// SAFETY: integers; the assertion below leaves no room for padding.
unsafe impl Plain for Build {
    const ZERO: Self = Self { fingerprint: 0, programs: [0; PROGRAMS], step: 0, zero: 0 };
}

const TARGET_REDIRECT: u32 = 1;
const TARGET_ENFORCE: u32 = 2;

/// Value of the map `targets`.
pub(crate) const fn target_bits(mode: TargetMode) -> u32 {
    match mode {
        TargetMode::Off => 0,
        TargetMode::Audit => TARGET_REDIRECT,
        TargetMode::Enforce => TARGET_REDIRECT | TARGET_ENFORCE,
    }
}

/// Tells texts apart (FNV-1a, eight bytes at a time). Not against who would forge one: only root could.
pub(crate) fn fingerprint(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    let end = (bytes.len() as u64).to_le_bytes();
    words.iter().chain([&last, &end]).fold(0xcbf2_9ce4_8422_2325, |hash: u64, word| {
        let hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x0000_0100_0000_01b3);
        // A product moves nothing to the right.
        hash ^ hash >> 29
    })
}

/// The mode behind the value of an entry of the map `targets`.
pub(crate) const fn target_mode(bits: u32) -> TargetMode {
    if bits & TARGET_REDIRECT == 0 {
        TargetMode::Off
    } else if bits & TARGET_ENFORCE == 0 {
        TargetMode::Audit
    } else {
        TargetMode::Enforce
    }
}

/// Index in the map `targets`.
pub(crate) const fn target_index(destination: Destination) -> u32 {
    match destination {
        Destination::Imds => 0,
        Destination::WireServer => 1,
        Destination::HostGaPlugin => 2,
    }
}

/// Indices of the map `counters`, in the order of `enum counter`.
pub(crate) const COUNTERS: u32 = 11;

const ROUTE_REDIRECTED: u8 = 1;
const ROUTE_DIRECT: u8 = 2;
const ROUTE_PASSED: u8 = 3;
const ROUTE_REFUSED: u8 = 4;
const RECORD_MAPPED_V6: u8 = 1;
const RECORD_EXE: u8 = 2;

/// `struct record`: the value of the socket storages.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    connected_at: u64,
    socket_cookie: u64,
    netns: u64,
    task_cgroup: u64,
    socket_cgroup: u64,
    start_boottime: u64,
    exec_id: u64,
    exe_inode: u64,
    exe_ctime_s: i64,
    exe_ctime_ns: u32,
    exe_dev: u32,
    exe_generation: u32,
    tgid: u32,
    tid: u32,
    uid: u32,
    gid: u32,
    ppid: u32,
    pid_ns: u32,
    ns_tgid: u32,
    /// Network byte order.
    original_ip: [u8; 4],
    /// Network byte order.
    original_port: [u8; 2],
    route: u8,
    flags: u8,
    comm: [u8; 16],
}

const _: () = {
    assert!(size_of::<Config>() == 16);
    assert!(offset_of!(Config, agent_netns) == 0);
    assert!(offset_of!(Config, agent_netns_inode) == 8);
    assert!(size_of::<Build>() == 56);
    assert!(size_of::<Record>() == 136);
    assert!(offset_of!(Record, connected_at) == 0);
    assert!(offset_of!(Record, socket_cookie) == 8);
    assert!(offset_of!(Record, netns) == 16);
    assert!(offset_of!(Record, task_cgroup) == 24);
    assert!(offset_of!(Record, socket_cgroup) == 32);
    assert!(offset_of!(Record, start_boottime) == 40);
    assert!(offset_of!(Record, exec_id) == 48);
    assert!(offset_of!(Record, exe_inode) == 56);
    assert!(offset_of!(Record, exe_ctime_s) == 64);
    assert!(offset_of!(Record, exe_ctime_ns) == 72);
    assert!(offset_of!(Record, exe_dev) == 76);
    assert!(offset_of!(Record, exe_generation) == 80);
    assert!(offset_of!(Record, tgid) == 84);
    assert!(offset_of!(Record, tid) == 88);
    assert!(offset_of!(Record, uid) == 92);
    assert!(offset_of!(Record, gid) == 96);
    assert!(offset_of!(Record, ppid) == 100);
    assert!(offset_of!(Record, pid_ns) == 104);
    assert!(offset_of!(Record, ns_tgid) == 108);
    assert!(offset_of!(Record, original_ip) == 112);
    assert!(offset_of!(Record, original_port) == 116);
    assert!(offset_of!(Record, route) == 118);
    assert!(offset_of!(Record, flags) == 119);
    assert!(offset_of!(Record, comm) == 120);
};

// SAFETY: integers and arrays of integers; the assertions above leave no room for padding.
unsafe impl Plain for Record {
    const ZERO: Self = Self {
        connected_at: 0,
        socket_cookie: 0,
        netns: 0,
        task_cgroup: 0,
        socket_cgroup: 0,
        start_boottime: 0,
        exec_id: 0,
        exe_inode: 0,
        exe_ctime_s: 0,
        exe_ctime_ns: 0,
        exe_dev: 0,
        exe_generation: 0,
        tgid: 0,
        tid: 0,
        uid: 0,
        gid: 0,
        ppid: 0,
        pid_ns: 0,
        ns_tgid: 0,
        original_ip: [0; 4],
        original_port: [0; 2],
        route: 0,
        flags: 0,
        comm: [0; 16],
    };
}

impl Record {
    /// From an accepted socket, in core's words; `None` for a route that has no business there.
    pub(crate) fn to_kernel_record(self) -> Option<KernelRecord> {
        match self.route {
            ROUTE_REDIRECTED => Some(self.routed(Route::Redirected)),
            ROUTE_DIRECT => Some(self.routed(Route::Direct)),
            _ => None,
        }
    }

    /// From the map `foreign`; `None` for a route that has no business there.
    pub(crate) fn to_foreign_note(self) -> Option<KernelRecord> {
        match self.route {
            ROUTE_PASSED => Some(self.routed(Route::Passed)),
            ROUTE_REFUSED => Some(self.routed(Route::Refused)),
            _ => None,
        }
    }

    fn routed(self, route: Route) -> KernelRecord {
        let exe = ExeId {
            inode: self.exe_inode,
            ctime_s: self.exe_ctime_s,
            ctime_ns: self.exe_ctime_ns,
            dev: self.exe_dev,
            generation: self.exe_generation,
        };
        KernelRecord {
            route,
            original: SocketAddrV4::new(Ipv4Addr::from(self.original_ip), u16::from_be_bytes(self.original_port)),
            tgid: self.tgid,
            tid: self.tid,
            ppid: self.ppid,
            uid: self.uid,
            gid: self.gid,
            start_boottime: self.start_boottime,
            exec_id: self.exec_id,
            exe: (self.flags & RECORD_EXE != 0).then_some(exe),
            pid_ns: self.pid_ns,
            ns_tgid: self.ns_tgid,
            task_cgroup: self.task_cgroup,
            socket_cgroup: self.socket_cgroup,
            netns: self.netns,
            socket_cookie: self.socket_cookie,
            connected_at: self.connected_at,
            mapped_v6: self.flags & RECORD_MAPPED_V6 != 0,
            comm: self.comm,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use azure_proxy_agent_core::identity::LISTENER;

    /// The kernel half has addresses compiled in, so that other traffic needs no look-up: they must be core's.
    #[test]
    fn addresses_in_layout_h_are_those_of_core() {
        let header = include_str!("../bpf/layout.h");
        let define = |name: &str| {
            let line = header.lines().find(|l| l.starts_with(&format!("#define {name} "))).unwrap();
            let text = line.split_whitespace().nth(2).unwrap().trim_end_matches('u');
            text.strip_prefix("0x").map_or_else(|| text.parse().unwrap(), |hex| u32::from_str_radix(hex, 16).unwrap())
        };
        let addr = |ip: &str, port: &str| SocketAddrV4::new(define(ip).into(), u16::try_from(define(port)).unwrap());
        assert_eq!(Destination::Imds.addr(), addr("IMDS_IP", "HTTP_PORT"));
        assert_eq!(Destination::WireServer.addr(), addr("WIRESERVER_IP", "HTTP_PORT"));
        assert_eq!(Destination::HostGaPlugin.addr(), addr("WIRESERVER_IP", "HOSTGA_PORT"));
        assert_eq!(LISTENER, addr("LISTENER_IP", "LISTENER_PORT"));
        assert_eq!((define("TARGET_REDIRECT"), define("TARGET_ENFORCE")), (TARGET_REDIRECT, TARGET_ENFORCE));
    }

    /// What agents of this layout left pinned is read by agents to come. **If this fails**: give `LAYOUT` the next number, then put the
    /// new fingerprint here. Comments and blank lines do not count.
    #[test]
    fn a_changed_layout_has_a_new_number() {
        let maps = include_str!("../bpf/maps.h").split("static __always_inline").next().unwrap();
        let text = [include_str!("../bpf/layout.h"), maps].concat();
        let mut code = String::new();
        for (i, part) in text.split("/*").enumerate() {
            code.push_str(if i == 0 { part } else { part.split_once("*/").unwrap().1 });
        }
        let words: Vec<&str> = code.split_whitespace().collect();
        let fingerprint = fingerprint(words.join(" ").as_bytes());
        assert_eq!((LAYOUT, format!("{fingerprint:016x}")), (1, "c0e53f5284f006cc".to_owned()));
    }

    #[test]
    fn a_record_without_route_is_no_record() {
        assert_eq!(Record::ZERO.to_kernel_record(), None);
        assert_eq!(Record::ZERO.to_foreign_note(), None);
    }

    /// S-08: what only went by is never the identity of an accepted connection, and the reverse.
    #[test]
    fn notes_and_identities_are_kept_apart_s08() {
        let accepted = |route| Record { route, ..Record::ZERO }.to_kernel_record().map(|r| r.route);
        let note = |route| Record { route, ..Record::ZERO }.to_foreign_note().map(|r| r.route);
        assert_eq!([1, 2, 3, 4].map(accepted), [Some(Route::Redirected), Some(Route::Direct), None, None]);
        assert_eq!([1, 2, 3, 4].map(note), [None, None, Some(Route::Passed), Some(Route::Refused)]);
    }

    #[test]
    fn modes_survive_the_map() {
        for mode in [TargetMode::Off, TargetMode::Audit, TargetMode::Enforce] {
            assert_eq!(target_mode(target_bits(mode)), mode);
        }
    }

    #[test]
    fn without_the_flag_there_is_no_executable() {
        let record = Record { route: ROUTE_DIRECT, exe_inode: 5, ..Record::ZERO };
        assert_eq!(record.to_kernel_record().unwrap().exe, None);
        let record = Record { flags: RECORD_EXE | RECORD_MAPPED_V6, ..record }.to_kernel_record().unwrap();
        assert_eq!(record.exe.unwrap().inode, 5);
        assert!(record.mapped_v6);
    }
}
