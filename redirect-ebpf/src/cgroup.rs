//! Where to attach: the root of the unified cgroup hierarchy, or the directory that the configuration names.

use crate::error::RedirectError;
use crate::sys;
use rustix::fs::{AtFlags, CWD, readlinkat, statat, statfs};
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
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

/// The cgroup2 hierarchy as this process sees it, for paths of cgroups.
#[derive(Debug)]
pub struct Hierarchy {
    mount: PathBuf,
    root: OwnedFd,
}

impl Hierarchy {
    /// By the first cgroup2 mount that shows the root of the hierarchy; `None` if there is none.
    #[must_use]
    pub fn find() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let whole = mounts.lines().filter(|line| line.split(' ').nth(3) == Some("/")).filter_map(cgroup2_mount);
        whole.filter(|path| is_cgroup2(path)).find_map(|mount| {
            let root = File::open(&mount).ok()?.into();
            Some(Self { mount, root })
        })
    }

    /// The path of a cgroup from the root, as in `/proc/PID/cgroup`; `None` if there is no such cgroup any more, if it lies outside of
    /// what this process sees, or if it cannot be told. Needs `CAP_DAC_READ_SEARCH`.
    #[must_use]
    pub fn path(&self, id: u64) -> Option<Vec<u8>> {
        let cgroup = sys::open_cgroup(self.root.as_fd(), id).ok()?;
        let link = format!("/proc/self/fd/{}", cgroup.as_raw_fd());
        let shown = readlinkat(CWD, link, Vec::with_capacity(256)).ok()?.into_bytes();
        let below = shown.strip_prefix(self.mount.as_os_str().as_bytes())?;
        if !(below.is_empty() || below.starts_with(b"/")) {
            return None;
        }
        let path = if below.is_empty() { b"/" } else { below };
        // A cgroup that is removed meanwhile is shown with another name.
        let there = statat(CWD, shown.as_slice(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        (there.st_ino == id).then(|| path.to_vec())
    }
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

    /// Where this process is, by the kernel's own word.
    #[test]
    fn the_path_of_a_cgroup_is_that_of_proc() {
        let Some(hierarchy) = Hierarchy::find() else { return };
        assert_eq!(hierarchy.path(fs::metadata(&hierarchy.mount).unwrap().ino()).as_deref(), Some(&b"/"[..]));
        let ours = fs::read_to_string("/proc/self/cgroup").unwrap();
        let Some(ours) = ours.lines().find_map(|line| line.strip_prefix("0::")) else { return };
        let id = fs::metadata(hierarchy.mount.join(ours.trim_start_matches('/'))).unwrap().ino();
        assert_eq!(hierarchy.path(id).as_deref(), Some(ours.as_bytes()));
        for nobody in [0, u64::MAX, id + (1 << 40)] {
            assert_eq!(hierarchy.path(nobody), None, "{nobody}");
        }
    }

    #[test]
    fn a_cgroup_that_was_removed_has_no_path() {
        let Some(hierarchy) = Hierarchy::find() else { return };
        let name = format!("path-test-{}", std::process::id());
        let folder = hierarchy.mount.join(&name).join("in (deleted)");
        // Without the right to make one there is nothing to see.
        if fs::create_dir_all(&folder).is_err() {
            return;
        }
        let id = fs::metadata(&folder).unwrap().ino();
        assert_eq!(hierarchy.path(id), Some(format!("/{name}/in (deleted)").into_bytes()));
        fs::remove_dir(&folder).unwrap();
        fs::remove_dir(hierarchy.mount.join(&name)).unwrap();
        assert_eq!(hierarchy.path(id), None);
    }

    #[test]
    fn an_ordinary_directory_is_not_a_cgroup() {
        assert!(!is_cgroup2(Path::new("/proc")));
        assert!(!is_cgroup2(Path::new("/nonexistent")));
    }
}
