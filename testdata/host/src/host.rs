//! The host itself: what it knows, and how it answers one request. Sockets are `server`'s.

use std::fmt;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::documents::{self, Target};
use crate::faults::{Failure, Faults};
use crate::framing::{self, BodySeen};
use crate::http::Head;
use crate::keys::Keys;
use crate::options::{Mode, Options, Version};
use crate::record::{Record, Records};
use crate::reply::{After, Reply};
use crate::signature::{SCHEME, to_hex};
use crate::verify::{Check, Need, Protected, Verdict};
use crate::{date, lock};

/// The three services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `168.63.129.16:80`.
    WireServer,
    /// `168.63.129.16:32526`.
    HostGAPlugin,
    /// `169.254.169.254:80`.
    Imds,
}

impl Endpoint {
    /// Its name in records and rules.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WireServer => "wireserver",
            Self::HostGAPlugin => "hostga",
            Self::Imds => "imds",
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Stands where raw rules are going to be.
const RAW_RULES: &str = "raw rules";

#[derive(Debug)]
struct Settings {
    mode: Mode,
    version: Version,
    rules: Option<Value>,
    /// In place of `rules`, as it is.
    raw_rules: Option<Vec<u8>>,
}

/// A running host's state. Shared by all its connections.
#[derive(Debug)]
pub struct Host {
    settings: Mutex<Settings>,
    keys: Mutex<Keys>,
    skew: AtomicI64,
    instance: Value,
    /// The common question of every client, answered without serializing the document again.
    whole_instance: Reply,
    /// Misbehaviour on demand.
    pub faults: Faults,
    /// What was received.
    pub records: Records,
}

impl Host {
    /// A host as the options want it.
    ///
    /// # Errors
    /// Log file or state directory that cannot be used.
    pub fn new(options: &Options) -> io::Result<Self> {
        let instance = documents::instance();
        Ok(Self {
            settings: Mutex::new(Settings {
                mode: options.mode,
                version: options.version,
                rules: options.rules.clone(),
                raw_rules: None,
            }),
            keys: Mutex::new(Keys::load(options.state_dir.clone())?),
            skew: AtomicI64::new(options.skew),
            whole_instance: Reply::json(200, &instance),
            instance,
            faults: Faults::default(),
            records: Records::new(options.log.as_deref(), options.no_record)?,
        })
    }

    /// The host's time in seconds since 1970.
    pub fn now(&self) -> i64 {
        self.clock().as_secs().cast_signed() + self.skew.load(Ordering::Relaxed)
    }

    fn clock(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    /// Puts the host's clock ahead of this machine's.
    pub fn set_skew(&self, seconds: i64) {
        self.skew.store(seconds, Ordering::Relaxed);
    }

    /// Changes the strictness, and with it the status document unless that has rules of its own.
    pub fn set_mode(&self, mode: Mode) {
        lock(&self.settings).mode = mode;
    }

    /// The present strictness.
    pub fn mode(&self) -> Mode {
        lock(&self.settings).mode
    }

    /// Sets the member `authorizationRules`; `None`: documents that follow the mode.
    pub fn set_rules(&self, rules: Option<Value>) {
        lock(&self.settings).rules = rules;
    }

    /// Sets the member `authorizationRules` to something that is perhaps not even JSON; `None`: what [`Self::set_rules`] said.
    pub fn set_raw_rules(&self, raw: Option<Vec<u8>>) {
        lock(&self.settings).raw_rules = raw;
    }

    /// The status as it is sent.
    fn status(&self) -> Vec<u8> {
        let mut document = self.status_document();
        let Some(raw) = lock(&self.settings).raw_rules.clone() else { return document.to_string().into_bytes() };
        document["authorizationRules"] = RAW_RULES.into();
        let text = document.to_string();
        let (before, after) = text.split_once(&format!("{RAW_RULES:?}")).unwrap_or((&text, ""));
        [before.as_bytes(), &raw, after.as_bytes()].concat()
    }

    /// Runs something on the keys: rotation, revocation, a look.
    pub fn keys<T>(&self, f: impl FnOnce(&mut Keys) -> T) -> T {
        f(&mut lock(&self.keys))
    }

    /// Demands another key from now on (W-97) and returns its guid.
    ///
    /// # Errors
    /// As [`Keys::rotate`].
    pub fn rotate(&self) -> io::Result<String> {
        lock(&self.keys).rotate(self.now())
    }

    /// The status document (W-24 to W-32).
    pub fn status_document(&self) -> Value {
        let settings = lock(&self.settings);
        let keys = lock(&self.keys);
        let mode = settings.mode;
        let mut document = json!({
            "authorizationScheme": SCHEME, "keyDeliveryMethod": "http", "keyGuid": keys.current().map(|(guid, _)| guid),
            "keyIncarnationId": keys.current().map(|(_, incarnation)| incarnation), "requiredClaimsHeaderPairs": ["isRoot"],
        });
        match settings.version {
            Version::V1 => {
                document["version"] = "1.0".into();
                document["secureChannelState"] = match mode {
                    Mode::Disabled => "Disabled".into(),
                    // In 1.0 this word means: WireServer enforced, IMDS audited (W-40).
                    Mode::Audit => "Wireserver".into(),
                    Mode::Enforce => "WireserverAndImds".into(),
                };
            }
            Version::V2 => {
                let by_mode =
                    |name: &str| json!({"defaultAccess": "allow", "mode": mode.to_string(), "id": format!("{name}-{mode}")});
                document["version"] = "2.0".into();
                document["secureChannelEnabled"] = (mode != Mode::Disabled).into();
                document["authorizationRules"] = settings.rules.clone().unwrap_or_else(
                    || json!({"imds": by_mode("imds"), "wireserver": by_mode("wireserver"), "hostga": by_mode("hostga")}),
                );
            }
        }
        document
    }

    /// Answers one request. `body` reads it to its end, handing the decoded pieces to the sink that it is given.
    ///
    /// # Errors
    /// Those of `body`, except a malformed one, which is answered with 400.
    pub fn answer(
        &self,
        endpoint: Endpoint,
        connection: u64,
        head: &Head,
        body: impl FnOnce(&mut dyn FnMut(&[u8])) -> io::Result<u64>,
    ) -> io::Result<Reply> {
        let target = Target::parse(head.target());
        let (service, need) = classify(endpoint, head, &target);
        let attested = attested_guid(&target.path);
        let mut check = Check::begin(head, need, self.now(), |guid| {
            let keys = lock(&self.keys);
            let key = match need {
                Need::Attestation if attested == Some(guid) => keys.issued(guid),
                Need::Attestation => None,
                _ => keys.accepted(guid),
            };
            key.map(|k| k.bytes.clone())
        });
        let mut digest = (service == Service::Test && target.path == "/test/echo").then(Sha256::new);
        let read = body(&mut |piece| {
            check.update(piece);
            if let Some(digest) = &mut digest {
                digest.update(piece);
            }
        });
        let seen = match read {
            Ok(length) => BodySeen { length, sha256: digest.map(|d| to_hex(&d.finalize())) },
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                let reply = Reply::json(400, &json!({"error": "bad request", "reason": e.to_string()})).then(After::Close);
                self.record(endpoint, connection, head, format!("refused:{e}"), 0, reply.status);
                return Ok(reply);
            }
            Err(e) => return Err(e),
        };
        let verdict = check.finish(head);
        let enforce = self.mode() == Mode::Enforce || need == Need::Attestation;
        let (verified, refusal) = judge(verdict, enforce);
        let (delay, failure) = self.faults.strike(&[service.name(), endpoint.name(), "all"]);
        let mut reply = match (failure, refusal) {
            (Some(failure), _) => failure.reply(),
            (None, Some(why)) => Reply::json(401, &json!({"error": "unauthorized", "reason": why})),
            (None, None) => self.serve(service, head, &target, attested, &seen),
        };
        reply.pause.0 += delay;
        self.record(endpoint, connection, head, verified, seen.length, reply.status);
        Ok(reply)
    }

    fn serve(&self, service: Service, head: &Head, target: &Target, attested: Option<&str>, body: &BodySeen) -> Reply {
        let now = self.now();
        let method = head.method();
        let failed = |e: io::Error| Reply::json(500, &json!({"error": e.to_string()}));
        let metadata = || head.values("metadata").any(|v| v.eq_ignore_ascii_case(b"true"));
        match service {
            Service::Test => framing::answer(head, target, body),
            Service::Status | Service::Key | Service::Attest if !metadata() => {
                Reply::json(400, &json!({"error": "Bad request. Required metadata header not specified"}))
            }
            Service::Status => {
                let reply = Reply::new(200, "application/json; charset=utf-8", self.status());
                reply.header("x-ms-azure-host-date", date::format(now))
            }
            Service::Key => lock(&self.keys).issue(now).map_or_else(failed, |key| Reply::json(200, &key)),
            Service::Attest => match lock(&self.keys).attested(attested.unwrap_or_default()) {
                Ok(()) => Reply::new(200, "text/plain", &b""[..]),
                Err(e) => failed(e),
            },
            Service::Machine => documents::machine(method, target),
            Service::Plugin => documents::host_plugin(method, target),
            Service::Imds if !metadata() => {
                Reply::json(400, &json!({"error": "Bad request. Required metadata header not specified"}))
            }
            Service::Imds if head.values("x-forwarded-for").next().is_some() => {
                Reply::json(400, &json!({"error": "Bad request. X-Forwarded-For is not allowed"}))
            }
            Service::Imds
                if target.path == "/metadata/instance" && target.parameters.len() == 1 && target.get("api-version").is_some() =>
            {
                self.whole_instance.clone()
            }
            Service::Imds => documents::imds(target, &self.instance, now),
            Service::Health => Reply::new(200, "text/plain", &b""[..]),
            Service::Unknown => Reply::json(404, &json!({"error": "Not found"})),
        }
    }

    /// Records a request that never became one.
    pub fn record_malformed(&self, endpoint: Endpoint, connection: u64, why: &str) {
        self.record(endpoint, connection, &Head::default(), format!("refused:{why}"), 0, 400);
    }

    fn record(&self, endpoint: Endpoint, connection: u64, head: &Head, verified: String, body: u64, status: u16) {
        if self.records.off() {
            return;
        }
        let Protected { claims, guid } = Protected::of(head);
        self.records.add(Record {
            number: 0,
            time: i64::try_from(self.clock().as_millis()).unwrap_or(0) + self.skew.load(Ordering::Relaxed) * 1000,
            connection,
            endpoint: endpoint.name(),
            method: head.method().to_owned(),
            target: String::from_utf8_lossy(head.target()).into_owned(),
            verified,
            claims,
            guid,
            status,
            headers: head.fields().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect(),
            body,
        });
    }

    /// Lets the next `count` requests for `what` fail: shorthand for tests.
    pub fn fail(&self, what: &str, how: Failure, count: u64) {
        self.faults.fail(what, how, count);
    }
}

/// The word for the record, and the reason if the request is refused.
fn judge(verdict: Verdict, enforce: bool) -> (String, Option<&'static str>) {
    match (verdict, enforce) {
        (Verdict::Signed, _) => ("signed".to_owned(), None),
        (Verdict::Exempt, _) => ("exempt".to_owned(), None),
        (Verdict::Unsigned, false) => ("unsigned".to_owned(), None),
        (Verdict::Unsigned, true) => ("refused:unsigned".to_owned(), Some("unsigned")),
        (Verdict::Wrong(why), false) => (format!("wrong:{why}"), None),
        (Verdict::Wrong(why), true) => (format!("refused:{why}"), Some(why)),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Status,
    Key,
    Attest,
    Machine,
    Plugin,
    Imds,
    Health,
    Test,
    Unknown,
}

impl Service {
    /// The word by which faults name it.
    const fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Key => "key",
            Self::Attest => "attest",
            _ => "",
        }
    }
}

/// The guid in `/secure-channel/key/{guid}/key-attestation`.
fn attested_guid(path: &str) -> Option<&str> {
    path.strip_prefix("/secure-channel/key/")?.strip_suffix("/key-attestation")
}

fn classify(endpoint: Endpoint, head: &Head, target: &Target) -> (Service, Need) {
    let path = target.path.as_str();
    let service = match endpoint {
        _ if path.starts_with("/test/") => Service::Test,
        Endpoint::WireServer => match head.method() {
            "GET" | "HEAD" if path == "/secure-channel/status" => Service::Status,
            "POST" if path == "/secure-channel/key" => Service::Key,
            "POST" if attested_guid(path).is_some() => Service::Attest,
            // Versions are at the root.
            "GET" | "HEAD" if path == "/" && target.get("comp").is_some() => Service::Machine,
            _ if path == "/machine" || path.starts_with("/machine/") => Service::Machine,
            _ if path == "/health" => Service::Health,
            _ => Service::Unknown,
        },
        Endpoint::HostGAPlugin => Service::Plugin,
        Endpoint::Imds if path.starts_with("/metadata/") => Service::Imds,
        Endpoint::Imds => Service::Unknown,
    };
    let lower = head.target().to_ascii_lowercase();
    let need = match (service, head.method(), lower.as_slice()) {
        (Service::Status | Service::Key, ..) => Need::Never,
        (Service::Attest, ..) => Need::Attestation,
        (_, "PUT", b"/vmagentlog") | (_, "POST", b"/machine/?comp=telemetrydata") => Need::Exempt,
        _ => Need::Signature,
    };
    (service, need)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(mode: Mode, version: Version) -> Host {
        Host::new(&Options { mode, version, ..Options::loopback() }).unwrap()
    }

    fn ask(host: &Host, endpoint: Endpoint, text: &str) -> Reply {
        let mut head = Head::default();
        head.read(&mut text.as_bytes()).unwrap();
        host.answer(endpoint, 1, &head, |_| Ok(0)).unwrap()
    }

    #[test]
    fn status_documents_of_both_versions() {
        let v2 = host(Mode::Enforce, Version::V2).status_document();
        assert_eq!(
            (v2["version"].as_str(), &v2["secureChannelEnabled"], &v2["keyGuid"]),
            (Some("2.0"), &json!(true), &Value::Null)
        );
        assert_eq!(v2["authorizationRules"]["wireserver"]["mode"], "enforce");
        let off = host(Mode::Disabled, Version::V2).status_document();
        assert_eq!(off["secureChannelEnabled"], false);
        for (mode, word) in [(Mode::Disabled, "Disabled"), (Mode::Audit, "Wireserver"), (Mode::Enforce, "WireserverAndImds")] {
            assert_eq!(host(mode, Version::V1).status_document()["secureChannelState"], word, "W-30");
        }
    }

    #[test]
    fn enforce_refuses_the_unsigned_and_serves_what_is_never_signed() {
        let host = host(Mode::Enforce, Version::V2);
        let imds = "GET /metadata/instance?api-version=2021-02-01 HTTP/1.1\r\nMetadata: true\r\n\r\n";
        assert_eq!(ask(&host, Endpoint::Imds, imds).status, 401);
        assert_eq!(
            ask(&host, Endpoint::WireServer, "GET /secure-channel/status HTTP/1.1\r\nMetadata: True \r\n\r\n").status,
            200
        );
        assert_eq!(ask(&host, Endpoint::HostGAPlugin, "PUT /vmAgentLog HTTP/1.1\r\n\r\n").status, 200);
        // W-65: without the slash it is not exempt.
        assert_eq!(ask(&host, Endpoint::WireServer, "POST /machine?comp=telemetrydata HTTP/1.1\r\n\r\n").status, 401);
        host.set_mode(Mode::Audit);
        assert_eq!(ask(&host, Endpoint::Imds, imds).status, 200);
        let verified: Vec<String> = host.records.all().into_iter().map(|r| r.verified).collect();
        assert_eq!(verified, ["refused:unsigned", "exempt", "exempt", "refused:unsigned", "unsigned"]);
    }

    #[test]
    fn attestation_is_never_believed_unsigned() {
        let host = host(Mode::Disabled, Version::V2);
        let key = host.keys(|k| k.issue(0)).unwrap();
        let path = format!("/secure-channel/key/{}/key-attestation", key["guid"].as_str().unwrap());
        assert_eq!(ask(&host, Endpoint::WireServer, &format!("POST {path} HTTP/1.1\r\nMetadata: True\r\n\r\n")).status, 401);
        assert!(host.keys(|k| k.current().is_none()));
    }

    #[test]
    fn imds_wants_its_header() {
        let host = host(Mode::Audit, Version::V2);
        for fields in ["", "Metadata: false\r\n", "Metadata: true\r\nX-Forwarded-For: 1.2.3.4\r\n"] {
            let text = format!("GET /metadata/instance?api-version=2021-02-01 HTTP/1.1\r\n{fields}\r\n");
            assert_eq!(ask(&host, Endpoint::Imds, &text).status, 400, "{fields}");
        }
    }
}
