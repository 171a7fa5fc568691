//! Privileges that the older matcher reads otherwise. Both matchers are asked; the requests in which they differ are shown.

use super::privileges::Known;
use super::{Code, Linter};
use crate::authz::{self, Decision, Document, Legacy, Privilege, Request, Rules, Scratch};
use crate::identity::{Claims, Confidence, Destination, Executable, OnDemand, PerDestination};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Documented paths of the three endpoints: a rule may have counted on the beginning of one of them.
const PATHS: [&str; 24] = [
    "/metadata/instance",
    "/metadata/instance/compute",
    "/metadata/instance/compute/publickeys",
    "/metadata/instance/compute/userdata",
    "/metadata/instance/network",
    "/metadata/instance/network/interface",
    "/metadata/identity",
    "/metadata/identity/info",
    "/metadata/identity/oauth2/token",
    "/metadata/attested/document",
    "/metadata/loadbalancer",
    "/metadata/scheduledevents",
    "/metadata/versions",
    "/metadata/maintenance",
    "/metadata/reprovisiondata",
    "/machine",
    "/machine/plugins",
    "/status",
    "/health",
    "/versions",
    "/vmsettings",
    "/extensionartifact",
    "/vmagentlog",
    "/secure-channel/status",
];

/// So many requests are shown.
const SHOWN: usize = 3;
/// So many are tried that only begin alike.
const TRIED: usize = 8;

pub(super) fn lint(linter: &mut Linter<'_>, known: &[Known<'_>]) {
    let paths: BTreeSet<&str> = PATHS.into_iter().chain(known.iter().map(|privilege| privilege.path.as_str())).collect();
    for privilege in known {
        if let Some((member, what, hint)) = difference(privilege, &paths) {
            linter.warn(Code::ReadDifferently, &privilege.at.member(member), what, hint);
        }
    }
}

/// The member that makes the difference, what it is, and a hint.
fn difference(privilege: &Known<'_>, paths: &BTreeSet<&str>) -> Option<(&'static str, String, Option<String>)> {
    let everyone = ForEveryone::new(privilege.written)?;
    let (mut wider, mut narrower) = (Vec::new(), Vec::new());
    for target in probes(privilege, paths) {
        match (everyone.allowed_before(target.as_bytes()), everyone.decide(target.as_bytes()).forwards()) {
            (true, false) => wider.push(target),
            (false, true) => narrower.push(target),
            _ => {}
        }
    }
    let list = |targets: Vec<String>| targets.into_iter().take(SHOWN).collect::<Vec<_>>().join(", ");
    let name = privilege.name;
    // One of the two: a path that is nowhere the beginning of a request for the older one matches nothing more.
    if !narrower.is_empty() {
        let what = format!("older agents do not match the privilege {name:?} with {}; this one does", list(narrower));
        return Some(match only_parameters(privilege) {
            true => ("queryParameters", what, None),
            false => ("path", what, Some(format!("write it as {:?}", privilege.path))),
        });
    }
    if wider.is_empty() {
        return None;
    }
    let what = format!("older agents match the privilege {name:?} also with {}; this one does not", list(wider));
    Some(("path", what, Some("paths match by whole segments: name each path that is meant".to_owned())))
}

/// Whether the path is written plainly, so that only parameters are left to differ.
fn only_parameters(privilege: &Known<'_>) -> bool {
    privilege.written.path.to_ascii_lowercase() == privilege.path
}

/// Requests for the privilege itself, and for paths that begin with the same letters.
fn probes(privilege: &Known<'_>, paths: &BTreeSet<&str>) -> BTreeSet<String> {
    let target = privilege.target();
    let (path, query) = target.split_once('?').map_or((target.as_str(), None), |(path, query)| (path, Some(query)));
    let with = |path: &str| query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let mut probes = BTreeSet::from([with(path), with(&format!("{}/x", path.trim_end_matches('/')))]);
    if let Some(query) = query.filter(|query| query.contains("%20")) {
        probes.insert(format!("{path}?{}", query.replace("%20", "+")));
    }
    let written = privilege.written.path.to_lowercase();
    let alike = paths.range(written.as_str()..).take_while(|path| path.starts_with(&written)).take(TRIED);
    probes.extend(alike.map(|path| with(path)));
    probes
}

/// A document of one privilege, which everyone has, and nothing else: as the agent reads it, and as older ones do.
pub(super) struct ForEveryone {
    rules: PerDestination<Option<Arc<Rules>>>,
    legacy: Legacy,
}

impl ForEveryone {
    pub(super) fn new(privilege: &Privilege) -> Option<Self> {
        let document = serde_json::json!({
            "defaultAccess": "deny", "mode": "enforce", "id": "", "rules": {
                "privileges": [privilege],
                "roles": [{"name": "all", "privileges": [privilege.name]}],
                "identities": [{"name": "all"}],
                "roleAssignments": [{"role": "all", "identities": ["all"]}],
            },
        });
        let document: Document = serde_json::from_value(document).ok()?;
        let rules = PerDestination { imds: Some(Arc::new(Rules::compile(&document).0)), ..PerDestination::default() };
        Some(Self { rules, legacy: Legacy::compile(&document) })
    }

    /// What the agent would decide.
    pub(super) fn decide(&self, target: &[u8]) -> Decision {
        let request = Request { method: b"GET", target };
        authz::decide(&self.rules, Destination::Imds.addr(), &anybody(), request, &mut Scratch::new())
    }

    /// What older agents would.
    fn allowed_before(&self, target: &[u8]) -> bool {
        self.legacy.allows(&anybody(), Request { method: b"GET", target })
    }
}

/// A caller who is nobody in particular.
fn anybody() -> Claims {
    Claims {
        user_id: 65_534,
        group_id: 65_534,
        user_name: "nobody".into(),
        user_groups: Vec::new(),
        process_id: 1,
        executable: Executable::Unknown,
        command_line: "".into(),
        cgroup: 0,
        confidence: Confidence::Verified,
        on_demand: OnDemand::default(),
    }
}
