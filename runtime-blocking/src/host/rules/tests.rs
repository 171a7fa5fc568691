use super::super::scratch::Scratch;
use super::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;

const NAME: &str = local::IMDS_FILE;

fn folder(scratch: &Scratch) -> PathBuf {
    let folder = scratch.path().join("rules");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    folder
}

fn put(path: &Path, text: impl AsRef<[u8]>, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn reason(found: RuleFile) -> String {
    match found {
        RuleFile::Unreadable { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

fn fifo(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    assert!(fs::symlink_metadata(path).unwrap().file_type().is_fifo());
}

/// Needs root, as the agent does.
#[test]
fn a_file_of_root_is_read_with_its_stamp_r112_r117_r119() {
    let scratch = Scratch::new("rules");
    let folder = folder(&scratch);
    let path = folder.join(NAME);
    assert_eq!(look(&folder, NAME), RuleFile::Missing);
    assert_eq!(look(&scratch.path().join("nowhere"), NAME), RuleFile::Missing);
    let mut stamps = Vec::new();
    for (text, mode) in [("{}", 0o600), ("{}", 0o644), ("{} ", 0o664)] {
        put(&path, text, mode);
        let RuleFile::Read { stamp, bytes } = look(&folder, NAME) else { panic!("mode {mode:o}") };
        assert_eq!((&bytes[..], stamp.size), (text.as_bytes(), text.len() as u64));
        assert_eq!(look(&folder, NAME), RuleFile::Read { stamp, bytes }, "the same as before");
        stamps.push(stamp);
    }
    // Another file of the same size, with the time of the one before.
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    let other = folder.join("new");
    put(&other, "{}\n", 0o600);
    File::options().write(true).open(&other).unwrap().set_modified(time).unwrap();
    fs::rename(&other, &path).unwrap();
    let RuleFile::Read { stamp, .. } = look(&folder, NAME) else { panic!("not read") };
    assert_eq!((stamp.modified, stamp.size), (stamps[2].modified, stamps[2].size));
    assert_ne!(stamp, stamps[2], "SEC-L18");
    put(&path, vec![b' '; LocalRules::MAX_BYTES], 0o600);
    assert!(matches!(look(&folder, NAME), RuleFile::Read { bytes, .. } if bytes.len() == LocalRules::MAX_BYTES));
}

/// SEC-F4, SEC-E2: in words, without waiting for anybody, and without touching what is behind a link.
#[test]
fn whatever_is_no_file_of_root_alone_is_refused_r119_sec_f4() {
    let scratch = Scratch::new("rules");
    let folder = folder(&scratch);
    let path = folder.join(NAME);
    let clear = || fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).unwrap();

    put(&scratch.path().join("target"), "{}", 0o600);
    symlink(scratch.path().join("target"), &path).unwrap();
    assert_eq!(reason(look(&folder, NAME)), "refused, because it is a symbolic link");
    clear();
    symlink("nowhere", &path).unwrap();
    assert_eq!(reason(look(&folder, NAME)), "refused, because it is a symbolic link");
    clear();
    fifo(&path);
    assert_eq!(reason(look(&folder, NAME)), "refused, because it is not a regular file");
    clear();
    let socket = UnixListener::bind(&path).unwrap();
    assert_eq!(reason(look(&folder, NAME)), "refused, because it is not a regular file");
    drop(socket);
    clear();
    fs::create_dir(&path).unwrap();
    assert_eq!(reason(look(&folder, NAME)), "refused, because it is not a regular file");
    clear();
    for (mode, gid) in [(0o666, 0), (0o602, 0), (0o660, 65534), (0o620, 65534)] {
        put(&path, "{}", mode);
        chown(&path, Some(0), Some(gid)).unwrap();
        assert_eq!(reason(look(&folder, NAME)), format!("refused, because its mode {mode:04o} lets others write"));
        clear();
    }
    put(&path, "{}", 0o600);
    chown(&path, Some(65534), None).unwrap();
    assert_eq!(reason(look(&folder, NAME)), "refused, because it belongs to user id 65534, not to root");
    clear();
    put(&path, vec![b' '; LocalRules::MAX_BYTES + 1], 0o600);
    assert_eq!(reason(look(&folder, NAME)), "refused, because it is larger than 1048576 bytes");
}

/// R-114, FS-29: a directory that is not root's vouches for nothing.
#[test]
fn a_directory_that_must_not_be_used_is_no_missing_file_r114_fs29() {
    let scratch = Scratch::new("rules");
    let folder = folder(&scratch);
    put(&folder.join(NAME), "{}", 0o600);
    let unknown = |folder: &Path| match look(folder, NAME) {
        RuleFile::Unknown(reason) => reason,
        other => panic!("{other:?}"),
    };
    let link = scratch.path().join("link");
    symlink(&folder, &link).unwrap();
    assert!(unknown(&link).ends_with("link: refused, because it is a symbolic link"));
    chown(&folder, Some(65534), None).unwrap();
    assert!(unknown(&folder).ends_with("rules: refused, because it belongs to user id 65534, not to root"));
    chown(&folder, Some(0), None).unwrap();
    // FS-25: what was open to others is closed, and then it counts.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(look(&folder, NAME), RuleFile::Read { .. }));
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    fs::write(scratch.path().join("file"), "").unwrap();
    assert!(unknown(&scratch.path().join("file")).ends_with("file: refused, because it is not a directory"));
}

/// Whether something was heard, at once.
fn hears(watch: &Watch) -> bool {
    let mut fds = [PollFd::new(watch, PollFlags::IN)];
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    let readable = poll(&mut fds, Some(&none)).unwrap() > 0;
    assert!(readable || !watch.take(), "what is taken made it readable");
    readable
}

/// Everything that happens to a rule file is heard, also in a directory that came later, and other files are not.
#[test]
fn changes_are_heard_r117() {
    let scratch = Scratch::new("rules");
    let at = scratch.path().join("rules");
    let watch = Watch::new(&at).unwrap();
    let concerned = |what: &str, expected: bool| assert_eq!(watch.take(), expected, "{what}");
    watch.renew();
    fs::create_dir(scratch.path().join("other")).unwrap();
    concerned("another directory", false);
    let folder = folder(&scratch);
    concerned("the directory came", true);
    watch.renew();
    let path = folder.join(NAME);
    for (what, change) in [
        ("written", Box::new(|| put(&path, "{}", 0o600)) as Box<dyn Fn()>),
        ("mode", Box::new(|| fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap())),
        ("replaced", Box::new(|| fs::rename(folder.join("new"), &path).unwrap())),
        ("removed", Box::new(|| fs::remove_file(&path).unwrap())),
        ("a link", Box::new(|| symlink("nowhere", &path).unwrap())),
    ] {
        put(&folder.join("new"), "{}", 0o600);
        let _ = watch.take();
        change();
        concerned(what, true);
        assert!(!hears(&watch), "taken");
    }
    put(&folder.join("README"), "", 0o600);
    concerned("another file", false);
    // Another directory in its place.
    fs::rename(&folder, scratch.path().join("old")).unwrap();
    concerned("the directory went", true);
    fs::create_dir(&folder).unwrap();
    concerned("another came", true);
    watch.renew();
    let _ = watch.take();
    put(&scratch.path().join("old").join(NAME), "{}", 0o600);
    concerned("in the old one", false);
    put(&folder.join(NAME), "{}", 0o600);
    concerned("in the new one", true);
    fs::remove_dir_all(scratch.path().join("rules")).unwrap();
    concerned("gone", true);
    watch.renew();
    watch.renew();
}
