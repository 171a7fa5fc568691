//! `audit top`: who calls what, and how often.

use super::{CONFIG, DECISION, DEST, FILE, PROGRAM, SINCE, USER, Wanted, remark};
use crate::cli::args::{Given, JSON, Opt, Spec};
use crate::cli::term::{Align, Style, Table};
use crate::cli::tool::{Failure, Io, Tool};
use crate::cli::usage::UsageError;
use azure_proxy_agent_core::advise::recording::Recording;
use azure_proxy_agent_core::advise::view::{By, Top, bar};
use serde_json::{Map, Value, json};

pub(super) static TOOL: Tool = Tool {
    spec: Spec {
        name: "audit top",
        about: "sums up who calls what",
        usage: "[OPTIONS] [FILE...]",
        operands: (0, usize::MAX),
        options: &[
            Opt::value(
                "by",
                "<what>",
                "Sum up by user, program, dest, path or decision; several with commas\n[default: user,program,path]",
            ),
            USER,
            PROGRAM,
            DEST,
            DECISION,
            SINCE,
            Opt::value("limit", "<n>", "Only the n most frequent [default: 20; 0: all]").short('n'),
            FILE,
            CONFIG,
            JSON,
        ],
        details: "\
DENIED are requests that rules denied, also those that were forwarded in mode audit, and those
that were refused before any rule. In paths, * stands for what a machine made up.",
        exit: &[(0, "shown, be it nothing"), (2, "wrong arguments, or a file cannot be read")],
        examples: &["audit top --since 1d", "audit top --by program --decision audit,deny"],
    },
    run,
};

/// Columns of a bar.
const BAR: usize = 20;

fn run(given: &Given, io: &mut Io<'_>) -> Result<u8, Failure> {
    let by = given.text("by")?.unwrap_or("user,program,path").split(',').map(|word| {
        By::parse(word.trim())
            .ok_or_else(|| UsageError::wrong(format!("--by needs some of user, program, dest, path, decision, not {word:?}")))
    });
    let by: Vec<By> = by.collect::<Result<_, _>>()?;
    let limit = match given.parsed::<usize>("limit", "a whole number")?.unwrap_or(20) {
        0 => usize::MAX,
        n => n,
    };
    let wanted = Wanted::of(given)?;
    let mut rest = Recording::new();
    let mut top = Top::new(by.clone());
    wanted.read(&mut rest, |shown| top.add(&shown.request))?;
    let kinds = top.kinds();
    if given.has("json") {
        let kinds = kinds.iter().take(limit).map(|(kind, count)| {
            let names = by.iter().map(|by| by.word().to_owned()).zip(kind.iter().cloned().map(Value::from));
            let mut kind: Map<String, Value> = names.collect();
            kind.insert("requests".into(), count.requests.into());
            kind.insert("denied".into(), count.denied.into());
            Value::from(kind)
        });
        io.json(&json!({"requests": top.total(), "kinds": kinds.collect::<Vec<_>>()}))?;
        remark(&rest, io);
        return Ok(0);
    }
    let width = BAR.min(io.term.width.unwrap_or(80) / 4);
    // What goes into a file may be read anywhere.
    let utf8 = io.term.width.is_some() && is_utf8(&|name| std::env::var(name).ok());
    let most = kinds.first().map_or(0, |(_, count)| count.requests);
    let titles: Vec<String> = by.iter().map(|by| by.word().to_uppercase()).collect();
    let columns = [("REQUESTS", Align::Right), ("", Align::Left), ("DENIED", Align::Right)];
    let mut table = Table::new(columns.into_iter().chain(titles.iter().map(|title| (title.as_str(), Align::Left))));
    for (kind, count) in kinds.iter().take(limit) {
        let denied = if count.denied == 0 { String::new() } else { count.denied.to_string() };
        let cells = [
            (None, count.requests.to_string()),
            (Some(Style::Cyan), bar(count.requests, most, width, utf8)),
            (Some(Style::Red), denied),
        ];
        table.row(cells.into_iter().chain(kind.iter().map(|name| (None, name.clone()))));
    }
    write!(io.out, "{}", table.print(io.term))?;
    if let Some(more) = kinds.len().checked_sub(limit).filter(|more| *more > 0) {
        writeln!(io.out, "and {more} more (--limit 0 shows all)")?;
    }
    remark(&rest, io);
    Ok(0)
}

/// Whether the terminal shows more than ASCII, by the locale.
fn is_utf8(environment: &dyn Fn(&str) -> Option<String>) -> bool {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(environment).find(|value| !value.is_empty());
    set.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_first_variable_that_says_something_decides_about_the_locale() {
        let with = |pairs: &'static [(&str, &str)]| {
            super::is_utf8(&move |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
        };
        assert!(with(&[("LANG", "C.UTF-8")]) && with(&[("LC_ALL", ""), ("LC_CTYPE", "de_DE.utf8"), ("LANG", "C")]));
        assert!(!with(&[]) && !with(&[("LC_ALL", "C"), ("LANG", "C.UTF-8")]));
    }
}
