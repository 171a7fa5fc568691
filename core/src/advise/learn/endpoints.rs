//! What the three endpoints offer, as far as it is documented: where requests that differ mean the same to whoever writes rules, and
//! which parameters make a difference.
//!
//! Sources: IMDS, its public documentation (learn.microsoft.com, "Azure Instance Metadata Service", endpoint categories; "How to use
//! managed identities", token requests). WireServer and HostGAPlugin have no public reference; their services are those that the public
//! guest agent (WALinuxAgent, `protocol/wire.py` and `hostplugin.py`) and cloud-init (`sources/helpers/azure.py`) ask for.

use crate::identity::Destination;

/// Something that an endpoint offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) destination: Destination,
    /// Where, with everything below it, in the spelling that a rule shall have.
    pub(super) path: &'static str,
    /// What rules call it.
    pub(super) name: &'static str,
    /// What it is good for; roles are named by it.
    pub(super) purpose: &'static str,
    /// Parameters that say what is asked for. Without the first of them the host has no answer.
    pub(super) by: &'static [&'static str],
    /// Only the path itself.
    pub(super) exact: bool,
}

const fn imds(path: &'static str, name: &'static str, purpose: &'static str) -> Endpoint {
    Endpoint { destination: Destination::Imds, path, name, purpose, by: &[], exact: false }
}

const fn host_plugin(path: &'static str, name: &'static str, purpose: &'static str) -> Endpoint {
    Endpoint { destination: Destination::HostGaPlugin, path, name, purpose, by: &[], exact: false }
}

pub(super) const ENDPOINTS: [Endpoint; 22] = [
    imds("/metadata/versions", "versions", "metadata"),
    imds("/metadata/instance", "instance", "metadata"),
    imds("/metadata/instance/compute", "instance-compute", "metadata"),
    // Secrets have been seen in these two; whoever needs only the rest shall not get them.
    imds("/metadata/instance/compute/userData", "user-data", "user-data"),
    imds("/metadata/instance/compute/customData", "custom-data", "user-data"),
    imds("/metadata/instance/compute/publicKeys", "ssh-keys", "metadata"),
    imds("/metadata/instance/network", "instance-network", "metadata"),
    imds("/metadata/loadbalancer", "load-balancer", "metadata"),
    imds("/metadata/scheduledevents", "scheduled-events", "events"),
    imds("/metadata/attested/document", "attested-document", "attestation"),
    imds("/metadata/attested/signature", "attested-signature", "attestation"),
    imds("/metadata/reprovisiondata", "reprovision-data", "provisioning"),
    imds("/metadata/identity/info", "identity-info", "identity"),
    Endpoint { by: &["resource"], ..imds("/metadata/identity/oauth2/token", "token", "tokens") },
    Endpoint {
        destination: Destination::WireServer,
        path: "/machine",
        name: "machine",
        purpose: "goal-state",
        by: &["comp", "type"],
        exact: false,
    },
    Endpoint {
        destination: Destination::WireServer,
        path: "/",
        name: "versions",
        purpose: "goal-state",
        by: &["comp"],
        exact: true,
    },
    host_plugin("/vmSettings", "vm-settings", "goal-state"),
    host_plugin("/extensionArtifact", "extension-artifact", "goal-state"),
    host_plugin("/versions", "plugin-versions", "goal-state"),
    host_plugin("/health", "plugin-health", "reports"),
    host_plugin("/status", "plugin-status", "reports"),
    host_plugin("/vmAgentLog", "agent-log", "reports"),
];

/// Parameters that say what is asked for, at endpoints that we do not know.
pub(in crate::advise) const SELECTIVE: [&str; 3] = ["comp", "type", "resource"];

/// Values of `comp` and `type` at `/machine`: the spelling for rules, the name, the purpose.
const COMPONENTS: [(&str, &str, &str); 14] = [
    ("goalstate", "goal-state", "goal-state"),
    ("versions", "versions", "goal-state"),
    ("certificates", "certificates", "goal-state"),
    ("config", "config", "goal-state"),
    ("hostingEnvironmentConfig", "hosting-environment", "goal-state"),
    ("sharedConfig", "shared-config", "goal-state"),
    ("extensionsConfig", "extensions-config", "goal-state"),
    ("fullConfig", "full-config", "goal-state"),
    ("remoteAccess", "remote-access", "goal-state"),
    ("artifactsProfileBlob", "artifacts-profile", "goal-state"),
    ("health", "health", "reports"),
    ("roleProperties", "role-properties", "reports"),
    ("telemetrydata", "telemetry", "reports"),
    ("package", "package", "goal-state"),
];

/// Audiences of tokens, without scheme and final slash, and what people call them.
const RESOURCES: [(&str, &str); 15] = [
    ("management.azure.com", "resource-manager"),
    ("management.core.windows.net", "resource-manager"),
    ("vault.azure.net", "key-vault"),
    ("storage.azure.com", "storage"),
    ("database.windows.net", "sql"),
    ("ossrdbms-aad.database.windows.net", "open-source-sql"),
    ("graph.microsoft.com", "graph"),
    ("monitor.azure.com", "monitor"),
    ("api.loganalytics.io", "log-analytics"),
    ("servicebus.azure.net", "service-bus"),
    ("eventhubs.azure.net", "event-hubs"),
    ("cosmos.azure.com", "cosmos"),
    ("datalake.azure.net", "data-lake"),
    ("containerregistry.azure.net", "container-registry"),
    ("cognitiveservices.azure.com", "cognitive-services"),
];

impl Endpoint {
    /// The most specific one that a canonical path belongs to.
    pub(super) fn of(destination: Destination, segments: &[String]) -> Option<&'static Self> {
        ENDPOINTS.iter().filter(|e| e.destination == destination && e.holds(segments)).max_by_key(|e| e.segments().count())
    }

    /// Its path's segments, as written.
    pub(super) fn segments(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter(|segment| !segment.is_empty())
    }

    fn holds(&self, segments: &[String]) -> bool {
        let mut rest = segments.iter();
        self.segments().all(|own| rest.next().is_some_and(|s| s.eq_ignore_ascii_case(own)))
            && (!self.exact || rest.next().is_none())
    }

    /// Whether some endpoint of the destination is at that path or below it: a rule for the path would open it.
    pub(super) fn any_below(destination: Destination, segments: &[String]) -> bool {
        ENDPOINTS.iter().filter(|e| e.destination == destination).any(|e| {
            let mut own = e.segments();
            segments.iter().all(|segment| own.next().is_some_and(|own| segment.eq_ignore_ascii_case(own)))
        })
    }
}

/// The spelling, name and purpose of a value of `comp` or `type`.
pub(super) fn component(value: &str) -> Option<(&'static str, &'static str, &'static str)> {
    COMPONENTS.into_iter().find(|(spelling, ..)| spelling.eq_ignore_ascii_case(value))
}

/// What people call the audience of a token.
pub(super) fn resource(value: &str) -> Option<&'static str> {
    let host = value.split_once("://").map_or(value, |(_, rest)| rest).trim_end_matches('/');
    RESOURCES.into_iter().find_map(|(known, name)| (known == host).then_some(name))
}

/// Whether a segment looks like a number or a name that a machine made: it will be another one tomorrow.
pub(super) fn is_volatile(segment: &str) -> bool {
    let letters = segment.bytes().filter(u8::is_ascii_alphabetic).count();
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    let hex = segment.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    (digits > 0 && letters == 0) || (hex && segment.len() >= 8 && digits > 0) || (segment.len() >= 20 && digits >= 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(destination: Destination, path: &str) -> Option<&'static str> {
        let segments: Vec<String> = path.split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect();
        Endpoint::of(destination, &segments).map(|endpoint| endpoint.name)
    }

    #[test]
    fn the_most_specific_endpoint_counts() {
        for (path, name) in [
            ("/metadata/instance", Some("instance")),
            ("/metadata/instance/compute/vmid", Some("instance-compute")),
            ("/metadata/instance/compute/userdata", Some("user-data")),
            ("/metadata/instance-evil", None),
            ("/metadata/identity/oauth2/token", Some("token")),
            ("/metadata/identity", None),
            ("/", None),
        ] {
            assert_eq!(of(Destination::Imds, path), name, "{path}");
        }
        assert_eq!(of(Destination::WireServer, "/machine/4711/demo"), Some("machine"));
        assert_eq!((of(Destination::WireServer, "/"), of(Destination::WireServer, "/x")), (Some("versions"), None));
        assert_eq!(of(Destination::HostGaPlugin, "/vmsettings"), Some("vm-settings"));
    }

    #[test]
    fn made_up_names_are_volatile_and_words_are_not() {
        for volatile in ["4711", "2f1c0c3e-6a5a-4d0e-9f5e-0d3a1b2c4d5e", "deadbeef01", "a33f6f53.43d6.4625_instance_0"] {
            assert!(is_volatile(volatile), "{volatile}");
        }
        for word in ["instance", "oauth2", "v1", "2a-b", "facade", "attested-document", ""] {
            assert!(!is_volatile(word), "{word}");
        }
    }

    #[test]
    fn audiences_have_names_whatever_their_spelling() {
        assert_eq!(resource("https://vault.azure.net/"), Some("key-vault"));
        assert_eq!(resource("https://vault.azure.net"), Some("key-vault"));
        assert_eq!(resource("https://vault.azure.net.example"), None);
    }
}
