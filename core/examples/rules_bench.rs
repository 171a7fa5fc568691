//! What rules cost: time to compile documents of 10 to 10,000 privileges, and time of a decision by them. `make bench` runs it, with
//! `--json` for its table; docs/benchmarks.md says how to read that.

#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "a clock is what this is about")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, reason = "a failed expectation is the report")]

use azure_proxy_agent_core::authz::{Decision, Document, Request, Rules, Scratch, decide};
use azure_proxy_agent_core::identity::{Claims, Confidence, Destination, ExeHash, Executable, Fact, OnDemand, PerDestination};
use serde_json::{Value, json};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Decisions that are measured, and those before that are not.
const MEASURED: usize = 50_000;
const WARM: usize = 5_000;

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    let mut rows = Vec::new();
    for shape in [Shape::Teams, Shape::Query, Shape::Overlapping] {
        for privileges in [10, 100, 1_000, 10_000] {
            rows.push(measure(shape, privileges, 1_000));
        }
    }
    if json {
        println!("{}", Value::from(rows));
        return;
    }
    println!(
        "{:<12} {:>10} {:>10} {:>10} {:>24} {:>24}",
        "rules", "privileges", "identities", "compile", "allowed (median, p99)", "denied"
    );
    for row in rows {
        let [name, privileges, identities, compile] = ["shape", "privileges", "identities", "compile_ms"].map(|n| &row[n]);
        let pair = |what: &str| format!("{} ns, {} ns", row[what][0], row[what][1]);
        let (name, compile) = (name.as_str().unwrap(), compile.as_f64().unwrap());
        println!(
            "{name:<12} {privileges:>10} {identities:>10} {compile:>7.2} ms {:>24} {:>24}",
            pair("allowed_ns"),
            pair("denied_ns")
        );
    }
}

/// How rules are laid out.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// A path for each privilege, ten privileges for each role, five identities for each role.
    Teams,
    /// One path, a privilege for each value of a parameter.
    Query,
    /// A path and a role for each privilege, and all of them in one more role that all identities have.
    Overlapping,
}

impl Shape {
    const fn name(self) -> &'static str {
        match self {
            Self::Teams => "teams",
            Self::Query => "one path",
            Self::Overlapping => "overlapping",
        }
    }

    fn target(self, privilege: usize) -> String {
        match self {
            Self::Teams | Self::Overlapping => {
                format!("/metadata/team{}/area/item{privilege}/x/y?api-version=2021-02-01&format=json", privilege / 10)
            }
            Self::Query => {
                format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault{privilege}.azure.net")
            }
        }
    }

    fn document(self, privileges: usize, identities: usize) -> Document {
        let all = |kind: &str, n: usize| (0..n).map(|i| format!("{kind}{i}")).collect::<Vec<_>>();
        let privilege = |i: usize| match self {
            Self::Teams | Self::Overlapping => {
                json!({"name": format!("p{i}"), "path": format!("/metadata/team{}/area/item{i}", i / 10),
                    "queryParameters": {"api-version": "2021-02-01"}})
            }
            Self::Query => json!({"name": format!("p{i}"), "path": "/metadata/identity/oauth2/token",
                "queryParameters": {"resource": format!("https://vault{i}.azure.net")}}),
        };
        // Every fourth by an own selector.
        let identity = |i: usize| match i % 4 {
            0 => json!({"name": format!("i{i}"), "userName": format!("user{i}"), "exePath": "/usr/bin/python3.11"}),
            1 => json!({"name": format!("i{i}"), "groupName": format!("group{i}")}),
            2 => json!({"name": format!("i{i}"), "cgroupPath": format!("/system.slice/unit{i}.service/*")}),
            _ => json!({"name": format!("i{i}"), "uid": i, "exeSha256": format!("{i:064x}")}),
        };
        let (mut roles, mut assignments) = (Vec::new(), Vec::new());
        let per_role = if matches!(self, Self::Overlapping) { 1 } else { 10 };
        for role in 0..privileges.div_ceil(per_role) {
            let members = (role * per_role..privileges.min((role + 1) * per_role)).map(|i| format!("p{i}")).collect::<Vec<_>>();
            let whose = (0..5).map(|k| format!("i{}", (role * 7 + k * 131) % identities)).collect::<Vec<_>>();
            roles.push(json!({"name": format!("r{role}"), "privileges": members}));
            assignments.push(json!({"role": format!("r{role}"), "identities": whose}));
        }
        if matches!(self, Self::Overlapping) {
            roles.push(json!({"name": "all", "privileges": all("p", privileges)}));
            assignments.push(json!({"role": "all", "identities": all("i", identities)}));
        }
        serde_json::from_value(json!({"defaultAccess": "deny", "mode": "enforce", "id": "bench", "rules": {
            "privileges": (0..privileges).map(privilege).collect::<Vec<_>>(), "roles": roles,
            "identities": (0..identities).map(identity).collect::<Vec<_>>(), "roleAssignments": assignments}}))
        .unwrap()
    }
}

/// A member of everything that role `role` has.
fn caller(role: usize, identities: usize) -> Claims {
    let i = role * 7 % identities;
    Claims {
        user_id: u32::try_from(i).unwrap(),
        group_id: 1,
        user_name: format!("user{i}").into(),
        user_groups: ["adm", "docker", &format!("group{i}"), "users"].map(|group| group.to_owned().into()).into(),
        process_id: 1,
        executable: Executable::Known("/usr/bin/python3.11".into()),
        command_line: "".into(),
        cgroup: 1,
        confidence: Confidence::Verified,
        on_demand: OnDemand {
            exe_hash: Fact::Known(ExeHash::from_hex(&format!("{i:064x}")).unwrap()),
            cgroup_path: Fact::Known(format!("/system.slice/unit{i}.service/worker").into()),
            ..OnDemand::default()
        },
    }
}

fn measure(shape: Shape, privileges: usize, identities: usize) -> Value {
    let document = shape.document(privileges, identities);
    let mut compile = Duration::MAX;
    let mut compiled = None;
    for _ in 0..5 {
        let began = Instant::now();
        let (rules, findings) = Rules::compile(black_box(&document));
        compile = compile.min(began.elapsed());
        assert_eq!(findings, []);
        compiled = Some(rules);
    }
    let rules = PerDestination { imds: compiled.map(Arc::new), ..PerDestination::default() };
    let per_role = if matches!(shape, Shape::Overlapping) { 1 } else { 10 };
    // A spread of privileges, each asked for by somebody who has it, and by somebody who has not.
    let some: Vec<usize> = (0..64).map(|n| n * 7_919 % privileges).collect();
    let allowed: Vec<(String, Claims)> = some.iter().map(|p| (shape.target(*p), caller(p / per_role, identities))).collect();
    let stranger = Claims { user_name: "nobody".into(), user_groups: vec![], user_id: 9_999_999, ..caller(1, identities) }
        .with(OnDemand::default());
    let denied: Vec<(String, Claims)> = some.iter().map(|p| (shape.target(*p), stranger.clone())).collect();
    let times = |asked: &[(String, Claims)], forwards: bool| {
        let mut scratch = Scratch::new();
        let mut times = Vec::with_capacity(MEASURED);
        for n in 0..WARM + MEASURED {
            let (target, claims) = &asked[n % asked.len()];
            let request = Request { method: b"GET", target: target.as_bytes() };
            let began = Instant::now();
            let decision: Decision = decide(black_box(&rules), Destination::Imds.addr(), claims, request, &mut scratch);
            let took = began.elapsed();
            assert_eq!(decision.forwards(), forwards, "{target} {decision:?}");
            if n >= WARM {
                times.push(took.as_nanos());
            }
        }
        times.sort_unstable();
        [times[MEASURED / 2], times[MEASURED / 100 * 99]].map(|t| u64::try_from(t).unwrap())
    };
    json!({"shape": shape.name(), "privileges": privileges, "identities": identities,
        "compile_ms": compile.as_secs_f64() * 1e3, "allowed_ns": times(&allowed, true), "denied_ns": times(&denied, false)})
}
