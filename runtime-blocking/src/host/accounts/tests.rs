//! The real database of this machine, and a scripted one for time and numbers.

use super::*;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

const SECOND: u64 = 1_000_000_000;

/// The output of `id`, the independent witness.
fn id(args: &[&str]) -> Option<String> {
    let out = Command::new("id").args(args).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

fn facts(name: &str) -> AccountFacts {
    AccountFacts { name: Some(RawText::from(name)), groups: vec![RawText::from("g")] }
}

#[test]
fn i04_i05_the_users_of_this_machine_are_what_id_says() {
    let accounts = Accounts::system();
    let passwd = std::fs::read_to_string("/etc/passwd").expect("passwd");
    let mut seen = 0;
    for line in passwd.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let (Some(name), Some(uid)) = (fields.first(), fields.get(2).and_then(|f| f.parse().ok())) else { continue };
        // Users that share an id: the first one is the name.
        if id(&["-nu", &format!("{uid}")]).is_some_and(|n| n != *name) {
            continue;
        }
        let facts = accounts.get(uid, Mono(0));
        assert_eq!(facts.name.as_ref().map(RawText::as_bytes), Some(name.as_bytes()));
        let mut gids: Vec<u32> = id(&["-G", name]).expect("id").split_whitespace().map(|g| g.parse().expect("gid")).collect();
        gids.sort_unstable();
        gids.dedup();
        let names: Vec<String> = gids.into_iter().filter_map(group_line).collect();
        assert_eq!(facts.groups.iter().map(|g| g.lossy().into_owned()).collect::<Vec<_>>(), names, "groups of {name}");
        seen += 1;
    }
    assert!(seen > 0 && accounts.get(0, Mono(0)).name == Some(RawText::from("root")));
}

fn group_line(gid: u32) -> Option<String> {
    let group = std::fs::read_to_string("/etc/group").expect("group");
    group.lines().find(|l| l.split(':').nth(2) == Some(&gid.to_string())).and_then(|l| l.split(':').next()).map(str::to_owned)
}

#[test]
fn i14_an_id_without_account_has_neither_name_nor_groups() {
    assert_eq!(Accounts::system().get(3_999_999_999, Mono(0)), AccountFacts::default());
}

/// S-12
#[test]
fn i30_found_for_60_s_unknown_for_5_s() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let accounts = Accounts::new(PATIENCE, move |uid| {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(if uid == 1 { facts("alice") } else { AccountFacts::default() })
    });
    let at = |uid, seconds: u64, asked_by_then| {
        let answer = accounts.get(uid, Mono(seconds * SECOND));
        assert_eq!(answer.name.is_some(), uid == 1);
        assert_eq!(asked.load(Ordering::SeqCst), asked_by_then, "uid {uid} at {seconds} s");
    };
    at(1, 0, 1);
    at(1, 59, 1);
    at(1, 61, 2);
    at(2, 100, 3);
    at(2, 104, 3);
    at(2, 106, 4);
}

/// S-12: whoever was removed, renamed or taken out of a group is somebody else no later than 60 s after the question that said
/// otherwise, and claims made of an answer know when that was.
#[test]
fn i30_changes_of_accounts_are_seen_within_60_s() {
    let database = Arc::new(Mutex::new(facts("alice")));
    let asked = Arc::clone(&database);
    let accounts = Accounts::new(PATIENCE, move |_| Ok(asked.lock().expect("lock").clone()));
    let dated = |seconds: u64| accounts.dated(1, Mono(seconds * SECOND));
    assert_eq!(dated(100), (facts("alice"), Mono(100 * SECOND)));
    let changes = [AccountFacts { groups: Vec::new(), ..facts("alice") }, facts("alicia"), AccountFacts::default()];
    let mut known = facts("alice");
    let mut since = 100;
    for change in changes {
        *database.lock().expect("lock") = change.clone();
        assert_eq!(dated(since + 59), (known, Mono(since * SECOND)), "believed, and dated as it was asked");
        since += 60;
        assert_eq!(dated(since), (change.clone(), Mono(since * SECOND)));
        known = change;
    }
    // Nobody is forgotten sooner: the account is made again.
    *database.lock().expect("lock") = facts("alice");
    assert_eq!(dated(since + 6), (facts("alice"), Mono((since + 6) * SECOND)));
}

#[test]
fn i30_at_most_1024_entries_and_the_soonest_to_expire_goes() {
    let accounts = Accounts::new(PATIENCE, |_| Ok(facts("x")));
    for uid in 0..1100u32 {
        let _ = accounts.get(uid, Mono(u64::from(uid)));
    }
    let state = accounts.shared.lock();
    assert_eq!(state.cache.len(), MAX_ENTRIES);
    assert!(state.cache.contains_key(&1099) && !state.cache.contains_key(&0));
}

/// S-12
#[test]
fn i31_a_hanging_database_costs_the_patience_once_and_the_late_answer_counts() {
    let (release, hang) = mpsc::channel::<()>();
    let hang = Mutex::new(hang);
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let accounts = Accounts::new(Duration::from_millis(20), move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        let _ = hang.lock().expect("lock").recv();
        Ok(facts("late"))
    });
    assert_eq!(accounts.get(7, Mono(0)), AccountFacts::default(), "I-14 on timeout");
    assert_eq!(accounts.get(7, Mono(SECOND)), AccountFacts::default(), "remembered for 5 s");
    assert_eq!(asked.load(Ordering::Relaxed), 1, "and not asked for again");

    release.send(()).expect("hanging");
    let mut state = accounts.shared.lock();
    while state.running.contains(&7) {
        state = accounts.shared.ended.wait(state).expect("wait");
    }
    drop(state);
    assert_eq!(accounts.get(7, Mono(2 * SECOND)), facts("late"));
}

#[test]
fn i31_one_question_for_many_callers_and_a_bounded_number_of_hanging_ones() {
    let (release, hang) = mpsc::channel::<()>();
    let hang = Mutex::new(hang);
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let accounts = Accounts::new(Duration::from_millis(5), move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        let _ = hang.lock().expect("lock").recv();
        Ok(facts("x"))
    });
    for uid in 0..40 {
        // Long enough apart for the remembered timeout to have expired: the look-up under way is joined, not repeated.
        assert_eq!(accounts.get(uid, Mono(0)), AccountFacts::default());
        assert_eq!(accounts.get(uid, Mono(10 * SECOND)), AccountFacts::default());
    }
    assert_eq!(accounts.shared.lock().running.len(), MAX_LOOKUPS);
    drop(release);
    let mut state = accounts.shared.lock();
    while !state.running.is_empty() {
        state = accounts.shared.ended.wait(state).expect("wait");
    }
    assert_eq!(asked.load(Ordering::SeqCst), MAX_LOOKUPS);
}

#[test]
fn a_failing_database_is_no_account() {
    let accounts = Accounts::new(PATIENCE, |_| Err(io::Error::other("down")));
    assert_eq!(accounts.get(1, Mono(0)), AccountFacts::default());
}
