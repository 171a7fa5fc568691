//! What holds for all rules and all requests: thousands of small documents, callers and targets, made by a fixed generator from words
//! that collide often. That decisions are the specification's is tested beside the code and, with feedback, in `fuzz/`.

use azure_proxy_agent_core::authz::canonical::check;
use azure_proxy_agent_core::authz::{
    Decision, Document, Identity, Mode, Privilege, QueryParameters, Request, Role, RoleAssignment, RuleLists, Rules, Scratch,
    decide, raw_path, traversal_guard,
};
use azure_proxy_agent_core::identity::{Claims, Destination, Executable, PerDestination, RawText};
use azure_proxy_agent_core::replay::{ClaimsSpec, XorShift};
use std::sync::Arc;

const DOCUMENTS: u64 = 1_000;
const REQUESTS: usize = 20;

/// R-167, S-20, S-21, S-22: however a path or a query is spelled, it is allowed if and only if its canonical form is; and whoever
/// writes a rule for the canonical form has them all.
#[test]
fn no_encoding_is_allowed_what_its_canonical_form_is_not_r167() {
    let (mut scratch, mut callers) = (Scratch::new(), callers().into_iter().cycle());
    let (mut spellings, mut allowed) = (0, 0);
    for_documents(1, |random, document| {
        let rules = compile(&document);
        for _ in 0..REQUESTS {
            let plain = target(random);
            let Some(canonical) = canonical(&plain, &mut scratch) else { continue };
            let claims = callers.next().unwrap();
            let expected = ask(&rules, &claims, &canonical);
            for _ in 0..3 {
                let spelled = spell(random, &plain);
                // Two slashes and two dots do not even come to the rules (PX-44).
                let decision = if traversal_guard(raw_path(spelled.as_bytes())) { None } else { ask(&rules, &claims, &spelled) };
                let meant = self::canonical(&spelled, &mut scratch);
                assert_eq!(meant.as_deref(), Some(&*canonical), "{spelled} is a spelling of {plain}");
                assert!(decision.is_none() || decision == expected, "{spelled} is {canonical}\n{document:#?}");
                spellings += usize::from(spelled != canonical && decision.is_some());
                allowed += usize::from(decision.is_some_and(|d| d.forwards()));
            }
        }
    });
    assert!(spellings > 10_000 && allowed > 3_000, "{spellings} spellings, {allowed} of them allowed");
}

/// what locks a path is its privilege, not who has it. One more assignment, one more identity in an assignment: nobody
/// loses anything.
#[test]
fn a_role_assignment_more_never_removes_access_r15() {
    let mut gained = 0;
    for_documents(2, |random, document| {
        let mut more = document.clone();
        let lists = more.rules.as_mut().unwrap();
        let assignments = lists.role_assignments.as_mut().unwrap();
        let identities = names(random, "i", 8);
        match random.below(2) {
            1 if !assignments.is_empty() => {
                let at = pick(random, assignments.len());
                assignments[at].identities.extend(identities);
            }
            _ => {
                let at = pick(random, assignments.len() + 1);
                assignments.insert(
                    at,
                    RoleAssignment { role: format!("r{}", random.below(6)), identities, ..RoleAssignment::default() },
                );
            }
        }
        let [before, after] = [&document, &more].map(compile);
        for claims in callers() {
            for _ in 0..REQUESTS {
                let target = target(random);
                let [before, after] = [&before, &after].map(|rules| allows(ask(rules, &claims, &target)));
                assert!(after || !before, "{target} of {claims:?} was allowed without\n{more:#?}");
                gained += usize::from(after && !before);
            }
        }
    });
    assert!(gained > 500, "only {gained} requests gained");
}

/// the order of all lists, also of those inside roles and assignments, and how often they say something.
#[test]
fn order_and_repetition_never_matter_r43() {
    for_documents(3, |random, document| {
        let mut other = document.clone();
        let lists = other.rules.as_mut().unwrap();
        for role in lists.roles.as_mut().unwrap() {
            again(random, &mut role.privileges);
        }
        for assignment in lists.role_assignments.as_mut().unwrap() {
            again(random, &mut assignment.identities);
        }
        again(random, lists.privileges.as_mut().unwrap());
        again(random, lists.roles.as_mut().unwrap());
        again(random, lists.identities.as_mut().unwrap());
        again(random, lists.role_assignments.as_mut().unwrap());
        same_policy(random, &document, &other);
    });
}

/// of elements with one name the last counts, wherever the others stand.
#[test]
fn the_last_definition_of_a_name_counts_r14() {
    for_documents(4, |random, document| {
        let mut other = document.clone();
        let mut second = self::document(random);
        let (lists, earlier) = (other.rules.as_mut().unwrap(), second.rules.as_mut().unwrap());
        // Only of names that are defined again.
        earlier.privileges.as_mut().unwrap().truncate(lists.privileges.as_ref().unwrap().len());
        lists.privileges.as_mut().unwrap().splice(0..0, earlier.privileges.take().unwrap());
        lists.roles.as_mut().unwrap().splice(0..0, earlier.roles.take().unwrap());
        lists.identities.as_mut().unwrap().splice(0..0, earlier.identities.take().unwrap());
        same_policy(random, &document, &other);
    });
}

/// R-01 to R-05d: a document that is written and read again is the same policy.
#[test]
fn a_document_that_is_printed_and_parsed_is_the_same_policy_r04() {
    const ODD: [&str; 8] = ["\"", "\\u0041", "\u{0}", "\n", "\u{e9}\u{1F511}", "</script>", "\u{2028}", "{}"];
    for_documents(5, |random, mut document| {
        document.id = ODD[pick(random, ODD.len())].into();
        let lists = document.rules.as_mut().unwrap();
        if let Some(identity) = lists.identities.as_mut().unwrap().first_mut() {
            identity.user_name = Some(ODD[pick(random, ODD.len())].into());
        }
        // a list that is not there, and none that are.
        match random.below(12) {
            0 => lists.roles = None,
            1 => lists.identities = None,
            2 => document.rules = None,
            _ => {}
        }
        for printed in [serde_json::to_string(&document), serde_json::to_string_pretty(&document)] {
            let read: Document = serde_json::from_str(&printed.unwrap()).unwrap();
            assert_eq!(read, document);
            same_policy(random, &document, &read);
        }
    });
}

/// modes change what becomes of a denial, and nothing else.
#[test]
fn modes_differ_in_what_becomes_of_a_denial_r38() {
    for_documents(6, |random, document| {
        let [enforce, audit, disabled] =
            ["enforce", "audit", "disabled"].map(|mode| compile(&Document { mode: mode.into(), ..document.clone() }));
        for claims in callers() {
            let target = target(random);
            match (ask(&enforce, &claims, &target).unwrap(), ask(&audit, &claims, &target).unwrap()) {
                (Decision::Deny(denial), Decision::Audit(recorded)) => assert_eq!(denial, recorded),
                (Decision::Allow(one), Decision::Allow(other)) => assert_eq!(one, other),
                (one, other) => panic!("{target}: {one:?} where it is enforced, {other:?} where it is recorded"),
            }
            assert!(allows(ask(&disabled, &claims, &target)));
        }
    });
}

fn for_documents(seed: u64, mut run: impl FnMut(&mut XorShift, Document)) {
    let mut random = XorShift::new(seed);
    for _ in 0..DOCUMENTS {
        let document = document(&mut random);
        run(&mut random, document);
    }
}

/// Two documents: the same rules for people, and the same decisions.
fn same_policy(random: &mut XorShift, one: &Document, other: &Document) {
    let [rules, others] = [one, other].map(|document| Rules::compile(document).0);
    assert_eq!(serde_json::to_string(&rules).unwrap(), serde_json::to_string(&others).unwrap(), "{one:#?}\n{other:#?}");
    assert_eq!((rules.mode(), rules.mode_word()), (others.mode(), others.mode_word()));
    let [rules, others] = [one, other].map(compile);
    for claims in callers() {
        let target = target(random);
        // Not even the reason differs.
        assert_eq!(ask(&rules, &claims, &target), ask(&others, &claims, &target), "{target}\n{one:#?}\n{other:#?}");
    }
}

type Compiled = PerDestination<Option<Arc<Rules>>>;

fn compile(document: &Document) -> Compiled {
    let (rules, _) = Rules::compile(document);
    assert_eq!(rules.mode(), Mode::parse(&document.mode).unwrap());
    PerDestination { imds: Some(Arc::new(rules)), ..PerDestination::default() }
}

/// The decision, of a request that the proxy lets come to one.
#[allow(clippy::unnecessary_wraps, reason = "where a guard stands before it there is none")]
fn ask(rules: &Compiled, claims: &Claims, target: &str) -> Option<Decision> {
    let request = Request { method: b"GET", target: target.as_bytes() };
    Some(decide(rules, Destination::Imds.addr(), claims, request, &mut Scratch::new()))
}

fn allows(decision: Option<Decision>) -> bool {
    matches!(decision, Some(Decision::Allow(_)))
}

fn canonical(target: &str, scratch: &mut Scratch) -> Option<String> {
    check(b"GET", target.as_bytes(), scratch).ok().map(|canonical| canonical.to_string())
}

fn callers() -> [Claims; 4] {
    let alice = Claims::clone(&ClaimsSpec::builtin("alice").unwrap());
    let bob = Claims { user_id: 1001, user_name: RawText::from("bob"), user_groups: vec![RawText::from("adm")], ..alice.clone() };
    let unknown = Claims { executable: Executable::Unknown, ..bob.clone() };
    [alice, bob, unknown, Claims::clone(&ClaimsSpec::builtin("root").unwrap())]
}

fn pick(random: &mut XorShift, n: usize) -> usize {
    usize::try_from(random.below(n as u64)).unwrap()
}

fn word<'a>(random: &mut XorShift, from: &[&'a str]) -> &'a str {
    from[pick(random, from.len())]
}

fn names(random: &mut XorShift, kind: &str, of: u64) -> Vec<String> {
    (0..random.below(4)).map(|_| format!("{kind}{}", random.below(of))).collect()
}

/// Shuffles, and says one of them twice.
fn again<T: Clone>(random: &mut XorShift, list: &mut Vec<T>) {
    if !list.is_empty() {
        list.push(list[pick(random, list.len())].clone());
    }
    for at in (1..list.len()).rev() {
        list.swap(at, pick(random, at + 1));
    }
}

/// A document of up to 12 privileges, each name defined once, some of them never.
fn document(random: &mut XorShift) -> Document {
    let privileges = (0..random.below(13)).map(|number| Privilege {
        name: format!("p{number}"),
        path: path(random),
        query_parameters: (random.below(2) == 0).then(|| {
            let pair =
                |random: &mut XorShift| (word(random, &["x", "y", "a b"]).into(), word(random, &["1", "2", "", "v+w"]).into());
            QueryParameters((0..random.below(3)).map(|_| pair(random)).collect())
        }),
        ..Privilege::default()
    });
    let privileges = privileges.collect();
    let maybe = |random: &mut XorShift, from: &[&str]| (random.below(3) == 0).then(|| word(random, from).to_owned());
    let identities = (0..6).map(|number| Identity {
        name: format!("i{number}"),
        user_name: maybe(random, &["alice", "bob", "root"]),
        group_name: maybe(random, &["docker", "adm"]),
        exe_path: maybe(random, &["/usr/bin/curl", "//usr/bin/./curl", "/bin/sh"]),
        process_name: maybe(random, &["curl", "sh"]),
        ..Identity::default()
    });
    let identities = identities.collect();
    Document {
        default_access: word(random, &["allow", "deny"]).into(),
        mode: "enforce".into(),
        id: String::new(),
        rules: Some(RuleLists {
            privileges: Some(privileges),
            roles: Some(
                (0..5)
                    .map(|number| Role { name: format!("r{number}"), privileges: names(random, "p", 14), ..Role::default() })
                    .collect(),
            ),
            identities: Some(identities),
            role_assignments: Some(
                (0..random.below(6))
                    .map(|_| RoleAssignment {
                        role: format!("r{}", random.below(6)),
                        identities: names(random, "i", 8),
                        ..RoleAssignment::default()
                    })
                    .collect(),
            ),
            ..RuleLists::default()
        }),
        ..Document::default()
    }
}

fn path(random: &mut XorShift) -> String {
    (0..random.below(4)).fold(String::new(), |path, _| path + "/" + word(random, &["a", "b", "ab", "C", "%7Ed"]))
}

/// A target in plain words: what it means is what stands there, but for letter case.
fn target(random: &mut XorShift) -> String {
    let path = path(random).replace("%7E", "~");
    let pair = |random: &mut XorShift| {
        format!("{}={}", word(random, &["x", "y", "Y", "w", "a+b"]), word(random, &["1", "2", "", "v%2bw", "v+w"]))
    };
    let query: Vec<String> = (0..random.below(4)).map(|_| pair(random)).collect();
    format!("/{}{}{}", path.trim_start_matches('/'), if query.is_empty() { "" } else { "?" }, query.join("&"))
}

/// The same target, spelled otherwise.
fn spell(random: &mut XorShift, plain: &str) -> String {
    let (path, query) = plain.split_once('?').unwrap_or((plain, ""));
    let mut spelled = String::new();
    if random.below(8) == 0 {
        spelled += word(random, &["http://169.254.169.254", "HTTP://a-b.example:8080", "http://[::1]:80"]);
    }
    for (number, segment) in path.split('/').skip(1).enumerate() {
        // The first slash stands there, or it would be another authority.
        let slashes = ["/", "/", "/", "/./", "/%2E/", "/;x/", "//", "/x/../", "/x/%2e%2E/", "%2F", "/%2f"];
        spelled += word(random, &slashes[..if number == 0 { 9 } else { 11 }]);
        segment.chars().for_each(|c| character(random, &mut spelled, c));
        spelled += word(random, &["", "", "", "", ";", ";a=b", ";%41;"]);
    }
    for (number, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        spelled += if number == 0 { "?" } else { word(random, &["&", "&&", "&=x&", "&=&"]) };
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        for (number, part) in [name, value].into_iter().enumerate() {
            spelled += if number == 0 { "" } else { "=" };
            let mut rest = part;
            while let Some(c) = rest.chars().next() {
                match (c, random.below(2)) {
                    ('+', 0) => spelled += "%20",
                    ('+', _) => spelled.push('+'),
                    ('%', _) => {
                        spelled += word(random, &["%2b", "%2B"]);
                        rest = &rest[2..];
                    }
                    _ => character(random, &mut spelled, c),
                }
                rest = &rest[1..];
            }
        }
    }
    spelled
}

/// A letter or digit in one of its spellings.
fn character(random: &mut XorShift, out: &mut String, c: char) {
    match random.below(6) {
        0 => *out += &format!("%{:02x}", u32::from(c)),
        1 => *out += &format!("%{:02X}", u32::from(c.to_ascii_uppercase())),
        2 => out.push(c.to_ascii_uppercase()),
        _ => out.push(c),
    }
}
