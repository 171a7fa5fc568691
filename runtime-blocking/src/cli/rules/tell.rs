//! An explanation for people.

pub(super) use super::super::term::clean;
use super::super::term::{Style, Term};
use azure_proxy_agent_core::advise::Told;
use azure_proxy_agent_core::authz::canonical::Step;
use azure_proxy_agent_core::authz::{Compared, Match, Near};
use std::fmt::Write as _;

/// So many identities of a privilege, and so many privileges that nearly match, are told one by one.
const MOST: usize = 8;

/// The stages, the privileges, the decision; ends with a line feed.
pub(super) fn told(told: &Told<'_>, term: Term) -> String {
    let mut text = String::new();
    // What was refused as it came has no stages worth telling.
    if told.refusal.is_none() {
        let unused = if told.compared { "" } else { " (not looked at)" };
        let _ = writeln!(text, "{}{unused}", term.paint(Style::Bold, "canonical form"));
        steps(told, term, &mut text);
        if told.compared {
            if !told.matches.is_empty() {
                let _ = writeln!(text, "{}", term.paint(Style::Bold, "privileges that match"));
                told.matches.iter().for_each(|m| matching(m, term, &mut text));
            }
            if !told.near.is_empty() {
                let _ = writeln!(text, "{}", term.paint(Style::Bold, "privileges that match but for a parameter"));
                told.near.iter().take(MOST).for_each(|near| nearly(near, &mut text));
                more(told.near.len(), "  ", &mut text);
            }
        }
    }
    let verdict = match (&told.refusal, &told.explanation) {
        (Some(refusal), _) => format!("refused before authorization: {refusal}"),
        (None, Some(explanation)) => explanation.to_string(),
        (None, None) => String::new(),
    };
    let style = match (told.word(), told.forwards()) {
        ("audit", _) => Style::Yellow,
        (_, true) => Style::Green,
        (_, false) => Style::Red,
    };
    let _ = writeln!(text, "{}", term.paint(style, clean(&verdict)));
    text
}

fn steps(told: &Told<'_>, term: Term, text: &mut String) {
    // Stages in a row that change nothing are one line.
    let same = |step: &Step| step.after.as_ref() == Ok(&step.before) && !matches!(step.number, "R-161" | "R-84");
    for steps in told.steps.chunk_by(|a, b| same(a) && same(b)) {
        let (Some(first), Some(last)) = (steps.first(), steps.last()) else { continue };
        let numbers = if steps.len() > 1 { format!("{} to {}", first.number, last.number) } else { first.number.to_owned() };
        let result = match &first.after {
            Ok(_) if same(first) => {
                let stages: Vec<_> = steps.iter().map(|step| step.stage).collect();
                term.paint(Style::Dim, format!("unchanged ({})", stages.join("; "))).to_string()
            }
            Ok(after) => format!("{:42} {}", first.stage, clean(after)),
            Err(error) => format!("{:42} {}: {}", first.stage, term.paint(Style::Red, error.code()), clean(&first.before)),
        };
        let _ = writeln!(text, "  {numbers:14} {result}");
    }
}

fn matching(m: &Match<'_>, term: Term, text: &mut String) {
    let verdict = if m.grants { term.paint(Style::Green, "grants") } else { term.paint(Style::Red, "does not grant") };
    let _ = writeln!(text, "  {}  {}: {verdict}", clean(m.privilege.name()), m.privilege);
    for conflict in &m.conflicts {
        let others = conflict.given.iter().filter(|value| **value != conflict.wanted).map(|value| format!("{value:?}"));
        let others = others.collect::<Vec<_>>().join(", ");
        let _ = writeln!(text, "    parameter {}: {:?}, but also {others}", clean(&conflict.name), conflict.wanted);
    }
    if m.identities.is_empty() {
        let _ = writeln!(text, "    no identity is assigned to it: it locks its path");
    }
    // Whoever it is first, then whoever it nearly is.
    let mut identities: Vec<&Compared<'_>> = m.identities.iter().collect();
    identities.sort_by_key(|compared| compared.differs.len());
    for compared in identities.iter().take(MOST) {
        let _ = write!(text, "    identity {}: ", clean(compared.identity.name()));
        if compared.differs.is_empty() {
            let _ = writeln!(text, "is the caller ({})", compared.identity);
        } else {
            let differs: Vec<_> = compared.differs.iter().map(|(selector, value)| format!("{selector} is not {value}")).collect();
            let _ = writeln!(text, "{}", clean(&differs.join(", ")));
        }
    }
    more(identities.len(), "    ", text);
}

fn nearly(near: &Near<'_>, text: &mut String) {
    let missing = near.missing.iter().map(|parameter| match parameter.given.as_slice() {
        [] => format!("{} is missing", parameter.name),
        given => format!("{} is {}", parameter.name, given.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>().join(" and ")),
    });
    let missing = clean(&missing.collect::<Vec<_>>().join(", "));
    let _ = writeln!(text, "  {}  {}: {missing}", clean(near.privilege.name()), near.privilege);
}

fn more(all: usize, indent: &str, text: &mut String) {
    if all > MOST {
        let _ = writeln!(text, "{indent}and {} more", all - MOST);
    }
}
