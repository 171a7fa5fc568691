//! Logs in a scratch folder.

use super::super::scratch::Scratch;
use super::*;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

const SMALL: Rolling = Rolling { limit: 10, files: 3 };

fn at(n: u64) -> Wall {
    Wall(1_767_687_330_123_000_000 + n)
}

#[test]
fn fs62_rolled_before_a_write_that_finds_it_full_and_fs64_never_splits_a_line() {
    let scratch = Scratch::new("logfile");
    let mut log = RollingFile::open(scratch.path(), "a.log", SMALL).expect("opens");
    log.write(at(1), b"123456789\n").expect("fits exactly");
    assert_eq!(scratch.names(), ["a.log"], "reaching the limit alone does not roll");
    log.write(at(2), b"a line longer than the limit\n").expect("rolls");
    assert_eq!(scratch.names(), ["a.log", "a.log.2026-01-06T08.15.30.123-1767687330123000002.log"]);
    assert_eq!(fs::read(scratch.path().join("a.log")).expect("read"), b"a line longer than the limit\n");
}

/// S-62
#[test]
fn fs63_keeps_the_newest_and_fs73_never_deletes_foreign_names() {
    let scratch = Scratch::new("logfile");
    let foreign = [
        "a.log.1",
        "a.log.2026-01-06T08.15.30.123-.log",
        "a.log.2026-01-06T08.15.30.123-12x.log",
        "a.log.2026-01-06T08.15.30-1.log",
        "a.log.bak.2026-01-06T08.15.30.123-1.log",
        "b.log.2026-01-06T08.15.30.123-1.log",
    ];
    for name in foreign {
        fs::write(scratch.path().join(name), "keep").expect("write");
    }
    let mut log = RollingFile::open(scratch.path(), "a.log", SMALL).expect("opens");
    for n in 1..=9 {
        log.write(at(n), format!("line number {n}\n").as_bytes()).expect("writes");
    }
    let ours: Vec<String> = scratch.names().into_iter().filter(|n| !foreign.contains(&n.as_str())).collect();
    assert_eq!(
        ours,
        [
            "a.log",
            "a.log.2026-01-06T08.15.30.123-1767687330123000008.log",
            "a.log.2026-01-06T08.15.30.123-1767687330123000009.log"
        ]
    );
    assert_eq!(scratch.names().len(), ours.len() + foreign.len());
}

/// The clock was a year ahead for a while: what is rolled afterwards is kept all the same.
#[test]
fn fs63_names_from_the_future_go_first() {
    let scratch = Scratch::new("logfile");
    let future = |n: u64| Wall(at(n).0 + 31_557_600_000_000_000);
    for n in 1..=3 {
        let name = format!("a.log.{}.log", future(n).file_stamp());
        fs::write(scratch.path().join(name), "future\n").expect("write");
    }
    let mut log = RollingFile::open(scratch.path(), "a.log", SMALL).expect("opens");
    for n in 1..=3 {
        log.write(at(n), format!("line number {n}\n").as_bytes()).expect("writes");
    }
    let kept = |n| format!("a.log.{}.log", at(n).file_stamp());
    assert_eq!(scratch.names(), ["a.log".to_owned(), kept(2), kept(3)]);
}

/// Power was cut in the middle of a line.
#[test]
fn a_line_is_not_glued_to_one_that_was_torn() {
    let scratch = Scratch::new("logfile");
    let path = scratch.path().join("a.log");
    fs::write(&path, "whole\ntor").expect("write");
    let mut places = Vec::new();
    let mut log = RollingFile::open(scratch.path(), "a.log", Rolling::DEFAULT).expect("opens");
    for line in [b"new\n", b"two\n"] {
        log.write_marked(at(0), line, &mut |place| places.push(place.size)).expect("writes");
    }
    assert_eq!(fs::read(&path).expect("read"), b"whole\ntor\nnew\ntwo\n");
    assert_eq!(places, [10, 14], "where the bytes of the lines begin");
}

#[test]
fn goes_on_in_an_existing_file_and_fs72_narrows_its_mode() {
    let scratch = Scratch::new("logfile");
    let path = scratch.path().join("a.log");
    fs::write(&path, "old\n").expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("mode");
    RollingFile::open(scratch.path(), "a.log", SMALL).expect("opens").write(at(0), b"new\n").expect("writes");
    assert_eq!(fs::read(&path).expect("read"), b"old\nnew\n");
    assert_eq!(fs::metadata(&path).expect("stat").permissions().mode() & 0o7777, 0o640);
}

#[test]
fn sec_e2_sec_f3_links_are_refused_and_their_targets_untouched() {
    let scratch = Scratch::new("logfile");
    let target = scratch.path().join("target");
    std::os::unix::fs::symlink(&target, scratch.path().join("a.log")).expect("dangling link");
    let error = RollingFile::open(scratch.path(), "a.log", SMALL).expect_err("refused").to_string();
    assert!(error.ends_with("a.log: refused, because it is a symbolic link"), "{error}");
    assert!(!target.exists());
    fs::write(scratch.path().join("victim"), "untouched").expect("write");
    fs::hard_link(scratch.path().join("victim"), scratch.path().join("c.log")).expect("hard link");
    let error = RollingFile::open(scratch.path(), "c.log", SMALL).expect_err("refused, too").to_string();
    assert!(error.ends_with("c.log: refused, because the file has another name, too"), "{error}");
    std::os::unix::fs::symlink(scratch.path(), scratch.path().join("folder")).expect("link");
    RollingFile::open(&scratch.path().join("folder"), "b.log", SMALL).expect_err("refused");
    assert!(!scratch.path().join("b.log").exists());
}

#[test]
fn a_file_that_cannot_be_rolled_takes_no_more_and_recovers() {
    let scratch = Scratch::new("logfile");
    let mut log = RollingFile::open(scratch.path(), "a.log", SMALL).expect("opens");
    log.write(at(1), b"0123456789").expect("writes");
    let in_the_way = scratch.path().join("a.log.2026-01-06T08.15.30.123-1767687330123000002.log");
    fs::write(&in_the_way, "").expect("write");
    log.write(at(2), b"x").expect_err("the name is taken");
    assert_eq!(fs::metadata(scratch.path().join("a.log")).expect("stat").len(), 10);
    log.write(at(3), b"x").expect("the next name is free");
    assert_eq!(fs::read(scratch.path().join("a.log")).expect("read"), b"x");
}

#[test]
fn a_shared_log_reports_a_failure_once_and_mode_is_0640() {
    let scratch = Scratch::new("logfile");
    let (good, bad) = (LogFile::new(&scratch.path().join("logs"), "a"), LogFile::new(&scratch.path().join("file/logs"), "a"));
    fs::write(scratch.path().join("file"), "").expect("write");
    assert_eq!((good.append(at(0), b"1\n"), good.append(at(0), b"2\n")), (Appended::Yes, Appended::Yes));
    let path = scratch.path().join("logs/a");
    assert_eq!(fs::read(&path).expect("read"), b"1\n2\n");
    assert_eq!(fs::metadata(&path).expect("stat").permissions().mode() & 0o7777, 0o640, "FS-72");
    let Appended::No(error) = bad.append(at(0), b"1\n") else { panic!("not a directory") };
    assert!(error.starts_with("The log file a is not written: "), "{error}");
    assert_eq!(bad.append(at(0), b"2\n"), Appended::StillNot, "said already");
}

/// A file on a disk with room for so many more bytes.
struct FullDisk {
    file: File,
    room: usize,
    /// Nothing can be taken back.
    stuck: bool,
}

impl io::Write for FullDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match bytes.get(..self.room).unwrap_or(bytes) {
            [] => Err(io::ErrorKind::StorageFull.into()),
            part => {
                let n = self.file.write(part)?;
                self.room -= n;
                Ok(n)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Appendable for FullDisk {
    fn take_back(&mut self, written: u64) -> io::Result<()> {
        if self.stuck { Err(io::ErrorKind::PermissionDenied.into()) } else { self.file.take_back(written) }
    }
}

fn full(scratch: &Scratch, room: usize, stuck: bool) -> Tail<FullDisk> {
    let path = scratch.path().join("a.log");
    fs::write(&path, "old\n").expect("write");
    let file = File::options().append(true).open(path).expect("opens");
    Tail::new((FullDisk { file, room, stuck }, 4))
}

fn append(tail: &mut Tail<FullDisk>, bytes: &[u8]) -> io::Result<()> {
    tail.mend()?;
    tail.whole(bytes)
}

#[test]
fn of_a_write_that_finds_the_disk_full_nothing_stays() {
    let scratch = Scratch::new("logfile");
    let read = || fs::read_to_string(scratch.path().join("a.log")).expect("read");
    let mut tail = full(&scratch, 6, false);
    for _ in 0..2 {
        assert_eq!(append(&mut tail, b"a longer line\n").expect_err("full").kind(), io::ErrorKind::StorageFull);
        assert_eq!((read().as_str(), tail.size), ("old\n", 4));
    }
    tail.file.room = 100;
    append(&mut tail, b"new\n").expect("room again");
    assert_eq!((read().as_str(), tail.size), ("old\nnew\n", 8));
}

#[test]
fn a_line_that_stays_torn_does_not_destroy_the_next() {
    let scratch = Scratch::new("logfile");
    let read = || fs::read_to_string(scratch.path().join("a.log")).expect("read");
    let mut tail = full(&scratch, 6, true);
    append(&mut tail, b"a longer line\n").expect_err("full");
    append(&mut tail, b"lost\n").expect_err("still full");
    assert_eq!((read().as_str(), tail.size), ("old\na long", 10));
    tail.file.room = 100;
    append(&mut tail, b"new\n").expect("room again");
    append(&mut tail, b"newer\n").expect("room");
    assert_eq!((read().as_str(), tail.size), ("old\na long\nnew\nnewer\n", 21));
}

#[test]
fn what_others_wrote_is_not_taken_back() {
    let scratch = Scratch::new("logfile");
    let path = scratch.path().join("a.log");
    let mut ours = File::options().append(true).create(true).open(&path).expect("opens");
    ours.write_all(b"ours").expect("writes");
    File::options().append(true).open(&path).expect("opens").write_all(b"theirs").expect("writes");
    ours.take_back(4).expect_err("theirs would go with it");
    // Cut by another program: it must not grow back, filled with zeros.
    fs::write(&path, "").expect("cut");
    ours.take_back(2).expect_err("shorter than we left it");
    assert_eq!(fs::metadata(&path).expect("stat").len(), 0);
}

#[test]
fn sec_e3_a_log_that_was_removed_is_made_again_and_one_that_failed_is_looked_at() {
    let scratch = Scratch::new("logfile");
    let folder = scratch.path().join("logs");
    let log = LogFile::new(&folder, "a");
    assert_eq!(log.append(at(0), b"1\n"), Appended::Yes);
    fs::remove_dir_all(&folder).expect("removed");
    // As if a while had passed.
    log.state.lock().expect("lock").seen = Mono(0);
    assert_eq!(log.append(at(0), b"2\n"), Appended::Yes);
    assert_eq!(fs::read(folder.join("a")).expect("read"), b"2\n");
    // Exchanged for a link: not written any more.
    fs::rename(folder.join("a"), folder.join("b")).expect("renamed");
    std::os::unix::fs::symlink("b", folder.join("a")).expect("link");
    let later = |log: &LogFile| {
        let mut state = log.state.lock().expect("lock");
        (state.seen, state.retry_at) = (Mono(0), Mono(0));
        state.failed = state.failed.map(|_| Mono(0));
    };
    later(&log);
    assert!(matches!(log.append(at(0), b"3\n"), Appended::No(why) if why.ends_with("it is a symbolic link")));
    assert!(!log.works());
    fs::remove_file(folder.join("a")).expect("removed");
    later(&log);
    assert!(log.works());
    assert_eq!(log.append(at(0), b"4\n"), Appended::Yes);
    assert_eq!(
        fs::read(folder.join("a")).expect("read"),
        b"4\n",
        "what was asked for to see whether there is room does not show"
    );
    assert_eq!(fs::read(folder.join("b")).expect("read"), b"2\n");
}
