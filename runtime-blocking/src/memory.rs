//! One knob of the C library's allocator.

/// Keeps all threads in one heap. glibc gives each thread that allocates a heap of its own, which costs a connection worker more memory
/// than everything else it has; our hot path does not allocate, so there is nothing to contend for.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "thin wrapper of mallopt(3)")]
pub(crate) fn one_heap() {
    // SAFETY: mallopt takes two integers and touches nothing but the allocator's own settings; it is called before other threads exist.
    let set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    if set == 0 {
        log::debug!("The allocator kept its heaps per thread.");
    }
}

/// Other C libraries have one heap.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn one_heap() {}
