//! The list of numbers: what there is to show.

use crate::Failure;
use std::collections::BTreeMap;
use std::str::FromStr;

/// What a number is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What the agent does.
    Behaviour,
    /// What others do, or why something is so.
    Fact,
    /// Comes with something that is not built yet.
    Later(String),
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) number: String,
    pub(crate) kind: Kind,
    pub(crate) title: String,
}

/// A chapter of the document, in the order of the list.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) title: String,
    pub(crate) entries: Vec<Entry>,
}

#[derive(Debug, Default)]
pub(crate) struct Numbers {
    pub(crate) sections: Vec<Section>,
    /// Position of each number in the list; ranges are ranges of these.
    order: BTreeMap<String, usize>,
}

impl Numbers {
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.sections.iter().flat_map(|section| &section.entries)
    }

    pub(crate) fn contains(&self, number: &str) -> bool {
        self.order.contains_key(number)
    }

    /// All from one to another, both included; the two alone if they are not of one family, in order.
    pub(crate) fn range(&self, from: &str, to: &str) -> Vec<String> {
        let family = |number: &str| number.split('-').next().map(str::to_owned);
        match (self.order.get(from), self.order.get(to)) {
            (Some(first), Some(last)) if family(from) == family(to) && first <= last => {
                self.entries().skip(*first).take(last - first + 1).map(|entry| entry.number.clone()).collect()
            }
            _ => vec![from.to_owned(), to.to_owned()],
        }
    }
}

impl FromStr for Numbers {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let mut numbers = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(title) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                numbers.sections.push(Section { title: title.to_owned(), entries: Vec::new() });
                continue;
            }
            let malformed = || format!("numbers.txt: `{line}` is not `number | kind | title` in a section");
            let mut parts = line.splitn(3, " | ").map(str::trim);
            let (Some(number), Some(kind), Some(title)) = (parts.next(), parts.next(), parts.next()) else {
                return Err(malformed());
            };
            let kind = match (kind, kind.strip_prefix("later: ")) {
                ("behaviour", _) => Kind::Behaviour,
                ("fact", _) => Kind::Fact,
                (_, Some(what)) => Kind::Later(what.to_owned()),
                _ => return Err(malformed()),
            };
            let entry = Entry { number: number.to_owned(), kind, title: title.to_owned() };
            let position = numbers.order.len();
            if numbers.order.insert(entry.number.clone(), position).is_some() {
                return Err(format!("numbers.txt: {number} is there twice"));
            }
            numbers.sections.last_mut().ok_or_else(malformed)?.entries.push(entry);
        }
        Ok(numbers)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is the report")]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_its_mistakes_are_named() {
        let numbers: Numbers =
            "# x\n[One]\nW-01 | behaviour | a\nW-01a | fact | b | c\n[Two]\nPX-01 | later: d e | f\n".parse().unwrap();
        let kinds: Vec<_> = numbers.entries().map(|entry| (entry.number.as_str(), entry.kind.clone())).collect();
        assert_eq!(kinds, [("W-01", Kind::Behaviour), ("W-01a", Kind::Fact), ("PX-01", Kind::Later("d e".to_owned()))]);
        assert_eq!(numbers.sections[0].entries[1].title, "b | c");
        for (text, word) in
            [("W-01 | fact | a", "section"), ("[a]\nW-01 | b | c", "kind"), ("[a]\nW-01 | fact | a\nW-01 | fact | b", "twice")]
        {
            assert!(text.parse::<Numbers>().unwrap_err().contains(word), "{text}");
        }
    }
}
