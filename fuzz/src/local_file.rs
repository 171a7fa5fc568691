//! Any bytes as the rule file of the machine's owner: refused with a place that is in it, or valid by the letter of R-134 to R-139; and
//! together with any document of the host, the policy that the two of them make.

use std::sync::{Arc, LazyLock};

use azure_proxy_agent_core::authz::local::{displayed, fail_closed};
use azure_proxy_agent_core::authz::{
    Allowed, Decision, Denial, Document, LocalRules, Request, Rules, Scratch, decide, raw_path, traversal_guard,
};
use azure_proxy_agent_core::identity::{Claims, Destination, PerDestination};
use serde_json::{Value, json};

use crate::claims;
use crate::documents::printed;

/// What the host says: nothing but access, lists that deny and allow, lists of which one is missing, an id with the switch.
static REMOTES: LazyLock<[Document; 4]> = LazyLock::new(|| {
    let lists = json!({"privileges": [{"name": "p", "path": "/metadata"}, {"name": "q", "path": "/machine"}],
        "roles": [{"name": "r", "privileges": ["p"]}], "identities": [{"name": "i", "userName": "alice"}],
        "roleAssignments": [{"role": "r", "identities": ["i"]}]});
    let mut some = lists.clone();
    some["privileges"] = Value::Null;
    [
        ("deny", "plain", Value::Null),
        ("allow", "lists", lists),
        ("deny", "some", some),
        ("allow", "eyJpZCI6ImEiLCJ1c2VMb2NhbEZpbGVSdWxlcyI6dHJ1ZX0=", Value::Null),
    ]
    .map(|(access, id, rules)| {
        let document = json!({"defaultAccess": access, "mode": "enforce", "id": id, "rules": rules});
        displayed(Destination::Imds, &serde_json::from_value(document).expect("a document"))
    })
});

const TARGETS: [&str; 4] = ["/metadata/instance?api-version=2021-02-01", "/machine?comp=goalstate", "/x", "/"];

/// The input is the file.
pub fn run(data: &[u8]) {
    let local = match LocalRules::parse(data) {
        Ok(local) => local,
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty() && !text.contains(char::is_control), "{text:?}");
            let lines = data.split(|b| *b == b'\n').count();
            let inside = |at: azure_proxy_agent_core::authz::Place| {
                (1..=lines).contains(&at.line) && (1..=data.len() + 1).contains(&at.column)
            };
            assert!(error.place.is_none_or(inside), "{error:?}");
            return;
        }
    };
    let text = std::str::from_utf8(data).expect("R-118").trim_start_matches('\u{feff}');
    let Ok(value) = serde_json::from_str::<Value>(text) else { return };
    valid(&value);
    for remote in &*REMOTES {
        let merged = local.merge(remote);
        assert_eq!(merged.mode, remote.mode, "R-133");
        assert_eq!(merged.id, value["id"].as_str().map_or(remote.id.clone(), |id| format!("{}_{id}", remote.id)), "R-131");
        let access = value["defaultAccess"].as_str().map_or(remote.default_access.as_str(), str::trim);
        assert_eq!(merged.default_access, access, "R-134");
        printed(&merged);
        decisions(&local, remote, &merged, &value);
        let closed = fail_closed(remote);
        for caller in ["alice", "root"].map(claims) {
            assert!(
                TARGETS.iter().all(|target| verdict(&closed, &caller, target.as_bytes()) == Verdict::Default(false)),
                "R-145"
            );
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Granted,
    Locked,
    Default(bool),
}

/// Of two sets of lists that do not refer to each other, a request is granted what one of them grants, and locked what one of them
/// locks (R-141 to R-144).
fn decisions(local: &LocalRules, remote: &Document, merged: &Document, value: &Value) {
    let lists = |document: &Document| document.rules.clone().unwrap_or_default();
    let complete = |document: &Document| {
        let lists = lists(document);
        lists.privileges.is_some() && lists.roles.is_some() && lists.identities.is_some() && lists.role_assignments.is_some()
    };
    let alone = local.merge(&Document { rules: None, ..remote.clone() });
    if !complete(merged) {
        assert!(!complete(remote) && !complete(&alone), "R-143");
        return;
    }
    // A list that one side supplies for the other takes part (R-143), but what it names is not there.
    let own = |document: &Document| {
        complete(document).then(|| Document { default_access: merged.default_access.clone(), ..document.clone() })
    };
    let (ours, theirs) = (own(&alone), own(remote));
    if !value["rules"].is_null() && remote.rules.is_some() && !(complete(&alone) && complete(remote)) {
        return;
    }
    let paths = value["rules"]["privileges"].as_array().into_iter().flatten().filter_map(|p| p["path"].as_str());
    let paths: Vec<String> = paths.map(|path| format!("/{}", path.trim_start_matches('/'))).collect();
    for caller in ["alice", "root"].map(claims) {
        for target in TARGETS.into_iter().chain(paths.iter().map(String::as_str)) {
            if traversal_guard(raw_path(target.as_bytes())) {
                continue;
            }
            let each = [&ours, &theirs].map(|own| own.as_ref().map(|own| verdict(own, &caller, target.as_bytes())));
            let expected = if each.contains(&Some(Verdict::Granted)) {
                Verdict::Granted
            } else if each.contains(&Some(Verdict::Locked)) {
                Verdict::Locked
            } else {
                Verdict::Default(merged.default_access.eq_ignore_ascii_case("allow"))
            };
            let found = verdict(merged, &caller, target.as_bytes());
            // A target that has no form is no matter of lists.
            if found != Verdict::Default(false) || each.contains(&Some(Verdict::Granted)) {
                assert_eq!(found, expected, "{target}");
            }
        }
    }
}

fn verdict(document: &Document, claims: &Claims, target: &[u8]) -> Verdict {
    let rules = PerDestination { imds: Some(Arc::new(Rules::compile(document).0)), ..PerDestination::default() };
    let request = Request { method: b"GET", target };
    match decide(&rules, Destination::Imds.addr(), claims, request, &mut Scratch::new()) {
        Decision::Allow(Allowed::Default) => Verdict::Default(true),
        Decision::Allow(_) => Verdict::Granted,
        Decision::Deny(Denial::NotAssigned(_) | Denial::ConflictingValues(_)) => Verdict::Locked,
        Decision::Deny(_) | Decision::Audit(_) => Verdict::Default(false),
    }
}

/// R-134 to R-139, of a file that was taken, read by somebody who knows nothing of documents.
fn valid(value: &Value) {
    assert!(value.is_object());
    let blank = |value: &Value| value.as_str().is_none_or(|text| text.trim().is_empty());
    let access = &value["defaultAccess"];
    assert!(access.is_null() || ["allow", "deny"].contains(&access.as_str().expect("a string").trim().to_lowercase().as_str()));
    assert!(value["id"].is_null() || !blank(&value["id"]));
    let list = |name: &str| value["rules"][name].as_array().cloned().unwrap_or_default();
    let names = |name: &str| {
        let all: Vec<String> = list(name).iter().map(|e| e["name"].as_str().expect("a name").to_owned()).collect();
        assert!((0..all.len()).all(|at| !all[at].trim().is_empty() && !all[..at].contains(&all[at])), "{name}: {all:?}");
        all
    };
    let refers = |references: &Value, names: &[String]| {
        let all: Vec<&str> = references.as_array().expect("a list").iter().map(|r| r.as_str().expect("a string")).collect();
        assert!(!all.is_empty() && (0..all.len()).all(|at| !all[..at].contains(&all[at]) && names.iter().any(|n| *n == all[at])));
    };
    let (privileges, roles, identities) = (names("privileges"), names("roles"), names("identities"));
    for privilege in list("privileges") {
        assert!(!blank(&privilege["path"]));
        for (name, value) in privilege["queryParameters"].as_object().into_iter().flatten() {
            assert!(!name.trim().is_empty() && !blank(value));
        }
    }
    list("roles").iter().for_each(|role| refers(&role["privileges"], &privileges));
    for identity in list("identities") {
        let selectors = identity.as_object().expect("an object").iter().filter(|(name, _)| *name != "name");
        assert!(selectors.into_iter().any(|(_, selector)| !selector.is_null() && (!selector.is_string() || !blank(selector))));
    }
    for assignment in list("roleAssignments") {
        refers(&json!([assignment["role"]]), &roles);
        refers(&assignment["identities"], &identities);
    }
}
