//! Clients that ask all the time while something happens to the agent, and what must hold whatever that is: each request that
//! reached the host was signed, carried the right claims, came from a client that may ask, and stands in the audit log exactly
//! once, with its caller's identity (invariants 1, 3, 6; SEC-E4).

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use sandbox::{Host, Record, Sandbox, User};
use serde_json::Value;

use super::wire::{HOSTGA, IMDS, WIRESERVER};
use super::{PATIENCE, until};

/// Who a client is.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) name: &'static str,
    pub(crate) uid: u32,
    pub(crate) to: &'static str,
    pub(crate) endpoint: &'static str,
    /// Whether the rules allow what it asks.
    pub(crate) allowed: bool,
}

impl Client {
    pub(crate) const fn imds(name: &'static str, uid: u32) -> Self {
        Self { name, uid, to: IMDS, endpoint: "imds", allowed: true }
    }

    pub(crate) const fn wireserver(name: &'static str, uid: u32) -> Self {
        Self { name, uid, to: WIRESERVER, endpoint: "wireserver", allowed: uid == 0 }
    }

    pub(crate) const fn hostga(name: &'static str, uid: u32) -> Self {
        Self { name, uid, to: HOSTGA, endpoint: "hostga", allowed: uid == 0 }
    }
}

/// Users and root at IMDS, root at the WireServer; and two users at the WireServer, who are to be denied all the time.
pub(crate) const EIGHT: [Client; 8] = [
    Client::imds("ann", 2001),
    Client::imds("bob", 2002),
    Client::imds("cid", 2003),
    Client::imds("root1", 0),
    Client::wireserver("root2", 0),
    Client::wireserver("root3", 0),
    Client::wireserver("eve", 2004),
    Client::wireserver("mallory", 65534),
];

/// What tests ask beside the clients: of these only the signature is checked.
pub(crate) const PROBE: &str = "/test/bytes?n=10&probe";

/// What became of a request, as its client saw it: on a fresh connection or not, and the outcome in the words of `load`.
pub(crate) type Tally = BTreeMap<(bool, String), u64>;

#[derive(Debug)]
struct Running {
    client: Client,
    child: Child,
    reading: JoinHandle<Vec<(u64, bool, String)>>,
}

/// Clients at work, and somebody who writes down what host and audit log say meanwhile.
#[derive(Debug)]
pub(crate) struct Load {
    running: Vec<Running>,
    watching: Option<JoinHandle<Ledger>>,
    over: Arc<AtomicBool>,
}

impl Load {
    /// Lets `clients` ask, with a pause after each answer.
    pub(crate) fn start(sandbox: &Sandbox, host: &Arc<Host>, clients: &[Client], pause: Duration) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let mut ledger = Ledger::new(sandbox.log_folder().join("audit.jsonl"), Arc::clone(host));
        let end = Arc::clone(&over);
        let watching = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                ledger.look();
                std::thread::sleep(Duration::from_millis(50));
            }
            ledger
        });
        let running = clients.iter().map(|client| run(sandbox, client, pause)).collect();
        Self { running, watching: Some(watching), over }
    }

    /// Stops asking, lets `settle` end whatever still writes, and returns the evidence.
    pub(crate) fn finish(mut self, settle: impl FnOnce()) -> Evidence {
        let mut all = Vec::new();
        // All at once: some of them might have to wait for an answer.
        self.running.iter_mut().for_each(|r| drop(r.child.stdin.take()));
        for Running { client, mut child, reading } in self.running.drain(..) {
            let pid = child.id();
            let asked = reading.join().unwrap();
            assert!(child.wait().unwrap().success(), "{client:?}");
            all.push(Asked { client, pid, asked });
        }
        settle();
        self.over.store(true, Ordering::Relaxed);
        let mut ledger = self.watching.take().unwrap().join().unwrap();
        ledger.look();
        let mut evidence = Evidence { clients: all, ledger };
        evidence.settle();
        evidence
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for Running { mut child, .. } in self.running.drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn run(sandbox: &Sandbox, client: &Client, pause: Duration) -> Running {
    let mut command = match client.uid {
        0 => sandbox.command(program(sandbox)),
        uid => sandbox.command_as(&User::new(uid, uid, &[]), program(sandbox)),
    };
    command.args([client.name, client.to, &pause.as_micros().to_string()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        let line = |line: &str| {
            let mut words = line.split(' ');
            let mut word = || words.next().unwrap_or_else(|| panic!("{line:?}"));
            (word().parse().unwrap(), word() == "fresh", word().to_owned())
        };
        text.lines().map(line).collect()
    });
    Running { client: client.clone(), child, reading }
}

/// A copy that every user can execute.
fn program(sandbox: &Sandbox) -> PathBuf {
    let copy = sandbox.directory().join("load");
    if !copy.exists() {
        // Not by this process: another thread's fork could hold the copy open for writing, and it could not be executed.
        assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_load")).arg(&copy).status().unwrap().success());
    }
    copy
}

/// What host and audit log say, read while they write: the host forgets, and logs are rolled.
struct Ledger {
    path: PathBuf,
    log: Option<File>,
    unread: Vec<u8>,
    host: Arc<Host>,
    seen: HashMap<String, Vec<Record>>,
    audit: HashMap<String, Vec<Value>>,
}

impl Ledger {
    fn new(path: PathBuf, host: Arc<Host>) -> Self {
        Self { path, log: None, unread: Vec::new(), host, seen: HashMap::new(), audit: HashMap::new() }
    }

    fn look(&mut self) {
        for record in self.host.records.take() {
            self.seen.entry(record.target.clone()).or_default().push(record);
        }
        loop {
            // Whether it was rolled is asked before it is read: what is written in between is read from the old one.
            let rolled = match (&self.log, std::fs::metadata(&self.path)) {
                (Some(log), Ok(now)) => log.metadata().unwrap().ino() != now.ino(),
                (None, Ok(_)) => true,
                (_, Err(_)) => false,
            };
            if let Some(log) = &mut self.log {
                log.read_to_end(&mut self.unread).unwrap();
            }
            self.lines();
            if !rolled {
                return;
            }
            assert!(self.unread.is_empty(), "a log that ends within a line: {:?}", String::from_utf8_lossy(&self.unread));
            self.log = match File::open(&self.path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                log => Some(log.unwrap()),
            };
        }
    }

    fn lines(&mut self) {
        let whole = self.unread.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
        for line in self.unread[..whole].split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let line: Value =
                serde_json::from_slice(line).unwrap_or_else(|e| panic!("audit line {:?}: {e}", String::from_utf8_lossy(line)));
            self.audit.entry(line["url"].as_str().unwrap_or_default().to_owned()).or_default().push(line);
        }
        self.unread.drain(..whole);
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ledger of {} targets at the host, {} in the audit log", self.seen.len(), self.audit.len())
    }
}

/// What one client asked, and what became of it.
#[derive(Debug)]
struct Asked {
    client: Client,
    pid: u32,
    asked: Vec<(u64, bool, String)>,
}

/// Everything that was seen.
#[derive(Debug)]
pub(crate) struct Evidence {
    clients: Vec<Asked>,
    ledger: Ledger,
}

/// What must never happen, by kind, with the first few that did.
#[derive(Debug, Default)]
pub(crate) struct Violations(BTreeMap<&'static str, (u64, Vec<String>)>);

impl Violations {
    fn add(&mut self, kind: &'static str, what: impl FnOnce() -> String) {
        let (count, examples) = self.0.entry(kind).or_default();
        *count += 1;
        if examples.len() < 2 {
            examples.push(what());
        }
    }

    /// How often `kind` happened.
    pub(crate) fn count(&self, kind: &str) -> u64 {
        self.0.get(kind).map_or(0, |(count, _)| *count)
    }

    pub(crate) fn assert_none(&self, about: &str) {
        assert!(self.0.is_empty(), "{about}: {self:#?}");
    }
}

impl Evidence {
    /// The client who sent a target.
    fn asker(&self, target: &str) -> Option<&Asked> {
        let (name, _) = target.rsplit_once("&by=")?.1.rsplit_once('-')?;
        self.clients.iter().find(|c| c.client.name == name)
    }

    /// Holds host, audit log and clients against each other.
    pub(crate) fn judge(&self) -> Violations {
        let mut wrong = Violations::default();
        for (target, records) in &self.ledger.seen {
            if target.starts_with("/secure-channel/") {
                continue;
            }
            let lines = self.ledger.audit.get(target).map_or(&[][..], Vec::as_slice);
            for record in records.iter().filter(|r| r.verified != "signed") {
                wrong.add("reached the host unsigned", || format!("{record:?}"));
            }
            match self.asker(target) {
                None if target == PROBE => {}
                None => wrong.add("nobody asked for what the host saw", || format!("{records:?}")),
                Some(asker) => judge_one(asker, records, lines, &mut wrong),
            }
        }
        for (url, lines) in &self.ledger.audit {
            if let Some(asker) = self.asker(url) {
                if lines.len() > 1 {
                    wrong.add("audited more than once", || format!("{lines:?}"));
                }
                for line in lines {
                    judge_line(asker, line, &mut wrong);
                }
            }
        }
        for Asked { client, asked, .. } in &self.clients {
            for (number, _, outcome) in asked {
                if outcome == "200" && !client.allowed {
                    wrong.add("a denied client was served", || format!("{}-{number}", client.name));
                }
                if outcome == "mixed" {
                    wrong.add("an answer that is not the client's", || format!("{}-{number}", client.name));
                }
            }
        }
        wrong
    }

    /// What the allowed clients, or the denied ones, saw.
    pub(crate) fn tally(&self, allowed: bool) -> Tally {
        let mut tally = Tally::new();
        for Asked { asked, .. } in self.clients.iter().filter(|c| c.client.allowed == allowed) {
            for (_, fresh, outcome) in asked {
                *tally.entry((*fresh, outcome.clone())).or_default() += 1;
            }
        }
        tally
    }

    /// How many requests of clients the host saw, and how many stand in the audit log; and how many of those as interrupted.
    pub(crate) fn totals(&self) -> (usize, usize, usize) {
        let of_clients = |target: &&String| self.asker(target).is_some();
        let lines = || self.ledger.audit.iter().filter(|(url, _)| of_clients(url)).flat_map(|(_, lines)| lines);
        let interrupted = lines().filter(|l| l.to_string().contains("interrupted")).count();
        (self.ledger.seen.keys().filter(of_clients).count(), lines().count(), interrupted)
    }

    /// Waits until the audit log has caught up with the host, or patience ends: what it does not say then, it never says.
    fn settle(&mut self) {
        until(PATIENCE.min(Duration::from_secs(5)), || {
            self.ledger.look();
            let missing = self.ledger.seen.keys().filter(|t| self.asker(t).is_some() && !self.ledger.audit.contains_key(*t));
            (missing.count() == 0).then_some(())
        });
    }
}

/// One target of a client, at the host and in the audit log.
fn judge_one(asker: &Asked, records: &[Record], lines: &[Value], wrong: &mut Violations) {
    let Asked { client, .. } = asker;
    let claims = format!("{{ \"isRoot\": \"{}\"}}", client.uid == 0);
    for record in records {
        if record.claims.as_ref() != Some(&claims) || record.endpoint != client.endpoint {
            wrong.add("reached the host under a wrong identity", || format!("{client:?}: {record:?}"));
        }
    }
    if records.len() > 1 {
        wrong.add("reached the host more than once", || format!("{records:?}"));
    }
    if !client.allowed {
        wrong.add("a denied request reached the host", || format!("{records:?}"));
    }
    if lines.is_empty() {
        wrong.add("reached the host unaudited", || format!("{records:?}"));
    }
}

fn judge_line(asker: &Asked, line: &Value, wrong: &mut Violations) {
    let Asked { client, pid, .. } = asker;
    let found = (line["userId"].as_u64(), line["processId"].as_u64(), line["runAsElevated"].as_bool());
    if found != (Some(client.uid.into()), Some((*pid).into()), Some(client.uid == 0)) {
        wrong.add("audited under a wrong identity", || format!("{client:?}, process {pid}: {line}"));
    }
}
