//! The patterns, in the order in which they are applied. Matches begin and end at character boundaries.

use super::Hints;
use core::ops::Range;

/// One kind of secret.
pub(super) struct Pattern {
    /// It is tried only if the text has one of these.
    pub(super) needs: Hints,
    find: Find,
}

/// How the matches are found.
enum Find {
    /// One by one: the next match that begins at or after a position.
    Next(fn(&str, usize) -> Option<Range<usize>>),
    /// All in one go, because what comes before a match decides about it.
    All(fn(&str) -> Vec<Range<usize>>),
}

impl Pattern {
    const fn next(needs: Hints, find: fn(&str, usize) -> Option<Range<usize>>) -> Self {
        Self { needs, find: Find::Next(find) }
    }

    const fn all(needs: Hints, find: fn(&str) -> Vec<Range<usize>>) -> Self {
        Self { needs, find: Find::All(find) }
    }

    /// All matches, ascending, none overlapping another.
    pub(super) fn matches(&self, text: &str) -> Vec<Range<usize>> {
        match self.find {
            Find::All(find) => find(text),
            Find::Next(find) => {
                let mut from = 0;
                core::iter::from_fn(|| find(text, from).inspect(|found| from = found.end)).collect()
            }
        }
    }
}

/// I-35 to I-49, in order.
pub(super) static ALL: [Pattern; 18] = [
    Pattern::next(Hints::PWD, |text, from| assigned(text, from, &Word::any_case("pwd="), b';')),
    Pattern::next(Hints::PASSWORD, |text, from| assigned(text, from, &Word::any_case("password="), b';')),
    Pattern::next(Hints::KEY, |text, from| assigned(text, from, &Word::exact("AccountKey="), b';')),
    Pattern::next(Hints::KEY, |text, from| assigned(text, from, &Word::exact("PrimaryKey="), b';')),
    Pattern::next(Hints::KEY, |text, from| assigned(text, from, &Word::exact("SecondaryKey="), b';')),
    Pattern::next(Hints::SIG, |text, from| assigned(text, from, &Word::exact("sig="), b'&')),
    Pattern::next(Hints::CACHE_KEY, cache_key),
    Pattern::next(Hints::PRIVATE_KEY, private_key),
    Pattern::next(Hints::TOKEN, access_token),
    Pattern::next(Hints::OPENERS, |text, from| base64_key(text, from, 43)),
    Pattern::next(Hints::OPENERS, |text, from| base64_key(text, from, 86)),
    Pattern::next(Hints::OPENERS, cloud_secret),
    Pattern::next(Hints::SECRET.or(Hints::KEY).or(Hints::TOKEN).or(Hints::CLIENT), client_secret),
    Pattern::next(Hints::JWT, json_web_token),
    Pattern::next(Hints::URL, url_password),
    Pattern::next(Hints::AUTHORIZATION, authorization),
    Pattern::next(Hints::PASSWORD, password),
    Pattern::all(Hints::DASH_P, client_options),
];

/// Something to look for.
struct Word {
    text: &'static str,
    any_case: bool,
}

impl Word {
    const fn any_case(text: &'static str) -> Self {
        Self { text, any_case: true }
    }

    const fn exact(text: &'static str) -> Self {
        Self { text, any_case: false }
    }

    /// Where it ends if it stands at `at`.
    fn at(&self, text: &[u8], at: usize) -> Option<usize> {
        let end = at + self.text.len();
        let there = text.get(at..end)?;
        let same = if self.any_case { there.eq_ignore_ascii_case(self.text.as_bytes()) } else { there == self.text.as_bytes() };
        same.then_some(end)
    }
}

/// Where the first of `words` (any letter case) that stands at `at` ends.
fn word_at(text: &[u8], at: usize, words: &[&'static str]) -> Option<usize> {
    words.iter().find_map(|word| Word::any_case(word).at(text, at))
}

/// Where a run of bytes that `belongs` accepts ends.
fn run(text: &[u8], from: usize, belongs: impl Fn(u8) -> bool) -> usize {
    text.get(from..).and_then(|rest| rest.iter().position(|b| !belongs(*b))).map_or(text.len(), |length| from + length)
}

/// Where a run that ends at `to` begins, at or after `from`.
fn run_back(text: &[u8], from: usize, to: usize, belongs: impl Fn(u8) -> bool) -> usize {
    let before = text.get(from..to).unwrap_or_default();
    before.iter().rposition(|b| !belongs(*b)).map_or(from, |last| from + last + 1)
}

const fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')
}

const fn is_quote(byte: u8) -> bool {
    matches!(byte, b'"' | b'\'' | b'`')
}

const fn is_blank(byte: u8) -> bool {
    byte.is_ascii_whitespace()
}

/// I-35 to I-38: a word and all up to a terminator, or to the end.
fn assigned(text: &str, from: usize, word: &Word, terminator: u8) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let (start, value) = (from..bytes.len()).find_map(|at| Some((at, word.at(bytes, at)?)))?;
    Some(start..run(bytes, value, |b| b != terminator))
}

/// I-39: both kinds have their mark at a fixed place.
fn cache_key(text: &str, from: usize) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let letters = |range: Range<usize>| bytes.get(range).is_some_and(|part| part.iter().all(u8::is_ascii_alphanumeric));
    (from..bytes.len()).find_map(|at| {
        let mark = Word::exact("AzCa").at(bytes, at)?;
        let before = |length: usize| at.checked_sub(length).filter(|start| *start >= from && letters(*start..at));
        let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
        let short = matches!(byte(mark), b'A'..=b'P') && letters(mark + 1..mark + 6) && byte(mark + 6) == b'=';
        let long = letters(mark..mark + 5) && matches!(byte(mark + 5), b'A' | b'Q' | b'g' | b'w');
        let short = before(33).filter(|_| short).map(|start| start..mark + 7);
        short.or_else(|| before(44).filter(|_| long).map(|start| start..mark + 6))
    })
}

/// I-40. A key whose end is missing (the argument vector is read up to a limit only) goes to the end of the text.
fn private_key(text: &str, from: usize) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let label = |b: u8| b.is_ascii_uppercase() || b == b' ';
    let mut at = from;
    let start = loop {
        let (begin, after) = (at..bytes.len()).find_map(|at| Some((at, Word::exact("BEGIN ").at(bytes, at)?)))?;
        // Whatever begins inside the label would end where the label ends: go on behind it.
        let end = run(bytes, after, label);
        if bytes.get(after..end)?.ends_with(b"PRIVATE KEY") && Word::exact("-----").at(bytes, end).is_some() {
            at = end;
            break begin;
        }
        at = end;
    };
    while let Some(after) = (at..bytes.len()).find_map(|at| Word::exact("-----END ").at(bytes, at)) {
        let end = run(bytes, after, label);
        if let Some(last) = (after..end).find_map(|at| Word::exact("PRIVATE KEY").at(bytes, at)) {
            return Some(start..last);
        }
        at = end;
    }
    Some(start..bytes.len())
}

/// I-41, and the prefix `pat` of I-49.
fn access_token(text: &str, from: usize) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    (from..bytes.len()).find_map(|at| {
        let word = word_at(bytes, at, &["token", "ado", "vsts", "azuredevops", "pat"])?;
        let value = word + text.get(word..)?.chars().next()?.len_utf8();
        let end = value + 52;
        let base32 = |b: &u8| matches!(b.to_ascii_lowercase(), b'a'..=b'z' | b'2'..=b'7');
        bytes.get(value..end)?.iter().all(base32).then_some(at..end)
    })
}

/// I-42 and I-43. The value is found first, because it is the rarer part: a run of exactly `length` base64 characters between
/// something else and `=`.
fn base64_key(text: &str, from: usize, length: usize) -> Option<Range<usize>> {
    const WORDS: [&str; 9] = ["key", "access", "sas", "shared", "secret", "password", "pwd", "pswd", "credential"];
    /// Characters between word and value's separator.
    const GAP: usize = 200;
    let bytes = text.as_bytes();
    // A separator is one character: the position of its first byte, and the position after the value.
    let next_value = |mut at: usize| loop {
        let separator = run(bytes, at, is_base64);
        let value = separator + text.get(separator..)?.chars().next()?.len_utf8();
        let end = run(bytes, value, is_base64);
        if end - value == length && bytes.get(end) == Some(&b'=') {
            return Some((separator, end + 1));
        }
        at = value;
    };
    let gap = |word_end: usize, separator: usize| text.get(word_end..separator).map_or(usize::MAX, |gap| gap.chars().count());
    let mut at = from;
    loop {
        let (separator, mut end) = next_value(at)?;
        // The longest word, and four bytes for each character of the gap.
        let earliest = separator.saturating_sub(10 + 4 * GAP).max(from);
        let word = (earliest..separator).find_map(|at| {
            let word_end = word_at(bytes, at, &WORDS)?;
            (word_end <= separator && gap(word_end, separator) <= GAP).then_some((at, word_end))
        });
        if let Some((start, word_end)) = word {
            // The last value within reach ends the match.
            while let Some((separator, next_end)) = next_value(end)
                && separator - word_end <= 4 * GAP
                && gap(word_end, separator) <= GAP
            {
                end = next_end;
            }
            return Some(start..end);
        }
        at = end;
    }
}

/// I-44: found by its value, like [`base64_key`].
fn cloud_secret(text: &str, from: usize) -> Option<Range<usize>> {
    const VALUE: usize = 40;
    /// Characters between name and separator.
    const GAP: usize = 10;
    let bytes = text.as_bytes();
    let joint = |at: usize| match bytes.get(at) {
        Some(b'_' | b'-' | b'.' | b' ') => at + 1,
        _ => at,
    };
    let name = |at: usize| {
        let core = |at: usize| {
            if let Some(secret) = word_at(bytes, at, &["secret"]) {
                let access = word_at(bytes, joint(secret), &["access"]).unwrap_or(secret);
                return Some(word_at(bytes, joint(access), &["key"]).unwrap_or(access));
            }
            word_at(bytes, joint(word_at(bytes, at, &["access"])?), &["key", "token"])
        };
        let prefixed = word_at(bytes, at, &["aws", "amazon"]).and_then(|prefix| core(joint(prefix)));
        prefixed.or_else(|| core(at))
    };
    let mut at = from;
    loop {
        let separator = run(bytes, at, |b| !(is_blank(b) || is_quote(b) || matches!(b, b'=' | b':' | b'>' | b',' | b';' | b'|')));
        let value = separator + 1;
        let end = value + VALUE;
        if bytes.get(value..)?.iter().take(VALUE).filter(|b| is_base64(**b)).count() == VALUE {
            // One character more, unless the text ends here; inside a longer word it is something else.
            let after = text.get(end..)?.chars().next();
            if after.is_none_or(|c| !(c.is_alphanumeric() || c == '_')) {
                // The longest name, and four bytes for each character of the gap.
                let earliest = separator.saturating_sub(32 + 4 * GAP).max(from);
                let start = (earliest..separator).find(|at| {
                    let gap = name(*at).filter(|end| *end <= separator).and_then(|end| text.get(end..separator));
                    gap.is_some_and(|gap| gap.chars().count() <= GAP)
                });
                if let Some(start) = start {
                    return Some(start..end + after.map_or(0, char::len_utf8));
                }
            }
        }
        at = value;
    }
}

/// I-45.
fn client_secret(text: &str, from: usize) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
    let joint = |at: usize| if matches!(byte(at), b'_' | b'-' | b'.' | b' ') { at + 1 } else { at };
    let name = |at: usize| {
        if let Some(owner) = word_at(bytes, at, &["application", "app", "client", "api"]) {
            return word_at(bytes, joint(owner), &["secret", "scrt", "sct", "key"]);
        }
        word_at(bytes, joint(word_at(bytes, at, &["refresh", "account"])?), &["sid", "token"])
    };
    (from..bytes.len()).find_map(|start| {
        let mut at = name(start)?;
        let blanks = |at: usize| run(bytes, at, |b| matches!(b, b' ' | b'\t'));
        // The quote that ends a quoted name.
        if is_quote(byte(at)) && matches!(byte(blanks(at + 1)), b'=' | b':') {
            at += 1;
        }
        let sign = blanks(at);
        let after_sign = run(bytes, sign, |b| matches!(b, b'=' | b':' | b'>'));
        let value = blanks(after_sign);
        if is_quote(byte(value)) {
            let quote = byte(value);
            let end = run(bytes, value + 1, |b| b != quote);
            // An end that is missing was cut off.
            return (end - value > 5).then_some(start..(end + 1).min(bytes.len()));
        }
        if after_sign == sign {
            return None;
        }
        let end = run(bytes, value, |b| !(is_blank(b) || is_quote(b) || matches!(b, b'&' | b';')));
        let long = text.get(value..end).is_some_and(|value| value.chars().take(8).count() == 8);
        long.then_some(start..end)
    })
}

/// I-46: up to the second part's mark; what it marks stays.
fn json_web_token(text: &str, from: usize) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let mut at = from;
    loop {
        let (dot, end) = (at..bytes.len()).find_map(|at| Some((at, Word::exact(".eyJ").at(bytes, at)?)))?;
        let part = run_back(bytes, at, dot, |b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'+' | b'/' | b'='));
        if let Some(start) = (part..dot).find(|at| Word::exact("eyJ").at(bytes, *at).is_some_and(|end| end <= dot)) {
            return Some(start..end);
        }
        // The second part may be the first of a pair.
        at = dot + 1;
    }
}

/// I-47: a port or path behind the host stays.
fn url_password(text: &str, from: usize) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let mut at = from;
    loop {
        let (colon, authority) = (at..bytes.len()).find_map(|at| Some((at, Word::exact("://").at(bytes, at)?)))?;
        let scheme = run_back(bytes, at, colon, |b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
        let delimits = |b: u8| is_blank(b) || is_quote(b) || matches!(b, b'/' | b'?' | b'#' | b'<' | b'>');
        let end = run(bytes, authority, |b| !delimits(b));
        let user = bytes.get(authority..end)?;
        // A password may contain an `@` itself.
        if let Some(host) = user.iter().rposition(|b| *b == b'@')
            && user.iter().take(host).any(|b| *b == b':')
            && scheme < colon
        {
            let host = authority + host + 1;
            let end_of_host = match bytes.get(host) {
                Some(b'[') => (run(bytes, host, |b| b != b']' && !delimits(b)) + 1).min(end),
                _ => run(bytes, host, |b| b != b':' && !delimits(b)),
            };
            return Some(scheme..end_of_host);
        }
        at = end;
    }
}

/// I-48.
fn authorization(text: &str, from: usize) -> Option<Range<usize>> {
    // Longer names before their own beginnings.
    const SCHEMES: [&str; 18] = [
        "basic",
        "digest",
        "bearer",
        "negotiate",
        "ntlm",
        "kerberos",
        "oauth",
        "aws4-hmac-sha256",
        "aws4-ecdsa-p256-sha256",
        "azure-hmac-sha256",
        "hmac",
        "sharedkeylite",
        "sharedkey",
        "sharedaccesssignature",
        "apikey",
        "token",
        "scram",
        "hoba",
    ];
    let bytes = text.as_bytes();
    let padding = |b: u8| matches!(b, b' ' | b'\t') || is_quote(b);
    (from..bytes.len()).find_map(|start| {
        let sign = run(bytes, Word::any_case("authorization").at(bytes, start)?, padding);
        if !matches!(bytes.get(sign), Some(b':' | b'=')) {
            return None;
        }
        word_at(bytes, run(bytes, sign + 1, padding), &SCHEMES)?;
        Some(start..run(bytes, sign, |b| !matches!(b, b'\r' | b'\n')))
    })
}

/// I-49: `--password <value>`, `password: <value>`; with `=` the pattern of I-36 was faster.
fn password(text: &str, from: usize) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let blanks = |at: usize| run(bytes, at, |b| matches!(b, b' ' | b'\t'));
    (from..bytes.len()).find_map(|at| {
        let word = Word::any_case("password");
        let (end, option) = match Word::exact("--").at(bytes, at).and_then(|name| word.at(bytes, name)) {
            Some(end) => (end, true),
            None => (word.at(bytes, at)?, false),
        };
        // The quote that ends a quoted name.
        let sign = blanks(run(bytes, end, is_quote));
        let value = match bytes.get(sign) {
            Some(b':' | b'=') => blanks(sign + 1),
            _ if option && sign > end => sign,
            _ => return None,
        };
        (value < bytes.len()).then_some(at..run(bytes, value, |b| !is_blank(b)))
    })
}

/// I-49: the short password option of the usual database clients, `-p<value>` and where they allow it `-p <value>`.
fn client_options(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    // The option, and whether its value may be the next argument, once such a client was named.
    let mut client = None;
    let mut at = 0;
    while at < bytes.len() {
        let start = run(bytes, at, |b| is_blank(b) || is_quote(b));
        let end = run(bytes, start, |b| !is_blank(b));
        at = end;
        let argument = bytes.get(start..end).unwrap_or_default();
        client = option_of(argument).or(client);
        if let Some((option, detached)) = client
            && argument.starts_with(option)
        {
            let value = run(bytes, end, |b| matches!(b, b' ' | b'\t'));
            if argument.len() > option.len() {
                found.push(start..end);
            } else if detached && value > end && value < bytes.len() {
                at = run(bytes, value, |b| !is_blank(b));
                found.push(start..at);
            }
        }
    }
    found
}

/// The password option of a database client, and whether its value may be an argument of its own.
fn option_of(program: &[u8]) -> Option<(&'static [u8], bool)> {
    let name = program.rsplit(|b| *b == b'/').next()?;
    // A dump tool is named after its client: mysqldump, mariadb-dump, mongodump.
    let is = |client: &[u8]| name.get(..client.len()).is_some_and(|start| start.eq_ignore_ascii_case(client));
    if is(b"mysql") || is(b"mariadb") {
        Some((b"-p", false))
    } else if is(b"mongo") {
        Some((b"-p", true))
    } else if is(b"sqlcmd") || is(b"bcp") || is(b"isql") {
        Some((b"-P", true))
    } else {
        None
    }
}
