//! Who may update an agent, and when.

use crate::support::{Fleet, v};
use fleet::controller::{Options, one_task};
use fleet::releases::Build;
use serde_json::{Value, json};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// The agents' names and versions, by name.
fn versions(fleet: &Fleet) -> Vec<String> {
    NAMES.iter().map(|name| fleet.controllers.agent(name).unwrap()["version"].as_str().unwrap().to_owned()).collect()
}

/// A version is a soft demand; a release alone changes nothing; being behind is worth a note.
#[test]
fn in_normal_mode_one_agent_updates_and_then_runs_the_job() {
    let fleet = Fleet::new();
    let first = fleet.publish(1, Build::Good);
    let job = fleet.demanding("1.1.0", &first);
    let state = fleet.controllers.job(&job).unwrap();
    assert_eq!(state["state"], "succeeded", "{state}");
    assert!(state["result"].as_str().unwrap().contains(&format!("\"version\":\"{first}\"")), "{state}");
    let mut found = versions(&fleet);
    found.sort();
    assert_eq!(found, [v(0), v(0), first.clone()], "one was updated, and the others left alone");
    let chosen = NAMES.iter().find(|name| fleet.controllers.agent(name).unwrap()["version"] == first.as_str()).unwrap();
    let machine = fleet.machine(chosen);
    assert_eq!((machine.installed().unwrap(), machine.package().unwrap()), (first.clone(), format!("installed {first}")));
    assert_eq!(machine.curl("http://169.254.169.254/metadata/versions").unwrap(), 200, "the new version does its work");
    let by = fleet.done("update");
    assert!(by.len() == 1 && by[0].starts_with("job 1: agent "), "{by:?}");

    // A newer release changes no job's demands: the same job again runs where the demanded version is, and nobody updates.
    let second = fleet.publish(2, Build::Good);
    let state = fleet.controllers.job(&job).unwrap();
    assert_eq!(state["state"], "succeeded", "{state}");
    assert!(state["result"].as_str().unwrap().contains(&format!("\"version\":\"{first}\"")), "{state}");
    let plain = fleet.controllers.job(&one_task("CheckHealth", &Value::Null)).unwrap();
    assert_eq!(plain["state"], "succeeded", "{plain}");
    assert_eq!(fleet.done("update").len(), 1);
    for name in NAMES {
        let agent = fleet.controllers.agent(name).unwrap();
        assert_eq!(
            (&agent["state"], &agent["level"], &agent["behind"]),
            (&json!("online"), &json!("info"), &json!(true)),
            "{agent}"
        );
    }
    // Only a task that states the newer minimum does; its job waits for the update.
    let state = fleet.controllers.job(&fleet.demanding("1.2.0", &second)).unwrap();
    assert_eq!(state["state"], "succeeded", "{state}");
    assert!(state["result"].as_str().unwrap().contains(&format!("\"version\":\"{second}\"")), "{state}");
    assert_eq!(fleet.done("update").len(), 2);
}

/// What cannot run fails at once in the owner's words, and only people update.
#[test]
fn in_no_update_mode_jobs_fail_at_once_and_people_update_agents() {
    let fleet = Fleet::new();
    let (first, far) = (fleet.publish(1, Build::Good), v(5));
    fleet.no_updates(None);
    let job = fleet.demanding("1.1.0", &first);
    let submitted = fleet.ok("POST", "/jobs", &job);
    let no = "This pool doesn't allow agent updates.";
    let setting = "An administrator can alter this setting on the organization pool page.";
    let needs = |who: &str, version: &str| {
        format!("{who} requires agent version {version}, and no agents with that version are registered.")
    };
    assert_eq!(
        submitted["state"]["error"],
        format!("{no}\n{}\n{setting}", needs("Task `CheckHealth` version 1.1.0", &first)),
        "the answer to the submission has it"
    );
    // With a reason, and with several that demand too much: highest version first.
    fleet.no_updates(Some("Change freeze until March."));
    fleet.ok("PUT", "/features/X", &json!({ "minimumAgentVersion": far }));
    let mut both = job.clone();
    both["features"] = json!(["X"]);
    let state = fleet.controllers.job(&both).unwrap();
    let lines =
        [no, &needs("Feature `X`", &far), &needs("Task `CheckHealth` version 1.1.0", &first), "Change freeze until March."];
    assert_eq!(state["error"], lines.join("\n"));
    assert_eq!(fleet.done("update"), [""; 0]);
    assert_eq!(versions(&fleet), [v(0), v(0), v(0)]);

    // By hand: one, chosen ones, all; who and when is on record.
    fleet.controllers.ask_for_update("a", None, false).unwrap();
    fleet.controllers.await_agent("a", "online", &first).unwrap();
    assert_eq!(fleet.controllers.job(&job).unwrap()["state"], "succeeded", "now one has the version");
    fleet.ok("POST", "/agents/update", &json!({ "agents": ["a", "b"] }));
    fleet.controllers.await_agent("b", "online", &first).unwrap();
    let (said, code) = fleet.controllers.tool(&["agent", "update", fleet.controllers.pool.as_str(), "--all"]).unwrap();
    assert_eq!((said.as_str(), code), (format!("c is asked to update to {first}\n").as_str(), Some(0)));
    fleet.controllers.await_agent("c", "online", &first).unwrap();
    let by: Vec<String> = NAMES.iter().map(|name| format!("admin: agent `{name}` to {first}")).collect();
    assert_eq!(fleet.done("update"), by);
    let audit = fleet.controllers.audit().unwrap();
    let times: Vec<u64> =
        audit.iter().filter(|line| line["action"] == "update").map(|line| line["at"].as_u64().unwrap()).collect();
    assert!(times.is_sorted() && times[0] > 1_700_000_000_000, "{times:?}");
    assert_eq!(fleet.machine("c").installed().unwrap(), first);
}

/// Few agents have what jobs demand, and everybody can see it.
#[test]
fn the_funnel_is_visible_where_people_look() {
    let fleet = Fleet::new();
    let first = fleet.publish(1, Build::Good);
    fleet.no_updates(None);
    fleet.controllers.ask_for_update("b", None, false).unwrap();
    fleet.controllers.await_agent("b", "online", &first).unwrap();
    // Nobody fetches what is meant for it; the other two idle.
    fleet.machine("b").stop_updater();
    let job = fleet.demanding("1.1.0", &first);
    let jobs: Vec<i64> = (0..4).map(|_| fleet.controllers.submit(&job).unwrap()).collect();
    let pool = fleet.controllers.pool.clone();
    let summary = fleet::until("the jobs to wait", || {
        let summary = fleet.controllers.summary().ok()?;
        (summary["funnel"]["demanded"][0]["waiting"] == 3).then_some(summary)
    })
    .unwrap();
    let demanded = &summary["funnel"]["demanded"][0];
    let figures: Vec<&Value> = ["version", "satisfying", "agents", "idleBelow"].iter().map(|member| &demanded[*member]).collect();
    assert_eq!(figures, [&json!(first), &json!(1), &json!(3), &json!(2)], "{demanded}");
    assert!(demanded["longestWait"].is_u64());
    let (said, _) = fleet.controllers.tool(&["pool", "show", &pool]).unwrap();
    let words = format!("waiting    3 jobs for agents of {first} or later (1 of 3 agents), the oldest for ");
    assert!(said.contains(&words) && said.contains("; 2 others sit idle"), "{said}");
    let metrics = fleet.controllers.metrics().unwrap();
    for (name, value) in [("pool_demanded_satisfying", 1), ("pool_demanded_waiting", 3)] {
        let line = format!("{name}{{pool=\"{pool}\",version=\"{first}\"}} {value}\n");
        assert!(metrics.contains(&line), "{line} {metrics}");
    }
    assert!(metrics.contains(&format!("pool_demanded_longest_wait_seconds{{pool=\"{pool}\",version=\"{first}\"}} ")));
    // They were waiting, and not lost.
    fleet.machine("b").start_updater().unwrap();
    for job in jobs {
        let state = fleet.controllers.await_end(job).unwrap();
        assert_eq!((&state["state"], &state["agent"]), (&json!("succeeded"), &fleet.controllers.agent("b").unwrap()["id"]));
    }
}

/// Who accepted an update and does not come back holds nobody up.
#[test]
fn an_update_that_is_overdue_holds_no_job_up() {
    let fleet = Fleet::with(&Options::new("p"), &["a", "b"], &json!({}));
    // `a` alone has what some jobs demand.
    fleet.machine("a").configure(&json!({ "capabilities": { "room": "cold" } })).unwrap();
    let a = fleet.machine("a");
    fleet::until("a says what it has", || (fleet.controllers.agent("a").ok()?["capabilities"]["room"] == "cold").then_some(()))
        .unwrap();
    let first = fleet.publish(1, Build::Good);
    fleet.deadlines(120_000, 60_000, 4_000, 120_000);
    a.door.set_trap("\"step\":\"downloading\"");
    let any = fleet.demanding("1.1.0", &first);
    let mut only_a = any.clone();
    only_a["demands"] = json!(["room = cold"]);
    let only_a_will_do = fleet.controllers.submit(&only_a).unwrap();
    fleet::until("a to begin", || a.door.has_caught().then_some(())).unwrap();
    // This one could run on both; it waits for the one that is on its way.
    let either = fleet.ok("POST", "/jobs", &any);
    assert_eq!(either["waiting"]["agent"], fleet.controllers.agent("a").unwrap()["id"], "{either}");
    a.cut_power().unwrap();
    let agent = fleet.controllers.await_agent("a", "update overdue", &v(0)).unwrap();
    fleet.deadlines(120_000, 60_000, 600_000, 120_000);
    assert_eq!(agent["level"], "warning", "{agent}");
    let state = fleet.controllers.await_end(only_a_will_do).unwrap();
    let words = format!("Agent `a`: its update to {first} is overdue");
    assert!(state["state"] == "failed" && state["error"].as_str().unwrap().contains(&words), "{state}");
    // The other is decided again: now `b` updates, and runs it.
    let state = fleet.controllers.await_end(either["id"].as_i64().unwrap()).unwrap();
    assert_eq!(
        (&state["state"], &state["agent"]),
        (&json!("succeeded"), &fleet.controllers.agent("b").unwrap()["id"]),
        "{state}"
    );
    // The power comes back, and the update goes on.
    a.door.clear_trap();
    a.boot().unwrap();
    fleet.controllers.await_agent("a", "online", &first).unwrap();
    assert_eq!(fleet.controllers.job(&only_a).unwrap()["state"], "succeeded");
}
