use super::*;
use crate::identity::{Confidence, ExeHash, Executable, Fact, OnDemand};
use crate::policy::Epoch;
use crate::seeded::Seeded;
use serde_json::{Value, json};

const DECISIONS: &str = include_str!("../../../testdata/vectors/decisions.json");

/// The caller of a row.
pub(super) fn claims(identity: &Value) -> Claims {
    let path = identity["processFullPath"].as_str().unwrap();
    let groups = identity["userGroups"].as_array().unwrap().iter().map(|g| g.as_str().unwrap().into());
    let claims = Claims {
        user_id: u32::try_from(identity["userId"].as_u64().unwrap()).unwrap(),
        group_id: 100,
        user_name: identity["userName"].as_str().unwrap().into(),
        user_groups: groups.collect(),
        process_id: 1,
        executable: if path.is_empty() { Executable::Unknown } else { Executable::Known(path.into()) },
        command_line: "".into(),
        cgroup: 1,
        confidence: Confidence::Verified,
        on_demand: OnDemand::default(),
    };
    assert_eq!(identity["runAsElevated"], claims.is_elevated());
    assert_eq!(identity["processName"].as_str().unwrap().as_bytes(), claims.process_name().unwrap_or_default());
    claims
}

fn alice() -> Claims {
    claims(&json!({"userId": 1000, "userName": "alice", "userGroups": ["alice", "docker"], "processName": "curl",
        "processFullPath": "/usr/bin/curl", "runAsElevated": false}))
}

fn root() -> Claims {
    claims(&json!({"userId": 0, "userName": "root", "userGroups": ["root"], "processName": "", "processFullPath": "",
        "runAsElevated": true}))
}

fn document(value: Value) -> Document {
    serde_json::from_value(value).unwrap()
}

fn compile(value: Value) -> (Arc<Rules>, Vec<Finding>) {
    let (rules, findings) = Rules::compile(&document(value));
    (Arc::new(rules), findings)
}

fn imds(rules: &Arc<Rules>) -> PerDestination<Option<Arc<Rules>>> {
    PerDestination { imds: Some(Arc::clone(rules)), ..PerDestination::default() }
}

fn get(target: &str) -> Request<'_> {
    Request { method: b"GET", target: target.as_bytes() }
}

fn ask(rules: &Arc<Rules>, claims: &Claims, target: &str) -> Decision {
    decide(&imds(rules), Destination::Imds.addr(), claims, get(target), &mut Scratch::new())
}

/// What the proxy does before and with the decision: method (PX-19), guard (PX-20), fragment (W-54).
fn outcome(rules: &PerDestination<Option<Arc<Rules>>>, row: &Value, scratch: &mut Scratch) -> &'static str {
    let [method, target] = ["method", "target"].map(|m| row["request"][m].as_str().unwrap());
    if !canonical::METHODS.contains(&method) {
        return "reject-405";
    }
    let target = target.split('#').next().unwrap().as_bytes();
    if traversal_guard(raw_path(target)) {
        return "deny";
    }
    let to = match row["destination"].as_str().unwrap() {
        "imds" => Destination::Imds,
        "wireserver" => Destination::WireServer,
        "hostga" => Destination::HostGaPlugin,
        other => panic!("{other}"),
    };
    match decide(rules, to.addr(), &claims(&row["identity"]), Request { method: method.as_bytes(), target }, scratch) {
        Decision::Allow(_) => "allow",
        Decision::Audit(_) => "audit",
        Decision::Deny(_) => "deny",
    }
}

/// R-01, R-02, R-03, R-04, R-05a, R-05b, R-05c, R-05d, R-06, R-07, R-10 to R-18, R-20, R-30 to R-38, R-40, R-41, R-42, R-84
/// I-13, S-20 to S-22, SEC-D1, SEC-D3
#[test]
fn decisions_json() {
    let vectors: Value = serde_json::from_str(DECISIONS).unwrap();
    let rows = vectors["vectors"].as_array().unwrap();
    assert_eq!(rows.len(), 126);
    let mut scratch = Scratch::new();
    for row in rows {
        let rules = match &row["rules"] {
            Value::Null => None,
            rules => Some(compile(rules.clone()).0),
        };
        let rules = PerDestination { imds: rules.clone(), wireserver: rules.clone(), hostga: rules };
        assert_eq!(outcome(&rules, row, &mut scratch), row["expected"], "{row}");
        if let Some(signed) = row["signed"].as_bool() {
            let [method, target] = ["method", "target"].map(|m| row["request"][m].as_str().unwrap().as_bytes());
            assert_eq!(!sign::is_exempt(method, target), signed, "{row}");
        }
    }
}

/// S-26
#[test]
fn only_guarded_endpoints_are_ever_allowed_px64_px65() {
    for to in ["127.0.0.1:3080", "169.254.169.254:8080", "168.63.129.16:443", "10.0.0.1:80"] {
        let exempt = Request { method: b"PUT", target: b"/vmAgentLog" };
        for request in [get("/"), exempt] {
            let decision = decide(&PerDestination::default(), to.parse().unwrap(), &root(), request, &mut Scratch::new());
            assert_eq!(decision, Decision::Deny(Denial::Destination), "{to}");
        }
    }
}

#[test]
fn the_order_of_steps_px66_to_px72() {
    let none = PerDestination::default();
    let mut scratch = Scratch::new();
    let exempt = Request { method: b"POST", target: b"/machine/?comp=telemetrydata" };
    let to = Destination::WireServer.addr();
    assert_eq!(decide(&none, to, &root(), exempt, &mut scratch), Decision::Allow(Allowed::Exempt));
    assert_eq!(decide(&none, to, &alice(), exempt, &mut scratch), Decision::Deny(Denial::Elevation));
    assert_eq!(decide(&none, to, &root(), get("/%"), &mut scratch), Decision::Allow(Allowed::NoDocument));
    let (disabled, _) = compile(json!({"defaultAccess": "deny", "mode": "disabled", "id": ""}));
    assert_eq!(ask(&disabled, &alice(), "/%"), Decision::Allow(Allowed::Disabled));
    let (audit, _) = compile(json!({"defaultAccess": "deny", "mode": "AUDIT", "id": ""}));
    assert_eq!(ask(&audit, &alice(), "/"), Decision::Audit(Denial::Default));
    assert_eq!(ask(&audit, &alice(), "/%"), Decision::Audit(Denial::Canonical(CanonError::Percent)));
    let (enforce, _) = compile(json!({"defaultAccess": "allow", "mode": "enforce", "id": ""}));
    assert_eq!(ask(&enforce, &alice(), "/"), Decision::Allow(Allowed::Default));
    let denied = ask(&enforce, &alice(), "/a.");
    assert_eq!(denied, Decision::Deny(Denial::Canonical(CanonError::Ambiguous)));
    assert_eq!(denied.denial().unwrap().to_string(), "error:CANON_AMBIGUOUS");
}

#[test]
fn decisions_name_their_reason() {
    let (rules, findings) = compile(json!({"defaultAccess": "allow", "mode": "enforce", "id": "x", "rules": {
        "privileges": [
            {"name": "tok", "path": "/metadata/identity"},
            {"name": "gs", "path": "/m", "queryParameters": {"comp": "goalstate"}},
            {"name": "locked", "path": "/locked"}],
        "roles": [{"name": "r", "privileges": ["gs", "tok", "undefined"]}],
        "identities": [{"name": "bob", "userName": "bob"}, {"name": "al", "userName": "alice", "groupName": "docker"}],
        "roleAssignments": [{"role": "r", "identities": ["al", "bob", "undefined"]}]}}));
    assert_eq!(findings, []);
    let name = |decision: Decision| match decision {
        Decision::Allow(Allowed::Privilege(privilege, identity)) => {
            [rules.privilege_name(privilege), rules.identity_name(identity)].map(|n| n.unwrap().to_owned()).join(" ")
        }
        Decision::Deny(denial @ (Denial::NotAssigned(id) | Denial::ConflictingValues(id))) => {
            format!("{denial} {}", rules.privilege_name(id).unwrap())
        }
        other => format!("{other:?}"),
    };
    for (target, expected) in [
        ("/metadata/identity/x", "tok al"),
        ("/m?comp=goalstate", "gs al"),
        ("/m?comp=goalstate&Comp=GOALSTATE&x", "gs al"),
        ("/m?comp=goalstate&comp=x", "conflicting-values gs"),
        ("/m?comp=x", "Allow(Default)"),
        ("/locked/a", "not-assigned locked"),
    ] {
        assert_eq!(name(ask(&rules, &alice(), target)), expected, "{target}");
    }
    assert_eq!(name(ask(&rules, &root(), "/m?comp=goalstate&comp=x")), "not-assigned gs");
}

#[test]
fn a_faulty_privilege_closes_the_document_r18() {
    for (path, query, part, code) in [
        ("/a?b", json!({}), Part::Path, "CANON_EMBQ"),
        ("/\u{e9}", json!({}), Part::Path, "CANON_NON_ASCII"),
        ("/..", json!({}), Part::Path, "CANON_UNDERFLOW"),
        ("/", json!({"a%": "1"}), Part::ParameterName, "CANON_PCT"),
        ("/", json!({"": "%0a"}), Part::ParameterValue, "CANON_CTRL"),
    ] {
        for mode in ["enforce", "audit", "disabled"] {
            let (rules, findings) = compile(json!({"defaultAccess": "allow", "mode": mode, "id": "", "rules": {
                "privileges": [{"name": "good", "path": "/x"}, {"name": "bad\n", "path": path, "queryParameters": query}],
                "roles": [{"name": "r", "privileges": ["good"]}], "identities": [{"name": "all"}],
                "roleAssignments": [{"role": "r", "identities": ["all"]}]}}));
            match ask(&rules, &alice(), "/x") {
                Decision::Deny(Denial::Default) => assert_eq!(mode, "enforce"),
                Decision::Audit(Denial::Default) => assert_eq!(mode, "audit"),
                Decision::Allow(Allowed::Disabled) => assert_eq!(mode, "disabled"),
                other => panic!("{path} {mode}: {other:?}"),
            }
            let [Finding::FaultyPrivilege { privilege, part: found, error }] = &*findings else { panic!("{findings:?}") };
            assert_eq!((&**privilege, *found, error.code()), ("bad\n", part, code));
            assert!(!findings[0].to_string().contains('\n'), "a name must not forge a line (SEC-07)");
        }
    }
}

#[test]
fn findings_of_the_compile_step_r12_r13_r16() {
    let (rules, findings) = compile(json!({"defaultAccess": "deny", "mode": "strict", "id": "i", "rules": {"roles": []}}));
    assert_eq!(findings, [Finding::UnknownMode { word: "strict".into() }, Finding::IncompleteLists]);
    assert_eq!((rules.mode(), rules.mode_word(), rules.id()), (Mode::Disabled, "strict", "i"));
    let (rules, findings) = compile(json!({"defaultAccess": " allow", "mode": "enforce", "id": "", "rules": {
        "privileges": [], "roles": [], "identities": [], "roleAssignments": [{"role": "ghost", "identities": []}]}}));
    assert_eq!(findings, [Finding::UndefinedRole { role: "ghost".into() }]);
    assert!(!rules.default_allowed(), "R-10");
}

#[test]
fn constraints_are_not_joined_r19_and_may_be_empty_r20() {
    let (rules, _) = compile(json!({"defaultAccess": "deny", "mode": "enforce", "id": "", "rules": {
        "privileges": [{"name": "p", "path": "", "queryParameters": {"A%3db": "x&c=d+%2B", "": "y"}}],
        "roles": [{"name": "r", "privileges": ["p"]}], "identities": [{"name": "all"}],
        "roleAssignments": [{"role": "r", "identities": ["all"]}]}}));
    assert!(ask(&rules, &alice(), "/?a%3Db=X%26c=d%20%2b").forwards());
    assert!(!ask(&rules, &alice(), "/?a%3Db=X&c=d%20%2b").forwards());
}

/// A path in another mount namespace, or none at all, is matched by no selector, not even an empty one (I-16, I-28).
#[test]
fn an_executable_that_is_not_known_matches_nothing() {
    for identity in [json!({"exePath": ""}), json!({"processName": ""}), json!({"exePath": "/usr/bin/curl"})] {
        let mut identity = identity;
        identity["name"] = "i".into();
        let (rules, _) = compile(json!({"defaultAccess": "deny", "mode": "enforce", "id": "", "rules": {
            "privileges": [{"name": "p", "path": ""}], "roles": [{"name": "r", "privileges": ["p"]}],
            "identities": [identity], "roleAssignments": [{"role": "r", "identities": ["i"]}]}}));
        for executable in [Executable::Unknown, Executable::Elsewhere("/usr/bin/curl".into())] {
            assert!(!ask(&rules, &Claims { executable, ..alice() }, "/").forwards(), "{rules:?}");
        }
    }
}

mod naive {
    //! Section 3 word for word, without compile step or index.
    use super::*;

    fn pieces(target: &str) -> (Vec<String>, Vec<(String, String)>) {
        let mut scratch = Scratch::new();
        let canonical = canonical::check(b"GET", target.as_bytes(), &mut scratch).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (canonical.segments().map(text).collect(), canonical.parameters().map(|(n, v)| (text(n), text(v))).collect())
    }

    fn in_cgroup(selector: &str, path: &[u8]) -> bool {
        let path = format!("{}/", std::str::from_utf8(path).unwrap().trim_end_matches('/'));
        match selector.strip_suffix("/*") {
            Some(above) => path.starts_with(&format!("{above}/")),
            None => selector.starts_with('/') && path == format!("{}/", selector.trim_end_matches('/')),
        }
    }

    pub(super) fn allows(document: &Document, claims: &Claims, target: &str) -> bool {
        let lists = document.rules.as_ref().unwrap();
        let (segments, parameters) = pieces(target);
        let mut matched = false;
        for privilege in lists.privileges.as_ref().unwrap() {
            let constraints = privilege.query_parameters.as_ref().map(|q| &q.0).into_iter().flatten();
            let constraints: Vec<_> = constraints.map(|(n, v)| (n.to_lowercase(), v.to_lowercase())).collect();
            let values = |name: &String| parameters.iter().filter(|p| p.0 == *name).map(|p| p.1.clone()).collect::<Vec<_>>();
            if !segments.starts_with(&pieces(&format!("/{}", privilege.path)).0)
                || !constraints.iter().all(|(n, v)| values(n).contains(v))
            {
                continue;
            }
            matched = true;
            let grants = constraints.iter().all(|(n, v)| values(n).iter().all(|value| value == v));
            let roles = lists.roles.as_ref().unwrap().iter().filter(|role| role.privileges.contains(&privilege.name));
            let identity = roles.into_iter().any(|role| {
                let assignments = lists.role_assignments.as_ref().unwrap().iter().filter(|a| a.role == role.name);
                assignments.flat_map(|a| &a.identities).any(|name| {
                    let identity = lists.identities.as_ref().unwrap().iter().find(|i| i.name == *name);
                    identity.is_some_and(|i| {
                        i.user_name.as_ref().is_none_or(|u| u.as_bytes() == claims.user_name.as_bytes())
                            && i.group_name.as_ref().is_none_or(|g| claims.in_group(g.as_bytes()))
                            && i.exe_path.as_ref().is_none_or(|e| Some(e.as_bytes()) == claims.exe_path())
                            && i.process_name.as_ref().is_none_or(|p| Some(p.as_bytes()) == claims.process_name())
                            && i.uid.is_none_or(|uid| uid == claims.user_id)
                            && i.gid.is_none_or(|gid| gid == claims.group_id)
                            && i.exe_sha256
                                .as_ref()
                                .is_none_or(|h| claims.exe_hash().is_some_and(|hash| hash.to_string() == h.to_lowercase()))
                            && i.cgroup_path.as_ref().is_none_or(|c| claims.cgroup_path().is_some_and(|path| in_cgroup(c, path)))
                    })
                })
            });
            if grants && identity {
                return true;
            }
        }
        !matched && document.default_access == "allow"
    }
}

impl Seeded {
    fn maybe(&mut self, from: &[&str]) -> Option<String> {
        (self.below(3) == 0).then(|| self.pick(from).to_owned())
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i + 1));
        }
    }

    fn path(&mut self) -> String {
        (0..self.below(4)).fold(String::new(), |path, _| path + "/" + self.pick(&["a", "b", "ab", "C"]))
    }

    /// A document of up to 24 privileges over a small vocabulary, so that they collide often.
    fn document(&mut self) -> Document {
        let names = |seeded: &mut Self, kind: &str, n: usize| -> Vec<String> {
            (0..seeded.below(4)).map(|_| format!("{kind}{}", seeded.below(n))).collect()
        };
        let privileges = (0..self.below(24)).map(|i| Privilege {
            name: format!("p{i}"),
            path: self.path(),
            unknown: Unknown::default(),
            query_parameters: (self.below(2) == 0).then(|| {
                QueryParameters(
                    (0..self.below(3)).map(|_| (self.pick(&["x", "Y", "z"]).into(), self.pick(&["1", "2", ""]).into())).collect(),
                )
            }),
        });
        let privileges = privileges.collect();
        let identities = (0..6).map(|i| Identity {
            name: format!("i{i}"),
            user_name: self.maybe(&["alice", "bob", ""]),
            group_name: self.maybe(&["docker", "alice", "adm"]),
            exe_path: self.maybe(&["/usr/bin/curl", "/bin/sh"]),
            process_name: self.maybe(&["curl", "sh"]),
            uid: self.maybe(&["0", "1000"]).map(|uid| uid.parse().unwrap()),
            gid: self.maybe(&["0", "100"]).map(|gid| gid.parse().unwrap()),
            exe_sha256: self.maybe(&[&"ab".repeat(32), &"AB".repeat(32), &"cd".repeat(32), "x"]),
            cgroup_path: self.maybe(&["/", "/*", "/a.slice", "/a.slice/", "/a.slice/*", "/a.slice/b", "/a.slice/b/*", "b", "/a"]),
            ..Identity::default()
        });
        let identities = identities.collect();
        Document {
            default_access: self.pick(&["allow", "deny"]).into(),
            mode: "enforce".into(),
            id: String::new(),
            rules: Some(RuleLists {
                privileges: Some(privileges),
                roles: Some(
                    (0..5).map(|i| Role { name: format!("r{i}"), privileges: names(self, "p", 26), ..Role::default() }).collect(),
                ),
                identities: Some(identities),
                role_assignments: Some(
                    (0..6)
                        .map(|_| RoleAssignment {
                            role: format!("r{}", self.below(6)),
                            identities: names(self, "i", 7),
                            ..RoleAssignment::default()
                        })
                        .collect(),
                ),
                ..RuleLists::default()
            }),
            ..Document::default()
        }
    }

    fn target(&mut self) -> String {
        let query: Vec<String> =
            (0..self.below(5)).map(|_| format!("{}={}", self.pick(&["x", "y", "Z", "w"]), self.pick(&["1", "2", ""]))).collect();
        format!("/{}?{}", self.path().trim_start_matches('/'), query.join("&"))
    }
}

/// Compile step and index change no decision, and the order of the lists has no influence (R-43).
#[test]
fn compiled_rules_decide_like_section_3_in_any_order_r43() {
    let mut seeded = Seeded(3);
    let found =
        |exe_hash: Fact<ExeHash>, path: &str| OnDemand { exe_hash, cgroup_path: Fact::Known(path.into()), ..OnDemand::default() };
    let callers = [
        alice(),
        root(),
        Claims { user_groups: vec!["adm".into(), "docker".into()], ..root() },
        alice().with(found(Fact::Known(ExeHash([0xab; 32])), "/a.slice/b")),
        alice().with(found(Fact::Unknown, "/")),
        root().with(found(Fact::Known(ExeHash([0xab; 32])), "/a.slice")),
    ];
    let mut scratch = Scratch::new();
    let mut counts = [0, 0];
    for _ in 0..400 {
        let document = seeded.document();
        let mut shuffled = document.clone();
        let lists = shuffled.rules.as_mut().unwrap();
        seeded.shuffle(lists.privileges.as_mut().unwrap());
        seeded.shuffle(lists.roles.as_mut().unwrap());
        seeded.shuffle(lists.identities.as_mut().unwrap());
        seeded.shuffle(lists.role_assignments.as_mut().unwrap());
        let [rules, shuffled] = [&document, &shuffled].map(|d| imds(&Arc::new(Rules::compile(d).0)));
        for _ in 0..20 {
            let target = seeded.target();
            for claims in &callers {
                let to = Destination::Imds.addr();
                let decision = decide(&rules, to, claims, get(&target), &mut scratch);
                let expected = naive::allows(&document, claims, &target);
                assert_eq!(decision.forwards(), expected, "{target} {claims:?} {decision:?}\n{document:#?}");
                counts[usize::from(expected)] += 1;
                // Not even the reason depends on the order.
                assert_eq!(decision, decide(&shuffled, to, claims, get(&target), &mut scratch), "{target} {document:#?}");
            }
        }
    }
    assert!(counts.iter().all(|n| *n > 5_000), "{counts:?}");
}

/// The single identity of a document that allows what it matches and nothing else.
fn only(identity: &Value) -> (Arc<Rules>, Vec<Finding>) {
    let mut identity = identity.clone();
    identity["name"] = "i".into();
    compile(json!({"defaultAccess": "deny", "mode": "enforce", "id": "", "rules": {
        "privileges": [{"name": "p", "path": ""}], "roles": [{"name": "r", "privileges": ["p"]}],
        "identities": [identity], "roleAssignments": [{"role": "r", "identities": ["i"]}]}}))
}

/// I-03, I-28, R-33: beyond the documents' selectors, and only by what the kernel attributed.
#[test]
fn own_selectors_compare_what_is_established_and_nothing_else_r33() {
    let hash = "0123456789abcdef".repeat(4);
    let known = |path: &str| OnDemand {
        exe_hash: Fact::Known(ExeHash::from_hex(&hash).unwrap()),
        cgroup_path: Fact::Known(path.into()),
        ..OnDemand::default()
    };
    let matches = |identity: Value, claims: &Claims| ask(&only(&identity).0, claims, "/").forwards();
    let alice = alice().with(known("/user.slice/user-1000.slice/run.service"));
    for (identity, expected) in [
        (json!({"uid": 1000}), true),
        (json!({"uid": 0}), false),
        (json!({"gid": 100}), true),
        (json!({"gid": 1000}), false),
        (json!({"uid": 1000, "gid": 1000}), false),
        (json!({"exeSha256": hash}), true),
        (json!({"exeSha256": hash.to_uppercase()}), true),
        (json!({"exeSha256": hash.replace('0', "1")}), false),
        (json!({"exeSha256": hash, "userName": "alice", "exePath": "/usr/bin/curl"}), true),
        (json!({"exeSha256": hash, "userName": "bob"}), false),
        (json!({"cgroupPath": "/user.slice/user-1000.slice/run.service"}), true),
        (json!({"cgroupPath": "/user.slice//./user-1000.slice/run.service/"}), true),
        (json!({"cgroupPath": "/user.slice/user-1000.slice"}), false),
        (json!({"cgroupPath": "/user.slice/user-1000.slice/*"}), true),
        (json!({"cgroupPath": "/user.slice/user-1000.slice/run.service/*"}), true),
        (json!({"cgroupPath": "/user.slice/user-100/*"}), false),
        (json!({"cgroupPath": "/user.slice/user-1000.slice/run.service/x/*"}), false),
        (json!({"cgroupPath": "/user.slice/*/run.service"}), false),
        (json!({"cgroupPath": "/*"}), true),
        (json!({"cgroupPath": "/"}), false),
        (json!({"cgroupPath": "/User.slice/*"}), false),
    ] {
        assert_eq!(matches(identity.clone(), &alice), expected, "{identity}");
    }
    let unknown = Claims { user_id: u32::MAX, group_id: u32::MAX, ..alice.clone() };
    for identity in [json!({"uid": u32::MAX}), json!({"gid": u32::MAX})] {
        assert!(!matches(identity.clone(), &unknown), "{identity}: the number of an unknown id is nobody's");
    }
    // What is not established matches nothing; a hash of a file that somebody else's mounts show is not.
    for on_demand in
        [OnDemand::default(), OnDemand { exe_hash: Fact::Unknown, cgroup_path: Fact::Unknown, ..OnDemand::default() }]
    {
        let claims = alice.clone().with(on_demand);
        for identity in [json!({"exeSha256": hash}), json!({"cgroupPath": "/*"}), json!({"cgroupPath": "/"})] {
            assert!(!matches(identity.clone(), &claims), "{identity}");
        }
    }
    for executable in [Executable::Elsewhere("/usr/bin/curl".into()), Executable::Unknown] {
        assert!(!matches(json!({"exeSha256": hash}), &Claims { executable, ..alice.clone() }));
    }
}

/// SEC-06
#[test]
fn a_selector_that_cannot_be_read_matches_nobody_and_is_told() {
    for (identity, selector, expected) in [
        (json!({"exeSha256": "abc"}), "exeSha256", "64 hexadecimal digits"),
        (json!({"exeSha256": ""}), "exeSha256", "64 hexadecimal digits"),
        (json!({"exeSha256": "g".repeat(64), "userName": "alice"}), "exeSha256", "64 hexadecimal digits"),
        (json!({"cgroupPath": "user.slice/*"}), "cgroupPath", "a path that begins with /"),
        (json!({"cgroupPath": "", "uid": 1000}), "cgroupPath", "a path that begins with /"),
    ] {
        let (rules, findings) = only(&identity);
        let told = Finding::FaultySelector { identity: "i".into(), selector, expected };
        assert_eq!((findings[0].level(), findings), (log::Level::Error, vec![told]));
        let cgroup_path = Fact::Known("/user.slice/x".into());
        let found = OnDemand { exe_hash: Fact::Known(ExeHash([0; 32])), cgroup_path, ..OnDemand::default() };
        assert!(!ask(&rules, &alice().with(found), "/").forwards(), "{identity}");
        let text = serde_json::to_value(&*rules).unwrap()["identities"]["i"][selector].clone();
        assert_eq!(text, identity[selector], "the snapshot shows it as it was given");
    }
}

#[test]
fn unknown_members_change_nothing_and_are_told_r05() {
    let (rules, findings) = compile(json!({"defaultAccess": "deny", "mode": "enforce", "id": "", "x\n": 1, "rules": {
        "privileges": [{"name": "p", "path": "", "methods": ["GET"]}], "roles": [{"name": "r", "privileges": ["p"], "a": 1}],
        "identities": [{"name": "i", "userName": "alice", "username": "bob"}, {"name": "all", "exeSHA256": "00", "z": []}],
        "roleAssignments": [{"role": "r", "identities": ["i"]}, {"role": "r", "identities": [], "until": null}], "version": 2}}));
    assert!(ask(&rules, &alice(), "/").forwards());
    assert!(!ask(&rules, &root(), "/").forwards());
    let told: Vec<String> = findings.iter().map(|f| format!("{} {f}", f.level())).collect();
    let unknown = |place: &str, member: &str| format!("WARN {place}: the member {member:?} is not known and changes nothing");
    assert_eq!(
        told,
        [
            r#"ERROR identity "all" matches everyone: "exeSHA256" is no selector that is known, and it has no other"#.to_owned(),
            unknown("the document", "x\n"),
            unknown("rules", "version"),
            unknown(r#"privilege "p""#, "methods"),
            unknown(r#"role "r""#, "a"),
            unknown(r#"identity "i""#, "username"),
            unknown(r#"identity "all""#, "exeSHA256"),
            unknown(r#"identity "all""#, "z"),
            unknown("role assignment 1", "until"),
        ]
    );
}

#[test]
fn rules_say_what_they_need_of_callers() {
    let hash = "0".repeat(64);
    for (identity, exe_hash, cgroup_path, for_alice) in [
        (json!({"uid": 1, "exePath": "/a"}), false, false, false),
        (json!({"exeSha256": hash, "userName": "bob"}), true, false, false),
        (json!({"exeSha256": hash, "userName": "alice"}), true, false, true),
        (json!({"exeSha256": hash}), true, false, true),
        (json!({"exeSha256": "x"}), false, false, false),
        (json!({"cgroupPath": "/a"}), false, true, false),
    ] {
        let policy = crate::policy::Policy { rules: imds(&only(&identity).0), ..Default::default() };
        assert_eq!(policy.needs(), crate::identity::Needs { exe_hash, cgroup_path }, "{identity}");
        assert_eq!(policy.would_compare_exe_hash(&alice()), for_alice, "{identity}");
        assert_eq!(alice().lacks(policy.needs(), policy.epoch), exe_hash || cgroup_path, "{identity}");
    }
}

#[test]
fn what_was_of_no_use_to_earlier_rules_is_looked_for_again() {
    let needs = crate::identity::Needs { exe_hash: true, cgroup_path: false };
    let at = |exe_hash, epoch| {
        alice().with(OnDemand { exe_hash, wanted_by: Epoch(epoch), ..OnDemand::default() }).lacks(needs, Epoch(2))
    };
    assert!(at(Fact::NotAsked, 2));
    assert!(!at(Fact::Unknown, 2), "these rules have asked: asking at each request would be work at a caller's will");
    assert!(at(Fact::Unknown, 1));
    assert!(!at(Fact::Known(ExeHash([0; 32])), 1));
}
