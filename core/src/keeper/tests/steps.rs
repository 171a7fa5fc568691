//! Stories of the keeper that a table of single inputs does not tell.

use super::*;

fn full() -> Result<(), StoreError> {
    Err(StoreError("no space left on device".to_owned()))
}

fn handed_out() -> Bench {
    Bench::started().ok(&v1("Wireserver", None)).ok(&key_document(GUID_A, KEY_A))
}

fn did(bench: &Bench, step: &str) -> bool {
    bench.steps.iter().any(|s| s.starts_with(step))
}

/// W-92, W-96, SEC-E3: the host hands out one key, however long the disk is full, and it is not attested before it is stored.
#[test]
fn a_full_disk_costs_the_host_one_key_w92_w96() {
    let mut bench = handed_out().stored(full());
    for _ in 0..1000 {
        assert_eq!(bench.key_in_use(), "none");
        bench = bench.timer().ok(&v1("Wireserver", None));
        assert_eq!(bench.steps, ["status taken", "write file of A"], "the same key, not another");
        bench = bench.stored(full());
    }
    bench = bench.timer().ok(&v1("Wireserver", None)).stored(Ok(())).loaded(Ok(Some(key(GUID_A))));
    assert_eq!(bench.steps, ["POST /secure-channel/key/A/key-attestation"]);
    assert_eq!(bench.ok("").key_in_use(), "A");
}

/// W-97, SEC-E3: while the new key cannot be stored the old one signs.
#[test]
fn a_full_disk_during_a_rotation_leaves_the_old_key_in_use_w97() {
    let rotation = v2(Some(GUID_B));
    let mut bench = Bench::holding_a(&v2(Some(GUID_A))).timer().ok(&rotation).loaded(Ok(None)).ok(&key_document(GUID_B, KEY_B));
    for _ in 0..10 {
        bench = bench.stored(full()).timer().ok(&rotation).loaded(Ok(None));
        assert_eq!((bench.steps.as_slice(), bench.key_in_use()), (["write file of B".to_owned()].as_slice(), "A"));
    }
    let bench = bench.stored(Ok(())).loaded(Ok(Some(key(GUID_B)))).ok("");
    assert_eq!(bench.key_in_use(), "B");
}

#[test]
fn a_key_that_waits_for_the_disk_is_dropped_when_another_is_named_or_none_wanted() {
    let another = handed_out().stored(full()).timer().ok(&v1("Wireserver", Some(GUID_B))).loaded(Ok(None));
    assert_eq!(another.steps, ["POST /secure-channel/key"]);
    // Named is the one that waits: the host may have taken an attestation whose answer was lost.
    let itself = handed_out().stored(full()).timer().ok(&v1("Wireserver", Some(GUID_A))).loaded(Ok(None));
    assert_eq!(itself.steps, ["write file of A"]);
    let off = handed_out().stored(full()).timer().ok(&v1("Disabled", None)).timer().ok(&v1("Wireserver", None));
    assert!(did(&off, "POST /secure-channel/key"));
    // The same name as when the key was handed out.
    let lost = Bench::started().ok(&v1("Wireserver", Some(GUID_B))).loaded(Ok(None)).ok(&key_document(GUID_A, KEY_A));
    let lost = lost.stored(full()).timer().ok(&v1("Wireserver", Some(GUID_B))).loaded(Ok(None));
    assert_eq!(lost.steps, ["write file of A"]);
}

/// W-94: a refused key is not tried again; one whose attestation was not answered is, from its file on.
#[test]
fn an_attestation_without_answer_is_repeated_w94() {
    let attesting = || handed_out().stored(Ok(())).loaded(Ok(Some(key(GUID_A))));
    let again = attesting().fetched(Err(FetchError::TimedOut)).timer().ok(&v1("Wireserver", None));
    assert_eq!(again.steps, ["status taken", "write file of A"]);
    let lost = attesting().timer().timer().ok(&v1("Wireserver", None));
    assert_eq!(lost.steps, ["status taken", "write file of A"]);
    for status in [204, 302, 401, 403, 500] {
        let refused = attesting().fetched(answer(status, "")).timer().ok(&v1("Wireserver", None));
        assert_eq!(refused.steps, ["status taken", "POST /secure-channel/key"], "{status}");
    }
    // It had been attested: its own file serves (W-90).
    let attested = attesting().fetched(Err(FetchError::Reset)).timer().ok(&v1("Wireserver", Some(GUID_A)));
    assert_eq!(attested.steps, ["status taken", "read file of A"]);
    assert_eq!(attested.loaded(Ok(Some(key(GUID_A)))).key_in_use(), "A");
}

/// S-54, W-07: whatever question the shell loses, the next iteration begins; and the answer does nothing should it come then.
#[test]
fn a_lost_answer_ends_the_iteration_and_is_ignored_later_s54() {
    type Make = fn() -> Bench;
    let phases: [(Make, &str); 6] = [
        (Bench::started, "Failed to get key status - no answer in time"),
        (
            || Bench::started().ok(&v1("Wireserver", Some(GUID_A))),
            "Failed to check the key 'A' details saved locally: no answer in time",
        ),
        (|| Bench::started().ok(&v1("Wireserver", None)), "Failed to acquire key details: no answer in time"),
        (handed_out, "Failed to save key details to file: no answer in time"),
        (|| handed_out().stored(Ok(())), "Failed to check the key 'A' details saved locally: no answer in time"),
        (|| handed_out().stored(Ok(())).loaded(Ok(Some(key(GUID_A)))), "Failed to attest the key: no answer in time"),
    ];
    for (make, text) in phases {
        let mut bench = make();
        let (asked, id) = (bench.now.mono, bench.id);
        assert_eq!(bench.keeper.deadline(), Some(asked + Duration::from_secs(40)), "35 s are the shell's");
        bench.pass(Duration::from_millis(39_999));
        bench.keeper.handle_timeout(bench.now);
        bench.take();
        assert!(bench.steps.is_empty(), "not before");
        bench = bench.timer();
        assert_eq!(bench.keeper.message().replace(GUID_A, "A"), text);
        // Late, in the wait and in the next iteration.
        for _ in 0..2 {
            let (steps, deadline) = (bench.steps.clone(), bench.keeper.deadline());
            bench.keeper.handle_fetched(bench.now, FetchId(id), answer(200, &v1("Disabled", None)));
            bench.keeper.handle_loaded(bench.now, StoreId(id), Ok(Some(key(GUID_A))));
            bench.keeper.handle_stored(bench.now, StoreId(id), Ok(()));
            assert!(bench.keeper.poll_step().is_none(), "{text}");
            assert_eq!((&bench.steps, bench.keeper.deadline()), (&steps, deadline), "{text}");
            bench = bench.timer();
        }
        assert!(bench.calls > 0);
    }
}

/// W-87 to W-89, PX-59: a thousand notifications per second for ten minutes. At most one is kept, and the latched keeper asks no more often.
#[test]
fn a_flood_of_notifications_changes_nothing_w88_w89() {
    let mut bench = Bench::holding_a(&v2(Some(GUID_A)));
    let (calls, mut ready) = (bench.calls, 0);
    for _ in 0..600_000 {
        bench.pass(Duration::from_millis(1));
        bench.keeper.handle_notify(bench.now);
        if bench.keeper.deadline().is_some_and(|at| bench.now.mono >= at) {
            bench = bench.timer().ok(&v2(Some(GUID_A)));
        }
        while let Some(step) = bench.keeper.poll_step() {
            assert!(matches!(step, Step::LatchReady));
            ready += 1;
        }
    }
    assert_eq!(bench.calls - calls, 40, "every 15 s");
    assert!(ready <= 40, "{ready}");
}

/// W-98, W-28: the incarnation is shown and triggers nothing.
#[test]
fn incarnations_are_shown_and_nothing_else_w28_w48_w98() {
    let mut bench = Bench::holding_a(&v1("Wireserver", Some(GUID_A)));
    assert_eq!(bench.keeper.incarnation(), Some(5), "of the key document, W-48");
    for incarnation in [3, 4, 0, u32::MAX] {
        let status = v2(Some(GUID_A)).replace("\"keyIncarnationId\":3", &format!("\"keyIncarnationId\":{incarnation}"));
        bench = bench.timer().ok(&status);
        assert_eq!((bench.keeper.incarnation(), bench.key_in_use()), (Some(incarnation), "A"));
        assert_eq!(bench.steps, ["status taken", "redirect in line"]);
    }
}

/// W-83: each different message is said once, and good news after bad news.
#[test]
fn messages_are_said_once_w83() {
    let mut bench = Bench::holding_a(&v2(Some(GUID_A)));
    let mut said = Vec::new();
    for result in [answer(500, ""), answer(500, ""), answer(404, ""), answer(500, ""), answer(200, &v2(Some(GUID_A)))] {
        bench = bench.timer().fetched(result);
        said.extend(bench.steps.iter().filter(|s| s.starts_with("say")).cloned());
    }
    assert_eq!(
        said,
        [
            "say problem: Failed to get key status - the host answered 500",
            "say problem: Failed to get key status - the host answered 404",
            "say problem: Failed to get key status - the host answered 500",
            "say: Found key details from local and ready to use. - 0",
        ]
    );
}
