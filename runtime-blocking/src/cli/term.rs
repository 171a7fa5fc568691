//! What people see: colours where they help, tables, text from outside made harmless.

use std::fmt;
use std::io::IsTerminal as _;

/// What the standard output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Term {
    /// Whether to use colours: on a terminal, and not with `NO_COLOR` or `TERM=dumb`.
    pub(super) colour: bool,
    /// Columns of the terminal; `None` if it is none: lines are then as long as they are.
    pub(super) width: Option<usize>,
}

impl Term {
    /// A file or a pipe: no colours, whole lines.
    pub(super) const PLAIN: Self = Self { colour: false, width: None };

    /// The standard output of this process.
    pub(super) fn stdout() -> Self {
        let out = std::io::stdout();
        if !out.is_terminal() {
            return Self::PLAIN;
        }
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let colour = set("NO_COLOR").is_none() && set("TERM").is_some_and(|term| term != "dumb");
        let width = rustix::termios::tcgetwinsize(&out).ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0);
        Self { colour, width: Some(width.unwrap_or(80)) }
    }

    /// The text in a style, where there are styles.
    pub(super) const fn paint<T: fmt::Display>(self, style: Style, text: T) -> Painted<T> {
        Painted { style: if self.colour { Some(style) } else { None }, text }
    }
}

/// How a piece of text looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
    Cyan,
}

/// A piece of text, perhaps in a style. Width and alignment of the format apply to the text alone.
pub(super) struct Painted<T> {
    style: Option<Style>,
    text: T,
}

impl<T: fmt::Display> fmt::Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(style) = self.style else { return self.text.fmt(f) };
        let code = match style {
            Style::Bold => 1,
            Style::Dim => 2,
            Style::Red => 31,
            Style::Green => 32,
            Style::Yellow => 33,
            Style::Cyan => 36,
        };
        write!(f, "\x1b[{code}m")?;
        self.text.fmt(f)?;
        f.write_str("\x1b[0m")
    }
}

/// Text from outside without anything that a terminal would obey: control characters become escapes (SEC-07).
pub(super) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Bidirectional controls reorder what is read; some terminals begin a line at a separator.
        if c.is_control()
            || matches!(c, '\u{61C}' | '\u{2028}' | '\u{2029}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
        {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Text cut to a number of characters, with an ellipsis if it was longer.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// Which way a column is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Rows of cells under a header. The last column may be cut at the terminal's edge.
pub(super) struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<(Option<Style>, String)>>,
}

impl Table {
    /// An empty table.
    pub(super) fn new<'a>(columns: impl IntoIterator<Item = (&'a str, Align)>) -> Self {
        Self { columns: columns.into_iter().map(|(name, align)| (name.to_owned(), align)).collect(), rows: Vec::new() }
    }

    /// Adds a row. Cells are made harmless here.
    pub(super) fn row<T: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = (Option<Style>, T)>) {
        self.rows.push(cells.into_iter().map(|(style, cell)| (style, clean(cell.as_ref()))).collect());
    }

    /// The lines, header first.
    pub(super) fn print(&self, term: Term) -> String {
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|i| {
                let header = self.columns.get(i).map_or(0, |(name, _)| name.chars().count());
                self.rows.iter().filter_map(|row| row.get(i)).map(|(_, cell)| cell.chars().count()).fold(header, usize::max)
            })
            .collect();
        let header = self.columns.iter().map(|(name, _)| (Some(Style::Bold), name.clone())).collect();
        let mut out = String::new();
        for row in std::iter::once(&header).chain(&self.rows) {
            self.line(row, &widths, term, &mut out);
        }
        out
    }

    fn line(&self, row: &[(Option<Style>, String)], widths: &[usize], term: Term, out: &mut String) {
        let mut used = 0;
        for (i, ((style, cell), width)) in row.iter().zip(widths).enumerate() {
            let last = i + 1 == row.len();
            let room = term.width.map_or(usize::MAX, |columns| columns.saturating_sub(used).max(8));
            let cell = if last { cut(cell, room) } else { cell.clone() };
            let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
            let painted = style.map_or_else(|| cell.clone(), |style| term.paint(style, &cell).to_string());
            match (self.columns.get(i).map(|(_, align)| *align), last) {
                (Some(Align::Right), _) => out.extend([pad.as_str(), painted.as_str()]),
                (_, true) => out.push_str(&painted),
                (_, false) => out.extend([painted.as_str(), pad.as_str()]),
            }
            if !last {
                out.push_str("  ");
            }
            used += width + 2;
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLOURED: Term = Term { colour: true, width: Some(20) };

    #[test]
    fn styles_only_where_they_are_wanted() {
        assert_eq!(Term::PLAIN.paint(Style::Red, "no").to_string(), "no");
        assert_eq!(COLOURED.paint(Style::Red, "no").to_string(), "\x1b[31mno\x1b[0m");
        assert_eq!(format!("{:>4}|", COLOURED.paint(Style::Bold, "no")), "\x1b[1m  no\x1b[0m|");
    }

    /// SEC-07
    #[test]
    fn sec07_a_terminal_obeys_nothing_from_outside() {
        assert_eq!(clean("a\x1b[2J\n\u{9b}b\u{202E}\u{61c}\u{2028}é"), "a\\u{1b}[2J\\n\\u{9b}b\\u{202e}\\u{61c}\\u{2028}é");
    }

    #[test]
    fn tables_align_and_are_cut_at_the_edge() {
        let mut table = Table::new([("count", Align::Right), ("who", Align::Left), ("what", Align::Left)]);
        table.row([(None, "7"), (None, "alice"), (None, "/metadata/instance")]);
        table.row([(None, "12345678"), (Some(Style::Red), "bob"), (None, "/\x07")]);
        let whole = "   count  who    what\n       7  alice  /metadata/instance\n12345678  bob    /\\u{7}\n";
        assert_eq!(table.print(Term::PLAIN), whole);
        let narrow = table.print(Term { colour: false, width: Some(28) });
        assert_eq!(narrow.lines().nth(1), Some("       7  alice  /metadata/…"));
        assert!(table.print(COLOURED).contains("\x1b[31mbob\x1b[0m    /"));
    }
}
