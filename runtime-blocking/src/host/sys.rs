//! Thin wrappers of calls that no safe library has: the account functions of the C library (they allocate what they return and keep no
//! pointer), descriptors that were inherited, and the network namespace of a socket.

use rustix::net::sockopt;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// `SIOCGSKNS` of linux/sockios.h: the network namespace of a socket, as a descriptor.
const GET_NAMESPACE: libc::Ioctl = 0x894c;

/// What the account database holds of one user.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) name: CString,
    pub(super) primary_group: u32,
}

/// First size of the buffer for the texts of an entry, and the size at which we give up. Bytes.
const TEXT: (usize, usize) = (1024, 1 << 20);
/// The most group ids that an account can have (`NGROUPS_MAX` of Linux), and one for the primary group.
const MAX_GROUPS: usize = 65_537;

/// The account of a user id; `None` if there is none. May block for as long as the name service likes.
pub(super) fn account(uid: u32) -> io::Result<Option<Account>> {
    // SAFETY: the caller says that the pointers are good.
    find_account(|entry, text, size, found| unsafe { libc::getpwuid_r(uid, entry, text, size, found) })
}

/// The account of a name; `None` if there is none. May block.
pub(super) fn account_named(name: &CStr) -> io::Result<Option<Account>> {
    // SAFETY: the name is NUL-terminated; the caller says that the pointers are good.
    find_account(|entry, text, size, found| unsafe { libc::getpwnam_r(name.as_ptr(), entry, text, size, found) })
}

/// An account as `get` finds it, which is given an entry, a buffer and its size, and a place for the result, all valid for writes.
fn find_account(
    get: impl Fn(*mut libc::passwd, *mut libc::c_char, usize, *mut *mut libc::passwd) -> libc::c_int,
) -> io::Result<Option<Account>> {
    with_text_buffer(|text| {
        let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
        let mut found: *mut libc::passwd = std::ptr::null_mut();
        // `entry` and `found` are valid for writes, `text` for writes of its length; all outlive the call.
        let error = get(entry.as_mut_ptr(), text.as_mut_ptr().cast(), text.len(), &raw mut found);
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        if found.is_null() {
            return Ok(None);
        }
        // SAFETY: the call succeeded and found an entry: `found` points to `entry`, which it has filled in.
        let entry = unsafe { entry.assume_init_ref() };
        // SAFETY: `pw_name` points to a NUL-terminated string within `text`, which is still borrowed and unchanged.
        let name = unsafe { CStr::from_ptr(entry.pw_name) };
        Ok(Some(Account { uid: entry.pw_uid, name: name.to_owned(), primary_group: entry.pw_gid }))
    })
}

/// The name of a group; `None` if it has none. May block.
pub(super) fn group_name(gid: u32) -> io::Result<Option<CString>> {
    // SAFETY: the caller says that the pointers are good.
    let group = find_group(|entry, text, size, found| unsafe { libc::getgrgid_r(gid, entry, text, size, found) })?;
    Ok(group.map(|(_, name)| name))
}

/// The id of a group; `None` if there is none of that name. May block.
pub(super) fn group_id(name: &CStr) -> io::Result<Option<u32>> {
    // SAFETY: the name is NUL-terminated; the caller says that the pointers are good.
    let group = find_group(|entry, text, size, found| unsafe { libc::getgrnam_r(name.as_ptr(), entry, text, size, found) })?;
    Ok(group.map(|(gid, _)| gid))
}

/// As [`find_account`]: a group's id and name.
fn find_group(
    get: impl Fn(*mut libc::group, *mut libc::c_char, usize, *mut *mut libc::group) -> libc::c_int,
) -> io::Result<Option<(u32, CString)>> {
    with_text_buffer(|text| {
        let mut entry = std::mem::MaybeUninit::<libc::group>::uninit();
        let mut found: *mut libc::group = std::ptr::null_mut();
        // `entry` and `found` are valid for writes, `text` for writes of its length; all outlive the call.
        let error = get(entry.as_mut_ptr(), text.as_mut_ptr().cast(), text.len(), &raw mut found);
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        if found.is_null() {
            return Ok(None);
        }
        // SAFETY: the call succeeded and found an entry: `found` points to `entry`, which it has filled in.
        let entry = unsafe { entry.assume_init_ref() };
        // SAFETY: `gr_name` points to a NUL-terminated string within `text`, which is still borrowed and unchanged.
        let name = unsafe { CStr::from_ptr(entry.gr_name) };
        Ok(Some((entry.gr_gid, name.to_owned())))
    })
}

/// All group ids of an account, the primary one included, in no order (I-15: however many there are). May block.
pub(super) fn group_ids(account: &Account) -> io::Result<Vec<u32>> {
    let mut ids: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut count = libc::c_int::try_from(ids.len()).map_err(io::Error::other)?;
        // SAFETY: the name is NUL-terminated; `ids` is valid for writes of `count` elements; `count` is valid for writes.
        let fits =
            unsafe { libc::getgrouplist(account.name.as_ptr(), account.primary_group, ids.as_mut_ptr(), &raw mut count) >= 0 };
        let count = usize::try_from(count).unwrap_or(0);
        if fits {
            ids.truncate(count);
            return Ok(ids);
        }
        if ids.len() >= MAX_GROUPS {
            return Err(io::Error::other("the account has more groups than the kernel allows"));
        }
        // glibc says how many there are, others may not: at least double.
        ids.resize(count.max(ids.len() * 2).min(MAX_GROUPS), 0);
    }
}

/// Calls `get` with a larger and larger buffer as long as it says `ERANGE`.
fn with_text_buffer<T>(mut get: impl FnMut(&mut [u8]) -> io::Result<T>) -> io::Result<T> {
    let (mut size, limit) = TEXT;
    loop {
        match get(&mut vec![0; size]) {
            Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
            Err(e) if e.raw_os_error() == Some(libc::ERANGE) && size < limit => size *= 4,
            result => return result,
        }
    }
}

/// Takes a descriptor that whoever started this process left open for it; `None` if it is not open.
///
/// Only for numbers that the service manager names, once each, before this process has opened anything itself.
pub(super) fn inherited(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_GETFD takes no pointer; a number that is no open descriptor is an error.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: it is open, and nobody here owns it: it was open when this process began, and is named once (see above).
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Removes variables from the environment. Only while there is one thread.
pub(super) fn forget_variables(names: &[&str]) {
    debug_assert_eq!(
        std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count),
        1,
        "other threads may read the environment"
    );
    for name in names {
        // SAFETY: no other thread reads or writes the environment: there is none yet.
        unsafe { std::env::remove_var(name) };
    }
}

/// The network namespace that a socket belongs to (ioctl(2)). Needs CAP_NET_ADMIN.
pub(super) fn namespace_of(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: this request takes no argument and returns a new descriptor or an error. On something that is no socket it could mean
    // something else, so that is asked first.
    let fd = unsafe {
        sockopt::socket_type(socket)?;
        libc::ioctl(socket.as_raw_fd(), GET_NAMESPACE)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so `fd` is a descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
