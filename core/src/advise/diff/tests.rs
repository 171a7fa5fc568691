use super::*;
use crate::advise::recording::{Reader, Recording};
use crate::seeded::Seeded;
use serde_json::{Value, json};

fn document(value: Value) -> Document {
    serde_json::from_value(value).unwrap()
}

/// `grants` says which identity has which privilege; privileges are `path?name=value`, identities `user` or `user:program`.
fn rules(default: &str, mode: &str, grants: &[(&str, &str)]) -> Document {
    let (mut privileges, mut identities) = (BTreeMap::new(), BTreeMap::new());
    for (who, what) in grants {
        let (path, query) = what.split_once('?').unwrap_or((what, ""));
        let parameters: BTreeMap<&str, &str> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        privileges.insert(*what, json!({"name": what, "path": path, "queryParameters": parameters}));
        let (user, program) = who.split_once(':').map_or((*who, None), |(user, program)| (user, Some(program)));
        let user = (user != "*").then_some(user);
        if !who.is_empty() {
            identities.insert(*who, json!({"name": who, "userName": user, "exePath": program}));
        }
    }
    let roles: Vec<Value> =
        grants.iter().map(|(who, what)| json!({"name": format!("{who} {what}"), "privileges": [what]})).collect();
    let assignments: Vec<Value> =
        grants.iter().map(|(who, what)| json!({"role": format!("{who} {what}"), "identities": [who]})).collect();
    document(json!({"defaultAccess": default, "mode": mode, "id": "x", "rules": {
        "privileges": privileges.into_values().collect::<Vec<_>>(), "roles": roles,
        "identities": identities.into_values().collect::<Vec<_>>(), "roleAssignments": assignments}}))
}

fn diff(old: &Document, new: &Document) -> String {
    compare(old, new, Destination::Imds).to_string()
}

#[test]
fn changes_are_told_where_they_are_widest() {
    let old = rules("deny", "audit", &[("alice", "/a"), ("alice", "/b?type=x"), ("bob:/bin/c", "/a/b")]);
    assert_eq!(diff(&old, &old), "Nothing changes: both allow the same to the same.\n");
    let renamed = rules("DENY", "Audit", &[("bob:/bin//c", "/A//b/."), ("alice", "a"), ("alice", "/b?TYPE=%58")]);
    assert_eq!(diff(&old, &renamed), "Nothing changes: both allow the same to the same.\n");
    let new = rules("deny", "enforce", &[("alice", "/a/b/c"), ("bob", "/a"), ("alice", "/b")]);
    assert_eq!(
        diff(&old, &new),
        "Mode audit -> enforce: what the rules deny was recorded and forwarded; it will be refused.
Newly allowed:
  user bob: /a
      denied: \"/a\" is for others -> allowed by \"/a\" to \"bob\"
  user alice: /b
      denied by default -> allowed by \"/b\" to \"alice\"
Newly denied:
  user alice: /a
      but not /a/b/c
      allowed by \"/a\" to \"alice\" -> denied: \"/a\" is for others
note: a caller who is several of these may have from one what another loses
note: requests that repeat a parameter with different values are not compared
"
    );
    let open =
        diff(&rules("deny", "enforce", &[("alice", "/a")]), &rules("allow", "enforce", &[("alice", "/a"), ("", "/locked")]));
    assert_eq!(
        open,
        "Newly allowed:
  everyone: what no privilege names
      but not /a, nor /locked
      denied by default -> allowed by default
"
    );
    let disabled = diff(&rules("deny", "enforce", &[]), &rules("deny", "disabled", &[]));
    assert!(
        disabled.starts_with(
            "Mode enforce -> disabled: rules will decide nothing: everything is allowed.\nNewly allowed:\n  everyone: what"
        ),
        "{disabled}"
    );
}

#[test]
fn identities_by_numbers_hash_and_cgroup_have_representatives_too() {
    let hash = "0123456789abcdef".repeat(4);
    let with = |identities: Value| {
        let names: Vec<Value> = identities.as_array().unwrap().iter().map(|identity| identity["name"].clone()).collect();
        document(json!({"defaultAccess": "deny", "mode": "enforce", "id": "x", "rules": {
            "privileges": [{"name": "p", "path": "/a"}], "roles": [{"name": "r", "privileges": ["p"]}],
            "identities": identities, "roleAssignments": [{"role": "r", "identities": names}]}}))
    };
    let old = with(json!([{"name": "uid", "uid": 1000}, {"name": "gid", "gid": 7}, {"name": "hash", "exeSha256": hash},
        {"name": "below", "cgroupPath": "/a/*"}, {"name": "root", "userName": "root"}]));
    let new = with(json!([{"name": "uid", "uid": 1001}, {"name": "exact", "cgroupPath": "/a"}, {"name": "root", "uid": 0}]));
    let diff = compare(&old, &new, Destination::Imds);
    let who =
        |allowed: bool| diff.changes.iter().filter(|c| c.allowed == allowed).map(|c| c.who.clone()).collect::<BTreeSet<_>>();
    // Root has the user id 0 both times, and whoever is in /a was in /a/*.
    assert_eq!(who(true), ["user id 0", "user id 1001"].map(str::to_owned).into());
    let hash = format!("program with hash {hash}");
    assert_eq!(who(false), ["user id 1000", "group id 7", &*hash, "cgroup /a/*"].map(str::to_owned).into());
    assert!(affected(&old, &new, &[Destination::Imds], &[]).blind);
}

/// R-07: what the floor denies does not change with rules.
#[test]
fn floors_and_findings_are_among_the_notes_r07_r18() {
    let old = rules("deny", "enforce", &[("alice", "/machine"), ("root", "/machine?comp=goalstate")]);
    let mut new = old.clone();
    new.rules.as_mut().unwrap().privileges.as_mut().unwrap()[0].path = "/a?b".into();
    let diff = compare(&old, &new, Destination::WireServer);
    assert!(diff.notes.iter().any(|note| note.starts_with("new document: privilege") && note.contains("CANON_EMBQ")), "{diff}");
    assert!(
        diff.notes.iter().any(|note| note == "identity \"alice\" is nobody's: only root gets to WireServer, whatever rules say")
    );
    assert_eq!(diff.changes.len(), 1);
    assert_eq!((diff.changes[0].who.as_str(), diff.changes[0].allowed), ("user root", false));
}

#[test]
fn recorded_requests_are_counted_by_what_becomes_of_them() {
    let line = |user: &str, url: &str, decision: &str, port: u16| {
        json!({"method": "GET", "url": url, "ip": "169.254.169.254", "port": port, "userId": 1000, "userName": user,
            "processFullPath": "/bin/c", "decision": decision, "identity": "verified"})
        .to_string()
            + "\n"
    };
    let text = [
        line("alice", "/a/4711?x", "audit", 80),
        line("alice", "/a/4712", "audit", 80),
        line("alice", "/b?type=x", "allow", 80),
        line("bob", "/c", "audit", 80),
        line("bob", "/c", "audit", 81),
        line("bob", "/c", "refused", 80),
    ];
    let (mut recording, mut reader) = (Recording::new(), Reader::new("x"));
    reader.feed(text.concat().as_bytes(), |entry, _| recording.take(entry));
    let old = rules("deny", "audit", &[("alice", "/b")]);
    let new = rules("deny", "enforce", &[("alice", "/b?type=y"), ("bob:/bin/c", "/c")]);
    let affected = affected(&old, &new, &[Destination::Imds], &recording.requests);
    assert_eq!(
        affected.to_string(),
        "Of 4 recorded requests 4 would be decided otherwise:
  denied and forwarded, would be refused:
        2  user alice with /bin/c: /a/*
  allowed, would be refused:
        1  user alice with /bin/c: /b?type=x
  denied and forwarded, would be allowed:
        1  user bob with /bin/c: /c
2 more are of other endpoints, or were never put before rules.
"
    );
}

impl Seeded {
    fn rules(&mut self) -> Document {
        let n = self.below(5);
        let grants: Vec<(&str, &str)> = (0..n)
            .map(|_| {
                let who = self.pick(&["", "*", "alice", "bob", "alice:/bin/c", "*:/bin/c", "*:/bin/d"]);
                (who, self.pick(&["/", "/?x=1", "/a", "/a?x=1", "/a?y=1", "/a/b", "/a/b?x=1&y=1", "/c?x=2"]))
            })
            .collect();
        rules(self.pick(&["allow", "deny"]), self.pick(&["enforce", "enforce", "enforce", "disabled"]), &grants)
    }
}

/// If any caller's request is decided otherwise, there is a change that says so; and what is said is so.
#[test]
fn nothing_that_changes_is_missed_r30_r34_r35_r37() {
    let mut seeded = Seeded(11);
    let (mut same, mut different) = (0, 0);
    let callers: Vec<Claims> = ["alice", "bob", "carol"]
        .into_iter()
        .flat_map(|user| ["/bin/c", "/bin/d", "/bin/e"].map(|program| (user, program)))
        .map(|(user, program)| {
            let caller = Caller {
                user_id: 1000,
                user: user.into(),
                groups: vec![],
                program: Program::Path(program.into()),
                command_line: String::new(),
                known: true,
            };
            caller.claims()
        })
        .collect();
    for _ in 0..250 {
        let [old, new] = [seeded.rules(), seeded.rules()];
        let diff = compare(&old, &new, Destination::Imds);
        let [old_rules, new_rules] = [&old, &new].map(|document| only(Destination::Imds, Rules::compile(document).0));
        let mut scratch = Scratch::new();
        let mut directions = BTreeSet::new();
        for path in ["/", "/a", "/a/b", "/a/b/c", "/c", "/other"] {
            for query in ["", "?x=1", "?y=1", "?x=1&y=1", "?x=2", "?x=2&y=1", "?z=1"] {
                let target = format!("{path}{query}");
                for claims in &callers {
                    let request = Request { method: b"GET", target: target.as_bytes() };
                    let [before, after] = [&old_rules, &new_rules]
                        .map(|rules| decide(rules, Destination::Imds.addr(), claims, request, &mut scratch).forwards());
                    if before != after {
                        directions.insert(after);
                    }
                }
            }
        }
        let told: BTreeSet<bool> = diff.changes.iter().map(|change| change.allowed).collect();
        assert!(told.is_superset(&directions), "{old:?}\n{new:?}\n{diff}");
        if diff.is_empty() {
            same += 1;
        } else {
            different += 1;
        }
        // Backwards, what was allowed newly is denied newly.
        let back: BTreeSet<bool> = compare(&new, &old, Destination::Imds).changes.iter().map(|change| !change.allowed).collect();
        assert_eq!(told, back);
    }
    assert!(same > 10 && different > 100, "{same} {different}");
}

/// Each privilege to each identity, and back; and regions of which any two overlap.
#[test]
fn large_documents_are_compared_without_comparing_each_with_each() {
    let many = |privileges: Vec<Value>, identities: Vec<Value>| {
        let names = |of: &[Value]| of.iter().map(|element| element["name"].clone()).collect::<Vec<_>>();
        let roles = json!([{"name": "r", "privileges": names(&privileges)}]);
        let assignments = json!([{"role": "r", "identities": names(&identities)}]);
        document(json!({"defaultAccess": "deny", "mode": "enforce", "id": "x", "rules": {
            "privileges": privileges, "roles": roles, "identities": identities, "roleAssignments": assignments}}))
    };
    let users = (0..200).map(|n| json!({"name": format!("i{n}"), "userName": format!("u{n}")})).collect();
    let places = (0..200).map(|n| json!({"name": format!("p{n}"), "path": format!("/a{n}")})).collect();
    let (empty, wide) = (many(vec![], vec![]), many(places, users));
    let found = compare(&empty, &wide, Destination::Imds);
    assert_eq!((found.changes.len(), found.incomplete), (200 * 200, false));
    // A quarter of a million pairs: not all of them are looked at, and nobody is told that nothing changes.
    let named = |n: usize| json!({"name": format!("p{n}"), "path": "/a", "queryParameters": {format!("n{n}"): "v"}});
    let overlapping = many((0..700).map(named).collect(), vec![]);
    let found = compare(&overlapping, &overlapping, Destination::Imds);
    assert!(found.incomplete && !found.is_empty() && found.changes.is_empty());
    assert!(found.notes.iter().any(|note| note.contains("too large to compare all")), "{:?}", found.notes);
}
