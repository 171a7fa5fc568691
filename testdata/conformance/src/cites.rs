//! Numbers in text and in names.

use crate::numbers::Numbers;

/// Families of numbers, the longest name first. Telemetry has no list here yet; cites of it are counted only.
const FAMILIES: [&str; 9] = ["SEC", "CLI", "PX", "FS", "W", "I", "S", "R", "T"];

/// The family that is cited, but not listed.
pub(crate) fn is_unlisted_family(number: &str) -> bool {
    number.starts_with("T-")
}

/// All numbers that a comment or string names: `W-96`, `PX-66 to PX-72`, `FS-04..FS-17`.
pub(crate) fn in_text(text: &str, numbers: &Numbers) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut at = 0;
    // Where the last number ended, while nothing but the word of a range has come since.
    let mut range_from: Option<usize> = None;
    while at < text.len() {
        let rest = text.get(at..).unwrap_or_default();
        let begins =
            text.get(..at).and_then(|before| before.chars().next_back()).is_none_or(|c| !c.is_alphanumeric() && c != '-');
        if begins && let Some(number) = number_at(rest) {
            let end = at + number.len();
            let between = range_from.and_then(|from| text.get(from..at)).unwrap_or_default();
            match found.last().cloned() {
                Some(from) if is_range(between) => {
                    found.pop();
                    found.extend(numbers.range(&from, number));
                }
                _ => found.push(number.to_owned()),
            }
            range_from = Some(end);
            at = end;
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    found
}

fn is_range(between: &str) -> bool {
    matches!(between.split_whitespace().collect::<Vec<_>>().as_slice(), ["to" | ".." | "..=" | "..." | "–" | "…" | "through"])
}

/// A number at the beginning of `text`.
fn number_at(text: &str) -> Option<&str> {
    FAMILIES.iter().find_map(|family| {
        let rest = text.strip_prefix(family)?.strip_prefix('-')?;
        let scenario =
            rest.find(|c: char| !c.is_ascii_uppercase()).filter(|length| *family == "SEC" && *length == 1).unwrap_or(0);
        let digits = rest.get(scenario..)?.chars().take_while(char::is_ascii_digit).count();
        let tail = rest.get(scenario + digits..)?;
        let suffix = usize::from(tail.starts_with(|c: char| c.is_ascii_lowercase()));
        let ends = tail.get(suffix..)?.chars().next().is_none_or(|c| !c.is_alphanumeric());
        (digits > 0 && ends).then(|| text.get(..family.len() + 1 + scenario + digits + suffix)).flatten()
    })
}

/// All numbers that a test's name names: `..._w96`, `px14a_...`, `px66_to_px72`, `sec_a3` or `seca3`. What is not in the list is
/// an ordinary word (`i64`).
pub(crate) fn in_name(name: &str, numbers: &Numbers) -> Vec<String> {
    let words: Vec<&str> = name.split('_').collect();
    let number = |at: usize| -> Option<String> {
        let word = words.get(at)?;
        let word = match at.checked_sub(1).and_then(|before| words.get(before)) {
            Some(&"sec") if word.starts_with(|c: char| c.is_ascii_lowercase()) => format!("sec{word}"),
            _ => (*word).to_owned(),
        };
        let number = FAMILIES.iter().find_map(|family| {
            let rest = word.strip_prefix(family.to_ascii_lowercase().as_str())?;
            let (scenario, digits) = rest.split_at(rest.find(|c: char| c.is_ascii_digit())?);
            Some(format!("{family}-{}{digits}", scenario.to_ascii_uppercase()))
        })?;
        (numbers.contains(&number) || is_unlisted_family(&number) && number_at(&number) == Some(&number)).then_some(number)
    };
    let mut found = Vec::new();
    let mut at = 0;
    while at < words.len() {
        if let Some(from) = number(at) {
            if words.get(at + 1) == Some(&"to")
                && let Some(to) = number(at + 2)
            {
                found.extend(numbers.range(&from, &to));
                at += 3;
                continue;
            }
            found.push(from);
        }
        at += 1;
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is the report")]
mod tests {
    use super::*;

    fn numbers() -> Numbers {
        let names = ["W-01", "W-02", "W-03", "W-96", "PX-14", "PX-14a", "PX-15", "I-33a", "SEC-08", "SEC-A3", "SEC-B1a", "S-03"];
        format!("[x]\n{}", names.map(|n| format!("{n} | behaviour | t\n")).concat()).parse().unwrap()
    }

    #[test]
    fn numbers_in_text() {
        for (text, expected) in [
            ("W-96: key first (PX-14a, I-33a).", &["W-96", "PX-14a", "I-33a"][..]),
            ("W-01 to W-03 and W-96", &["W-01", "W-02", "W-03", "W-96"]),
            ("PX-14 .. PX-15", &["PX-14", "PX-14a", "PX-15"]),
            ("W-01, to W-03; PX-14 to W-96", &["W-01", "W-03", "PX-14", "W-96"]),
            ("SEC-A3 SEC-B1a SEC-08 SEC-", &["SEC-A3", "SEC-B1a", "SEC-08"]),
            ("UTF-8 HMAC-256 x-W-96 AW-96 W-96th PX- S-", &[]),
            ("T-84", &["T-84"]),
            ("\u{4e2d}W-96\u{e9}, \u{2013}W-96\u{2013}", &["W-96"]),
        ] {
            assert_eq!(in_text(text, &numbers()), expected, "{text}");
        }
    }

    #[test]
    fn numbers_in_names() {
        for (name, expected) in [
            ("calls_are_w96", &["W-96"][..]),
            ("w01_to_w03_and_px14a", &["W-01", "W-02", "W-03", "PX-14a"]),
            ("fits_i64_and_s03_and_w1", &["S-03"]),
            ("sec08_seca3_sec_b1a_sec", &["SEC-08", "SEC-A3", "SEC-B1a"]),
            ("an_event_t12", &["T-12"]),
            ("to_w01_to", &["W-01"]),
        ] {
            assert_eq!(in_name(name, &numbers()), expected, "{name}");
        }
    }
}
