//! Where to attach: the root of the unified cgroup hierarchy, or the directory that the configuration names.

use crate::error::RedirectError;
use rustix::fs::statfs;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const CGROUP2_SUPER_MAGIC: rustix::fs::FsWord = 0x6367_7270;

/// A cgroup2 directory to attach to.
#[derive(Debug)]
pub(crate) struct Cgroup {
    pub(crate) path: PathBuf,
    pub(crate) fd: OwnedFd,
    /// The kernel's number of the cgroup: of the directory's inode.
    pub(crate) id: u64,
}

impl Cgroup {
    pub(crate) fn open(path: PathBuf) -> Result<Self, RedirectError> {
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.ino(), file)));
        match opened {
            Ok((id, file)) => Ok(Self { path, fd: file.into(), id }),
            Err(source) => Err(RedirectError::Cgroup { path, source }),
        }
    }
}

/// The first mount of a cgroup2 file system that this process sees.
#[must_use]
pub fn find_cgroup2() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().filter_map(cgroup2_mount).find(|path| is_cgroup2(path))
}

/// The directory to attach to: `configured` if it is in a cgroup2 file system, else the first cgroup2 mount.
///
/// # Errors
/// [`RedirectError::NoCgroup2`] if there is none.
pub fn resolve_cgroup(configured: Option<&Path>) -> Result<PathBuf, RedirectError> {
    if let Some(path) = configured {
        if is_cgroup2(path) {
            return Ok(path.to_owned());
        }
        log::warn!("eBPF: {} is not a cgroup2 directory; looking for a cgroup2 mount instead", path.display());
    }
    find_cgroup2().ok_or(RedirectError::NoCgroup2)
}

fn is_cgroup2(path: &Path) -> bool {
    path.is_dir() && statfs(path).is_ok_and(|s| s.f_type == CGROUP2_SUPER_MAGIC)
}

/// The mount point of a line of mountinfo (proc_pid_mountinfo(5)) if it is a cgroup2 one:
/// `id parent dev root MOUNTPOINT options [optional...] - TYPE source options`.
fn cgroup2_mount(line: &str) -> Option<PathBuf> {
    let (mount, fs) = line.split_once(" - ")?;
    if fs.split(' ').next() != Some("cgroup2") {
        return None;
    }
    mount.split(' ').nth(4).map(|p| PathBuf::from(unescape(p)))
}

/// Blank, tab, line feed and backslash are written as three octal digits.
fn unescape(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |path, (code, char)| path.replace(code, char))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines() {
        let v2 = "35 24 0:30 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(cgroup2_mount(v2), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        let odd = r"35 24 0:30 / /mnt/with\040blank rw - cgroup2 none rw";
        assert_eq!(cgroup2_mount(odd), Some(PathBuf::from("/mnt/with blank")));
        let v1 = "36 24 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu";
        assert_eq!(cgroup2_mount(v1), None);
        assert_eq!(cgroup2_mount(""), None);
    }

    #[test]
    fn an_ordinary_directory_is_not_a_cgroup() {
        assert!(!is_cgroup2(Path::new("/proc")));
        assert!(!is_cgroup2(Path::new("/nonexistent")));
    }
}
