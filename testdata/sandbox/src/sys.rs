//! The system calls that no safe wrapper covers. Nothing here decides anything.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

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
