//! The agent against a scripted host in memory. Every byte of every call passes through [`Exchange`].

use super::*;
use crate::authz::{CanonicalMode, Mode};
use crate::effect::{ConnectError, RecordKind, Recv};
use crate::exchange::{Exchange, FetchError, HostRequest, HostResponse};
use crate::identity::{Destination, TargetMode};
use crate::limits::Limits;
use crate::time::{HostClock, Wall};
use std::collections::BTreeMap;

mod background;
mod channel;
mod life;
mod provisioning;
mod rule_files;

const GUID: &str = "7f9c2ba4-e88f-4e6d-9c1a-5d0f3f6b2a11";
const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const OTHER_GUID: &str = "0f9c2ba4-e88f-4e6d-9c1a-5d0f3f6b2a12";
const OTHER_KEY: &str = "a0b0c0d0e0f00102030405060708090a0b0c0d0e0f1011121314151617181920";
/// Tue, 06 Jan 2026 08:15:30 GMT, the date of the vectors.
const DATE: u64 = 1_767_687_330;

fn v1(state: &str, guid: Option<&str>) -> String {
    let guid = guid.map_or("null".to_owned(), |g| format!("\"{g}\""));
    format!(
        r#"{{"authorizationScheme":"Azure-HMAC-SHA256","keyDeliveryMethod":"http","keyGuid":{guid},"secureChannelState":"{state}","version":"1.0"}}"#
    )
}

fn v2(guid: Option<&str>, rules: &str) -> String {
    let guid = guid.map_or("null".to_owned(), |g| format!("\"{g}\""));
    format!(
        r#"{{"authorizationScheme":"Azure-HMAC-SHA256","keyDeliveryMethod":"http","keyGuid":{guid},"keyIncarnationId":3,
            "secureChannelEnabled":true,"version":"2.0","authorizationRules":{rules}}}"#
    )
}

const RULES: &str = r#"{"imds":{"defaultAccess":"allow","mode":"audit","id":"imds-rules-17"},
    "wireserver":{"defaultAccess":"deny","mode":"enforce","id":"ws-rules-4"}}"#;

fn key_document(guid: &str, key: &str) -> String {
    format!(
        r#"{{"authorizationScheme":"Azure-HMAC-SHA256","guid":"{guid}","incarnationId":5,"issued":"2021-05-05T 12:00:00Z","key":"{key}"}}"#
    )
}

/// How the host answers: a status code and a body, or a broken connection.
type Answer = Result<(u16, String), FetchError>;

struct Host {
    status: Answer,
    key: Answer,
    attest: Answer,
    date: String,
}

impl Host {
    fn answer(&self, now: Now, request: &HostRequest) -> Result<HostResponse, FetchError> {
        let answer = match (request.method(), request.target()) {
            ("GET", "/secure-channel/status") => &self.status,
            ("POST", "/secure-channel/key") => &self.key,
            ("POST", target) if target.ends_with("/key-attestation") => &self.attest,
            other => panic!("unknown call {other:?}"),
        };
        let (status, body) = answer.clone()?;
        let mut exchange = Exchange::new(now, request.clone(), Limits::DEFAULT);
        exchange.transmitted(exchange.transmit().len());
        let date = &self.date;
        let bytes = format!("HTTP/1.1 {status} X\r\n{date}Content-Length: {}\r\n\r\n{body}", body.len());
        for part in bytes.as_bytes().chunks(1000) {
            exchange.recv_space()[..part.len()].copy_from_slice(part);
            exchange.handle_recv(now, Recv::Data(part.len()));
        }
        exchange.poll().expect("a whole response")
    }
}

/// The agent, its host, its disk and its redirector.
struct Rig {
    agent: Agent,
    tables: Summaries,
    now: Now,
    host: Host,
    disk: BTreeMap<String, Vec<u8>>,
    disk_error: Option<&'static str>,
    /// Reads give this instead of what was written.
    misread: Option<String>,
    redirect_error: Option<&'static str>,
    /// Effects in order, by short names.
    trace: Vec<String>,
    /// Everything that crossed the seam, in its `Debug` form.
    log: String,
    calls: Vec<HostRequest>,
    policy: Arc<Policy>,
    heartbeats: usize,
    redirects: Vec<PerDestination<TargetMode>>,
    files: BTreeMap<StateFile, String>,
    /// What is in the rules directory, by name.
    rule_files: BTreeMap<&'static str, RuleFile>,
    /// When the status file was written.
    status_writes: Vec<Mono>,
    /// Name and content of each.
    snapshots: Vec<(String, String)>,
    /// Resident memory that is answered.
    memory: u64,
    events: EventsWritten,
    event_writes: usize,
    cpu_limits: Vec<u8>,
    notices: Vec<String>,
    /// The notices that become events: task, component, level, text.
    told: Vec<(&'static str, &'static str, Level, String)>,
    replies: Vec<(QueryId, String)>,
}

impl Rig {
    fn new(status: String) -> Self {
        let config = AgentConfig {
            version: "1.2.3".into(),
            poll_interval: Duration::from_secs(15),
            status_path: "/var/log/azure-proxy-agent/status.json".into(),
            rules_folder: "/rules".into(),
            event_files: 30,
            canonical_mode: CanonicalMode::Off,
        };
        Self {
            agent: Agent::new(config, IdSeed(1), Arc::default()),
            tables: Summaries::default(),
            now: Now { mono: Mono(5_000_000_000), wall: Wall(DATE * 1_000_000_000 + 412_000_000) },
            host: Host {
                status: Ok((200, status)),
                key: Ok((200, key_document(GUID, KEY))),
                attest: Ok((200, String::new())),
                date: "x-ms-azure-host-date: Tue, 06 Jan 2026 08:15:30 GMT\r\n".to_owned(),
            },
            disk: BTreeMap::new(),
            disk_error: None,
            misread: None,
            redirect_error: None,
            trace: Vec::new(),
            log: String::new(),
            calls: Vec::new(),
            policy: Arc::default(),
            heartbeats: 0,
            redirects: Vec::new(),
            files: BTreeMap::new(),
            rule_files: BTreeMap::new(),
            status_writes: Vec::new(),
            snapshots: Vec::new(),
            memory: 4 << 20,
            events: EventsWritten::Nothing,
            event_writes: 0,
            cpu_limits: Vec::new(),
            notices: Vec::new(),
            told: Vec::new(),
            replies: Vec::new(),
        }
    }

    fn start(&mut self) {
        self.agent.handle_start(self.now);
        self.drain();
    }

    /// Starts with listener and redirector.
    fn start_all(&mut self) {
        self.start();
        self.event(AgentEvent::ListenerReady);
        self.event(AgentEvent::RedirectorReady);
    }

    fn event(&mut self, event: AgentEvent) {
        self.agent.handle_event(self.now, event);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(effect) = self.agent.poll_effect() {
            self.log.push_str(&format!("{effect:?}\n"));
            if let Some(answer) = self.carry_out(effect) {
                self.log.push_str(&format!("{answer:?}\n"));
                self.agent.handle_answer(self.now, answer);
            }
        }
    }

    fn carry_out(&mut self, effect: AgentEffect) -> Option<AgentAnswer> {
        let (name, answer) = match effect {
            AgentEffect::Fetch { id, request } => {
                let result = self.host.answer(self.now, &request);
                let name = format!("{} {}", request.method(), request.target());
                self.calls.push(request);
                (name, Some(AgentAnswer::Fetched { id, result }))
            }
            AgentEffect::LoadKey { id, guid } => {
                let bytes = self.misread.as_ref().map(|t| t.as_bytes()).or(self.disk.get(guid.as_str()).map(Vec::as_slice));
                let result = bytes.map(StoredKey::from_json).transpose().map_err(StoreError::from);
                ("load".to_owned(), Some(AgentAnswer::KeyLoaded { id, result }))
            }
            AgentEffect::StoreKey { id, key } => {
                let result = self.disk_error.map_or(Ok(()), |e| Err(StoreError(e.to_owned())));
                if result.is_ok() {
                    self.disk.insert(key.guid().to_string(), key.to_json().to_vec());
                }
                ("store".to_owned(), Some(AgentAnswer::KeyStored { id, result }))
            }
            AgentEffect::ReadRules { id, of, name } => {
                let found = self.rule_files.get(name).cloned().unwrap_or(RuleFile::Missing);
                (format!("look at {name}"), Some(AgentAnswer::RulesSeen { id, of, found }))
            }
            AgentEffect::WriteState { file, bytes } => {
                self.files.insert(file, String::from_utf8(bytes.to_vec()).unwrap());
                let result = self.disk_error.map_or(Ok(()), |e| Err(e.to_owned()));
                // Written whenever something changes: its story is told by tests of its own.
                if file == StateFile::Status {
                    self.status_writes.push(self.now.mono);
                    return Some(AgentAnswer::Written { file, result });
                }
                (format!("write {file:?}"), Some(AgentAnswer::Written { file, result }))
            }
            AgentEffect::RemoveState(file) => {
                self.files.remove(&file);
                (format!("remove {file:?}"), None)
            }
            AgentEffect::Redirect(targets) => {
                self.redirects.push(targets);
                let result = self.redirect_error.map_or(Ok(()), |e| Err(e.to_owned()));
                ("redirect".to_owned(), Some(AgentAnswer::Redirected(result)))
            }
            AgentEffect::Publish(policy) => {
                assert_eq!(policy.epoch.0, self.policy.epoch.0 + 1, "the epoch grows by one with each");
                let name = if policy.signer.is_some() { "publish with key" } else { "publish" };
                self.policy = policy;
                (name.to_owned(), None)
            }
            AgentEffect::Reply { to, reply } => {
                let LocalReply::Json(body) = reply else { panic!("no reply") };
                self.replies.push((to, String::from_utf8(body.to_vec()).unwrap()));
                ("reply".to_owned(), None)
            }
            AgentEffect::Status { to, draft } => {
                let effect = draft.complete(to, &mut self.tables, self.now);
                return self.carry_out(effect);
            }
            AgentEffect::Snapshot { name, bytes } => {
                self.snapshots.push((name.into(), String::from_utf8(bytes.to_vec()).unwrap()));
                return Some(AgentAnswer::SnapshotWritten(self.disk_error.map_or(Ok(()), |e| Err(e.to_owned()))));
            }
            AgentEffect::WriteEvents { files } => {
                assert_eq!(files, 30);
                self.event_writes += 1;
                return Some(AgentAnswer::EventsWritten(self.events.clone()));
            }
            AgentEffect::ReadMemory => return Some(AgentAnswer::Memory(self.memory)),
            AgentEffect::LimitCpu { percent } => {
                self.cpu_limits.push(percent);
                return None;
            }
            // Its story is told by a test of its own, not in every trace.
            AgentEffect::Heartbeat => {
                self.heartbeats += 1;
                return None;
            }
            AgentEffect::Notice { text, source, level, .. } => {
                self.told.extend(source.map(|source| (source.task, source.component, level, text.to_string())));
                assert!(!text.contains('\n'));
                self.notices.push(text.into());
                return None;
            }
        };
        self.trace.push(name);
        answer
    }

    /// Lets time pass, with every deadline on the way.
    fn pass(&mut self, time: Duration) {
        let end = self.now.mono + time;
        while let Some(next) = self.agent.deadline().filter(|d| d.at <= end) {
            let step = next.at.since(self.now.mono);
            self.now = Now { mono: self.now.mono + step, wall: self.now.wall.plus(step) };
            self.agent.handle_timeout(self.now);
            self.drain();
            assert!(self.agent.deadline().is_none_or(|d| d.at > self.now.mono), "a deadline that does not move");
        }
        let step = end.since(self.now.mono);
        self.now = Now { mono: end, wall: self.now.wall.plus(step) };
    }

    fn secs(&mut self, secs: u64) {
        self.pass(Duration::from_secs(secs));
    }

    /// The interval after an iteration that failed: up to a tenth longer.
    fn retry(&mut self) {
        self.pass(Duration::from_millis(16_500));
    }

    fn ask(&mut self, query: LocalQuery) -> String {
        let id = QueryId(self.replies.len() as u64);
        self.agent.handle_query(self.now, id, query);
        self.drain();
        let (to, body) = self.replies.last().cloned().expect("a reply");
        assert_eq!(to, id);
        body
    }

    fn provision(&mut self, tick: i128, notify: bool) -> (bool, String) {
        let body: serde_json::Value = serde_json::from_str(&self.ask(LocalQuery::Provision { tick, notify })).unwrap();
        (body["finished"].as_bool().unwrap(), body["errorMessage"].as_str().unwrap().to_owned())
    }

    fn status(&mut self) -> serde_json::Value {
        serde_json::from_str(&self.ask(LocalQuery::Status)).unwrap()
    }

    fn key_message(&mut self) -> String {
        self.status()["proxyAgentStatus"]["keyLatchStatus"]["message"].as_str().unwrap().to_owned()
    }

    fn guid_in_use(&self) -> Option<&str> {
        self.policy.signer.as_ref().map(|s| s.guid().as_str())
    }

    fn tick(&self) -> i128 {
        i128::from(self.now.wall.0)
    }

    fn polls(&self) -> usize {
        self.calls.iter().filter(|c| c.target() == "/secure-channel/status").count()
    }
}

fn targets(imds: TargetMode, wireserver: TargetMode) -> PerDestination<TargetMode> {
    PerDestination { imds, wireserver, hostga: wireserver }
}
