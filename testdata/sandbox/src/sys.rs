//! The system calls that no safe wrapper covers. Nothing here decides anything.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::join::Join;

/// Gives the calling thread a network and a mount namespace of its own (unshare(2)).
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`.
pub fn unshare_network_and_mounts() -> io::Result<()> {
    // SAFETY: the danger of unshare is a descriptor table that other code believes to be shared; these two flags do not
    // touch it. NEWNS implies FS: the thread gets a working directory of its own, which is wanted.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }.map_err(io::Error::from)
}

/// Lets `command` enter a sandbox in its new process, between fork and exec.
pub fn join_before_exec(command: &mut Command, join: Join) {
    // SAFETY: `Join::now` makes system calls only; it neither allocates nor locks, so it is fit for the time between fork
    // and exec of a process with several threads. What it owns (descriptors, groups) was prepared before the fork.
    unsafe {
        command.pre_exec(move || join.now());
    }
}

/// Lets `command` begin with these descriptors as `first`, `first + 1`, … (sd_listen_fds(3)). After this, a program that cannot be
/// executed may go unnoticed by `spawn`: the pipe on which it would say so can be in the way of a descriptor.
pub fn hand_over_before_exec(command: &mut Command, descriptors: Vec<Arc<OwnedFd>>, first: usize) {
    /// Above everything that is moved to.
    const PARKED: libc::c_int = 512;
    let mut parked: Vec<RawFd> = vec![-1; descriptors.len()];
    let check = |result: libc::c_int| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) };
    let hand_over = move || {
        // Out of the way first: one may be where another belongs.
        for (to, from) in parked.iter_mut().zip(&descriptors) {
            // SAFETY: fcntl(2) on a descriptor that `descriptors` owns; it has no other effect than a new one.
            *to = check(unsafe { libc::fcntl(from.as_raw_fd(), libc::F_DUPFD_CLOEXEC, PARKED) })?;
        }
        for (to, from) in (first..).zip(&parked) {
            let to = RawFd::try_from(to).map_err(|_| io::ErrorKind::InvalidInput)?;
            // SAFETY: what dup2(2) closes belongs to a copy of this process that is about to be replaced by another program.
            check(unsafe { libc::dup2(*from, to) })?;
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only; its memory was allocated before the fork.
    unsafe {
        command.pre_exec(hand_over);
    }
}

/// How many programs are attached to exactly this cgroup at each hook that has any, by the numbers of `enum bpf_attach_type`.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN`.
pub fn attached_programs(cgroup: BorrowedFd<'_>) -> io::Result<Vec<(u32, u32)>> {
    /// `union bpf_attr` of `BPF_PROG_QUERY`, up to `prog_cnt`.
    #[repr(C)]
    struct Query {
        target: u32,
        hook: u32,
        query_flags: u32,
        attach_flags: u32,
        programs: u64,
        count: u32,
        end: u32,
    }
    const PROG_QUERY: libc::c_long = 16;
    /// `BPF_CGROUP_UNIX_GETSOCKNAME` and what came before; later ones are not for cgroups, or not known yet.
    const HOOKS: u32 = 54;
    let mut found = Vec::new();
    for hook in 0..=HOOKS {
        let target = cgroup.as_raw_fd().unsigned_abs();
        let mut query = Query { target, hook, query_flags: 0, attach_flags: 0, programs: 0, count: 0, end: 0 };
        let length = size_of::<Query>();
        // SAFETY: the pointer and the length describe a live attribute block; without room for programs only the count is written.
        let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut query, length) };
        match (result, io::Error::last_os_error()) {
            (0, _) if query.count > 0 => found.push((hook, query.count)),
            (_, e) if e.kind() == io::ErrorKind::PermissionDenied => return Err(e),
            // Nothing there, or not a hook of cgroups.
            _ => {}
        }
    }
    Ok(found)
}

/// The working directory, into a buffer of the caller: usable between fork and exec. The text ends with a NUL.
///
/// # Errors
/// Those of getcwd(2).
pub fn working_directory(buffer: &mut [u8]) -> io::Result<()> {
    // SAFETY: the pointer and the length describe a live, writable buffer, and getcwd writes no further.
    let got = unsafe { libc::getcwd(buffer.as_mut_ptr().cast(), buffer.len()) };
    if got.is_null() { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Survives Ctrl-C and Ctrl-\ from now on: they are meant for the program in the foreground. A handler, not "ignore": a
/// program that is executed gets its default back.
pub fn outlive_keyboard_signals() {
    extern "C" fn nothing(_: libc::c_int) {}
    for signal in [libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: the handler does nothing, so it is async-signal-safe, and it lives as long as the program.
        unsafe {
            libc::signal(signal, nothing as extern "C" fn(libc::c_int) as libc::sighandler_t);
        }
    }
}
