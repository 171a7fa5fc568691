//! Rules that keep out the programs without which a machine cannot be provisioned or managed. Their requests are known; the real decision is
//! asked about each.

use super::tree::At;
use super::{Code, Linter, Severity, hint};
use crate::advise::Caller;
use crate::authz::{self, Decision, Denial, Document, Identity, Mode, Request, Rules, Scratch};
use crate::identity::{Claims, Destination, PerDestination};
use std::sync::Arc;

/// What one program asks of one endpoint, as root.
struct Need {
    code: Code,
    who: &'static str,
    of: Destination,
    /// What does not work without it.
    consequence: &'static str,
    requests: &'static [(&'static str, &'static str)],
}

/// From the programs' public sources: cloud-init's Azure data source (`sources/DataSourceAzure.py`, `sources/helpers/azure.py`) and the
/// Azure Linux agent (`common/protocol/wire.py`, `goal_state.py`, `hostplugin.py`, `imds.py`). The addresses below `/machine/` are in the goal
/// state that the host gives; here they have the shape of the real ones.
static NEEDS: &[Need] = &[
    Need {
        code: Code::LocksOutCloudInit,
        who: "cloud-init",
        of: Destination::Imds,
        consequence: "a new machine gets no network configuration, user data or ssh keys",
        requests: &[
            ("GET", "/metadata/instance?api-version=2021-08-01&extended=true"),
            ("GET", "/metadata/instance?api-version=2019-06-01"),
        ],
    },
    Need {
        code: Code::LocksOutCloudInit,
        who: "cloud-init",
        of: Destination::WireServer,
        consequence: "a new machine never reports that it is ready, and its creation fails",
        requests: &[("GET", "/machine/?comp=goalstate"), ("POST", "/machine?comp=health")],
    },
    Need {
        code: Code::LocksOutSshKeys,
        who: "provisioning of ssh keys",
        of: Destination::Imds,
        consequence: "nobody can log in to a new machine by key",
        requests: &[
            ("GET", "/metadata/instance?api-version=2021-08-01&extended=true"),
            ("GET", "/metadata/instance/compute/publicKeys?api-version=2021-02-01&format=json"),
        ],
    },
    Need {
        code: Code::LocksOutSshKeys,
        who: "provisioning of ssh keys",
        of: Destination::WireServer,
        consequence: "keys that ovf-env.xml names by their fingerprint are not there",
        requests: &[
            ("GET", "/machine/?comp=goalstate"),
            ("GET", "/machine/d9f1e2a4-7f7e-4c1a-8d0e-0f3f9a6c2b10/5c1e7b9a-2d0f-4f3e._vm0?comp=certificates&incarnation=1"),
        ],
    },
    Need {
        code: Code::LocksOutGuestAgent,
        who: "the guest agent",
        of: Destination::WireServer,
        consequence: "the machine shows as not ready, and extensions do not run",
        requests: &[
            ("GET", "/?comp=versions"),
            ("GET", "/machine/?comp=goalstate"),
            (
                "GET",
                "/machine/d9f1e2a4-7f7e-4c1a-8d0e-0f3f9a6c2b10/5c1e7b9a-2d0f-4f3e._vm0?comp=config&type=hostingEnvironmentConfig&incarnation=1",
            ),
            (
                "GET",
                "/machine/d9f1e2a4-7f7e-4c1a-8d0e-0f3f9a6c2b10/5c1e7b9a-2d0f-4f3e._vm0?comp=config&type=sharedConfig&incarnation=1",
            ),
            (
                "GET",
                "/machine/d9f1e2a4-7f7e-4c1a-8d0e-0f3f9a6c2b10/5c1e7b9a-2d0f-4f3e._vm0?comp=config&type=extensionsConfig&incarnation=1",
            ),
            ("GET", "/machine/d9f1e2a4-7f7e-4c1a-8d0e-0f3f9a6c2b10/5c1e7b9a-2d0f-4f3e._vm0?comp=certificates&incarnation=1"),
            ("POST", "/machine?comp=roleProperties"),
            ("POST", "/machine?comp=health"),
            ("POST", "/machine?comp=telemetrydata"),
        ],
    },
    Need {
        code: Code::LocksOutGuestAgent,
        who: "the guest agent",
        of: Destination::HostGaPlugin,
        consequence: "the machine's status is not reported, and extensions may not run",
        requests: &[
            ("GET", "/versions"),
            ("GET", "/vmSettings"),
            ("GET", "/extensionArtifact"),
            ("PUT", "/status"),
            ("POST", "/health"),
            ("PUT", "/vmAgentLog"),
        ],
    },
    Need {
        code: Code::LocksOutGuestAgent,
        who: "the guest agent",
        of: Destination::Imds,
        consequence: "its telemetry does not say which machine it is",
        requests: &[("GET", "/metadata/instance/compute?api-version=2018-02-01&format=json")],
    },
];

impl Linter<'_> {
    pub(super) fn lockouts(&mut self, document: &Document) {
        let (rules, _) = Rules::compile(document);
        let severity = match rules.mode() {
            Mode::Disabled => return,
            // Of a local file nobody knows the mode, nor what the host's rules add.
            Mode::Enforce if !self.is_local() => Severity::Error,
            Mode::Audit | Mode::Enforce => Severity::Warning,
        };
        let rules = Some(Arc::new(rules));
        let rules = PerDestination { imds: rules.clone(), wireserver: rules.clone(), hostga: rules };
        let callers = callers(document);
        let mut scratch = Scratch::new();
        let of = self.options.destination;
        let local = self.is_local();
        for need in NEEDS.iter().filter(|need| of.is_none_or(|of| of == need.of || !local && is_shared(of, need.of))) {
            let mut denied = Vec::new();
            for (method, target) in need.requests {
                let request = Request { method: method.as_bytes(), target: target.as_bytes() };
                let mut refusal = None;
                // It runs as root, by an interpreter that is called differently everywhere: whoever of root's programs is let through
                // may be it.
                let passes =
                    callers.iter().any(|claims| match authz::decide(&rules, need.of.addr(), claims, request, &mut scratch) {
                        Decision::Allow(_) => true,
                        Decision::Audit(denial) | Decision::Deny(denial) => {
                            refusal.get_or_insert(denial);
                            false
                        }
                    });
                if let Some(denial) = refusal.filter(|_| !passes) {
                    denied.push((format!("{method} {}", shown(target)), denial));
                }
            }
            if !denied.is_empty() {
                self.locked_out(need, severity, &denied, &rules, document);
            }
        }
    }

    fn locked_out(
        &mut self,
        need: &Need,
        severity: Severity,
        denied: &[(String, Denial)],
        rules: &PerDestination<Option<Arc<Rules>>>,
        document: &Document,
    ) {
        let (count, all) = (denied.len(), need.requests.len());
        let first: Vec<&str> = denied.iter().take(3).map(|(request, _)| request.as_str()).collect();
        let more = if count > first.len() { ", …" } else { "" };
        let (would, is) = if severity == Severity::Error { ("", "is") } else { ("would ", "be") };
        let requests = match (count, all) {
            (_, 1) => "its request".to_owned(),
            (count, all) if count == all => "all its requests".to_owned(),
            (count, all) => format!("{count} of its {all} requests"),
        };
        let what = format!(
            "{} {would}{is} refused {requests} to {} ({}{more}): {}",
            need.who,
            need.of.name(),
            first.join(", "),
            need.consequence
        );
        // Where it comes from: the privilege that locks, or the default.
        let at = denied.iter().find_map(|(_, denial)| match denial {
            Denial::NotAssigned(id) | Denial::ConflictingValues(id) => {
                let name = rules.get(need.of).as_ref()?.privilege_name(*id)?;
                let list = document.rules.as_ref()?.privileges.as_ref()?;
                Some(At::element("privileges", list.iter().rposition(|privilege| privilege.name == name)?))
            }
            _ => None,
        });
        let at = at.unwrap_or_else(|| At::default().member("defaultAccess"));
        self.at(severity, need.code, &at, what, hint("grant this to an identity with \"userName\": \"root\""));
    }
}

/// The host plug-in has the WireServer's rules, without those of the local file (W-41).
fn is_shared(rules: Destination, by: Destination) -> bool {
    rules == Destination::WireServer && by == Destination::HostGaPlugin
}

/// Root, running nothing in particular, and whatever of root's a rule describes.
fn callers(document: &Document) -> Vec<Claims> {
    let root = || Caller {
        user_name: Some("root".into()),
        uid: Some(0),
        gid: Some(0),
        groups: vec!["root".into()],
        ..Caller::default()
    };
    let identities = document.rules.iter().flat_map(|lists| lists.identities.iter().flatten());
    let described = |identity: &Identity| Caller {
        exe_path: identity.exe_path.clone(),
        process_name: identity.process_name.clone(),
        exe_sha256: identity.exe_sha256.clone(),
        cgroup_path: identity.cgroup_path.as_ref().map(|path| path.trim_end_matches("/*").to_owned()),
        ..root()
    };
    let mut all: Vec<Caller> = core::iter::once(root()).chain(identities.map(described)).collect();
    all.dedup();
    // More than that is no rule set for programs of the machine. One that contradicts itself is nobody.
    all.iter().take(256).filter_map(|caller| caller.claims().ok()).collect()
}

/// A target without what differs from machine to machine.
fn shown(target: &str) -> String {
    match target.strip_prefix("/machine/d9f1e2a4-7f7e-4c1a-8d0e-0f3f9a6c2b10/") {
        Some(rest) => format!("/machine/…?{}", rest.split_once('?').map_or("", |(_, query)| query)),
        None => target.to_owned(),
    }
}
