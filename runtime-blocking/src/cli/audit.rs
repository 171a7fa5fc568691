//! `audit …`: reads the audit log. What is shown is `advise::view`'s; here are files, the terminal, and waiting.

mod follow;
#[cfg(test)]
mod tests;
mod top;

use super::args::{Given, Opt, Spec};
use super::recorded;
use super::term::{Style, Term, clean, cut};
use super::tool::{Failure, Family, Io, Tool};
use super::usage::UsageError;
use crate::config::Config;
use azure_proxy_agent_core::advise::recording::{Entry, Outcome, Reader, Recorded, Recording};
use azure_proxy_agent_core::advise::view::{self, Filter};
use azure_proxy_agent_core::time::Wall;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// In the order of the help text.
const TOOLS: &[&Tool] = &[&top::TOOL];

pub(super) const FAMILY: Family = Family { word: "audit", about: "reads the audit log", tools: TOOLS, alone: Some(&SHOW) };

const FILE: Opt = Opt::value(
    "file",
    "<file>",
    "Read these files, - for standard input; more may follow\n[default: the audit log in the configuration's log folder]",
)
.repeated();
const CONFIG: Opt = Opt::value("config", "<file>", "Read this configuration");
const SINCE: Opt = Opt::value("since", "<time>", "Only what ended since then: 90s, 15m, 1h, 2d, or a time in UTC");
const USER: Opt = Opt::value("user", "<name>", "Only requests of that account (name or id)");
const PROGRAM: Opt = Opt::value("program", "<path>", "Only requests of that program (path, or its last component)");
const DEST: Opt = Opt::value("dest", "<endpoint>", "Only requests to imds, wireserver or hostga");
const DECISION: Opt = Opt::value(
    "decision",
    "<words>",
    "Only requests that were decided so: allow, audit, deny, refused, passed;\nseveral with commas",
);

static SHOW: Tool = Tool {
    spec: Spec {
        name: "audit",
        about: "shows the audit log",
        usage: "[OPTIONS] [FILE...]",
        operands: (0, usize::MAX),
        options: &[
            Opt::flag("follow", "Go on with what is written from now on, also after the log is rolled;\na file that is not there yet is waited for").short('f'),
            USER,
            PROGRAM,
            DEST,
            DECISION,
            SINCE,
            Opt::value("limit", "<n>", "Only the last n (with --follow: of what is there already)").short('n'),
            FILE,
            CONFIG,
            Opt::flag("json", "For programs: the lines of the log as they are (docs/audit.md)"),
        ],
        details: "\
One line per request: when it ended (UTC), who asked, with which program, whom, what was decided
and by which rule, and the request. Where no rule has a name, the reason is shown. \"audit\" is
denied by rules that are only audited: the request was forwarded.",
        exit: &[(0, "shown, be it nothing"), (2, "wrong arguments, or a file cannot be read")],
        examples: &[
            "audit --since 1h --decision deny,audit",
            "audit --follow --dest imds",
            "audit --json --user alice | jq .url",
        ],
    },
    run,
};

/// What filters and files the options name.
struct Wanted {
    filter: Filter,
    files: Vec<PathBuf>,
    /// The files were not named: one that is not there yet is no mistake.
    standard: bool,
}

impl Wanted {
    fn of(given: &Given) -> Result<Self, Failure> {
        let decisions = given.text("decision")?.into_iter().flat_map(|words| words.split(',')).map(|word| {
            Outcome::parse(word.trim()).ok_or_else(|| {
                UsageError::wrong(format!("--decision needs some of allow, audit, deny, refused, passed, not {word:?}"))
            })
        });
        let filter = Filter {
            user: given.text("user")?.map(str::to_owned),
            program: given.text("program")?.map(str::to_owned),
            destination: given.text("dest")?.map(recorded::destination).transpose()?,
            decisions: decisions.collect::<Result<_, _>>()?,
            since: given.text("since")?.map(recorded::since).transpose()?,
        };
        let files: Vec<PathBuf> = recorded::files(given, "file").into_iter().map(PathBuf::from).collect();
        if !files.is_empty() {
            return Ok(Self { filter, files, standard: false });
        }
        let (config, _) =
            Config::load(given.one("config").map(Path::new)).map_err(|e| format!("{e}\nOr name the log with --file"))?;
        let folder = config.log_folder.ok_or_else(|| {
            format!("{}: there is no log folder (logFolder is empty), so no audit log is kept", config.path.display())
        })?;
        Ok(Self { filter, files: recorded::of_folder(&folder), standard: true })
    }

    /// Reads all files; what is not a request goes into `rest`.
    fn read(&self, rest: &mut Recording, mut shown: impl FnMut(Shown)) -> Result<(), Failure> {
        let mut missing = 0;
        for path in &self.files {
            let name = path.display();
            let mut reader = Reader::new(&name.to_string());
            let mut take = |entry, line: &[u8]| self.take(entry, line, rest, &mut shown);
            let result = match path.as_os_str().as_encoded_bytes() {
                b"-" => recorded::copy(&mut io::stdin().lock(), &mut reader, &mut take),
                _ => File::open(path).and_then(|mut file| recorded::copy(&mut file, &mut reader, &mut take)),
            };
            match result {
                // It may have been rolled away since we looked.
                Err(e) if e.kind() == io::ErrorKind::NotFound && self.standard => missing += 1,
                result => result.map_err(|e| format!("{name}: {e}"))?,
            }
        }
        match self.files.last() {
            Some(path) if missing == self.files.len() => Err(format!("{}: there is no audit log yet", path.display()).into()),
            _ => Ok(()),
        }
    }

    fn take(&self, entry: Entry, line: &[u8], rest: &mut Recording, shown: &mut impl FnMut(Shown)) {
        match entry {
            Entry::Request(found) | Entry::Foreign(found) => {
                rest.tally.lines += 1;
                if self.filter.admits(&found.request) {
                    shown(Shown { request: found.request, line: line.to_vec() });
                }
            }
            other => rest.take(other),
        }
    }
}

/// A request, and its line in the log.
struct Shown {
    request: Recorded,
    line: Vec<u8>,
}

fn run(given: &Given, io: &mut Io<'_>) -> Result<u8, Failure> {
    let wanted = Wanted::of(given)?;
    let limit = given.parsed::<usize>("limit", "a whole number")?.unwrap_or(usize::MAX);
    let mut printer = Printer { json: given.has("json"), term: io.term, widths: [0; COLUMNS] };
    if given.has("follow") {
        return follow::run(&wanted, limit, &mut printer, io, &mut follow::pause);
    }
    let mut rest = Recording::new();
    let mut kept = VecDeque::new();
    wanted.read(&mut rest, |request| keep(&mut kept, limit, request))?;
    printer.all(&kept, io.out)?;
    io.out.flush()?;
    remark(&rest, io);
    Ok(0)
}

/// Keeps the last `limit`.
fn keep(kept: &mut VecDeque<Shown>, limit: usize, request: Shown) {
    kept.push_back(request);
    if kept.len() > limit {
        kept.pop_front();
    }
}

/// What was not shown.
fn remark(rest: &Recording, io: &mut Io<'_>) {
    for line in recorded::remarks(rest) {
        let _ = writeln!(io.err, "{}", clean(&line));
    }
}

const COLUMNS: usize = 7;
const HEADER: [&str; COLUMNS] = ["TIME", "USER", "PROGRAM", "TO", "DECISION", "RULE", "REQUEST"];
/// No column but the last may take more characters than this away from the others; the programs' is cut at its beginning.
const WIDEST: [usize; COLUMNS] = [19, 16, 28, 21, 8, 36, usize::MAX];

/// Prints requests, aligned as far as those before were.
struct Printer {
    json: bool,
    term: Term,
    widths: [usize; COLUMNS],
}

impl Printer {
    /// All of them, under a header.
    fn all<'a>(&mut self, requests: impl IntoIterator<Item = &'a Shown> + Copy, out: &mut dyn Write) -> io::Result<()> {
        if self.json {
            return requests.into_iter().try_for_each(|shown| self.one(shown, out));
        }
        for (width, title) in self.widths.iter_mut().zip(HEADER) {
            *width = title.len();
        }
        requests.into_iter().for_each(|shown| self.fit(&cells(&shown.request)));
        let header = HEADER.map(|title| self.term.paint(Style::Bold, title).to_string());
        self.line(&HEADER.map(str::to_owned), &header, out)?;
        requests.into_iter().try_for_each(|shown| self.one(shown, out))
    }

    /// One.
    fn one(&mut self, shown: &Shown, out: &mut dyn Write) -> io::Result<()> {
        if self.json {
            out.write_all(&view::json_line(&shown.line))?;
            return out.write_all(b"\n");
        }
        let cells = cells(&shown.request);
        self.fit(&cells);
        let style = match shown.request.decision {
            Outcome::Allow | Outcome::Passed => None,
            Outcome::Audit => Some(Style::Yellow),
            Outcome::Deny | Outcome::Refused => Some(Style::Red),
        };
        let used: usize = self.widths.iter().take(COLUMNS - 1).map(|width| width + 2).sum();
        let room = self.term.width.map_or(usize::MAX, |columns| columns.saturating_sub(used).max(20));
        let mut at = 0;
        let painted = cells.each_ref().map(|cell| {
            let cell = if at == COLUMNS - 1 { cut(cell, room) } else { cell.clone() };
            let style = style.filter(|_| HEADER.get(at) == Some(&"DECISION"));
            at += 1;
            style.map_or_else(|| cell.clone(), |style| self.term.paint(style, &cell).to_string())
        });
        self.line(&cells, &painted, out)
    }

    fn fit(&mut self, cells: &[String; COLUMNS]) {
        for (width, cell) in self.widths.iter_mut().zip(cells) {
            *width = cell.chars().count().max(*width);
        }
    }

    fn line(&self, cells: &[String; COLUMNS], painted: &[String; COLUMNS], out: &mut dyn Write) -> io::Result<()> {
        let mut line = String::new();
        for (at, ((cell, painted), width)) in cells.iter().zip(painted).zip(self.widths).enumerate() {
            line.push_str(painted);
            if at + 1 < COLUMNS {
                line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()) + 2));
            }
        }
        line.push('\n');
        out.write_all(line.as_bytes())
    }
}

/// What the columns say; harmless (SEC-07).
fn cells(request: &Recorded) -> [String; COLUMNS] {
    let caller = &request.caller;
    let time = request.time.map_or_else(|| "-".to_owned(), short);
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { clean(text) };
    let user = if caller.known { or_dash(&caller.user) } else { "-".to_owned() };
    let program = or_dash(&caller.program.to_string());
    let asked = if request.method.is_empty() {
        format!("({})", request.reason)
    } else {
        let what = if request.unfinished { "  (interrupted)" } else { "" };
        format!("{} {}{what}", request.method, request.url)
    };
    let all = [
        time,
        user,
        program,
        view::destination(request),
        request.decision.word().to_owned(),
        clean(&view::rule(request)),
        clean(&asked),
    ];
    let mut at = 0;
    all.map(|cell| {
        let widest = WIDEST.get(at).copied().unwrap_or(usize::MAX);
        at += 1;
        // The end of a path says more than its beginning.
        if at == 3 { cut_front(&cell, widest) } else { cut(&cell, widest) }
    })
}

fn cut_front(text: &str, width: usize) -> String {
    let surplus = text.chars().count().saturating_sub(width);
    if surplus == 0 { text.to_owned() } else { std::iter::once('…').chain(text.chars().skip(surplus + 1)).collect() }
}

/// Without milliseconds: `2026-11-22 02:59:11`.
fn short(wall: Wall) -> String {
    wall.stamp().to_string().chars().take(19).collect::<String>().replace('T', " ")
}
