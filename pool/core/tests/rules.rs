//! Every rule as a row: the mode, the agents, the job, and what comes of it, to the letter.
//!
//! An agent is `name version[ word…]` with the words `busy`, `offline`, `failed` (its update to the newest release), `overdue`, `to=V` (asked
//! to update to V), `under-way=V`, and `key=value` for what it says of itself. A job is `task[@version]…`, `+feature…` and `?demand…`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use pool_core::agent::{Agent, AgentId, Step, Update};
use pool_core::catalog::{Feature, Release, Requirement, Source};
use pool_core::decide::{Decision, Needs, decide};
use pool_core::demand::Demand;
use pool_core::job::{self, Attempt, JobId, Waiting};
use pool_core::policy::Mode;
use pool_core::version::Version;
use pool_core::{Actor, Millis};

const NO: &str = "This pool doesn't allow agent updates.";
const ADMIN: &str = "An administrator can alter this setting on the organization pool page.";

struct Row {
    mode: &'static str,
    agents: &'static [&'static str],
    job: &'static str,
    expected: &'static [&'static str],
}

const fn row(mode: &'static str, agents: &'static [&'static str], job: &'static str, expected: &'static [&'static str]) -> Row {
    Row { mode, agents, job, expected }
}

/// Tasks: `plain` demands nothing, `MyTask` 1.2.3 2.175.1, `Deploy` 2 2.9.0, `Future` 9 99.0. Features: `X` 2.175.1, `Y` 3.0. Releases: 2.9.0, 2.175.1, 3.0
/// (`few`: 2.9.0 only, `none`: none).
#[rustfmt::skip]
const ROWS: &[Row] = &[
    // A job without demands.
    row("normal", &["a 1.0"], "plain", &["assign a"]),
    row("no", &["a 1.0"], "plain", &["assign a"]),
    row("normal", &["a 1.0 busy"], "plain", &["wait for 1 agents, 1 online"]),
    row("no", &["a 1.0 busy", "b 1.0 offline"], "plain", &["wait for 2 agents, 1 online"]),
    row("normal", &["a 1.0 offline"], "plain", &["wait for 1 agents, 0 online"]),
    row("normal", &[], "plain", &["No agent is registered in this pool."]),
    row("no", &[], "plain", &["No agent is registered in this pool."]),
    row("normal", &["a 1.0 busy", "b 1.0"], "plain", &["assign b"]),
    row("no", &["a 1.0 failed"], "plain", &["assign a"]),
    row("normal", &["a 1.0 under-way=3.0"], "plain", &["wait for 1 agents, 1 online"]),
    row("normal", &["a 1.0 overdue"], "plain", &["Every agent that could run this job has an update that is overdue.", "Agent `a`: its update is overdue"]),
    row("normal", &["a 1.0 overdue", "b 1.0 busy"], "plain", &["wait for 1 agents, 1 online"]),
    // An agent has the version: modes do not differ.
    row("normal", &["a 2.175.1"], "MyTask", &["assign a"]),
    row("no", &["a 2.175.1"], "MyTask", &["assign a"]),
    row("normal", &["a 2.176"], "MyTask", &["assign a"]),
    row("no", &["a 10"], "MyTask", &["assign a"]),
    row("normal", &["a 2.9.0", "b 2.175.1"], "MyTask", &["assign b"]),
    row("no", &["a 2.9.0", "b 2.175.1"], "MyTask", &["assign b"]),
    row("normal", &["a 2.9.0", "b 2.175.1 busy"], "MyTask", &["wait for 1 agents, 1 online"]),
    row("no", &["a 2.9.0", "b 2.175.1 busy"], "MyTask", &["wait for 1 agents, 1 online"]),
    row("normal", &["a 2.9.0", "b 2.175.1 offline"], "MyTask", &["wait for 1 agents, 0 online"]),
    row("no", &["a 2.9.0", "b 2.175.1 offline"], "MyTask", &["wait for 1 agents, 0 online"]),
    row("normal", &["a 2.175.1 busy", "b 2.175.1 offline", "c 2.175.1"], "MyTask", &["assign c"]),
    row("no", &["a 2.175.1 failed"], "MyTask", &["assign a"]),
    // Nobody has it, normal mode: one is asked, once.
    row("normal", &["a 2.9.0"], "MyTask", &["update a to 3.0"]),
    row("normal", &["a 2.175.0"], "MyTask", &["update a to 3.0"]),
    row("normal", &["a 2.9.0", "b 1.0"], "MyTask", &["update a to 3.0"]),
    row("normal", &["a 2.9.0 busy", "b 1.0"], "MyTask", &["update b to 3.0"]),
    row("normal", &["a 2.9.0 busy", "b 1.0 offline"], "MyTask", &["wait for 2 that could update"]),
    row("normal", &["a 2.9.0 offline"], "MyTask", &["wait for 1 that could update"]),
    row("normal", &["a 2.9.0 to=2.175.1", "b 1.0"], "MyTask", &["wait for the update of a"]),
    row("normal", &["a 2.9.0 under-way=3.0", "b 1.0"], "MyTask", &["wait for the update of a"]),
    row("normal", &["a 1.0 under-way=2.9.0", "b 1.0"], "MyTask", &["update b to 3.0"]),
    row("normal", &["a 1.0 under-way=2.9.0"], "MyTask", &["wait for 1 that could update"]),
    row("normal", &["a 2.9.0"], "plain +X", &["update a to 3.0"]),
    row("normal", &["a 2.9.0"], "Deploy", &["assign a"]),
    row("normal", &["a 2.8"], "Deploy MyTask +X", &["update a to 3.0"]),
    // … but not where it failed before, and not for a release that would not help.
    row("normal", &["a 2.9.0 failed", "b 1.0"], "MyTask", &["update b to 3.0"]),
    row("normal", &["a 2.9.0 failed", "b 1.0 busy"], "MyTask", &["wait for 1 that could update"]),
    row("normal", &["a 2.9.0 failed"], "MyTask", &[
        "Task `MyTask` version 1.2.3 requires agent version 2.175.1, and every agent that could run this job has tried to update in vain.", "Agent `a`: the disk is full"]),
    row("normal", &["a 2.9.0 failed", "b 1 overdue"], "plain +X", &[
        "Feature `X` requires agent version 2.175.1, and every agent that could run this job has tried to update in vain.", "Agent `a`: the disk is full", "Agent `b`: its update to 3.0 is overdue"]),
    row("normal", &["a 2.9.0 overdue", "b 1.0"], "MyTask", &["update b to 3.0"]),
    row("normal few", &["a 2.9.0"], "MyTask", &[
        "Task `MyTask` version 1.2.3 requires agent version 2.175.1, no agents with that version are registered, and no release of this pool has it."]),
    row("normal none", &["a 1.0"], "Deploy", &[
        "Task `Deploy` version 2 requires agent version 2.9.0, no agents with that version are registered, and no release of this pool has it."]),
    row("normal", &["a 3.0"], "Future", &[
        "Task `Future` version 9 requires agent version 99.0, no agents with that version are registered, and no release of this pool has it."]),
    row("normal", &[], "MyTask", &["No agent is registered in this pool."]),
    // Nobody has it, no-update mode: the job fails at once, to the letter.
    row("no", &["a 2.9.0"], "MyTask", &[
        NO, "Task `MyTask` version 1.2.3 requires agent version 2.175.1, and no agents with that version are registered.", ADMIN]),
    row("no: Change freeze until March, call 555-1234.", &["a 2.9.0"], "MyTask", &[
        NO, "Task `MyTask` version 1.2.3 requires agent version 2.175.1, and no agents with that version are registered.", "Change freeze until March, call 555-1234."]),
    row("no", &["a 2.9.0"], "plain +X", &[
        NO, "Feature `X` requires agent version 2.175.1, and no agents with that version are registered.", ADMIN]),
    row("no", &[], "MyTask", &[
        NO, "Task `MyTask` version 1.2.3 requires agent version 2.175.1, and no agents with that version are registered.", ADMIN]),
    row("no", &["a 2.9.0 busy", "b 2.9.0 offline"], "MyTask", &[
        NO, "Task `MyTask` version 1.2.3 requires agent version 2.175.1, and no agents with that version are registered.", ADMIN]),
    row("no", &["a 2.9.0 under-way=3.0"], "MyTask", &[
        NO, "Task `MyTask` version 1.2.3 requires agent version 2.175.1, and no agents with that version are registered.", ADMIN]),
    row("no none", &["a 2.9.0"], "MyTask", &[
        NO, "Task `MyTask` version 1.2.3 requires agent version 2.175.1, and no agents with that version are registered.", ADMIN]),
    // Several that demand too much: each its line, highest first; those that an agent meets have none.
    row("no", &["a 1.0"], "Deploy MyTask +Y", &[
        NO, "Feature `Y` requires agent version 3.0, and no agents with that version are registered.",
        "Task `MyTask` version 1.2.3 requires agent version 2.175.1, and no agents with that version are registered.",
        "Task `Deploy` version 2 requires agent version 2.9.0, and no agents with that version are registered.", ADMIN]),
    row("no", &["a 2.9.0"], "Deploy MyTask +Y", &[
        NO, "Feature `Y` requires agent version 3.0, and no agents with that version are registered.",
        "Task `MyTask` version 1.2.3 requires agent version 2.175.1, and no agents with that version are registered.", ADMIN]),
    row("no", &["a 2.9.0", "b 2.175.1 offline"], "MyTask +Y", &[
        NO, "Feature `Y` requires agent version 3.0, and no agents with that version are registered.", ADMIN]),
    row("no", &["a 1.0"], "MyTask +X", &[
        NO, "Task `MyTask` version 1.2.3 requires agent version 2.175.1, and no agents with that version are registered.",
        "Feature `X` requires agent version 2.175.1, and no agents with that version are registered.", ADMIN]),
    row("no", &["a 1.0"], "MyTask MyTask", &[
        NO, "Task `MyTask` version 1.2.3 requires agent version 2.175.1, and no agents with that version are registered.", ADMIN]),
    // Other demands.
    row("normal", &["a 1.0 os=debian", "b 1.0 os=ubuntu"], "plain ?os=ubuntu", &["assign b"]),
    row("no", &["a 1.0 gpu=2"], "plain ?gpu", &["assign a"]),
    row("normal", &["a 1.0 os=debian busy", "b 1.0"], "plain ?os=debian", &["wait for 1 agents, 1 online"]),
    row("normal", &["a 1.0"], "plain ?gpu", &["No registered agent satisfies `gpu exists`."]),
    row("no", &["a 1.0 os=x"], "plain ?gpu ?os=y", &["No registered agent satisfies `gpu exists`, `os = y`."]),
    row("normal", &["a 1.0 gpu=1", "b 1.0 os=y"], "plain ?gpu ?os=y", &[
        "No registered agent satisfies everything that this job demands: `gpu exists`, `os = y`."]),
    row("no", &["a 2.175.1", "b 1.0 gpu=1"], "plain ?gpu", &["assign b"]),
    // Demands and versions together.
    row("normal", &["a 2.9.0 gpu=1", "b 2.9.0"], "MyTask ?gpu", &["update a to 3.0"]),
    row("normal", &["a 2.9.0", "b 2.175.1"], "MyTask ?gpu", &["No registered agent satisfies `gpu exists`."]),
    row("normal", &["a 2.9.0 gpu=1", "b 2.175.1"], "MyTask ?gpu", &["update a to 3.0"]),
    row("no", &["a 2.9.0 gpu=1", "b 2.175.1"], "MyTask ?gpu", &[
        NO, "Task `MyTask` version 1.2.3 requires agent version 2.175.1, and no agents with that version satisfy the other demands of this job: `gpu exists`.", ADMIN]),
    row("no: Ask K.", &["a 2.9.0 gpu=1", "b 2.175.1 offline"], "plain +X ?gpu", &[
        NO, "Feature `X` requires agent version 2.175.1, and no agents with that version satisfy the other demands of this job: `gpu exists`.", "Ask K."]),
    row("no", &["a 2.175.1"], "MyTask ?gpu", &["No registered agent satisfies `gpu exists`."]),
    row("no", &["a 2.9.0"], "MyTask ?gpu", &[
        NO, "Task `MyTask` version 1.2.3 requires agent version 2.175.1, and no agents with that version are registered.", ADMIN]),
    row("normal few", &["a 2.9.0"], "MyTask ?gpu", &["No registered agent satisfies `gpu exists`."]),
    row("normal", &["a 2.9.0 gpu=1 failed", "b 2.9.0"], "MyTask ?gpu", &[
        "Task `MyTask` version 1.2.3 requires agent version 2.175.1, and every agent that could run this job has tried to update in vain.", "Agent `a`: the disk is full"]),
];

fn version(text: &str) -> Version {
    text.parse().unwrap()
}

fn agent(id: i64, text: &str) -> Agent {
    let mut words = text.split(' ');
    let mut agent = Agent {
        id: AgentId(id),
        name: words.next().unwrap().into(),
        version: version(words.next().unwrap()),
        capabilities: Default::default(),
        last_seen: Millis(0),
        online: true,
        job: None,
        update: Update::None,
        last_assigned: Millis(0),
        registered: Millis(0),
    };
    let by = || Actor::Person("p".into());
    for word in words {
        match word.split_once('=') {
            None if word == "busy" => agent.job = Some((JobId(1), Attempt(1))),
            None if word == "offline" => agent.online = false,
            None if word == "failed" => {
                agent.update = Update::Failed { to: version("3.0"), why: "the disk is full".into(), at: Millis(0) }
            }
            None if word == "overdue" => agent.update = Update::Overdue { to: version("3.0"), since: Millis(0) },
            Some(("to", to)) => agent.update = Update::Asked { to: version(to), by: by(), force: false, at: Millis(0) },
            Some(("under-way", to)) => {
                agent.update =
                    Update::UnderWay { to: version(to), by: by(), force: false, since: Millis(0), step: Step::Installing }
            }
            Some((key, value)) => drop(agent.capabilities.insert(key.into(), value.into())),
            None => panic!("unknown word {word}"),
        }
    }
    agent
}

fn mode(text: &str) -> Mode {
    match text.split_once(": ") {
        Some(("no", reason)) => Mode::NoUpdate { reason: Some(reason.parse().unwrap()) },
        _ if text.starts_with("no ") || text == "no" => Mode::NoUpdate { reason: None },
        _ => Mode::Normal,
    }
}

fn releases(text: &str) -> Vec<Release> {
    let versions: &[&str] = match text {
        _ if text.ends_with(" few") => &["2.9.0"],
        _ if text.ends_with(" none") => &[],
        _ => &["2.9.0", "2.175.1", "3.0"],
    };
    let release = |text: &&str| Release {
        version: version(text),
        file: "f".into(),
        size: 1,
        sha256: "0".repeat(64),
        signature: "0".repeat(128),
        notes: String::new(),
        published: Millis(0),
    };
    versions.iter().map(release).collect()
}

fn needs(text: &str) -> (Vec<Requirement>, Vec<Demand>) {
    let (mut requirements, mut demands) = (Vec::new(), Vec::new());
    let features =
        [("X", "2.175.1"), ("Y", "3.0")].map(|(name, v)| Feature { name: name.into(), minimum_agent_version: version(v) });
    for word in text.split(' ') {
        if let Some(name) = word.strip_prefix('+') {
            let feature = features.iter().find(|feature| feature.name == name).unwrap();
            requirements
                .push(Requirement { source: Source::Feature { name: name.into() }, minimum: feature.minimum_agent_version });
        } else if let Some(demand) = word.strip_prefix('?') {
            demands.push(if demand.contains('=') {
                demand.parse().unwrap()
            } else {
                format!("{demand} exists").parse().unwrap()
            });
        } else {
            let (task, minimum) = match word {
                "plain" => continue,
                "MyTask" => ("1.2.3", "2.175.1"),
                "Deploy" => ("2", "2.9.0"),
                "Future" => ("9", "99.0"),
                other => panic!("unknown task {other}"),
            };
            requirements.push(Requirement {
                source: Source::Task { name: word.into(), version: version(task) },
                minimum: version(minimum),
            });
        }
    }
    job::sort(&mut requirements);
    (requirements, demands)
}

#[test]
fn every_rule() {
    assert!(ROWS.len() >= 60);
    for (number, row) in ROWS.iter().enumerate() {
        let agents: Vec<Agent> = (1..).zip(row.agents).map(|(id, text)| agent(id, text)).collect();
        let name = |id: AgentId| agents.iter().find(|agent| agent.id == id).unwrap().name.clone();
        let (requirements, demands) = needs(row.job);
        let needs = Needs { requirements: &requirements, demands: &demands };
        let words = |decision: Decision| match decision {
            Decision::Assign(id) => format!("assign {}", name(id)),
            Decision::Update(id, to) => format!("update {} to {to}", name(id)),
            Decision::Wait(Waiting::Agent { satisfying, online }) => format!("wait for {satisfying} agents, {online} online"),
            Decision::Wait(Waiting::Update { agent }) => format!("wait for the update of {}", name(agent)),
            Decision::Wait(Waiting::Outdated { agents }) => format!("wait for {agents} that could update"),
            Decision::Fail(failure) => failure.to_string(),
        };
        let decided = words(decide(&mode(row.mode), &releases(row.mode), &agents, needs));
        assert_eq!(decided, row.expected.join("\n"), "row {number}: {} | {:?} | {}", row.mode, row.agents, row.job);
        // The order in which agents are looked at decides nothing but who of equals is first.
        let turned = words(decide(&mode(row.mode), &releases(row.mode), agents.iter().rev(), needs));
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(String::from).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&turned), sorted(&decided), "row {number}, turned");
    }
}
