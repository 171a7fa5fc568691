use super::*;
use crate::advise::recording::{Reader, Recording};
use crate::authz::{self, Decision, Document, Scratch};
use crate::identity::PerDestination;
use crate::seeded::Seeded;
use serde_json::{Value, json};
use std::sync::Arc;

/// Who may appear in these recordings: user id, account, program, command line.
type Caller = (u32, &'static str, &'static str, &'static str);
const WAAGENT: Caller = (0, "root", "/usr/bin/python3.11", "python3 -u /usr/sbin/waagent -run-exthandlers");
const CLOUD_INIT: Caller = (0, "root", "/usr/bin/python3.11", "/usr/bin/python3 /usr/bin/cloud-init init");
const ALICE: Caller = (1000, "alice", "/usr/bin/curl", "curl -s -H Metadata:");
const BOB: Caller = (1001, "bob", "/usr/bin/curl", "curl -s");
const GONE: Caller = (1000, "alice", "", "");
const WEB: Caller = (33, "web", "/opt/web/bin/web", "web");
const IMDS: (&str, u16) = ("169.254.169.254", 80);
const WIRESERVER: (&str, u16) = ("168.63.129.16", 80);
const HOSTGA: (&str, u16) = ("168.63.129.16", 32526);

fn line((user_id, user, program, command): Caller, (ip, port): (&str, u16), url: &str, decision: &str) -> String {
    json!({"method": "GET", "url": url, "ip": ip, "port": port, "userId": user_id, "userName": user, "userGroups": [user],
        "processFullPath": program, "processCmdLine": command, "runAsElevated": user_id == 0, "responseStatus": "200 OK",
        "decision": decision, "reason": "default", "connection": 1, "id": 1, "identity": "verified", "time": "2026-11-22T02:59:11.025"})
    .to_string()
}

fn read(lines: &[String]) -> Vec<Recorded> {
    let (mut recording, mut reader) = (Recording::new(), Reader::new("log"));
    reader.feed((lines.join("\n") + "\n").as_bytes(), |entry, _| recording.take(entry));
    assert_eq!(recording.problems, []);
    recording.requests
}

fn asked(asks: &[(Caller, (&str, u16), &str)]) -> Vec<Recorded> {
    read(&asks.iter().map(|(who, to, url)| line(*who, *to, url, "audit")).collect::<Vec<_>>())
}

fn one(lesson: &Lesson) -> &Learned {
    let [learned] = &*lesson.documents else { panic!("{lesson}") };
    learned
}

fn rules(learned: &Learned) -> Value {
    serde_json::to_value(learned.document.rules.as_ref().unwrap()).unwrap()
}

fn decide(document: &Document, recorded: &Recorded) -> Decision {
    let (rules, findings) = authz::Rules::compile(&Document { mode: "enforce".into(), ..document.clone() });
    assert_eq!(findings, []);
    let rules = Some(Arc::new(rules));
    let rules = PerDestination::<()>::default().map(|_, ()| rules.clone());
    authz::decide(&rules, recorded.to.unwrap(), &recorded.caller.claims(), recorded.request(), &mut Scratch::new())
}

#[test]
fn a_day_of_imds_reads_as_a_person_would_have_written_it() {
    const VAULT: &str =
        "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net&client_id=";
    let recording = asked(&[
        (CLOUD_INIT, IMDS, "/metadata/instance?api-version=2021-08-01&extended=true"),
        (WAAGENT, IMDS, "/metadata/instance/compute?api-version=2021-02-01"),
        (WEB, IMDS, &format!("{VAULT}11111111-1111-1111-1111-111111111111")),
        (WEB, IMDS, &format!("{VAULT}22222222-2222-2222-2222-222222222222")),
        (WEB, IMDS, "/metadata/instance/compute/location?api-version=2021-02-01&format=text"),
        (WEB, IMDS, "/Metadata/Instance/compute/vmId?api-version=2021-02-01&format=text"),
        (ALICE, IMDS, "/metadata/instance/network/interface/0?api-version=2021-02-01"),
        (BOB, IMDS, "/metadata/instance/network/interface/1?api-version=2021-02-01"),
    ]);
    let lesson = learn(&recording, &Options::default());
    assert_eq!(
        one(&lesson).text(),
        r#"{
  "defaultAccess": "deny",
  "mode": "audit",
  "id": "learned-imds",
  "rules": {
    "privileges": [
      {"name": "token-key-vault", "path": "/metadata/identity/oauth2/token", "queryParameters": {"resource": "https://vault.azure.net"}},
      {"name": "instance", "path": "/metadata/instance"},
      {"name": "instance-compute", "path": "/metadata/instance/compute"},
      {"name": "instance-network", "path": "/metadata/instance/network"}
    ],
    "roles": [
      {"name": "metadata-and-tokens", "privileges": ["token-key-vault", "instance-compute"]},
      {"name": "instance", "privileges": ["instance"]},
      {"name": "instance-network", "privileges": ["instance-network"]}
    ],
    "identities": [
      {"name": "alice-curl", "userName": "alice", "exePath": "/usr/bin/curl"},
      {"name": "bob-curl", "userName": "bob", "exePath": "/usr/bin/curl"},
      {"name": "cloud-init-and-waagent", "userName": "root", "exePath": "/usr/bin/python3.11"},
      {"name": "web", "userName": "web", "exePath": "/opt/web/bin/web"}
    ],
    "roleAssignments": [
      {"role": "metadata-and-tokens", "identities": ["web"]},
      {"role": "instance", "identities": ["cloud-init-and-waagent"]},
      {"role": "instance-network", "identities": ["alice-curl", "bob-curl"]}
    ]
  }
}
"#
    );
    assert_eq!(
        lesson.to_string(),
        "IMDS: 4 privileges for 4 callers from 8 requests
  alice-curl: user alice, /usr/bin/curl
        1  /metadata/instance/network
  bob-curl: user bob, /usr/bin/curl
        1  /metadata/instance/network
  cloud-init-and-waagent: user root, /usr/bin/python3.11
        2  /metadata/instance
  web: user web, /opt/web/bin/web
        2  /metadata/identity/oauth2/token?resource=https://vault.azure.net
        2  /metadata/instance/compute
  note: cloud-init-and-waagent: /usr/bin/python3.11 is an interpreter, and every script that it runs is meant; in the recording: cloud-init, waagent
"
    );
}

#[test]
fn w41_the_guest_agents_requests_are_the_services_of_wireserver_and_host_plugin() {
    let recording = asked(&[
        (WAAGENT, WIRESERVER, "/?comp=versions"),
        (WAAGENT, WIRESERVER, "/machine?comp=goalstate"),
        (WAAGENT, WIRESERVER, "/machine/?comp=goalstate"),
        (
            WAAGENT,
            WIRESERVER,
            "/machine/6f3c9a54-2b1e-4d7c-9f08-5a1be27c4d90/a_b._demo?comp=config&type=sharedConfig&incarnation=1",
        ),
        (
            WAAGENT,
            WIRESERVER,
            "/machine/6f3c9a54-2b1e-4d7c-9f08-5a1be27c4d90/a_b._demo?comp=config&type=sharedConfig&incarnation=2",
        ),
        (WAAGENT, HOSTGA, "/vmSettings"),
        (WAAGENT, HOSTGA, "/vmAgentLog"),
    ]);
    let lesson = learn(&recording, &Options { mode: Mode::Enforce, ..Options::default() });
    let wireserver = one(&lesson);
    assert_eq!(
        rules(wireserver)["privileges"],
        json!([
            {"name": "versions", "path": "/", "queryParameters": {"comp": "versions"}},
            {"name": "shared-config", "path": "/machine", "queryParameters": {"comp": "config", "type": "sharedConfig"}},
            {"name": "goal-state", "path": "/machine", "queryParameters": {"comp": "goalstate"}},
            {"name": "agent-log", "path": "/vmAgentLog"},
            {"name": "vm-settings", "path": "/vmSettings"},
        ])
    );
    assert_eq!(rules(wireserver)["identities"][0]["name"], "waagent");
    assert_eq!(wireserver.document.mode, "enforce");
    assert!(wireserver.notes.iter().any(|note| note == "versions: a rule for / is one for every path with these parameters"));
    assert!(wireserver.notes[1].starts_with("the host plug-in has the WireServer's document"), "{:?}", wireserver.notes);
    assert!(lesson.to_string().contains("        1  /vmSettings  (HostGAPlugin)\n"), "{lesson}");
    let plugin = learn(&recording, &Options { destination: Some(Destination::HostGaPlugin), ..Options::default() });
    assert_eq!((plugin.requests, one(&plugin).destination), (2, Destination::HostGaPlugin));
    let local = learn(&recording, &Options { local: true, ..Options::default() });
    assert_eq!(
        local.documents.iter().map(|d| d.destination).collect::<Vec<_>>(),
        [Destination::WireServer, Destination::HostGaPlugin]
    );
}

/// R-07, R-31, R-36, R-84: and what else cannot be learned, each with its reason.
#[test]
fn what_cannot_be_learned_is_told_r07_r31_r36_r84() {
    let token = "/metadata/identity/oauth2/token?api-version=2018-02-01";
    for (who, to, url, decision, why) in [
        (ALICE, WIRESERVER, "/machine?comp=goalstate", "deny", Why::Elevation),
        ((0, "root", "/bin/x", "x"), WIRESERVER, "/machine/?comp=telemetrydata", "allow", Why::Incomplete("comp")),
        (ALICE, ("10.0.0.1", 80), "/", "deny", Why::Destination),
        (ALICE, IMDS, "/metadata/../x", "refused", Why::Traversal),
        (ALICE, IMDS, "/metadata/%zz", "audit", Why::Canonical("CANON_PCT")),
        (ALICE, IMDS, "/metadata/instance.", "audit", Why::Canonical("CANON_AMBIGUOUS")),
        (ALICE, IMDS, "/metadata/instance", "refused", Why::Undecided),
        (ALICE, IMDS, "/metadata/instance", "deny", Why::Denied),
        (ALICE, IMDS, token, "audit", Why::Incomplete("resource")),
        (ALICE, IMDS, &format!("{token}&resource="), "audit", Why::Incomplete("resource")),
        (ALICE, IMDS, &format!("{token}&resource=a&Resource=b"), "audit", Why::Conflicting("resource".into())),
        ((7, "a\u{FFFD}b", "", ""), IMDS, "/metadata/instance", "audit", Why::Name),
        (ALICE, IMDS, &format!("/{}", "a".repeat(4095)), "audit", Why::Shortened),
        (ALICE, IMDS, "/metadata/instance", "allow", Why::Rare(2)),
    ] {
        let mut recording = read(&[line(who, to, url, decision)]);
        let mut expected = why;
        if url.contains("telemetrydata") {
            // Root's telemetry is exempt (PX-66); without it, it would be one more rule.
            recording[0].method = "POST".into();
            expected = Why::Exempt;
        }
        let lesson = learn(&recording, &Options { min_count: 2, ..Options::default() });
        assert!(lesson.documents.is_empty());
        let keys: Vec<&Why> = lesson.left_out.keys().map(|(_, why, _)| why).collect();
        assert_eq!(keys, [&expected], "{url}");
    }
    let denied = read(&[line(ALICE, IMDS, "/metadata/instance", "deny")]);
    assert_eq!(learn(&denied, &Options { denied: true, ..Options::default() }).documents.len(), 1);
}

#[test]
fn what_is_wider_than_the_recording_says_so() {
    // A program that had ended: the user's rule contains the one with the program.
    let recording = asked(&[
        (GONE, IMDS, "/metadata/instance"),
        (ALICE, IMDS, "/metadata/instance/compute"),
        (BOB, IMDS, "/metadata/instance"),
    ]);
    let lesson = learn(&recording, &Options::default());
    let learned = one(&lesson);
    assert_eq!(
        rules(learned)["identities"],
        json!([{"name": "alice-any-program", "userName": "alice"}, {"name": "bob-curl", "userName": "bob", "exePath": "/usr/bin/curl"}])
    );
    assert!(
        learned.notes.iter().any(|note| note.starts_with("alice-any-program is every program of alice")),
        "{:?}",
        learned.notes
    );

    let merged = learn(
        &asked(&[(ALICE, IMDS, "/metadata/versions"), (BOB, IMDS, "/metadata/versions")]),
        &Options { merge_users: true, ..Options::default() },
    );
    assert_eq!(rules(one(&merged))["identities"], json!([{"name": "curl", "exePath": "/usr/bin/curl"}]));
    assert_eq!(one(&merged).notes, ["curl is every user who runs the program; in the recording: alice, bob"]);

    // Unknown endpoints: what a machine made up is cut, many paths in one place are one.
    let mut asks =
        vec![(ALICE, IMDS, "/metadata/Jobs/6f3c9a54-2b1e-4d7c-9f08-5a1be27c4d90/log"), (ALICE, IMDS, "/metadata/4711")];
    let things: Vec<String> = "abcde".chars().map(|c| format!("/metadata/things/{c}?type=T")).collect();
    let others: Vec<String> = "abcde".chars().map(|c| format!("/metadata/{c}?type=T")).collect();
    asks.extend(things.iter().chain(&others).map(|url| (ALICE, IMDS, url.as_str())));
    let lesson = learn(&asked(&asks), &Options::default());
    let learned = one(&lesson);
    let privileges = rules(learned)["privileges"].clone();
    let paths: Vec<&str> = privileges.as_array().unwrap().iter().map(|p| p["path"].as_str().unwrap()).collect();
    let expected = [
        "/metadata/4711",
        "/metadata/a",
        "/metadata/b",
        "/metadata/c",
        "/metadata/d",
        "/metadata/e",
        "/metadata/Jobs",
        "/metadata/things",
    ];
    assert_eq!(paths, expected);
    assert_eq!(
        learned.notes,
        [
            "jobs (/metadata/Jobs) is everything below /metadata/Jobs: what follows looks made up",
            "things-t (/metadata/things) is everything below /metadata/things: 5 different paths were asked for"
        ]
    );
}

/// Whoever may ask can ask for as many as he likes.
#[test]
fn many_audiences_of_one_path_are_no_rivals_of_each_other() {
    let urls: Vec<String> = (0..300)
        .map(|n| format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://r{n}.example/"))
        .collect();
    let asks: Vec<(Caller, (&str, u16), &str)> = urls.iter().map(|url| (ALICE, IMDS, url.as_str())).collect();
    let lesson = learn(&asked(&asks), &Options::default());
    let learned = one(&lesson);
    assert_eq!((rules(learned)["privileges"].as_array().unwrap().len(), learned.missed), (300, 0));
}

#[test]
fn options_choose_what_is_learned_and_how_it_is_written() {
    let recording = asked(&[
        (ALICE, IMDS, "/metadata/attested/document?nonce=%2b1&api-version=1"),
        (BOB, IMDS, "/metadata/versions"),
        (WAAGENT, HOSTGA, "/vmSettings"),
    ]);
    let count = |options: &Options| learn(&recording, options).requests;
    assert_eq!(count(&Options { user: Some("bob".into()), ..Options::default() }), 1);
    assert_eq!(count(&Options { destination: Some(Destination::Imds), ..Options::default() }), 2);
    assert_eq!(count(&Options { since: Wall::parse_stamp("2026-11-22T02:59:11.026"), ..Options::default() }), 0);
    let options = Options {
        local: true,
        default_allow: true,
        id: Some("mine".into()),
        destination: Some(Destination::Imds),
        keep: vec!["Nonce".into()],
        ..Options::default()
    };
    let lesson = learn(&recording, &options);
    let local: Value = serde_json::from_str(&one(&lesson).text()).unwrap();
    assert_eq!((&local["defaultAccess"], &local["id"], local.get("mode")), (&json!("allow"), &json!("mine"), None));
    assert_eq!(
        local["rules"]["privileges"][0],
        json!({"name": "attested-document-1", "path": "/metadata/attested/document", "queryParameters": {"nonce": "%2B1"}})
    );
    assert_eq!(one(&lesson).missed, 0);
}

impl Seeded {
    fn request(&mut self) -> String {
        let who = self.pick(&[
            WAAGENT,
            CLOUD_INIT,
            ALICE,
            BOB,
            GONE,
            WEB,
            (1000, "alice", "mnt:/usr/bin/curl", "curl"),
            (5, "\u{FFFD}", "", ""),
        ]);
        let to = self.pick(&[IMDS, IMDS, WIRESERVER, HOSTGA, ("1.2.3.4", 80)]);
        let path = self.pick(&[
            "",
            "/",
            "/metadata/instance",
            "/Metadata/instance/compute",
            "/metadata/instance/compute/userData",
            "/metadata/instance/network/x",
            "/metadata/identity/oauth2/token",
            "/metadata/versions",
            "/machine",
            "/machine/",
            "/machine/1/2",
            "/vmSettings",
            "/vmagentlog",
            "/a",
            "/a/b",
            "/a/b/c",
            "/a/b/d",
            "/a/b/e",
            "/a/b/f",
            "/a/b/g",
            "/a/0123456789/x",
            "/a/b;c/d",
            "/%61",
            "/a.",
            "/a/../b",
            "/a%",
            "/a%20b",
        ]);
        let query: Vec<&str> = (0..self.below(4))
            .map(|_| {
                self.pick(&[
                    "comp=goalstate",
                    "comp=config",
                    "COMP=config",
                    "type=SharedConfig",
                    "type=x%2by",
                    "resource=https://vault.azure.net",
                    "resource=a b",
                    "resource=",
                    "api-version=1",
                    "incarnation=2",
                    "%63omp=x",
                    "comp=%zz",
                ])
            })
            .collect();
        let method = self.pick(&["GET", "POST", "PUT", "BREW"]);
        let decision = self.pick(&["allow", "audit", "audit", "deny", "refused"]);
        let mut line: Value = serde_json::from_str(&line(who, to, &format!("{path}?{}", query.join("&")), decision)).unwrap();
        line["method"] = method.into();
        line["connection"] = json!(self.0);
        line.to_string()
    }
}

/// Enforcing what was learned denies nothing that was learned from, and nothing in it can go without denying something.
#[test]
fn enforcing_what_was_learned_denies_nothing_and_no_rule_can_go_r15_r34_r35() {
    let mut seeded = Seeded(7);
    let (mut learnable, mut removed) = (0, 0);
    for round in 0..150 {
        let lines: Vec<String> = (0..1 + seeded.below(60)).map(|_| seeded.request()).collect();
        let recording = read(&lines);
        let options = Options {
            denied: seeded.below(2) == 0,
            default_allow: seeded.below(4) == 0,
            merge_users: seeded.below(4) == 0,
            ..Options::default()
        };
        let lesson = learn(&recording, &options);
        let told: u64 = lesson.left_out.values().map(|out| out.requests).sum();
        let learned: u64 = lesson.documents.iter().flat_map(|d| &d.grants).map(|grant| grant.requests).sum();
        assert_eq!((lesson.requests, told + learned), (recording.len() as u64, recording.len() as u64), "each counts once");
        for learned in &lesson.documents {
            let of = |r: &&Recorded| {
                r.destination().is_some_and(|to| options.document_of(to) == learned.destination)
                    && !learn(&[(*r).clone()], &options).documents.is_empty()
            };
            let requests: Vec<&Recorded> = recording.iter().filter(of).collect();
            learnable += requests.len();
            let denied = |document: &Document| requests.iter().filter(|r| !decide(document, r).forwards()).count();
            assert_eq!((denied(&learned.document), learned.missed), (0, 0), "round {round}\n{}\n{lesson}", learned.text());
            let lists = learned.document.rules.clone().unwrap();
            for (at, role) in lists.roles.unwrap().iter().enumerate() {
                for privilege in &role.privileges {
                    let mut document = learned.document.clone();
                    let roles = document.rules.as_mut().unwrap().roles.as_mut().unwrap();
                    roles[at].privileges.retain(|p| p != privilege);
                    assert!(denied(&document) > 0, "round {round}: {privilege} of {}\n{}", role.name, learned.text());
                    removed += 1;
                }
            }
            for (at, assignment) in lists.role_assignments.unwrap().iter().enumerate() {
                for identity in &assignment.identities {
                    let mut document = learned.document.clone();
                    let assignments = document.rules.as_mut().unwrap().role_assignments.as_mut().unwrap();
                    assignments[at].identities.retain(|i| i != identity);
                    assert!(denied(&document) > 0, "round {round}: {identity} of {}\n{}", assignment.role, learned.text());
                    removed += 1;
                }
            }
        }
    }
    assert!(learnable > 500 && removed > 700, "{learnable} {removed}");
}
