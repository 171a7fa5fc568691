//! Two knobs of the C library's allocator, and what the process holds.

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

/// Gives free memory back to the machine. glibc keeps what a burst of connections has used; an agent that is idle most of its life
/// should not. Takes about as long as the heap has free pages: call it when nothing is to be done.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "thin wrapper of malloc_trim(3)")]
pub(crate) fn give_back() {
    // SAFETY: malloc_trim takes an integer and only returns pages that hold no allocation; it is thread-safe.
    unsafe { libc::malloc_trim(0) };
}

/// Resident memory of this process in bytes (FS-57); `None` if the kernel does not say.
pub(crate) fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?;
    Some(kib.parse::<u64>().ok()? * 1024)
}

/// Other C libraries give it back by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn give_back() {}

/// Other C libraries have one heap.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn one_heap() {}

#[cfg(test)]
mod tests {
    #[test]
    fn fs57_resident_memory_is_known() {
        let bytes = super::resident().expect("known");
        assert!((1 << 20..1 << 40).contains(&bytes), "{bytes}");
    }
}
