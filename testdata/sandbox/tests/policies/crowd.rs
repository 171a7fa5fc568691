//! Two hundred callers of five identities, all at once, while the rules that tell them apart change under them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::support::rules::{each_its_own, set};
use super::support::{Runtime, World, on_both_runtimes};
use super::{ELEVATED, ORDINARY, copy, status, user, world_with_accounts};

on_both_runtimes!(two_hundred_callers_of_five_identities_under_rules_that_change);

/// The two sets of rules: in the first, each identity has what is its own, in the second what is its neighbour's.
const SETS: [&str; 2] = ["own", "neighbours"];

/// Asks its two targets once for every line that it reads: `0` is the program, `1` and `2` the targets.
const CALLER: &str = r#"while read -r n; do
    "$0" -sS -m 60 -o /dev/null -w "%{http_code}\n" -H Metadata:true "http://169.254.169.254$1$n" -o /dev/null "http://169.254.169.254$2$n"
done"#;

/// One of the five.
struct Identity {
    document: Value,
    uid: u32,
    program: PathBuf,
}

/// One of the two hundred.
struct Asker {
    number: usize,
    identity: usize,
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Drop for Asker {
    fn drop(&mut self) {
        // Without a line more it ends.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

impl Asker {
    fn go(&mut self, round: usize) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{round}").unwrap();
    }

    /// The status of each of the two targets, when there is one.
    fn statuses(&mut self, round: usize) -> [(String, String); 2] {
        SETS.map(|set| {
            let mut status = String::new();
            self.answers.read_line(&mut status).unwrap();
            (target(self.identity, given(self.identity, set), self.number, round), status.trim_end().to_owned())
        })
    }
}

/// What it asks in a round: what the first set of rules gives its identity, and what the second one does.
fn target(identity: usize, of: usize, asker: usize, round: usize) -> String {
    format!("/test/echo?for={of}&by={identity}-{asker}-{round}")
}

/// R-43, S-02, SEC-10, PX-72: no mix-up. Each decision is the one that the rules of its epoch make for its own caller; each record names
/// that caller; and the host saw what was allowed, with its caller's claims, once. Two users by name and group, two programs of
/// one user, and root.
fn two_hundred_callers_of_five_identities_under_rules_that_change(runtime: Runtime) {
    let (world, _accounts) = world_with_accounts(runtime);
    let curl = fs::canonicalize("/usr/bin/curl").unwrap();
    let [one, two] = ["tool-one", "tool-two"].map(|name| copy(&world.sandbox, "/usr/bin/curl", name));
    let identities = [
        Identity { document: json!({"name": "0", "userName": "root"}), uid: 0, program: curl.clone() },
        Identity { document: json!({"name": "1", "userName": "ann", "exePath": curl}), uid: 2001, program: curl.clone() },
        Identity { document: json!({"name": "2", "groupName": "readers"}), uid: 2002, program: curl },
        Identity { document: json!({"name": "3", "exePath": one}), uid: 2003, program: one },
        Identity { document: json!({"name": "4", "processName": "tool-two"}), uid: 2003, program: two },
    ];
    let rules = SETS.map(|id| {
        let privilege =
            |n: usize| json!({"name": format!("for {n}"), "path": "/test", "queryParameters": {"for": n.to_string()}});
        let pairs = identities.iter().enumerate().map(|(n, i)| (i.document.clone(), privilege(given(n, id))));
        json!({"imds": each_its_own(id, "enforce", &pairs.collect::<Vec<_>>())})
    });
    set(&world, rules[0].clone());

    // Two hundred programs that start at once starve the account database, and who is unknown for that reason is nobody (I-14). So it
    // has been asked before, and the agent goes first.
    for Identity { uid, program, .. } in &identities {
        status(&world, &user(*uid), program, "/test/echo?known");
    }
    let mut askers: Vec<Asker> = (0..200).map(|number| start(&world, &identities, number)).collect();
    let mut statuses = BTreeMap::new();
    let mut round = |round: usize| {
        askers.iter_mut().for_each(|asker| asker.go(round));
        statuses.extend(askers.iter_mut().flat_map(|asker| asker.statuses(round)));
    };
    // Round 0: the first set. Then rounds while both are set in turn, until one has begun after a change. The last round: the second set.
    round(0);
    let changes = AtomicUsize::new(0);
    let enough = AtomicUsize::new(usize::MAX);
    let mut rounds = 1;
    std::thread::scope(|scope| {
        let changing = scope.spawn(|| {
            let mut made = 0;
            // The last change is one that no request has seen yet, and an odd one.
            while made < enough.load(Ordering::SeqCst) || made % 2 == 0 {
                made += 1;
                set(&world, rules[made % 2].clone());
                changes.store(made, Ordering::SeqCst);
            }
        });
        loop {
            let before = changes.load(Ordering::SeqCst);
            round(rounds);
            rounds += 1;
            if before > 0 || changing.is_finished() {
                break;
            }
        }
        enough.store(changes.load(Ordering::SeqCst) + 2, Ordering::SeqCst);
        changing.join().unwrap();
    });
    round(rounds);
    drop(askers);
    let requests = 400 * (rounds + 1);
    let lines = world.audit_lines(requests, |line| line["url"] != "/test/echo?known");
    assert_eq!(lines.len(), requests, "one line per request");
    let mut epochs: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    let mut allowed = BTreeSet::new();
    for line in &lines {
        let url = line["url"].as_str().unwrap();
        let (of, asker) = url.strip_prefix("/test/echo?for=").unwrap().split_once("&by=").unwrap();
        let identity: usize = asker.split('-').next().unwrap().parse().unwrap();
        let who = &identities[identity];
        assert_eq!((&line["userId"], &line["processFullPath"]), (&who.uid.into(), &json!(who.program)), "{line:#}");
        let set = set_of(line);
        match url.rsplit('-').next().unwrap().parse::<usize>().unwrap() {
            0 => assert_eq!(set, "own", "{line:#}"),
            last if last == rounds => assert_eq!(set, "neighbours", "{line:#}"),
            _ => {}
        }
        epochs.entry(line["epoch"].as_u64().unwrap()).or_default().insert(set);
        let allow = given(identity, set).to_string() == of;
        assert_eq!(line["decision"], if allow { "allow" } else { "deny" }, "{runtime}: {line:#}");
        assert_eq!(line["rule"]["identity"].as_str(), allow.then_some(identity.to_string()).as_deref(), "{line:#}");
        assert_eq!(statuses[url], if allow { "200" } else { "403" }, "{line:#}");
        if allow {
            allowed.insert(url);
        }
    }
    assert!(epochs.values().all(|sets| sets.len() == 1), "an epoch is one policy: {epochs:?}");
    assert!(epochs.len() >= 3, "{epochs:?}");
    let seen: Vec<_> = world.seen().into_iter().filter(|record| record.target.contains("&by=")).collect();
    assert_eq!(seen.len(), allowed.len(), "each once");
    for record in &seen {
        assert!(allowed.contains(record.target.as_str()), "{} was denied", record.target);
        let claims = if record.target.contains("&by=0-") { ELEVATED } else { ORDINARY };
        assert_eq!((record.verified.as_str(), record.claims.as_deref()), ("signed", Some(claims)), "{}", record.target);
    }
}

/// What an identity may ask for.
fn given(identity: usize, set: &str) -> usize {
    if set == "own" { identity } else { (identity + 1) % 5 }
}

fn set_of(line: &Value) -> &str {
    let set = line["rule"]["set"].as_str().unwrap_or_else(|| panic!("{line:#}"));
    set.split("-useLocalFileRules").next().unwrap()
}

fn start(world: &World, identities: &[Identity], number: usize) -> Asker {
    let identity = number % identities.len();
    let Identity { uid, program, .. } = &identities[identity];
    let targets = [given(identity, "own"), given(identity, "neighbours")].map(|of| {
        let whole = target(identity, of, number, 0);
        whole.strip_suffix('0').unwrap().to_owned()
    });
    let mut command: Command = world.client(&user(*uid), "nice");
    command.args(["-n", "10", "/bin/sh", "-c", CALLER]).arg(program).args(targets);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let answers = BufReader::new(child.stdout.take().unwrap());
    Asker { number, identity, child, answers }
}
