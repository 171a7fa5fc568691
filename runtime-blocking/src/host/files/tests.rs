//! What is refused, and that nothing is ever half there.

use super::super::scratch::Scratch;
use super::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("stat").permissions().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn fs29_replace_is_whole_has_its_mode_and_leaves_no_temporary_file() {
    let scratch = Scratch::new("files");
    let dir = Dir::open(scratch.path(), Access::Private).expect("opens");
    for (content, wanted) in [("one", 0o600), ("two, longer", 0o640), ("", 0o600)] {
        dir.replace("a", "a.tmp", wanted, content.as_bytes()).expect("replaces");
        assert_eq!(scratch.names(), ["a"]);
        assert_eq!(fs::read_to_string(scratch.path().join("a")).expect("read"), content);
        assert_eq!(mode(&scratch.path().join("a")), wanted);
    }
}

/// FS-29, FS-30: each step does to a real folder what the simulated one of core's power-cut test takes it to do.
#[test]
fn fs29_the_steps_of_a_replacement_are_what_their_names_say() {
    type Stage = (ReplaceStep, Option<&'static [u8]>, &'static [u8]);
    let (old, new) = (b"old".as_slice(), b"new content".as_slice());
    let stages: [Stage; 7] = [
        (ReplaceStep::RemoveTemp, None, old),
        (ReplaceStep::CreateTemp, Some(b""), old),
        (ReplaceStep::SetMode, Some(b""), old),
        (ReplaceStep::Write, Some(new), old),
        (ReplaceStep::SyncFile, Some(new), old),
        (ReplaceStep::Rename, None, new),
        (ReplaceStep::SyncFolder, None, new),
    ];
    assert_eq!(stages.map(|(step, ..)| step), durable::REPLACE);
    for (n, (step, temp, content)) in stages.into_iter().enumerate() {
        let scratch = Scratch::new("files");
        let dir = Dir::open(scratch.path(), Access::Private).expect("opens");
        dir.replace("a", "a.tmp", 0o600, old).expect("old content");
        fs::write(scratch.path().join("a.tmp"), "of a crash").expect("write");
        dir.replace_by(&durable::REPLACE[..=n], "a", "a.tmp", 0o666, new).expect("steps");
        assert_eq!(fs::read(scratch.path().join("a.tmp")).ok().as_deref(), temp, "{step:?}");
        assert_eq!(fs::read(scratch.path().join("a")).expect("always there"), content, "{step:?}");
        if step == ReplaceStep::SetMode {
            assert_eq!(mode(&scratch.path().join("a.tmp")), 0o666, "whatever the umask");
        }
    }
    // A step that fails ends it, and leaves nothing behind.
    let scratch = Scratch::new("files");
    let dir = Dir::open(scratch.path(), Access::Private).expect("opens");
    fs::write(scratch.path().join("a.tmp"), "in the way").expect("write");
    dir.replace_by(&durable::REPLACE[1..], "a", "a.tmp", 0o600, new).expect_err("it must be new");
    assert!(scratch.names().is_empty());
}

#[test]
fn a_failed_replace_leaves_the_old_content_and_no_temporary_file() {
    let scratch = Scratch::new("files");
    let dir = Dir::open(scratch.path(), Access::Private).expect("opens");
    // A directory that is not empty cannot be renamed over: the last step fails.
    fs::create_dir_all(scratch.path().join("a/b")).expect("mkdir");
    dir.replace("a", "a.tmp", 0o600, b"x").expect_err("cannot replace a directory");
    assert_eq!(scratch.names(), ["a"]);
}

#[test]
fn a_temporary_file_of_a_crash_is_replaced_and_a_planted_link_is_not_followed() {
    let scratch = Scratch::new("files");
    let dir = Dir::open(scratch.path(), Access::Private).expect("opens");
    fs::write(scratch.path().join("victim"), "untouched").expect("write");
    symlink(scratch.path().join("victim"), scratch.path().join("a.tmp")).expect("link");
    symlink(scratch.path().join("victim"), scratch.path().join("a")).expect("link");
    dir.replace("a", "a.tmp", 0o600, b"new").expect("replaces");
    assert_eq!(fs::read(scratch.path().join("victim")).expect("read"), b"untouched");
    assert!(fs::symlink_metadata(scratch.path().join("a")).expect("stat").is_file());
    assert_eq!(scratch.names(), ["a", "victim"]);
}

#[test]
fn fs29_directories_that_are_links_are_refused_with_and_without_a_slash() {
    let scratch = Scratch::new("files");
    fs::create_dir(scratch.path().join("real")).expect("mkdir");
    symlink("real", scratch.path().join("link")).expect("link");
    symlink("nowhere", scratch.path().join("dangling")).expect("link");
    for name in ["link", "link/", "dangling"] {
        for result in
            [Dir::open(&scratch.path().join(name), Access::Private), Dir::create(&scratch.path().join(name), Access::Private)]
        {
            let error = result.expect_err(name);
            assert!(error.is_refusal() && error.to_string().ends_with("it is a symbolic link"), "{error}");
        }
    }
    assert!(!scratch.path().join("nowhere").exists());
}

#[test]
fn fs24_a_private_directory_gets_its_mode_at_every_start() {
    let scratch = Scratch::new("files");
    let path = scratch.path().join("state/keys");
    Dir::create(&path, Access::Private).expect("made");
    assert_eq!((mode(&path), mode(&scratch.path().join("state"))), (0o700, 0o755));
    chmod(&path, 0o755);
    Dir::create(&path, Access::Private).expect("opened");
    assert_eq!(mode(&path), 0o700);
}

#[test]
fn a_shared_directory_must_not_be_writable_by_everybody() {
    let scratch = Scratch::new("files");
    chmod(scratch.path(), 0o777);
    let error = Dir::open(scratch.path(), Access::Shared).expect_err("refused").to_string();
    assert!(error.ends_with("refused, because its mode 0777 lets others write"), "{error}");
}

#[test]
fn fs29_directories_and_files_of_another_owner_are_refused() {
    if !is_root() {
        return; // only root can give files away
    }
    let scratch = Scratch::new("files");
    let path = scratch.path().join("keys");
    let dir = Dir::create(&path, Access::Private).expect("made");
    fs::write(path.join("a"), "x").expect("write");
    chown(path.join("a"), Some(65_534), None).expect("chown");
    let error = dir.read("a", 10).expect_err("refused").to_string();
    assert!(error.ends_with("a: refused, because it belongs to user id 65534, not to root"), "{error}");
    chown(&path, Some(65_534), None).expect("chown");
    Dir::open(&path, Access::Private).expect_err("refused");
}

#[test]
fn only_proper_files_are_read() {
    let scratch = Scratch::new("files");
    let dir = Dir::open(scratch.path(), Access::Private).expect("opens");
    let put = |name: &str, content: &str| fs::write(scratch.path().join(name), content).expect("write");
    put("good", "0123456789");
    put("open", "x");
    chmod(&scratch.path().join("open"), 0o620);
    symlink("good", scratch.path().join("link")).expect("link");
    fs::create_dir(scratch.path().join("dir")).expect("mkdir");
    let socket = std::os::unix::net::UnixListener::bind(scratch.path().join("socket")).expect("socket");
    rustix::fs::mknodat(rustix::fs::CWD, scratch.path().join("fifo"), FileType::Fifo, Mode::RUSR, 0).expect("fifo");

    assert_eq!(dir.read("good", 10).expect("read").as_deref().map(Vec::as_slice), Some(&b"0123456789"[..]));
    assert!(dir.read("missing", 10).expect("no error").is_none());
    for (name, why) in [
        ("link", "symbolic link"),
        ("dir", "not a regular file"),
        ("fifo", "not a regular file"),
        ("socket", "not a regular file"),
        ("open", "its mode 0620 lets others write"),
        ("../x", "not a file name"),
        ("..", "not a file name"),
        ("", "not a file name"),
    ] {
        let error = dir.read(name, 10).expect_err(name);
        assert!(error.is_refusal() && error.to_string().contains(why), "{name}: {error}");
    }
    assert!(dir.read("good", 9).expect_err("limit").to_string().ends_with("it is larger than 9 bytes"));
    drop(socket);
}

#[test]
fn removing_says_whether_there_was_one() {
    let scratch = Scratch::new("files");
    let dir = Dir::open(scratch.path(), Access::Private).expect("opens");
    dir.replace("a", "a.tmp", 0o600, b"").expect("written");
    assert!(dir.remove("a").expect("removed"));
    assert!(!dir.remove("a").expect("was gone"));
}
