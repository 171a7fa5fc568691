//! The story: seven calls, in this order.

use std::io;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::call::{Caller, Clients, Seen};
use crate::judge::{AtHost, Expected, Row, forged_fields, judge};
use crate::screen::{Screen, Style};

const IMDS: &str = "169.254.169.254:80";
const WIRESERVER: &str = "168.63.129.16:80";
const INSTANCE: [&str; 3] = ["-H", "Metadata:true", "http://169.254.169.254/metadata/instance?api-version=2021-02-01"];
const GOAL_STATE: [&str; 3] = ["-H", "x-ms-version: 2012-11-30", "http://168.63.129.16/machine/?comp=goalstate"];
/// Fields that only the agent may set, or nobody (W-62, PX-75), as a liar would send them.
const FORGED: [&str; 6] = [
    "-H",
    "x-ms-azure-host-claims: { \"isRoot\": \"true\"}",
    "-H",
    "x-ms-azure-host-authorization: Azure-HMAC-SHA256 forged",
    "-H",
    "x-ms-azure-signature: forged",
];
const IPV6: &str = include_str!("../../../../demo/ipv6.py");

/// The running demo.
pub(crate) struct Demo<'a> {
    pub(crate) screen: Screen,
    pub(crate) clients: Clients<'a>,
    pub(crate) rows: Vec<Row>,
}

impl Demo<'_> {
    /// Plays all scenes.
    pub(crate) fn play(&mut self) -> io::Result<()> {
        let signed = |peer, root| Expected { status: 200, peer, host: AtHost::Signed { root } };

        self.title("1. Root asks IMDS, the instance metadata service.");
        let seen = self.curl(Caller::Root, &INSTANCE)?;
        self.conclude("IMDS", Caller::Root, &seen, signed(IMDS, true), Vec::new());

        self.title("2. An ordinary user asks the same. The kernel told who connected, so the claim differs.");
        let seen = self.curl(Caller::Nobody, &INSTANCE)?;
        self.conclude("IMDS", Caller::Nobody, &seen, signed(IMDS, false), Vec::new());

        self.title("3. Root asks the WireServer, which hands out the machine's settings and certificates.");
        let seen = self.curl(Caller::Root, &GOAL_STATE)?;
        self.conclude("WireServer", Caller::Root, &seen, signed(WIRESERVER, true), Vec::new());

        self.title("4. The ordinary user may not. The agent refuses, and no byte reaches the host.");
        let seen = self.curl(Caller::Nobody, &GOAL_STATE)?;
        let wrong = self.audit_line()?;
        let refused = Expected { status: 403, peer: WIRESERVER, host: AtHost::Nothing };
        self.conclude("WireServer", Caller::Nobody, &seen, refused, wrong);

        self.title("5. The ordinary user claims to be root, with header fields that only the agent may set.");
        let seen = self.curl(Caller::Nobody, &[FORGED.as_slice(), INSTANCE.as_slice()].concat())?;
        let wrong = seen.host.iter().flat_map(forged_fields).collect();
        self.conclude("IMDS, with forged fields", Caller::Nobody, &seen, signed(IMDS, false), wrong);

        self.title("6. An IPv6 socket to ::ffff:169.254.169.254, as Java opens it, is redirected too.");
        self.command(Caller::Root, "python3 -c \"$(cat testdata/demo/ipv6.py)\"");
        let seen = self.clients.python(IPV6)?;
        let table = seen.table.as_deref().unwrap_or("nothing");
        let text = format!("{}, from {}; the kernel's socket table says {table}", seen.status, seen.peer);
        self.screen.item("python", Style::Plain, &text, ' ');
        let wrong = if table == "127.0.0.1:3080" { Vec::new() } else { vec!["it does not lead to the agent".to_owned()] };
        self.conclude("IMDS, from an IPv6 socket", Caller::Root, &seen, signed("[::ffff:169.254.169.254]:80", true), wrong);

        self.title("7. Root goes around the agent, from a cgroup without redirect. The host wants a signature.");
        let seen = self.curl(Caller::Around, &INSTANCE)?;
        let refused = Expected { status: 401, peer: IMDS, host: AtHost::Refused };
        self.conclude("IMDS, around the agent", Caller::Around, &seen, refused, Vec::new());
        Ok(())
    }

    fn title(&self, text: &str) {
        self.screen.gap();
        self.screen.text(Style::Strong, text);
    }

    fn command(&self, caller: Caller, line: &str) {
        self.screen.item(caller.prompt(), Style::Plain, line, ' ');
    }

    /// Shows the command, runs it, shows what the client saw.
    fn curl(&self, caller: Caller, arguments: &[&str]) -> io::Result<Seen> {
        let words: Vec<String> = arguments.iter().map(|word| quote(word)).collect();
        self.command(caller, &format!("curl {}", words.join(" ")));
        let seen = self.clients.curl(caller, arguments)?;
        let body = seen.body.split_whitespace().collect::<Vec<_>>().join(" ");
        let body = match body.char_indices().nth(44) {
            Some((end, _)) => format!(": {}…", body.get(..end).unwrap_or_default()),
            None if body.is_empty() => body,
            None => format!(": {body}"),
        };
        self.screen.item("curl", Style::Plain, &format!("{}, from {}{body}", seen.status, seen.peer), '\n');
        Ok(seen)
    }

    /// Shows what the host saw and what is not as expected, and adds a row to the summary.
    fn conclude(&mut self, asks: &'static str, caller: Caller, seen: &Seen, expected: Expected, wrong: Vec<String>) {
        let verdict = judge(seen, expected);
        self.screen.item("host", Style::Plain, &verdict.text, '\n');
        let wrong = [verdict.wrong, wrong].concat();
        for why in &wrong {
            self.screen.item("", Style::Bad, &format!("NOT AS EXPECTED: {why}"), ' ');
        }
        self.rows.push(Row { caller: caller.name(), asks, status: seen.status, host: verdict.short, wrong });
    }

    /// Shows the audit log's line about the refused call. Returns what is wrong with it.
    fn audit_line(&self) -> io::Result<Vec<String>> {
        const MEMBERS: [&str; 3] =
            ["\"userName\":\"nobody\"", "\"responseStatus\":\"403 Forbidden\"", "\"url\":\"/machine/?comp=goalstate\""];
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let log = match self.clients.sandbox.log("audit.jsonl") {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                log => log.unwrap_or_default(),
            };
            if let Some(line) = log.lines().find(|line| line.contains("\"decision\":\"deny\"")) {
                self.screen.item("audit", Style::Plain, &excerpt(line), ',');
                let lacks = MEMBERS.iter().filter(|member| !line.contains(*member));
                return Ok(lacks.map(|member| format!("the audit line lacks {member}")).collect());
            }
            if Instant::now() >= deadline {
                return Ok(vec!["the audit log has no line about it".to_owned()]);
            }
            // The agent writes it after it has answered, and nothing tells an outsider when.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What tells most of an audit line; the whole one is several lines on a screen.
fn excerpt(line: &str) -> String {
    const SHOWN: [&str; 10] =
        ["time", "decision", "reason", "userId", "userName", "processFullPath", "processCmdLine", "url", "ip", "responseStatus"];
    let members: Value = serde_json::from_str(line).unwrap_or_default();
    let shown = SHOWN.iter().filter_map(|name| Some(format!("\"{name}\":{}", members.get(name)?)));
    format!("{{{},…}}", shown.collect::<Vec<_>>().join(","))
}

/// A word as a shell would want it.
fn quote(word: &str) -> String {
    let plain = word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:".contains(&b));
    if plain { word.to_owned() } else { format!("'{word}'") }
}
