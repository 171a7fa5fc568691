//! Descriptors that the service manager hands over at the start (sd_listen_fds(3)): a socket unit's, or those of its store.

use super::sys;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;

/// The first of them (`SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;
/// More than anybody hands over.
const MOST: i32 = 4096;
/// The name of a descriptor whose name is not said.
const NAMELESS: &str = "unknown";
const VARIABLES: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// Takes what was handed over to this process, with the names, and removes the variables that say so: they are not for our children.
///
/// Once, before anything else is opened and before any other thread runs.
#[must_use]
pub fn take() -> Vec<(OwnedFd, String)> {
    let [pid, count, names] = VARIABLES.map(std::env::var_os);
    if pid.is_none() && count.is_none() {
        return Vec::new();
    }
    let offered = offered(std::process::id(), pid.as_deref(), count.as_deref(), names);
    sys::forget_variables(&VARIABLES);
    offered.into_iter().filter_map(|(fd, name)| Some((sys::inherited(fd)?, name))).collect()
}

/// Numbers and names of what the variables say.
fn offered(ours: u32, pid: Option<&OsStr>, count: Option<&OsStr>, names: Option<OsString>) -> Vec<(i32, String)> {
    let number = |text: Option<&OsStr>| text.and_then(|t| t.to_str()?.parse::<i32>().ok());
    if number(pid).is_none_or(|pid| pid.cast_unsigned() != ours) {
        return Vec::new();
    }
    let names = names.unwrap_or_default();
    let names = names.to_string_lossy();
    let mut names = names.split(':').filter(|name| !name.is_empty());
    let count = number(count).unwrap_or(0).clamp(0, MOST);
    (FIRST..FIRST + count).map(|fd| (fd, names.next().unwrap_or(NAMELESS).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pid: &str, count: &str, names: Option<&str>) -> Vec<(i32, String)> {
        offered(7, Some(OsStr::new(pid)), Some(OsStr::new(count)), names.map(OsString::from))
    }

    #[test]
    fn what_is_handed_over_is_for_one_process() {
        assert_eq!(told("7", "2", Some("listener:x")), [(3, "listener".to_owned()), (4, "x".to_owned())]);
        assert_eq!(told("7", "2", Some("listener")), [(3, "listener".to_owned()), (4, NAMELESS.to_owned())]);
        assert_eq!(told("7", "1", None), [(3, NAMELESS.to_owned())]);
        assert!(told("8", "1", None).is_empty(), "another's");
        for nonsense in ["-1", "0", "", "x", "99999999999"] {
            assert!(told("7", nonsense, None).is_empty(), "{nonsense}");
        }
        assert!(offered(7, None, Some(OsStr::new("1")), None).is_empty());
        assert_eq!(told("7", "2000000000", None).len(), MOST as usize);
    }
}
