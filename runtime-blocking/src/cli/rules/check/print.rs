//! Findings as people read them: the line of the file, and a mark below it.

use super::About;
use crate::cli::term::{Style, Term, clean};
use crate::cli::tool::{Failure, Io};
use azure_proxy_agent_core::advise::lint::{Form, Lint, Report, Severity};
use std::io::Write as _;
use std::ops::Range;

/// Columns of the file's text that are shown, if the terminal does not say.
const WIDTH: usize = 100;
/// So many columns stand before a mark in a long line.
const BEFORE: usize = 40;

/// Where the lines of a file begin.
pub(super) struct Lines<'a> {
    bytes: &'a [u8],
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        // The byte order mark is on no line.
        let first = if bytes.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        let rest = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
        Self { bytes, starts: std::iter::once(first).chain(rest).collect() }
    }

    /// The index of the line that has a byte.
    fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset).saturating_sub(1)
    }

    /// Line and column of a byte, both from 1; columns in characters.
    pub(super) fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.line(offset);
        let start = self.starts.get(line).copied().unwrap_or_default();
        (line + 1, columns(self.bytes.get(start..offset).unwrap_or_default()) + 1)
    }

    fn text(&self, line: usize) -> &'a [u8] {
        let start = self.starts.get(line).copied().unwrap_or_default();
        let end = self.starts.get(line + 1).map_or(self.bytes.len(), |next| next - 1);
        let text = self.bytes.get(start..end).unwrap_or_default();
        text.strip_suffix(b"\r").unwrap_or(text)
    }

    /// A line as it can be shown, one column per character, and what of it belongs to `span`, in columns.
    fn marked(&self, span: &Range<usize>, width: usize) -> (usize, String, Range<usize>) {
        let line = self.line(span.start);
        let start = self.starts.get(line).copied().unwrap_or_default();
        let text = self.text(line);
        let from = columns(text.get(..span.start.saturating_sub(start)).unwrap_or(text));
        let to = columns(text.get(..span.end.saturating_sub(start)).unwrap_or(text)).max(from + 1);
        let shown: Vec<char> = String::from_utf8_lossy(text).chars().map(harmless).collect();
        if shown.len() <= width {
            return (line + 1, shown.into_iter().collect(), from..to.min(shown_end(text, to)));
        }
        // Of a long line, what is around the mark.
        let skip = from.saturating_sub(BEFORE);
        let lead = usize::from(skip > 0);
        let part: Vec<char> = shown.iter().skip(skip).take(width).copied().collect();
        let cut = skip + part.len() < shown.len();
        let mark = from - skip + lead..(to - skip).min(part.len()).max(from - skip + 1) + lead;
        let lead = if skip > 0 { "…" } else { "" };
        (line + 1, format!("{lead}{}{}", part.iter().collect::<String>(), if cut { "…" } else { "" }), mark)
    }
}

fn shown_end(text: &[u8], to: usize) -> usize {
    columns(text).max(to)
}

fn columns(bytes: &[u8]) -> usize {
    String::from_utf8_lossy(bytes).chars().count()
}

/// A character as it can be shown: nothing that a terminal obeys (SEC-07), and each in one column.
fn harmless(c: char) -> char {
    match c {
        '\t' => ' ',
        c if clean(c.encode_utf8(&mut [0; 4])).chars().count() != 1 => '\u{FFFD}',
        c => c,
    }
}

pub(super) fn report(about: &About, report: &Report, lines: &Lines<'_>, io: &mut Io<'_>) -> Result<(), Failure> {
    let file = clean(&about.file);
    for lint in &report.lints {
        finding(&file, lint, lines, io)?;
    }
    if report.omitted > 0 {
        writeln!(io.out, "{file}: {} more of these kinds", report.omitted)?;
    }
    let counts = [(Severity::Error, "error"), (Severity::Warning, "warning"), (Severity::Info, "note")];
    let counts = counts.into_iter().filter_map(|(severity, word)| match report.count(severity) {
        0 => None,
        1 => Some(format!("1 {word}")),
        n => Some(format!("{n} {word}s")),
    });
    let counts: Vec<String> = counts.collect();
    let summary = if counts.is_empty() { "nothing to say".to_owned() } else { counts.join(", ") };
    let form = match about.form {
        Form::Local => "local rule file",
        Form::Remote => "document of the host",
    };
    let whose = about.destination.map_or_else(String::new, |of| format!(", for {}", of.name()));
    let assumed = if about.guessed { "taken for a " } else { "" };
    writeln!(io.out, "{file}: {summary} ({assumed}{form}{whose})")?;
    Ok(())
}

fn finding(file: &str, lint: &Lint, lines: &Lines<'_>, io: &mut Io<'_>) -> Result<(), Failure> {
    let Io { out, term, .. } = io;
    let style = style(lint.severity);
    let place = lint.span.as_ref().map(|span| lines.position(span.start));
    let place = place.map(|(line, column)| format!(":{line}:{column}")).unwrap_or_default();
    let word = if lint.severity == Severity::Info { "note" } else { lint.severity.word() };
    let code = term.paint(Style::Dim, format!("[{}]", lint.code));
    writeln!(
        out,
        "{}: {}: {} {code}",
        term.paint(Style::Bold, format!("{file}{place}")),
        term.paint(style, word),
        clean(&lint.message)
    )?;
    let mut gutter = 5;
    if let Some(span) = lint.span.as_ref().filter(|span| !span.is_empty()) {
        let (line, text, mark) = lines.marked(span, room(*term));
        let number = line.to_string();
        gutter = gutter.max(number.len() + 1);
        let bar = term.paint(Style::Dim, "|");
        writeln!(out, "{number:>gutter$} {bar} {text}")?;
        let marks = "^".repeat(mark.len());
        writeln!(out, "{:gutter$} {bar} {}{}", "", " ".repeat(mark.start), term.paint(style, marks))?;
    }
    if let Some(hint) = &lint.hint {
        writeln!(out, "{:gutter$} {} {}", "", term.paint(Style::Dim, "="), clean(hint))?;
    }
    Ok(())
}

/// Columns that are left for the text of a line.
fn room(term: Term) -> usize {
    term.width.map_or(WIDTH, |width| width.saturating_sub(10).max(BEFORE + 20))
}

const fn style(severity: Severity) -> Style {
    match severity {
        Severity::Error => Style::Red,
        Severity::Warning => Style::Yellow,
        Severity::Info => Style::Cyan,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_lines_and_columns_of_characters() {
        let lines = Lines::new("\u{feff}{\r\n \"\u{e9}\u{1F511}\": 1\n}".as_bytes());
        assert_eq!([3, 6, 7, 10, 15, 19].map(|offset| lines.position(offset)), [(1, 1), (2, 1), (2, 2), (2, 4), (2, 6), (3, 1)]);
        assert_eq!(lines.marked(&(7..15), 80), (2, " \"\u{e9}\u{1F511}\": 1".into(), 1..5));
    }

    /// SEC-07
    #[test]
    fn sec07_lines_are_shown_harmless_and_cut_around_the_mark() {
        let long = format!("{}\x1b[2J\t\u{202e}{}", "a".repeat(60), "b".repeat(60));
        let lines = Lines::new(long.as_bytes());
        let shown = format!("{}\u{FFFD}[2J \u{FFFD}{}", "a".repeat(60), "b".repeat(60));
        assert_eq!(lines.marked(&(0..1), 200), (1, shown, 0..1));
        let (line, text, mark) = lines.marked(&(60..70), 60);
        assert_eq!((line, text.chars().count(), text.chars().nth(mark.start)), (1, 62, Some('\u{FFFD}')));
        assert!(text.starts_with('…') && text.ends_with('…') && mark.end <= 61, "{text} {mark:?}");
        // Past the end, as at the end of a document that ends too early.
        assert_eq!(Lines::new(b"{").marked(&(1..2), 60), (1, "{".into(), 1..2));
        assert_eq!(Lines::new(b"").position(0), (1, 1));
    }
}
