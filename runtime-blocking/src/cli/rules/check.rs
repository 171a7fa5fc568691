//! `rules check`: what is wrong with documents, where, and what to do about it.

mod machine;
mod print;

use super::super::args::{Given, JSON, Opt, Spec};
use super::super::recorded::{destination, word};
use super::super::tool::{Failure, Io, Tool};
use super::super::usage::UsageError;
use crate::config::suggest::closest;
use azure_proxy_agent_core::advise::lint::{self, Code, Form, Options, Report, Severity};
use azure_proxy_agent_core::identity::Destination;
use print::Lines;
use serde::Serialize;
use std::ffi::OsStr;
use std::path::Path;

/// More than this nobody reads into memory for a message; the largest document that is taken is much smaller.
const READ: u64 = 64 * 1024 * 1024;

const CLEAN: u8 = 0;
const FINDINGS: u8 = 1;
const UNREADABLE: u8 = 2;

pub(super) static TOOL: Tool = Tool {
    spec: Spec {
        name: "rules check",
        about: "says what is wrong with rule documents, and what may not be meant",
        usage: "[OPTIONS] FILE...",
        operands: (1, usize::MAX),
        options: &[
            Opt::value(
                "dest",
                "<endpoint>",
                "The documents are for imds, wireserver or hostga\n[default: as file name and paths tell]",
            ),
            Opt::flag("local", "They are local rule files"),
            Opt::flag("remote", "They are documents of the host [default: those with a mode]"),
            Opt::flag("machine", "They are for this machine: look whether its users, groups and programs\nare there"),
            Opt::flag("strict", "Warnings are findings, too"),
            Opt::value("allow", "<code>", "Say nothing of that kind: it is meant so; may be repeated").repeated(),
            JSON,
        ],
        details: "\
FILE may be - for standard input. Each finding has a code, which --allow takes, its place in the
file, and what to do about it. Errors: the agent does not take the document, or it does harm.
Warnings: it does what it says, which is hardly what is meant. Notes: it may well be meant.

Whether a document is taken, what its privileges match, and whom it keeps out is asked of the
same code that decides in the agent. What each code means: docs/rules.md.",
        exit: &[
            (CLEAN, "no errors (with --strict: no warnings either)"),
            (FINDINGS, "there are some"),
            (UNREADABLE, "wrong arguments, or a file cannot be read"),
        ],
        examples: &[
            "rules check imds.json",
            "rules check --strict --local --dest imds /var/lib/azure-proxy-agent/rules/IMDS_Rules.json",
            "rules check --json --allow weak-identity - < imds.json",
        ],
    },
    run,
};

/// What was said, for programs.
#[derive(Serialize)]
struct All {
    files: Vec<Checked>,
}

/// What was said about a file.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Checked {
    file: String,
    form: &'static str,
    /// The form, and the destination if it is given, were guessed.
    assumed: bool,
    destination: Option<&'static str>,
    errors: usize,
    warnings: usize,
    /// Further ones of kinds of which there are very many.
    omitted: usize,
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct Finding {
    code: Code,
    severity: Severity,
    message: String,
    /// The way to it: `rules.privileges[3].path`.
    place: String,
    line: Option<usize>,
    column: Option<usize>,
    hint: Option<String>,
}

fn run(given: &Given, io: &mut Io<'_>) -> Result<u8, Failure> {
    let asked = Asked::new(given)?;
    let mut status = CLEAN;
    let mut all = Vec::new();
    for file in &given.operands {
        let bytes = match io.read(file, READ) {
            Ok(bytes) => bytes,
            Err(Failure::Other(why)) => {
                writeln!(io.err, "{why}")?;
                status = UNREADABLE;
                continue;
            }
            Err(other) => return Err(other),
        };
        let about = asked.about(file, &bytes);
        let machine = asked.machine.then_some(&machine::This as &dyn lint::Machine);
        let mut report = lint::lint(&bytes, &Options { form: about.form, destination: about.destination, machine });
        report.lints.retain(|lint| !asked.allowed.contains(&lint.code));
        let worst = report.lints.iter().map(|lint| lint.severity).max();
        if worst >= Some(if asked.strict { Severity::Warning } else { Severity::Error }) {
            status = status.max(FINDINGS);
        }
        if asked.json {
            all.push(about.json(&report, &Lines::new(&bytes)));
        } else {
            print::report(&about, &report, &Lines::new(&bytes), io)?;
        }
    }
    if asked.json {
        io.json(&All { files: all })?;
    }
    Ok(status)
}

/// The options.
struct Asked {
    destination: Option<Destination>,
    form: Option<Form>,
    machine: bool,
    strict: bool,
    json: bool,
    allowed: Vec<Code>,
}

impl Asked {
    fn new(given: &Given) -> Result<Self, UsageError> {
        let form = match (given.has("local"), given.has("remote")) {
            (true, true) => return Err(UsageError::wrong("--local and --remote do not go together")),
            (true, false) => Some(Form::Local),
            (false, true) => Some(Form::Remote),
            (false, false) => None,
        };
        let mut allowed = Vec::new();
        for code in given.all("allow") {
            let text = code.to_string_lossy();
            for code in text.split(',') {
                allowed.push(code.parse().map_err(|()| {
                    let meant = closest(code, Code::ALL.iter().map(|code| code.word()));
                    let hint = meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
                    UsageError::wrong(format!("--allow: there is no code {code:?}{hint}"))
                })?);
            }
        }
        let destination = given.text("dest")?.map(destination).transpose()?;
        if (form, destination) == (Some(Form::Local), Some(Destination::HostGaPlugin)) {
            return Err(UsageError::wrong("the host plug-in has no local rule file"));
        }
        let has = |option| given.has(option);
        Ok(Self { destination, form, machine: has("machine"), strict: has("strict"), json: has("json"), allowed })
    }

    fn about(&self, file: &OsStr, bytes: &[u8]) -> About {
        let name = Path::new(file).file_name().unwrap_or_default().to_string_lossy();
        let by_name = lint::destination_of_file(&name);
        About {
            file: if file == "-" { "standard input".into() } else { file.to_string_lossy().into_owned() },
            form: self.form.unwrap_or_else(|| Form::guess(bytes, &name)),
            destination: self.destination.or(by_name).or_else(|| lint::guess_destination(bytes)),
            guessed: self.form.is_none(),
        }
    }
}

/// What is known of a file.
struct About {
    file: String,
    form: Form,
    destination: Option<Destination>,
    guessed: bool,
}

impl About {
    fn json(&self, report: &Report, lines: &Lines<'_>) -> Checked {
        let findings = report.lints.iter().map(|lint| {
            let at = lint.span.as_ref().map(|span| lines.position(span.start));
            Finding {
                code: lint.code,
                severity: lint.severity,
                message: lint.message.clone(),
                place: lint.place.clone(),
                line: at.map(|(line, _)| line),
                column: at.map(|(_, column)| column),
                hint: lint.hint.clone(),
            }
        });
        Checked {
            file: self.file.clone(),
            form: self.form.word(),
            assumed: self.guessed,
            destination: self.destination.map(word),
            errors: report.count(Severity::Error),
            warnings: report.count(Severity::Warning),
            omitted: report.omitted,
            findings: findings.collect(),
        }
    }
}
