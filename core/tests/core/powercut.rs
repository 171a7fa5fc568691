//! The power is cut, or the agent killed, after every step: of the first key, of a rotation, of the tag files, of a restart after such an
//! accident, and so on until no new state of disk and host appears. From each of them a restarted agent must come to the key that the
//! host wants, and no host may ever want a key that a power cut could take back (W-96, W-99, FS-29, FS-30; invariant 7 of the design).
//!
//! The order of the steps is the one that the shells carry out ([`durable`](azure_proxy_agent_core::durable)). That the test can fail is
//! tested too: each step that is left out or done too late is found.

mod disk;
mod rules;

use azure_proxy_agent_core::agent::{
    Agent, AgentAnswer, AgentConfig, AgentEffect, AgentEvent, AgentTimer, IdSeed, StateFile, StoreError, StoredKey,
};
use azure_proxy_agent_core::authz::CanonicalMode;
use azure_proxy_agent_core::durable::{FolderStep, MAKE_FOLDER, REPLACE, ReplaceStep};
use azure_proxy_agent_core::exchange::{HostRequest, HostResponse};
use azure_proxy_agent_core::time::{Mono, Now, Wall};
use disk::Disk;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// The keys of the story, in the order in which the host has them.
const GUIDS: [&str; 2] = ["aaaaaaaa-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000002"];

fn key_document(key: usize) -> String {
    let (guid, hex) = (GUIDS[key], format!("{key}123456789abcdef").repeat(4));
    format!(r#"{{"authorizationScheme":"Azure-HMAC-SHA256","guid":"{guid}","issued":"2026-01-06T08:15:30Z","key":"{hex}"}}"#)
}

fn key_file(key: usize) -> Vec<u8> {
    StoredKey::from_json(key_document(key).as_bytes()).unwrap().to_json().to_vec()
}

fn key_name(key: usize) -> String {
    format!("{}.key", GUIDS[key])
}

/// What the host knows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Host {
    /// The key that its status names.
    named: Option<usize>,
    attested: BTreeSet<usize>,
    /// The key that it hands out.
    offer: usize,
    /// Each question gets another key, as long as there are some.
    generous: bool,
}

/// The order of things on disk.
#[derive(Debug, Clone)]
struct Order {
    replace: Vec<ReplaceStep>,
    folder: Vec<FolderStep>,
    /// [`FolderStep::SyncParent`] also for a folder that exists, before a key is stored.
    always: bool,
}

impl Order {
    fn real() -> Self {
        Self { replace: REPLACE.to_vec(), folder: MAKE_FOLDER.to_vec(), always: true }
    }

    fn without(step: ReplaceStep) -> Self {
        Self { replace: REPLACE.into_iter().filter(|s| *s != step).collect(), ..Self::real() }
    }
}

/// A machine that is on: an agent, its disk, its host; and a photograph of disk and host after every step.
struct Machine<'a> {
    agent: Agent,
    now: Now,
    disk: Disk,
    host: Host,
    order: &'a Order,
    photos: Vec<(Disk, Host)>,
    acquired: usize,
    in_use: Option<String>,
    wrong: BTreeSet<String>,
}

impl<'a> Machine<'a> {
    fn new(disk: Disk, host: Host, order: &'a Order) -> Self {
        let config = AgentConfig {
            version: "1".into(),
            rules_folder: "/rules".into(),
            poll_interval: Duration::from_secs(15),
            status_path: "/s".into(),
            event_files: 0,
            canonical_mode: CanonicalMode::Off,
        };
        let now = Now { mono: Mono(1), wall: Wall(1_767_687_330_000_000_000) };
        Self {
            agent: Agent::new(config, IdSeed(1), Arc::default()),
            now,
            disk,
            host,
            order,
            photos: Vec::new(),
            acquired: 0,
            in_use: None,
            wrong: BTreeSet::new(),
        }
    }

    /// Starts, and lives for three polls.
    fn run(&mut self) {
        self.photo();
        self.make_folder(false);
        self.agent.handle_start(self.now);
        self.drain();
        for event in [AgentEvent::ListenerReady, AgentEvent::RedirectorReady] {
            self.agent.handle_event(self.now, event);
            self.drain();
        }
        let mut polls = 0;
        while polls < 2 {
            let Some(next) = self.agent.deadline() else { break };
            polls += usize::from(next.timer == AgentTimer::Poll);
            self.now.mono = next.at;
            self.agent.handle_timeout(self.now);
            self.drain();
        }
    }

    fn photo(&mut self) {
        self.photos.push((self.disk.clone(), self.host.clone()));
    }

    fn drain(&mut self) {
        while let Some(effect) = self.agent.poll_effect() {
            let answer = match effect {
                AgentEffect::Fetch { id, request } => Some(AgentAnswer::Fetched { id, result: Ok(self.call(&request)) }),
                AgentEffect::LoadKey { id, guid } => {
                    let file = self.disk.read(&format!("{guid}.key"));
                    let result = file.map(|bytes| StoredKey::from_json(&bytes)).transpose().map_err(StoreError::from);
                    Some(AgentAnswer::KeyLoaded { id, result })
                }
                AgentEffect::StoreKey { id, key } => {
                    self.make_folder(self.order.always);
                    let result = self.replace(&format!("{}.key", key.guid()), &format!("{}.tmp", key.guid()), &key.to_json());
                    Some(AgentAnswer::KeyStored { id, result: result.map_err(|e| StoreError(e.to_owned())) })
                }
                AgentEffect::WriteState { file, bytes } => {
                    let result = match tag(file) {
                        Some((name, temp)) => self.replace(name, temp, &bytes).map_err(str::to_owned),
                        None => Ok(()),
                    };
                    Some(AgentAnswer::Written { file, result })
                }
                AgentEffect::RemoveState(file) => {
                    if let Some((name, _)) = tag(file) {
                        self.disk.unlink(name);
                        self.photo();
                    }
                    None
                }
                AgentEffect::Redirect(_) => Some(AgentAnswer::Redirected(Ok(()))),
                AgentEffect::Publish(policy) => {
                    self.in_use = policy.signer.as_ref().map(|signer| signer.guid().as_str().to_owned());
                    None
                }
                _ => None,
            };
            if let Some(answer) = answer {
                self.agent.handle_answer(self.now, answer);
            }
        }
    }

    /// One call to the host; the cut may come before its answer is heard.
    fn call(&mut self, request: &HostRequest) -> HostResponse {
        let response = |body: String| HostResponse { status: 200, body: Zeroizing::new(body.into_bytes()), ..Default::default() };
        let answer = match request.target() {
            "/secure-channel/status" => {
                let guid = self.host.named.map_or("null".to_owned(), |key| format!("\"{}\"", GUIDS[key]));
                response(format!(
                    r#"{{"authorizationScheme":"Azure-HMAC-SHA256","keyDeliveryMethod":"http","keyGuid":{guid},"secureChannelState":"Wireserver","version":"1.0"}}"#
                ))
            }
            "/secure-channel/key" => {
                self.acquired += 1;
                let key = self.host.offer;
                if self.host.generous && key + 1 < GUIDS.len() {
                    self.host.offer += 1;
                }
                response(key_document(key))
            }
            target => {
                let key = GUIDS.iter().position(|guid| target.contains(guid)).expect("an attestation");
                // The heart of it: from now on the host demands this key.
                for after in self.disk.cuts() {
                    if after.read(&key_name(key)) != Some(key_file(key)) {
                        self.wrong.insert("W-96: attested while a power cut could still take the key".to_owned());
                    }
                }
                self.host.named = Some(key);
                self.host.attested.insert(key);
                response(String::new())
            }
        };
        self.photo();
        answer
    }

    fn make_folder(&mut self, always: bool) {
        let existed = self.disk.has_folder();
        for step in self.order.folder.clone() {
            match step {
                FolderStep::Make => self.disk.make_folder(),
                FolderStep::SyncParent if !existed || always => self.disk.sync_root(),
                FolderStep::SyncParent => {}
            }
            self.photo();
        }
    }

    fn replace(&mut self, name: &str, temp: &str, bytes: &[u8]) -> Result<(), &'static str> {
        for step in self.order.replace.clone() {
            let done = match step {
                ReplaceStep::RemoveTemp => {
                    self.disk.unlink(temp);
                    Ok(())
                }
                ReplaceStep::CreateTemp => self.disk.create(temp),
                ReplaceStep::SetMode => Ok(()),
                ReplaceStep::Write => self.disk.write(temp, bytes),
                ReplaceStep::SyncFile => self.disk.sync_file(temp).or_else(|_| self.disk.sync_file(name)),
                ReplaceStep::Rename => self.disk.rename(temp, name),
                ReplaceStep::RenameNew => Err("no file of this test is of that kind"),
                ReplaceStep::SyncFolder => {
                    self.disk.sync_folder();
                    Ok(())
                }
            };
            if done.is_err() {
                self.disk.unlink(temp);
                self.wrong.insert("FS-30: something stands in the way of a new file".to_owned());
            }
            self.photo();
            done?;
        }
        Ok(())
    }
}

/// Names as the shells have them.
fn tag(file: StateFile) -> Option<(&'static str, &'static str)> {
    match file {
        StateFile::ProvisionedTag => Some(("provisioned.tag", "provisioned.tag.tmp")),
        StateFile::StatusTag => Some(("status.tag", "status.tag.tmp")),
        _ => None,
    }
}

/// What is wrong with a disk after a power cut, whoever starts on it.
fn damage(disk: &Disk, host: &Host) -> Option<String> {
    for name in disk.names() {
        let content = disk.read(&name).unwrap();
        let whole = match name.as_str() {
            "provisioned.tag" => content.len() == 23 && content.starts_with(b"2026-"),
            "status.tag" => content.is_empty(),
            temp if temp.ends_with("tmp") => true,
            key => (0..GUIDS.len()).any(|n| key == key_name(n) && content == key_file(n)),
        };
        if !whole {
            return Some(format!("FS-30: {} is torn", name.rsplit('.').next().unwrap()));
        }
    }
    let lost = host.attested.iter().any(|key| disk.read(&key_name(*key)) != Some(key_file(*key)));
    lost.then(|| "invariant 7: a key that was attested is lost".to_owned())
}

/// Every state that accidents lead to, from this one on; what was wrong, and how many states there were. The power may be cut any number
/// of times; between two cuts the agent alone is killed once or not.
fn explore(disk: Disk, host: Host, order: &Order) -> (BTreeSet<String>, usize) {
    let mut wrong = BTreeSet::new();
    let mut seen = BTreeSet::from([(disk.clone(), host.clone())]);
    let mut todo = VecDeque::from([(disk, host, true)]);
    while let Some((disk, host, lives)) = todo.pop_front() {
        let mut machine = Machine::new(disk, host.clone(), order);
        machine.run();
        wrong.append(&mut machine.wrong);
        // Undisturbed, it comes to the key that the host wants, with one that it has if the host has attested one.
        let wanted = machine.host.named.map(|key| GUIDS[key].to_owned());
        if machine.in_use.is_none() || machine.in_use != wanted {
            wrong.insert("no key in use in the end".to_owned());
        }
        if host.named.is_some_and(|key| host.attested.contains(&key)) && machine.acquired > 0 {
            wrong.insert("W-90: another key for one that was attested".to_owned());
        }
        machine.photos.dedup();
        for (disk, host) in machine.photos {
            for after in disk.cuts() {
                wrong.extend(damage(&after, &host));
                if seen.insert((after.clone(), host.clone())) {
                    todo.push_back((after, host.clone(), true));
                }
            }
            // The agent alone is killed: nothing is lost, and nothing is safer than before.
            if lives && seen.insert((disk.clone(), host.clone())) {
                todo.push_back((disk, host, false));
            }
        }
        if !wrong.is_empty() {
            break;
        }
    }
    (wrong, seen.len())
}

/// Where the stories begin: no folder yet; a machine that has a key whose host wants the next one.
fn beginnings() -> Vec<(Disk, Host)> {
    let first = |generous| Host { named: None, attested: BTreeSet::new(), offer: 0, generous };
    let mut old = Disk::default();
    old.make_folder();
    old.sync_root();
    old.create(&key_name(0)).unwrap();
    old.write(&key_name(0), &key_file(0)).unwrap();
    old.sync_file(&key_name(0)).unwrap();
    old.sync_folder();
    let rotation = Host { named: Some(1), attested: BTreeSet::from([0]), offer: 1, generous: false };
    vec![(Disk::default(), first(false)), (Disk::default(), first(true)), (old, rotation)]
}

/// W-92, W-93, W-96, W-99, FS-29, FS-30, FS-33 to FS-35.
#[test]
fn w96_w99_fs29_fs30_no_power_cut_and_no_kill_loses_a_key() {
    for (disk, host) in beginnings() {
        let (wrong, states) = explore(disk, host, &Order::real());
        assert_eq!(wrong, BTreeSet::new());
        assert!(states > 100, "{states} states: nothing was cut");
    }
}

/// The same with one step missing or late: found, or the test above proves nothing.
#[test]
fn w96_a_step_left_out_is_found() {
    let late_sync = {
        let mut order = Order::real();
        order.replace.swap(4, 5);
        order
    };
    let orders = [
        ("without SyncFile", Order::without(ReplaceStep::SyncFile)),
        ("SyncFile after Rename", late_sync),
        ("without SyncFolder", Order::without(ReplaceStep::SyncFolder)),
        ("without RemoveTemp", Order::without(ReplaceStep::RemoveTemp)),
        ("without SyncParent", Order { folder: vec![FolderStep::Make], ..Order::real() }),
        ("without SyncParent of a folder that exists", Order { always: false, ..Order::real() }),
    ];
    for (name, order) in orders {
        let found: Vec<_> = beginnings().into_iter().flat_map(|(disk, host)| explore(disk, host, &order).0).collect();
        assert!(!found.is_empty(), "{name} goes unnoticed");
    }
}
