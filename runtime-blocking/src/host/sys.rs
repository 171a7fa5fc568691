//! Thin wrappers of the C library's account functions: the only `unsafe` of this crate. They allocate what they return and keep
//! no pointer.

use std::ffi::{CStr, CString};
use std::io;

/// What the account database holds of one user id.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) name: CString,
    pub(super) primary_group: u32,
}

/// First size of the buffer for the texts of an entry, and the size at which we give up. Bytes.
const TEXT: (usize, usize) = (1024, 1 << 20);
/// The most group ids that an account can have (`NGROUPS_MAX` of Linux), and one for the primary group.
const MAX_GROUPS: usize = 65_537;

/// The account of a user id; `None` if there is none. May block for as long as the name service likes.
pub(super) fn account(uid: u32) -> io::Result<Option<Account>> {
    with_text_buffer(|text| {
        let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
        let mut found: *mut libc::passwd = std::ptr::null_mut();
        // SAFETY: `entry` and `found` are valid for writes, `text` for writes of its length; all outlive the call.
        let error = unsafe { libc::getpwuid_r(uid, entry.as_mut_ptr(), text.as_mut_ptr().cast(), text.len(), &raw mut found) };
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
        Ok(Some(Account { name: name.to_owned(), primary_group: entry.pw_gid }))
    })
}

/// The name of a group; `None` if it has none. May block.
pub(super) fn group_name(gid: u32) -> io::Result<Option<CString>> {
    with_text_buffer(|text| {
        let mut entry = std::mem::MaybeUninit::<libc::group>::uninit();
        let mut found: *mut libc::group = std::ptr::null_mut();
        // SAFETY: `entry` and `found` are valid for writes, `text` for writes of its length; all outlive the call.
        let error = unsafe { libc::getgrgid_r(gid, entry.as_mut_ptr(), text.as_mut_ptr().cast(), text.len(), &raw mut found) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        if found.is_null() {
            return Ok(None);
        }
        // SAFETY: the call succeeded and found an entry: `found` points to `entry`, which it has filled in.
        let entry = unsafe { entry.assume_init_ref() };
        // SAFETY: `gr_name` points to a NUL-terminated string within `text`, which is still borrowed and unchanged.
        Ok(Some(unsafe { CStr::from_ptr(entry.gr_name) }.to_owned()))
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
