//! What the reader sees. Knows colours and line width; knows nothing of agents.

use std::env;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};

/// Columns that text is broken at.
const WIDTH: usize = 100;
/// Columns of the labels before command, answer and host's view.
const LABEL: usize = 8;

/// How a piece of text stands out, on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Strong,
    Faint,
    Good,
    Bad,
}

/// Standard output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    colours: bool,
}

impl Screen {
    /// Colours on a terminal only, and not where `NO_COLOR` is set to something (no-color.org).
    pub(crate) fn new() -> Self {
        let unwanted = env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty()) || env::var_os("TERM").is_some_and(|v| v == "dumb");
        Self { colours: io::stdout().is_terminal() && !unwanted }
    }

    /// A paragraph, broken at blanks.
    pub(crate) fn text(self, style: Style, text: &str) {
        for line in wrap(text, WIDTH, ' ') {
            self.write(&self.paint(style, &line));
        }
    }

    /// A label and what belongs to it, broken at `at` and indented.
    pub(crate) fn item(self, label: &str, style: Style, text: &str, at: char) {
        for (number, line) in wrap(text, WIDTH - LABEL - 3, at).into_iter().enumerate() {
            let label = if number == 0 { label } else { "" };
            self.write(&format!("   {}{}", self.paint(Style::Faint, &format!("{label:LABEL$}")), self.paint(style, &line)));
        }
    }

    /// A row of a table: cells padded to the widths; the last one has its own style.
    pub(crate) fn row(self, widths: &[usize], cells: &[&str], style: Style, last: Style) {
        let mut line = String::from("   ");
        for (number, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let style = if number + 1 == cells.len() { last } else { style };
            let _ = write!(line, "{}", self.paint(style, &format!("{cell:width$}  ")));
        }
        self.write(line.trim_end());
    }

    /// An empty line.
    pub(crate) fn gap(self) {
        self.write("");
    }

    fn paint(self, style: Style, text: &str) -> String {
        let code = match style {
            _ if !self.colours => return text.to_owned(),
            Style::Plain => return text.to_owned(),
            Style::Strong => "1",
            Style::Faint => "2",
            Style::Good => "32",
            Style::Bad => "1;31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    fn write(self, line: &str) {
        // A reader that has gone (`| head`) is not our failure, and the checks go on without it.
        let _ = writeln!(io::stdout(), "{line}");
    }
}

/// Breaks `text` after `at` so that no line is longer than `width`, where that is possible.
fn wrap(text: &str, width: usize, at: char) -> Vec<String> {
    let mut lines = vec![String::new()];
    for piece in text.split_inclusive(at) {
        if let Some(line) = lines.last_mut() {
            if line.is_empty() || line.chars().count() + piece.trim_end().chars().count() <= width {
                line.push_str(piece);
            } else {
                lines.push(piece.to_owned());
            }
        }
    }
    lines.iter().map(|line| line.trim_end().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::wrap;

    #[test]
    fn lines_break_where_they_may_and_lose_nothing() {
        assert_eq!(wrap("one two three", 8, ' '), ["one two", "three"]);
        assert_eq!(wrap("{\"a\":1,\"b\":2}", 9, ','), ["{\"a\":1,", "\"b\":2}"]);
        assert_eq!(wrap("unbreakable", 3, ' '), ["unbreakable"]);
        assert_eq!(wrap("", 3, ' '), [""]);
    }
}
