//! The compiled matcher against [`naive`]: a small document, a caller and requests, chosen by the input from words that collide
//! often, with free text here and there.

use std::sync::Arc;

use azure_proxy_agent_core::authz::{
    Allowed, Decision, Denial, Document, Identity, Legacy, Privilege, QueryParameters, Request, Role, RoleAssignment, RuleLists,
    Rules, Scratch, decide,
};
use azure_proxy_agent_core::identity::{Claims, Destination, ExeHash, Executable, Fact, OnDemand, PerDestination, RawText};

use crate::{Choices, claims, naive};

/// The input chooses.
pub fn run(data: &[u8]) {
    let mut choices = Choices(data);
    let document = document(&mut choices);
    let older = Legacy::compile(&document);
    let rules = Some(Arc::new(Rules::compile(&document).0));
    let rules = PerDestination { imds: rules.clone(), wireserver: rules.clone(), hostga: rules };
    let mut scratch = Scratch::new();
    loop {
        let claims = caller(&mut choices);
        let to = *choices.of(&[Destination::Imds, Destination::Imds, Destination::WireServer, Destination::HostGaPlugin]);
        for _ in 0..4 {
            let method = *choices.of(&[&b"GET"[..], b"GET", b"GET", b"POST", b"PUT", b"TRACE", b"get"]);
            let target = target(&mut choices);
            let decision = decide(&rules, to.addr(), &claims, Request { method, target: &target }, &mut scratch);
            let expected = naive::decide(&document, to, &claims, method, &target);
            assert_eq!(
                crate::outcome(decision),
                expected,
                "{decision:?} for {} of {claims:?}\n{document:#?}",
                target.escape_ascii()
            );
            let request = Request { method, target: &target };
            told(&rules.imds, &claims, request, decision);
            let _ = older.allows(&claims, request);
        }
        if choices.is_empty() {
            return;
        }
    }
}

/// What people are told about the privileges that match is what was decided.
fn told(rules: &Option<Arc<Rules>>, claims: &Claims, request: Request<'_>, decision: Decision) {
    let Some(rules) = rules else { return };
    match (rules.matches(claims, request), decision) {
        (_, Decision::Deny(Denial::Elevation) | Decision::Allow(Allowed::Exempt | Allowed::Disabled)) => {}
        (Err(error), decision) => assert_eq!(decision.denial(), Some(Denial::Canonical(error))),
        (Ok(matches), Decision::Allow(Allowed::Privilege(..))) => assert!(matches.iter().any(|m| m.grants)),
        (Ok(matches), Decision::Deny(Denial::Default) | Decision::Audit(Denial::Default) | Decision::Allow(_)) => {
            assert!(matches.is_empty());
        }
        (Ok(matches), _) => assert!(!matches.is_empty() && matches.iter().all(|m| !m.grants)),
    }
}

const SEGMENTS: [&str; 16] =
    ["a", "b", "A", "ab", "a-b", "c", "%61", "a%2Fb", ".", "..", "a;x", "a.", "", "metadata", "%", "a?b"];
const NAMES: [&str; 9] = ["x", "y", "X", "xx", "", "%78", "x+y", "+", "%"];
const VALUES: [&str; 9] = ["1", "2", "", "a", "A", "a+b", "%41", "1&x=2", "%zz"];
const USERS: [&str; 5] = ["alice", "bob", "Alice", "", "undefined"];
const GROUPS: [&str; 4] = ["docker", "adm", "alice", ""];
const PROGRAMS: [&str; 7] =
    ["/usr/bin/curl", "/usr/bin//curl", "/usr/./bin/curl/", "/bin/sh", "curl", "", "/usr/bin/../bin/curl"];
const PROCESSES: [&str; 4] = ["curl", "sh", "", "/usr/bin/curl"];

const CGROUPS: [&str; 9] = ["/", "/*", "/a", "/a/*", "/a/b", "//a/./b/", "/ab", "a", ""];

/// Rarely a number, and a small one.
fn number(choices: &mut Choices<'_>) -> Option<u32> {
    let n = choices.byte();
    (n % 4 == 1).then_some(u32::from(n / 4) % 3)
}

fn hash(choices: &mut Choices<'_>) -> ExeHash {
    ExeHash([choices.byte() % 2 * 0xAB; 32])
}

/// A hash in one of its spellings, or a text that is none.
fn hex(choices: &mut Choices<'_>) -> String {
    let text = hash(choices).to_string();
    match choices.byte() % 8 {
        0 => text.to_uppercase(),
        1 => text[1..].to_owned(),
        2 => text + "0",
        3 => text.replacen('a', "g", 1),
        _ => text,
    }
}

/// Something that was found out, or not.
fn fact<'a, T>(choices: &mut Choices<'a>, known: impl FnOnce(&mut Choices<'a>) -> T) -> Fact<T> {
    match choices.byte() % 4 {
        0 => Fact::NotAsked,
        1 => Fact::Unknown,
        _ => Fact::Known(known(choices)),
    }
}

fn document(choices: &mut Choices<'_>) -> Document {
    Document {
        default_access: (*choices.of(&["allow", "deny", "ALLOW", "allow ", ""])).into(),
        mode: (*choices.of(&["enforce", "enforce", "enforce", "audit", "Audit", "disabled", "strict"])).into(),
        id: String::new(),
        rules: (choices.byte() % 32 != 31).then(|| RuleLists {
            privileges: list(choices, 12, |choices| Privilege {
                name: name(choices, "p", 9),
                path: path(choices),
                query_parameters: (choices.byte() % 2 == 1).then(|| {
                    QueryParameters(
                        (0..choices.byte() % 4).map(|_| (word(choices, &NAMES, 5), word(choices, &VALUES, 6))).collect(),
                    )
                }),
                ..Privilege::default()
            }),
            roles: list(choices, 5, |choices| Role {
                name: name(choices, "r", 4),
                privileges: names(choices, "p", 9),
                ..Role::default()
            }),
            identities: list(choices, 7, |choices| Identity {
                name: name(choices, "i", 6),
                user_name: maybe(choices, &USERS),
                group_name: maybe(choices, &GROUPS),
                exe_path: maybe(choices, &PROGRAMS),
                process_name: maybe(choices, &PROCESSES),
                uid: number(choices),
                gid: number(choices),
                exe_sha256: (choices.byte() % 4 == 1).then(|| hex(choices)),
                cgroup_path: maybe(choices, &CGROUPS),
                ..Identity::default()
            }),
            role_assignments: list(choices, 6, |choices| RoleAssignment {
                role: name(choices, "r", 5),
                identities: names(choices, "i", 6),
                ..RoleAssignment::default()
            }),
            ..RuleLists::default()
        }),
        ..Document::default()
    }
}

/// Rarely absent.
fn list<'a, T>(choices: &mut Choices<'a>, most: u8, mut one: impl FnMut(&mut Choices<'a>) -> T) -> Option<Vec<T>> {
    let n = choices.byte();
    (n != 255).then(|| (0..n % (most + 1)).map(|_| one(choices)).collect())
}

fn name(choices: &mut Choices<'_>, kind: &str, of: u8) -> String {
    format!("{kind}{}", choices.byte() % of)
}

fn names(choices: &mut Choices<'_>, kind: &str, of: u8) -> Vec<String> {
    (0..choices.byte() % 5).map(|_| name(choices, kind, of)).collect()
}

fn maybe(choices: &mut Choices<'_>, from: &[&str]) -> Option<String> {
    let n = choices.byte();
    (n % 3 == 1).then(|| from[usize::from(n / 3) % from.len()].to_owned())
}

/// Mostly one of the first `good` words, seldom one of the others, or free text.
fn word(choices: &mut Choices<'_>, from: &[&str], good: usize) -> String {
    match choices.byte() {
        n @ 0..=229 => from[usize::from(n) % good].to_owned(),
        n @ 230..=250 => from[usize::from(n) % from.len()].to_owned(),
        n => String::from_utf8_lossy(choices.bytes(usize::from(n) - 250)).into_owned(),
    }
}

fn path(choices: &mut Choices<'_>) -> String {
    let mut path = String::new();
    for _ in 0..choices.byte() % 4 {
        path.push('/');
        path.push_str(&word(choices, &SEGMENTS, 9));
    }
    path
}

fn target(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut target: Vec<u8> = match choices.byte() {
        250 => b"http://169.254.169.254".to_vec(),
        251 => b"http://u@h".to_vec(),
        252 => b"*".to_vec(),
        253 => return choices.of(&[&b"/vmAgentLog"[..], b"/machine/?comp=telemetrydata"]).to_vec(),
        254 => choices.bytes(12).to_vec(),
        _ => b"/".to_vec(),
    };
    let path = path(choices);
    // A target that begins with two slashes is no surprise to a canonicalizer, but a rare one.
    target.extend(path.strip_prefix('/').unwrap_or(&path).bytes());
    for number in 0..choices.byte() % 5 {
        target.push(if number == 0 { b'?' } else { b'&' });
        target.extend(word(choices, &NAMES, 5).into_bytes());
        target.push(b'=');
        target.extend(word(choices, &VALUES, 6).into_bytes());
    }
    target
}

fn caller(choices: &mut Choices<'_>) -> Claims {
    let program = |choices: &mut Choices<'_>| RawText::from(*choices.of(&PROGRAMS));
    Claims {
        user_id: u32::from(choices.byte() % 3),
        user_name: RawText::from(*choices.of(&USERS)),
        user_groups: (0..choices.byte() % 3).map(|_| RawText::from(*choices.of(&GROUPS))).collect(),
        executable: match choices.byte() % 8 {
            6 => Executable::Elsewhere(program(choices)),
            7 => Executable::Unknown,
            _ => Executable::Known(program(choices)),
        },
        group_id: u32::from(choices.byte() % 3),
        on_demand: OnDemand {
            exe_hash: fact(choices, hash),
            cgroup_path: fact(choices, |choices| RawText::from(*choices.of(&CGROUPS[..7]))),
            ..OnDemand::default()
        },
        ..claims("alice")
    }
}
