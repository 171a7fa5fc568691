//! bpf(2) as somebody else on the machine would use it: looking at the cgroup, detaching, attaching, measuring.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

pub(crate) const CONNECT4: u32 = 10;
pub(crate) const CONNECT6: u32 = 11;
pub(crate) const EGRESS: u32 = 1;
/// Every hook that the redirector may use.
pub(crate) const HOOKS: [u32; 10] = [EGRESS, 3, 8, 9, CONNECT4, CONNECT6, 12, 13, 29, 30];

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<RawFd> {
    // SAFETY: the callers below give attributes of the right shape, with pointers to what they own.
    let r = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(RawFd::try_from(r).unwrap()) }
}

/// How many programs are attached to a cgroup.
pub(crate) fn attached(cgroup: &Path, hook: u32) -> u32 {
    #[repr(C)]
    struct Attr {
        target: u32,
        hook: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        pad: u32,
    }
    let dir = fs::File::open(cgroup).unwrap();
    let mut ids = [0u32; 8];
    let mut attr = Attr {
        target: dir.as_raw_fd().cast_unsigned(),
        hook,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: 8,
        pad: 0,
    };
    bpf(16, &mut attr).unwrap();
    attr.count
}

/// Every hook with a program on `cgroup`.
pub(crate) fn hooks_in_use(cgroup: &Path) -> Vec<u32> {
    HOOKS.into_iter().filter(|hook| attached(cgroup, *hook) > 0).collect()
}

/// A descriptor of this process as the kernel describes it.
pub(crate) struct Held {
    pub(crate) fd: RawFd,
    info: String,
}

impl Held {
    pub(crate) fn number(&self, field: &str) -> Option<u64> {
        let line = self.info.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))?;
        line.trim().parse().ok()
    }
}

/// The eBPF objects of that kind (`bpf-map`, `bpf-prog`, `bpf_link`) that this process holds, oldest first.
pub(crate) fn held(kind: &str) -> Vec<Held> {
    let mut fds: Vec<RawFd> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|e| e.unwrap())
        .filter(|e| fs::read_link(e.path()).is_ok_and(|l| l.to_string_lossy().contains(kind)))
        .map(|e| e.file_name().to_str().unwrap().parse().unwrap())
        .collect();
    fds.sort_unstable();
    fds.into_iter().map(|fd| Held { fd, info: fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap() }).collect()
}

/// Opens what is pinned there.
pub(crate) fn open_pin(path: &Path) -> OwnedFd {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let mut attr = [path.as_ptr() as u64, 0];
    let fd = bpf(7, &mut attr).unwrap();
    // SAFETY: made just now.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Pins something.
pub(crate) fn pin(object: &OwnedFd, path: &Path) {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let mut attr = [path.as_ptr() as u64, u64::from(object.as_raw_fd().cast_unsigned())];
    bpf(6, &mut attr).unwrap();
}

/// What the kernel says about it: the first numbers of `struct bpf_map_info` or `struct bpf_link_info`.
pub(crate) fn info(object: &OwnedFd) -> [u32; 8] {
    let mut info = [0; 8];
    let fd = u64::from(object.as_raw_fd().cast_unsigned());
    let mut attr = [fd | (size_of_val(&info) as u64) << 32, info.as_mut_ptr() as u64];
    bpf(15, &mut attr).unwrap();
    info
}

/// Overwrites an entry of an array of `u64`.
pub(crate) fn overwrite_long(map: RawFd, value: u64) {
    let (key, value) = (Box::new(0u32), Box::new(value));
    let mut attr = [u64::from(map.cast_unsigned()), (&raw const *key) as u64, (&raw const *value) as u64, 0];
    bpf(2, &mut attr).unwrap();
}

/// Puts another program behind a link.
pub(crate) fn update(link: &OwnedFd, program: &OwnedFd) {
    let mut attr = [link.as_raw_fd().cast_unsigned(), program.as_raw_fd().cast_unsigned(), 0, 0];
    bpf(29, &mut attr).unwrap();
}

/// What `bpftool link detach` does.
pub(crate) fn detach(link: RawFd) {
    bpf(34, &mut link.cast_unsigned()).unwrap();
}

/// Overwrites an entry of an array of `u32`.
pub(crate) fn overwrite(map: RawFd, key: u32, value: u32) {
    let (key, value) = (Box::new(key), Box::new(value));
    let mut attr = [u64::from(map.cast_unsigned()), (&raw const *key) as u64, (&raw const *value) as u64, 0];
    bpf(2, &mut attr).unwrap();
}

/// A program for connect4 or connect6 that allows everything.
pub(crate) fn bystander(hook: u32) -> OwnedFd {
    // r0 = 1; exit
    let code: [u64; 2] = [0x0000_0001_0000_00b7, 0x95];
    let licence = c"MIT";
    #[repr(C)]
    struct Attr {
        kind: u32,
        count: u32,
        code: u64,
        licence: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        version: u32,
        flags: u32,
        name: [u8; 16],
        ifindex: u32,
        hook: u32,
    }
    let mut attr = Attr {
        kind: 18,
        count: 2,
        code: code.as_ptr() as u64,
        licence: licence.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        version: 0,
        flags: 0,
        name: [0; 16],
        ifindex: 0,
        hook,
    };
    let fd = bpf(5, &mut attr).unwrap();
    // SAFETY: made just now.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

pub(crate) const EXCLUSIVE: u32 = 0;
pub(crate) const ALLOW_MULTI: u32 = 2;

/// The old way to attach, without a link.
pub(crate) fn attach(cgroup: &Path, program: &OwnedFd, hook: u32, flags: u32) {
    let dir = fs::File::open(cgroup).unwrap();
    let mut attr = [dir.as_raw_fd().cast_unsigned(), program.as_raw_fd().cast_unsigned(), hook, flags, 0];
    bpf(8, &mut attr).unwrap();
}

/// As long as this is held, the kernel measures every run of every program.
pub(crate) fn measure() -> OwnedFd {
    let fd = bpf(32, &mut 0u32).unwrap();
    // SAFETY: made just now.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// (nanoseconds, runs) of a program since measuring began.
pub(crate) fn runs(program: RawFd) -> (u64, u64) {
    // struct bpf_prog_info: run_time_ns and run_cnt are the two u64 at 192 and 200.
    let mut info = [0u64; 28];
    let mut attr = [u64::from(program.cast_unsigned()) | (size_of_val(&info) as u64) << 32, info.as_mut_ptr() as u64];
    bpf(15, &mut attr).unwrap();
    (info[24], info[25])
}
