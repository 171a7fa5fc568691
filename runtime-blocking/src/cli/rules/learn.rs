//! `rules learn`: a recording in, a rules document out.

use super::super::args::{Given, JSON, Opt, Spec};
use super::super::recorded::{self, destination, word};
use super::super::term::clean;
use super::super::tool::{Failure, Io, Tool};
use super::super::usage::UsageError;
use azure_proxy_agent_core::advise::learn::{Learned, Lesson, Options, learn};
use azure_proxy_agent_core::authz::Mode;
use azure_proxy_agent_core::identity::Destination;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

pub(super) static TOOL: Tool = Tool {
    spec: Spec {
        name: "rules learn",
        about: "writes the rules that allow what was recorded",
        usage: "--from FILE... [OPTIONS]",
        operands: (0, usize::MAX),
        options: &[
            Opt::value("from", "<file>", "Files of the audit log, - for standard input; more may follow").repeated(),
            Opt::value("since", "<time>", "Only requests since then: 1h, 2d, or a time in UTC such as 2026-11-22T08:15"),
            Opt::value("user", "<name>", "Only requests of that account"),
            Opt::value(
                "dest",
                "<endpoint>",
                "Only the document of imds, wireserver (with what the host plug-in\nis asked for, which has the same one) or hostga",
            ),
            Opt::value("min-count", "<n>", "Leave out rules that fewer requests support [default: 1]"),
            Opt::flag("denied", "Learn also what rules denied in mode enforce"),
            Opt::flag("merge-users", "One identity for a program, whoever runs it"),
            Opt::value("keep", "<parameter>", "Hold that query parameter, too, to the values that were seen; may be\nrepeated")
                .repeated(),
            Opt::value("mode", "<mode>", "Mode of the document: audit or enforce [default: audit]"),
            Opt::value("default", "<access>", "What happens to all else: deny or allow [default: deny]"),
            Opt::value("id", "<text>", "Id of the document [default: learned-<endpoint>]"),
            Opt::flag("local", "Write the form of local rule files, which have no mode"),
            Opt::value("out", "<directory>", "Write a file for each endpoint there, and nothing on standard output"),
            Opt::flag("quiet", "No report").short('q'),
            JSON,
        ],
        details: "\
The document is on standard output; how many requests support each rule, where a rule is wider
than what was recorded, and what no rule can allow is reported on standard error. A document is
for one endpoint: a recording of several needs --dest or --out.

What rules would have denied in mode audit is learned like what they allowed: that is what
auditing is for. Look through the report before you enforce: whatever misbehaved while it was
recorded is in it, too.

Each program (by path) of each user is an identity. A path is one of a known service of the
endpoint, with everything below it, or else the one that was asked for. Of the query, what says
what is asked for is kept (resource, comp, type); the rest (api-version, format, incarnation,
client_id, nonces) is left free unless --keep names it.",
        exit: &[
            (0, "rules were written"),
            (1, "there was nothing to learn"),
            (2, "wrong arguments, or a file cannot be read or written"),
        ],
        examples: &[
            "rules learn --dest imds --from /var/log/azure-proxy-agent/audit.jsonl* > imds.json",
            "rules learn --out rules.new --mode enforce --from /var/log/azure-proxy-agent/audit.jsonl*",
            "rules learn --local --dest imds --since 1d --min-count 3 --from audit.jsonl",
        ],
    },
    run,
};

fn run(given: &Given, io: &mut Io<'_>) -> Result<u8, Failure> {
    let options = options(given)?;
    let files = recorded::files(given, "from");
    if files.is_empty() {
        return Err(UsageError::wrong("--from is missing: which recording shall be learned from?").into());
    }
    let recording = recorded::read(files)?;
    let lesson = learn(&recording.requests, &options);
    for remark in recorded::remarks(&recording) {
        let _ = writeln!(io.err, "{}", clean(&remark));
    }
    if given.has("json") {
        io.json(&lesson)?;
    } else {
        write(given, &lesson, io)?;
        if !given.has("quiet") {
            report(&lesson, io);
        }
    }
    Ok(u8::from(lesson.documents.is_empty()))
}

fn options(given: &Given) -> Result<Options, UsageError> {
    let mode = match given.text("mode")? {
        None => Mode::Audit,
        Some(word) => Mode::parse(word)
            .filter(|mode| *mode != Mode::Disabled)
            .ok_or_else(|| UsageError::wrong(format!("--mode needs audit or enforce, not {word:?}")))?,
    };
    let default_allow = match given.text("default")? {
        None | Some("deny") => false,
        Some("allow") => true,
        Some(word) => return Err(UsageError::wrong(format!("--default needs deny or allow, not {word:?}"))),
    };
    let keep = given
        .all("keep")
        .map(|name| name.to_str().map(str::to_owned).ok_or_else(|| UsageError::wrong(format!("--keep: {name:?} is not UTF-8"))));
    let id = given.text("id")?.map(str::to_owned);
    if given.has("local") && id.as_ref().is_some_and(|id| id.trim().is_empty()) {
        return Err(UsageError::wrong("--id: the id of a local rule file is not blank (R-135)"));
    }
    if given.has("json") && given.has("out") {
        return Err(UsageError::wrong("--json and --out do not go together"));
    }
    Ok(Options {
        since: given.text("since")?.map(recorded::since).transpose()?,
        user: given.text("user")?.map(str::to_owned),
        destination: given.text("dest")?.map(destination).transpose()?,
        min_count: given.parsed("min-count", "a whole number")?.unwrap_or(1),
        mode,
        default_allow,
        local: given.has("local"),
        id,
        merge_users: given.has("merge-users"),
        denied: given.has("denied"),
        keep: keep.collect::<Result<_, _>>()?,
    })
}

/// The documents: one to standard output, or each to its file.
fn write(given: &Given, lesson: &Lesson, io: &mut Io<'_>) -> Result<(), Failure> {
    if let Some(folder) = given.one("out") {
        let folder = Path::new(folder);
        fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        for learned in &lesson.documents {
            let Some(name) = file_name(learned) else {
                let _ =
                    writeln!(io.err, "there is no local rule file for {}: nothing is written for it", learned.destination.name());
                continue;
            };
            let path = folder.join(name);
            create(&path, learned.text().as_bytes()).map_err(|e| match e.kind() {
                io::ErrorKind::AlreadyExists => format!("{}: is there already; nothing is overwritten", path.display()),
                _ => format!("{}: {e}", path.display()),
            })?;
        }
        return Ok(());
    }
    match &*lesson.documents {
        [] => Ok(()),
        [learned] => Ok(io.out.write_all(learned.text().as_bytes())?),
        several => {
            let words: Vec<&str> = several.iter().map(|learned| word(learned.destination)).collect();
            let words = words.join(" and ");
            Err(format!("the recording has requests to {words}: choose one with --dest, or write all with --out DIRECTORY")
                .into())
        }
    }
}

fn file_name(learned: &Learned) -> Option<String> {
    match (learned.local, learned.destination) {
        (false, destination) => Some(format!("{}.json", word(destination))),
        //
        (true, Destination::Imds) => Some("IMDS_Rules.json".to_owned()),
        (true, Destination::WireServer) => Some("WireServer_Rules.json".to_owned()),
        (true, Destination::HostGaPlugin) => None,
    }
}

/// A new file, whole or not at all: the folder may be one that the agent watches. Rules name users and programs.
fn create(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o640).open(part)?;
    // A link, unlike a renaming, replaces nothing.
    let linked = file.write_all(text).and_then(|()| fs::hard_link(part, path));
    fs::remove_file(part)?;
    linked
}

/// What was learned from what; made harmless, because names come from outside (SEC-07).
fn report(lesson: &Lesson, io: &mut Io<'_>) {
    for line in lesson.to_string().lines() {
        let _ = writeln!(io.err, "{}", clean(line));
    }
    if lesson.documents.is_empty() {
        let _ = writeln!(io.err, "There is nothing to learn from: {} requests were looked at", lesson.requests);
    }
}

#[cfg(test)]
mod tests;
