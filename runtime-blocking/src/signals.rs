//! SIGTERM and SIGINT as a file descriptor, so that every loop can wait for them beside its sockets.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Blocks SIGTERM and SIGINT in this thread and those it starts, and returns a descriptor that is readable when one of them was
/// sent. SIGHUP, SIGUSR1 and SIGUSR2, whose default is to kill, are blocked and mean nothing. Call it before any other thread is started.
///
/// # Errors
/// The descriptor could not be made.
#[expect(unsafe_code, reason = "thin wrapper of signal system calls")]
pub(crate) fn termination() -> io::Result<OwnedFd> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initializes the set it is given, which is valid for writes.
    let mut set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    // SAFETY: `set` is initialized and valid; the signal numbers are constants; a null old-set pointer is allowed.
    let blocked = unsafe {
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
    };
    let mut idle = set;
    // SAFETY: `idle` is a copy of an initialized set; otherwise as above. It cannot fail where the call before did not.
    unsafe {
        for signal in [libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2] {
            libc::sigaddset(&raw mut idle, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const idle, std::ptr::null_mut());
    }
    if blocked != 0 {
        return Err(io::Error::from_raw_os_error(blocked));
    }
    // SAFETY: -1 asks for a new descriptor; `set` is initialized.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so `fd` is a descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
