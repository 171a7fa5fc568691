//! Signals as file descriptors, so that every loop can wait for them beside its sockets.

use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

/// Bytes of a `signalfd_siginfo`.
const INFO: usize = 128;

/// The signals that mean something.
#[derive(Debug)]
pub(crate) struct Signals {
    /// Readable when SIGTERM or SIGINT was sent.
    pub(crate) end: OwnedFd,
    /// Readable when SIGHUP was sent.
    pub(crate) reload: OwnedFd,
}

/// Blocks the signals in this thread and those it starts. SIGUSR1 and SIGUSR2, whose default is to kill, are blocked and mean nothing.
/// Call it before any other thread is started.
///
/// # Errors
/// A descriptor could not be made.
pub(crate) fn block() -> io::Result<Signals> {
    let signals = Signals { end: descriptor(&[libc::SIGTERM, libc::SIGINT])?, reload: descriptor(&[libc::SIGHUP])? };
    blocked(&[libc::SIGUSR1, libc::SIGUSR2])?;
    Ok(signals)
}

/// Takes the signals that have come from a descriptor of ours; `false` if none has.
pub(crate) fn take(signals: impl AsFd) -> bool {
    let mut info = [0; INFO];
    let mut any = false;
    loop {
        match rustix::io::read(&signals, &mut info) {
            Ok(n) if n > 0 => any = true,
            Err(Errno::INTR) => {}
            _ => return any,
        }
    }
}

fn descriptor(signals: &[libc::c_int]) -> io::Result<OwnedFd> {
    let set = blocked(signals)?;
    new_signalfd(&set)
}

#[expect(unsafe_code, reason = "thin wrapper of signal system calls")]
fn blocked(signals: &[libc::c_int]) -> io::Result<libc::sigset_t> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initializes the set it is given, which is valid for writes.
    let mut set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    for signal in signals {
        // SAFETY: `set` is initialized and valid; a number that is no signal is an error.
        if unsafe { libc::sigaddset(&raw mut set, *signal) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: `set` is initialized and valid; a null old-set pointer is allowed.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(set),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[expect(unsafe_code, reason = "thin wrapper of signal system calls")]
fn new_signalfd(set: &libc::sigset_t) -> io::Result<OwnedFd> {
    // SAFETY: -1 asks for a new descriptor; `set` is initialized.
    let fd = unsafe { libc::signalfd(-1, set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so `fd` is a descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
