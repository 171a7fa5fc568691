//! `rules explain`: what becomes of one request, and why.

use super::super::args::{Given, JSON, Opt, Spec};
use super::super::term::{Style, Term};
use super::super::tool::{Failure, Io, Tool};
use super::super::usage::UsageError;
use super::caller::{CGROUP, ELEVATED, EXE, GID, GROUP, NOT_ELEVATED, PID, PROCESS, SHA256, UID, USER, Who};
use super::{live, tell};
use azure_proxy_agent_core::advise::{Documents, Question, Told, destination, explain, named_destination};
use azure_proxy_agent_core::identity::{Claims, Executable};
use azure_proxy_agent_core::policy::Policy;
use serde::Serialize;
use std::fmt::Write as _;

/// Longest file of documents that is read. Bytes.
pub(super) const MAX_FILE: u64 = 16 * 1024 * 1024;

pub(super) static TOOL: Tool = Tool {
    spec: Spec {
        name: "rules explain",
        about: "says what becomes of a request, and why",
        usage: "--rules FILE|--live --url URL [WHO] [OPTIONS]",
        operands: (0, 0),
        options: &[
            Opt::value(
                "rules",
                "<file>",
                "The document; or a snapshot of the agent's rules, or the\nhost's status document; - for standard input",
            )
            .short('r'),
            Opt::flag("live", "The documents that the running agent enforces; needs root"),
            Opt::value("local", "<file>", "With --rules: a local rule file that takes part as in the agent").short('l'),
            Opt::value("url", "<url>", "The request target: path and query, perhaps after\nhttp://HOST"),
            Opt::value("method", "<method>", "[default: GET]").short('X'),
            Opt::value("dest", "<endpoint>", "imds, wireserver or hostga [default: the host of the URL]"),
            USER,
            GROUP,
            UID,
            GID,
            EXE,
            PROCESS,
            SHA256,
            CGROUP,
            ELEVATED,
            NOT_ELEVATED,
            PID,
            Opt::flag("as-enforced", "As if the document's mode were enforce"),
            JSON,
        ],
        details: "\
It decides as the agent does, with the same code: checks before authorization, floor for
elevated callers, exempt requests, canonical form, privileges, identities, default access.
Shown is every stage of the canonical form, every privilege that matches and why it grants
or not, and the decision.",
        exit: &[
            (0, "the request goes to the host; also in mode audit, with which it would be denied"),
            (1, "it does not"),
            (2, "the question makes no sense, or a file cannot be used"),
        ],
        examples: &[
            "rules explain --rules imds.json --dest imds --url /metadata/instance --user alice",
            "rules explain --live --url 'http://168.63.129.16/machine/?comp=goalstate' --pid 812",
            "rules explain --rules imds.json --dest imds --url '/metadata/identity?x' --user bob --group ops --json",
        ],
    },
    run,
};

fn run(given: &Given, io: &mut Io<'_>) -> Result<u8, Failure> {
    let url = given.required("url")?.to_str().ok_or_else(|| UsageError::wrong("--url is not UTF-8"))?;
    let method = given.text("method")?.unwrap_or("GET");
    let destination = match given.text("dest")? {
        Some(word) => destination(word)
            .ok_or_else(|| UsageError::wrong(format!("--dest needs imds, wireserver or hostga, not {word:?}")))?,
        None => {
            named_destination(url).ok_or_else(|| UsageError::wrong("--dest is missing, and the URL names no guarded endpoint"))?
        }
    };
    let (source, bytes) = match (given.one("rules"), given.has("live")) {
        (Some(_), true) => return Err(UsageError::wrong("--rules and --live do not go together").into()),
        (None, false) => return Err(UsageError::wrong("which rules? --rules or --live says it").into()),
        (Some(file), false) => (file.to_string_lossy().into_owned(), io.read(file, MAX_FILE)?),
        (None, true) => ("the running agent".to_owned(), live::fetch()?),
    };
    let mut documents = Documents::read(&bytes, destination).map_err(|e| format!("{source}: {e}"))?;
    let mut notes = Vec::new();
    if let Some(file) = given.one("local") {
        if given.has("live") {
            return Err(UsageError::wrong("--local and --live do not go together: the agent has merged its own").into());
        }
        let bytes = io.read(file, MAX_FILE)?;
        notes.extend(documents.take_local(destination, &bytes).map_err(|e| e.to_string())?);
    }
    if given.has("as-enforced")
        && let Some(document) = documents.get_mut(destination)
    {
        notes.push(format!("decided as if the mode were enforce; the document says {:?}", document.mode));
        document.mode = "enforce".to_owned();
    }
    let (rules, findings) = documents.compile();
    let policy = Policy { rules, epoch: documents.epoch, ..Policy::default() };
    let who = Who::of(given, &policy)?;
    notes.splice(0..0, who.notes);
    let findings = findings.get(destination).as_slice();
    let question = Question { method, target: url, destination, claims: &who.claims };
    let told = explain(&policy.rules, policy.epoch, question);
    if given.has("json") {
        io.json(&Answer::new(&question, &source, findings, &notes, &told))?;
    } else {
        let text = text(&question, &source, findings, &notes, &told, io.term);
        io.out.write_all(text.as_bytes())?;
    }
    Ok(u8::from(!told.forwards()))
}

/// What `--json` prints.
#[derive(Serialize)]
struct Answer<'a> {
    outcome: &'static str,
    reason: String,
    forwarded: bool,
    request: Asked<'a>,
    caller: Caller,
    source: &'a str,
    findings: &'a [String],
    notes: &'a [String],
    #[serde(flatten)]
    told: &'a Told<'a>,
}

#[derive(Serialize)]
struct Asked<'a> {
    method: &'a str,
    url: &'a str,
    destination: &'static str,
}

/// Named as in records (PX-86 to PX-93).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Caller {
    user_id: u32,
    user_name: String,
    user_groups: Vec<String>,
    process_full_path: String,
    run_as_elevated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup_path: Option<String>,
}

impl<'a> Answer<'a> {
    fn new(question: &Question<'a>, source: &'a str, findings: &'a [String], notes: &'a [String], told: &'a Told<'a>) -> Self {
        let Question { method, target: url, destination, claims } = *question;
        let caller = Caller {
            user_id: claims.user_id,
            user_name: claims.user_name.lossy().into_owned(),
            user_groups: claims.user_groups.iter().map(|group| group.lossy().into_owned()).collect(),
            process_full_path: claims.exe_path().map(|path| String::from_utf8_lossy(path).into_owned()).unwrap_or_default(),
            run_as_elevated: claims.is_elevated(),
            exe_sha256: claims.exe_hash().map(ToString::to_string),
            cgroup_path: claims.cgroup_path().map(|path| String::from_utf8_lossy(path).into_owned()),
        };
        let request = Asked { method, url, destination: destination.name() };
        let (outcome, reason, forwarded) = (told.word(), told.reason(), told.forwards());
        Self { outcome, reason, forwarded, request, caller, source, findings, notes, told }
    }
}

fn text(question: &Question<'_>, source: &str, findings: &[String], notes: &[String], told: &Told<'_>, term: Term) -> String {
    let mut text = String::new();
    let mut line = |head: &str, rest: &str| {
        let head = format!("{head:9}");
        text.extend([&term.paint(Style::Bold, head).to_string(), " ", &tell::clean(rest), "\n"]);
    };
    let Question { method, target, destination, claims } = *question;
    line("request", &format!("{method} {target} to {} ({})", destination.name(), destination.addr()));
    line("caller", &caller(claims));
    notes.iter().for_each(|note| line("", &format!("({note})")));
    line("rules", source);
    findings.iter().for_each(|finding| line("", finding));
    text.push_str(&tell::told(told, term));
    text
}

fn caller(claims: &Claims) -> String {
    let groups: Vec<_> = claims.user_groups.iter().map(|group| group.lossy()).collect();
    let uid = match claims.user_id {
        azure_proxy_agent_core::advise::UNKNOWN_UID => "user id unknown".to_owned(),
        uid => format!("user id {uid}"),
    };
    let groups = if groups.is_empty() { "no groups".to_owned() } else { format!("groups {}", groups.join(", ")) };
    let exe = match &claims.executable {
        Executable::Known(path) if !path.is_empty() => path.lossy().into_owned(),
        Executable::Elsewhere(path) => format!("mnt:{}", path.lossy()),
        Executable::Known(_) | Executable::Unknown => "program unknown".to_owned(),
    };
    let elevated = if claims.is_elevated() { "elevated" } else { "not elevated" };
    let mut text = format!("{} ({uid}, {elevated}), {groups}, {exe}", claims.user_name.lossy());
    if let Some(hash) = claims.exe_hash() {
        let _ = write!(text, ", SHA-256 {hash}");
    }
    if let Some(cgroup) = claims.cgroup_path() {
        let _ = write!(text, ", cgroup {}", String::from_utf8_lossy(cgroup));
    }
    text
}
