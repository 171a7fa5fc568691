use super::*;
use azure_proxy_agent_core::identity::{Destination, Route};
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};

/// What the kernel would have noted about `pid`, from `/proc`.
fn record_of(pid: u32) -> KernelRecord {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap();
    let exe = std::fs::metadata(format!("/proc/{pid}/exe")).unwrap();
    KernelRecord {
        route: Route::Redirected,
        original: Destination::Imds.addr(),
        tgid: pid,
        tid: pid,
        ppid: 0,
        uid: 0,
        gid: 0,
        start_boottime: parse_start_ticks(&stat).unwrap() * TICK + 7,
        exec_id: 0,
        exe: Some(ExeId {
            inode: exe.ino(),
            ctime_s: exe.ctime(),
            ctime_ns: u32::try_from(exe.ctime_nsec()).unwrap(),
            dev: 0,
            generation: 0,
        }),
        pid_ns: 0,
        ns_tgid: pid,
        task_cgroup: 0,
        socket_cgroup: 0,
        netns: 0,
        socket_cookie: 0,
        connected_at: 0,
        mapped_v6: false,
        comm: [0; 16],
    }
}

fn this_exe() -> RawText {
    RawText::from(std::env::current_exe().unwrap().into_os_string().into_vec())
}

/// A child that waits until its input is closed.
fn cat() -> Child {
    Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_process_that_is_what_it_was_is_verified() {
    let facts = verify(&record_of(std::process::id()));
    assert_eq!(facts.exe, ExeFact::Verified(this_exe()));
    assert_eq!(facts.cmdline, Some(std::fs::read("/proc/self/cmdline").unwrap()));
}

#[test]
fn another_start_time_is_another_process_i29() {
    let mut record = record_of(std::process::id());
    record.start_boottime += TICK;
    assert_eq!(verify(&record), ProcessFacts { exe: ExeFact::Gone, cmdline: None });
}

#[test]
fn another_file_is_another_program_i29() {
    let good = record_of(std::process::id());
    for change in [|e: &mut ExeId| e.inode += 1, |e: &mut ExeId| e.ctime_s -= 1, |e: &mut ExeId| e.ctime_ns ^= 1] {
        let mut record = good;
        change(record.exe.as_mut().unwrap());
        assert_eq!(verify(&record).exe, ExeFact::Gone);
    }
}

#[test]
fn device_and_generation_are_advisory() {
    let mut record = record_of(std::process::id());
    let exe = record.exe.as_mut().unwrap();
    (exe.dev, exe.generation) = (u32::MAX, u32::MAX);
    assert_eq!(verify(&record).exe, ExeFact::Verified(this_exe()));
}

#[test]
fn a_record_without_task_reads_proves_nothing() {
    let good = record_of(std::process::id());
    assert_eq!(verify(&KernelRecord { exe: None, ..good }).exe, ExeFact::Gone);
    assert_eq!(verify(&KernelRecord { start_boottime: 0, ..good }).exe, ExeFact::Gone);
}

#[test]
fn an_exited_process_is_gone_even_as_a_zombie_i16() {
    let mut child = cat();
    let record = record_of(child.id());
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(verify(&record).exe, ExeFact::Gone);
}

#[test]
fn a_deleted_executable_names_no_file_here_i27() {
    let dir = std::env::temp_dir().join(format!("verify-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let copy = dir.join("copied-cat");
    let cat = ["/bin/cat", "/usr/bin/cat"].into_iter().find(|p| std::path::Path::new(p).exists()).unwrap();
    std::fs::copy(cat, &copy).unwrap();
    let mut child = Command::new(&copy).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();

    let facts = verify(&record_of(child.id()));
    let mut expected = copy.into_os_string().into_vec();
    expected.extend_from_slice(b" (deleted)");
    assert_eq!(facts.exe, ExeFact::OtherMount(RawText::from(expected)));
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn a_long_command_line_is_cut_at_64_kib_i33a() {
    let long = "x".repeat(100_000);
    // The shell says when it runs: only then its argument vector is in place.
    let mut child = Command::new("sh")
        .args(["-c", "echo; read line", "sh", &long])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let cmdline = verify(&record_of(child.id())).cmdline.unwrap();
    assert_eq!(cmdline.len(), CMDLINE_MAX);
    assert!(cmdline.starts_with(b"sh\0-c\0echo; read line\0sh\0xxx"));
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn names_with_parentheses_do_not_shift_fields() {
    let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 332012 20 21";
    assert_eq!(parse_start_ticks(format!("42 (a) b (c) 7) {fields}\n").as_bytes()), Some(332_012));
    assert_eq!(parse_start_ticks(b"42 (cut off) S 1 2"), None);
    assert_eq!(parse_start_ticks(b""), None);
}
