//! SHA-256 of executables, for rules with `exeSha256`: of the very file that a process was seen to run, and remembered for as long as
//! that file stays as it is.
//!
//! Whoever asks has the file open and has compared it with the kernel's record. A file of which somebody decides with each read what is
//! in it has no hash: those of FUSE, which any user may mount, and of the network.

use azure_proxy_agent_core::identity::{ExeHash, ExeHasher};
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, fstatfs, openat};
use rustix::io::{Errno, read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Largest file that is read. Bytes.
const MOST: u64 = 256 * 1024 * 1024;
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Files remembered.
const KEPT: usize = 64;
/// Bytes that are read at a time.
const PIECE: usize = 64 * 1024;
/// File systems (statfs(2)) whose files are what somebody else says they are: FUSE, NFS, SMB, CIFS, SMB2, 9p, AFS (both), Coda, Ceph.
const ELSEWHERE: [u32; 10] =
    [0x6573_5546, 0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x0102_1997, 0x5346_414f, 0x6b41_4653, 0x7375_7245, 0x00c3_6400];

/// What a file is known again by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    dev: u64,
    ino: u64,
    ctime: (i64, u64),
    size: u64,
}

impl Version {
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss, reason = "the members differ in type between architectures")]
    const fn of(stat: &Stat) -> Self {
        let ctime = (stat.st_ctime as i64, stat.st_ctime_nsec as u64);
        Self { dev: stat.st_dev as u64, ino: stat.st_ino as u64, ctime, size: stat.st_size as u64 }
    }
}

/// Hashes that were computed; the ones that were used last.
#[derive(Debug, Default)]
pub(crate) struct ExeHashes(Mutex<Vec<(Version, ExeHash)>>);

impl ExeHashes {
    /// The hash of a file that is open, be it with `O_PATH`; `None` if it cannot be told beyond doubt.
    pub(crate) fn get(&self, file: BorrowedFd<'_>) -> Option<ExeHash> {
        let version = Version::of(&fstat(file).ok()?);
        if let Some(hash) = self.find(version) {
            return Some(hash);
        }
        match hash(file, version) {
            Ok(Some(hash)) => {
                self.keep(version, hash);
                Some(hash)
            }
            Ok(None) => {
                log::debug!("An executable is too large, too slow, changing or not ours to hash: {version:?}");
                None
            }
            Err(e) => {
                log::debug!("An executable cannot be hashed: {e}; {version:?}");
                None
            }
        }
    }

    fn find(&self, version: Version) -> Option<ExeHash> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(known, _)| *known == version)?;
        let found = kept.remove(at);
        kept.push(found);
        Some(found.1)
    }

    fn keep(&self, version: Version, hash: ExeHash) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(known, _)| *known != version);
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push((version, hash));
    }
}

/// Reads the file; `None` if it is not `version` from the first byte to the last.
fn hash(file: BorrowedFd<'_>, version: Version) -> Result<Option<ExeHash>, Errno> {
    if version.size > MOST || FileType::from_raw_mode(fstat(file)?.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the numbers have 32 bits, whatever their type has"
    )]
    let kind = fstatfs(file)?.f_type as u32;
    if ELSEWHERE.contains(&kind) {
        return Ok(None);
    }
    let began = Instant::now();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let file = openat(CWD, format!("/proc/self/fd/{}", file.as_raw_fd()), flags, Mode::empty())?;
    if Version::of(&fstat(&file)?) != version {
        return Ok(None);
    }
    let mut hasher = ExeHasher::new();
    let mut piece = vec![0; PIECE];
    let mut total = 0;
    loop {
        let n = match read(file.as_fd(), &mut piece) {
            Ok(0) => break,
            Ok(n) => n,
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e),
        };
        total += n as u64;
        if total > version.size || began.elapsed() > PATIENCE {
            return Ok(None);
        }
        hasher.update(piece.get(..n).unwrap_or_default());
    }
    let same = total == version.size && Version::of(&fstat(&file)?) == version;
    Ok(same.then(|| hasher.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::scratch::Scratch;
    use std::fs::{self, File};
    use std::process::Command;

    fn path_of(file: &File) -> std::os::fd::OwnedFd {
        openat(CWD, format!("/proc/self/fd/{}", file.as_raw_fd()), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("open")
    }

    /// What another program says.
    fn sha256sum(path: &std::path::Path) -> String {
        let out = Command::new("sha256sum").arg(path).output().expect("sha256sum");
        String::from_utf8_lossy(&out.stdout).split(' ').next().unwrap_or_default().to_owned()
    }

    #[test]
    fn a_file_has_the_hash_that_others_compute_and_another_when_it_changes() {
        let scratch = Scratch::new("hash");
        let path = scratch.path().join("program");
        let hashes = ExeHashes::default();
        for content in [&b""[..], &[7; PIECE], &[8; PIECE + 1], b"\x7fELF"] {
            fs::write(&path, content).expect("write");
            let file = File::open(&path).expect("open");
            let hash = hashes.get(path_of(&file).as_fd()).expect("a hash");
            assert_eq!(hash.to_string(), sha256sum(&path));
            // Known the second time.
            assert_eq!(hashes.find(Version::of(&fstat(&file).expect("stat"))), Some(hash));
        }
    }

    #[test]
    fn what_is_no_file_or_too_large_has_none() {
        let scratch = Scratch::new("hash");
        let hashes = ExeHashes::default();
        assert_eq!(hashes.get(path_of(&File::open("/dev/null").expect("open")).as_fd()), None);
        assert_eq!(hashes.get(path_of(&File::open(scratch.path()).expect("open")).as_fd()), None);
        let large = File::create(scratch.path().join("large")).expect("create");
        large.set_len(MOST + 1).expect("a hole");
        assert_eq!(hashes.get(path_of(&large).as_fd()), None);
    }

    #[test]
    fn a_file_that_is_another_than_the_one_that_was_seen_has_none() {
        let scratch = Scratch::new("hash");
        let path = scratch.path().join("program");
        fs::write(&path, "one").expect("write");
        let file = File::open(&path).expect("open");
        let version = Version::of(&fstat(&file).expect("stat"));
        for other in [
            Version { ino: version.ino + 1, ..version },
            Version { ctime: (version.ctime.0, version.ctime.1 ^ 1), ..version },
            Version { size: 2, ..version },
            Version { size: 4, ..version },
            Version { dev: version.dev + 1, ..version },
        ] {
            assert_eq!(hash(path_of(&file).as_fd(), other), Ok(None), "{other:?}");
        }
        assert!(hash(path_of(&file).as_fd(), version).expect("read").is_some());
    }

    #[test]
    fn so_many_are_kept_and_the_one_that_was_not_used_goes() {
        let hashes = ExeHashes::default();
        let version = |ino| Version { dev: 1, ino, ctime: (0, 0), size: 1 };
        for ino in 0..KEPT as u64 {
            hashes.keep(version(ino), ExeHash([0; 32]));
        }
        assert!(hashes.find(version(0)).is_some());
        hashes.keep(version(1_000), ExeHash([1; 32]));
        assert_eq!(hashes.0.lock().expect("lock").len(), KEPT);
        assert!(hashes.find(version(1)).is_none() && hashes.find(version(0)).is_some() && hashes.find(version(1_000)).is_some());
    }
}
