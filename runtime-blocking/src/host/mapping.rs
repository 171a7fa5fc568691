//! A file as memory: what is stored there is the kernel's, and outlives the process. One of the two places with `unsafe` in this crate.

use crate::staging::Medium;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, compiler_fence};

/// The first bytes of a file, shared.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
    /// Kept open: it is locked, and read from without touching the mapping.
    file: File,
    /// A fault in this mapping is survived.
    guard: &'static Guard,
}

// SAFETY: the mapping belongs to this value alone; nothing in it refers to a thread. Stores need `&mut self`.
#[expect(unsafe_code, reason = "a raw pointer is not Send by itself")]
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `len` bytes, all of which the file must have.
    ///
    /// # Errors
    /// The system's.
    #[expect(unsafe_code, reason = "thin wrapper of mmap(2)")]
    pub fn new(file: File, len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address that the kernel chooses; nothing else knows it. No reference into it is ever made.
        let start = unsafe { mmap(null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0)? };
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        let mapping = |guard| Self { start, len, file, guard };
        guard(start, len).map(mapping).inspect_err(|_| {
            // SAFETY: nobody knows of it.
            let _ = unsafe { munmap(start.as_ptr().cast(), len) };
        })
    }

    /// The file that is mapped.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// The address of so many bytes, if all of them are in the mapping.
    #[expect(unsafe_code, reason = "pointer arithmetic")]
    fn at(&self, at: usize, len: usize) -> Option<NonNull<u8>> {
        let fits = at.checked_add(len).is_some_and(|end| end <= self.len);
        debug_assert!(fits, "{len} bytes at {at}");
        // SAFETY: `at` is within the mapping, which is one allocation.
        fits.then(|| unsafe { self.start.add(at) })
    }
}

impl Medium for Mapping {
    #[expect(unsafe_code, reason = "memory that is not Rust's")]
    fn copy(&mut self, at: usize, bytes: &[u8]) {
        if let Some(to) = self.at(at, bytes.len()) {
            // SAFETY: `to` is valid for writes of that many bytes (checked), and `bytes` is not in the mapping, into which no
            // reference exists.
            unsafe { to.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        }
    }

    #[expect(unsafe_code, reason = "memory that is not Rust's")]
    fn publish(&mut self, at: usize, word: u64) {
        debug_assert!(at.is_multiple_of(8), "{at}");
        if let Some(to) = self.at(at, 8).filter(|_| at.is_multiple_of(8)) {
            // SAFETY: valid for reads and writes as long as `self` lives, aligned (the mapping begins at a page); nobody accesses it
            // at the same time, because we have `&mut self`.
            let atomic = unsafe { AtomicU64::from_ptr(to.as_ptr().cast()) };
            // One processor's stores survive in the order of the program: only the compiler could change that order.
            atomic.store(word, Ordering::Release);
            compiler_fence(Ordering::SeqCst);
        }
    }

    fn read(&self, at: usize, into: &mut [u8]) -> bool {
        // Through the file: the same pages, and reading brings none of them into this process.
        self.file.read_exact_at(into, at as u64).is_ok()
    }

    fn is_whole(&self) -> bool {
        !self.guard.broken.load(Ordering::Relaxed)
    }

    #[expect(unsafe_code, reason = "thin wrapper of madvise(2)")]
    fn rest(&mut self) {
        // SAFETY: the whole mapping, which is shared: the pages leave this process and stay in the file.
        let rested = unsafe { madvise(self.start.as_ptr().cast(), self.len, Advice::LinuxDontNeed) };
        if let Err(e) = rested {
            log::debug!("The staging pages stay: {e}");
        }
    }
}

impl Drop for Mapping {
    #[expect(unsafe_code, reason = "thin wrapper of munmap(2)")]
    fn drop(&mut self) {
        self.guard.start.store(0, Ordering::Release);
        // SAFETY: the mapping is this value's own and nobody has a reference into it.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok());
    }
}

/// A mapping, as a signal handler may know it.
#[derive(Debug)]
struct Guard {
    /// 0: free; `usize::MAX`: nearly so, or nearly not.
    start: AtomicUsize,
    len: AtomicUsize,
    /// Other memory has taken its place.
    broken: AtomicBool,
}

// What a signal handler knows has to be global. The daemon has one mapping; tests that run side by side have some.
static GUARDS: [Guard; 64] =
    [const { Guard { start: AtomicUsize::new(0), len: AtomicUsize::new(0), broken: AtomicBool::new(false) } }; 64];

/// Survives a fault in the mapping: a file that somebody has cut short, a disk that fails or, with some file systems, is full, ends a
/// process that stores to it (SIGBUS). Memory of our own takes its place then, and [`Medium::is_whole`] says so.
#[expect(unsafe_code, reason = "thin wrapper of sigaction(2)")]
fn guard(start: NonNull<u8>, len: usize) -> io::Result<&'static Guard> {
    let free = |guard: &&Guard| guard.start.compare_exchange(0, usize::MAX, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    let guard = GUARDS.iter().find(free).ok_or_else(|| io::Error::other("too many mappings"))?;
    guard.broken.store(false, Ordering::Release);
    guard.len.store(len, Ordering::Release);
    guard.start.store(start.as_ptr().addr(), Ordering::Release);
    // SAFETY: `sigaction` is plain data for which zeros are valid; the handler has the type that SA_SIGINFO asks for and calls only
    // what is safe in a signal handler.
    let set = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const action, null_mut())
    };
    if set == 0 {
        return Ok(guard);
    }
    guard.start.store(0, Ordering::Release);
    Err(io::Error::last_os_error())
}

#[expect(unsafe_code, reason = "a signal handler")]
extern "C" fn on_fault(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t` to a handler with SA_SIGINFO; SIGBUS has an address. `errno` is this thread's.
    let (at, errno) = unsafe { ((*info).si_addr().addr(), *libc::__errno_location()) };
    let range = |guard: &Guard| (guard.start.load(Ordering::Acquire), guard.len.load(Ordering::Acquire));
    let ours = |guard: &&Guard| {
        let (start, len) = range(guard);
        start != 0 && start != usize::MAX && (start..start.saturating_add(len)).contains(&at)
    };
    if let Some(guard) = GUARDS.iter().find(ours) {
        let (start, len) = range(guard);
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED);
        // SAFETY: replaces exactly the pages of our mapping, to which no references exist, by others that can be read and written.
        let mapped = unsafe { libc::mmap(std::ptr::with_exposed_provenance_mut(start), len, protection, flags, -1, 0) };
        if mapped != libc::MAP_FAILED {
            guard.broken.store(true, Ordering::Release);
            // SAFETY: as above.
            unsafe { *libc::__errno_location() = errno };
            return;
        }
    }
    // Not ours: the instruction is tried again, and this time ends the process.
    // SAFETY: the default action needs no handler.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;

    #[test]
    fn what_is_stored_is_in_the_file_and_a_file_that_is_cut_short_ends_nobody() {
        let scratch = Scratch::new("mapping");
        let path = scratch.path().join("m");
        let open = || File::options().read(true).write(true).create(true).truncate(false).open(&path).expect("opens");
        let file = open();
        file.set_len(8192).expect("grows");
        let mut mapping = Mapping::new(file, 8192).expect("maps");
        mapping.copy(4100, b"text");
        mapping.publish(8, 7);
        mapping.rest();
        let content = std::fs::read(&path).expect("read");
        assert_eq!((&content[4100..4104], content[8]), (&b"text"[..], 7));
        assert!(mapping.is_whole());
        open().set_len(0).expect("cut");
        mapping.copy(4100, b"lost");
        mapping.publish(16, 9);
        assert!(!mapping.is_whole());
    }
}
