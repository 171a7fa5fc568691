//! The patterns, in the order in which they are applied. Matches begin and end at character boundaries.

use super::Hints;
use super::scan::{Runs, Word, is_base64, is_blank, is_quote, run, run_back, word_at};
use core::ops::Range;
use std::collections::VecDeque;

/// One kind of secret.
pub(super) struct Pattern {
    /// It is tried only if the text has one of these.
    pub(super) needs: Hints,
    find: Find,
}

/// A match, and where the one after it may begin: what is inside a match may be the name of another value.
type Match = (Range<usize>, usize);

/// How the matches are found.
enum Find {
    /// One by one: the next match that begins at or after a position.
    Next(fn(&str, usize) -> Option<Match>),
    /// All in one go, because what comes before a match decides about it.
    All(fn(&str) -> Vec<Range<usize>>),
}

impl Pattern {
    const fn next(needs: Hints, find: fn(&str, usize) -> Option<Match>) -> Self {
        Self { needs, find: Find::Next(find) }
    }

    const fn all(needs: Hints, find: fn(&str) -> Vec<Range<usize>>) -> Self {
        Self { needs, find: Find::All(find) }
    }

    /// All matches; they may overlap.
    pub(super) fn matches(&self, text: &str) -> Vec<Range<usize>> {
        match self.find {
            Find::All(find) => find(text),
            Find::Next(find) => {
                let mut from = 0;
                core::iter::from_fn(|| {
                    let (found, next) = find(text, from)?;
                    from = next;
                    Some(found)
                })
                .collect()
            }
        }
    }
}

/// The words of I-42 and I-43.
const BEFORE_BASE64: Hints = Hints::KEY.or(Hints::SECRET).or(Hints::PASSWORD).or(Hints::VALUE);

/// I-35 to I-49.
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
    Pattern::all(BEFORE_BASE64, |text| base64_keys(text, 43)),
    Pattern::all(BEFORE_BASE64, |text| base64_keys(text, 86)),
    Pattern::next(Hints::SECRET.or(Hints::VALUE), cloud_secret),
    Pattern::all(Hints::SECRET.or(Hints::KEY).or(Hints::TOKEN).or(Hints::CLIENT), client_secrets),
    Pattern::next(Hints::JWT, json_web_token),
    Pattern::next(Hints::URL, url_password),
    Pattern::next(Hints::AUTHORIZATION, authorization),
    Pattern::all(Hints::PASSWORD, passwords),
    Pattern::all(Hints::DASH_P, client_options),
];

/// I-35 to I-38: a word and all up to a terminator, or to the end.
fn assigned(text: &str, from: usize, word: &Word, terminator: u8) -> Option<Match> {
    let bytes = text.as_bytes();
    let (start, value) = (from..bytes.len()).find_map(|at| Some((at, word.at(bytes, at)?)))?;
    let end = run(bytes, value, |b| b != terminator);
    Some((start..end, end))
}

/// I-39: both kinds have their mark at a fixed place, and one text may be both.
fn cache_key(text: &str, from: usize) -> Option<Match> {
    let bytes = text.as_bytes();
    let letters = |range: Range<usize>| bytes.get(range).is_some_and(|part| part.iter().all(u8::is_ascii_alphanumeric));
    (from..bytes.len()).find_map(|at| {
        let mark = Word::exact("AzCa").at(bytes, at)?;
        let before = |length: usize| at.checked_sub(length).filter(|start| letters(*start..at));
        let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
        let short = matches!(byte(mark), b'A'..=b'P') && letters(mark + 1..mark + 6) && byte(mark + 6) == b'=';
        let long = letters(mark..mark + 5) && matches!(byte(mark + 5), b'A' | b'Q' | b'g' | b'w');
        let short = before(33).filter(|_| short).map(|start| start..mark + 7);
        let long = before(44).filter(|_| long).map(|start| start..mark + 6);
        let found = match (short, long) {
            (Some(short), Some(long)) => Some(long.start..short.end),
            (short, long) => short.or(long),
        };
        Some((found?, mark))
    })
}

/// I-40. A key whose end is missing (the argument vector is read up to a limit only) goes to the end of the text.
fn private_key(text: &str, from: usize) -> Option<Match> {
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
            return Some((start..last, last));
        }
        at = end;
    }
    Some((start..bytes.len(), bytes.len()))
}

/// I-41, and the prefix `pat` of I-49.
fn access_token(text: &str, from: usize) -> Option<Match> {
    let bytes = text.as_bytes();
    (from..bytes.len()).find_map(|at| {
        let word = word_at(bytes, at, &["token", "ado", "vsts", "azuredevops", "pat"])?;
        let value = word + text.get(word..)?.chars().next()?.len_utf8();
        let end = value + 52;
        let base32 = |b: &u8| matches!(b.to_ascii_lowercase(), b'a'..=b'z' | b'2'..=b'7');
        bytes.get(value..end)?.iter().all(base32).then_some((at..end, word))
    })
}

/// I-42 and I-43: a word, and within reach behind it a run of exactly `length` base64 characters between something else and `=`.
/// Every value counts from the first word that reaches it.
fn base64_keys(text: &str, length: usize) -> Vec<Range<usize>> {
    const WORDS: [&str; 9] = ["key", "access", "sas", "shared", "secret", "password", "pwd", "pswd", "credential"];
    /// Characters between word and value's separator.
    const GAP: usize = 200;
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    // Words that may still reach a value: where they start, and which character follows them.
    let mut words = VecDeque::new();
    for (character, (at, separator)) in text.char_indices().enumerate() {
        if let Some(end) = word_at(bytes, at, &WORDS) {
            words.push_back((at, character + end - at));
        }
        if separator.is_ascii() && is_base64(separator as u8) {
            continue;
        }
        let value = at + separator.len_utf8();
        let end = run(bytes, value, is_base64);
        if end - value != length || bytes.get(end) != Some(&b'=') {
            continue;
        }
        while words.front().is_some_and(|(_, after)| after + GAP < character) {
            words.pop_front();
        }
        if let Some((start, after)) = words.front()
            && *after <= character
        {
            found.push(*start..end + 1);
        }
    }
    found
}

/// I-44: found by its value, because that is the rarer part.
fn cloud_secret(text: &str, from: usize) -> Option<Match> {
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
                let earliest = separator.saturating_sub(32 + 4 * GAP);
                let start = (earliest..separator).find(|at| {
                    let gap = name(*at).filter(|end| *end <= separator).and_then(|end| text.get(end..separator));
                    gap.is_some_and(|gap| gap.chars().count() <= GAP)
                });
                if let Some(start) = start {
                    // What ends a value may be what separates the next one.
                    return Some((start..end + after.map_or(0, char::len_utf8), end));
                }
            }
        }
        at = value;
    }
}

/// I-45.
fn client_secrets(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
    let joint = |at: usize| if matches!(byte(at), b'_' | b'-' | b'.' | b' ') { at + 1 } else { at };
    let name = |at: usize| {
        if let Some(owner) = word_at(bytes, at, &["application", "app", "client", "api"]) {
            return word_at(bytes, joint(owner), &["secret", "scrt", "sct", "key"]);
        }
        word_at(bytes, joint(word_at(bytes, at, &["refresh", "account"])?), &["sid", "token"])
    };
    let mut values = Runs::default();
    let found = (0..bytes.len()).filter_map(|start| {
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
        let end = values.end(bytes, value, |b| !(is_blank(b) || is_quote(b) || matches!(b, b'&' | b';')));
        let long = text.get(value..end).is_some_and(|value| value.chars().take(8).count() == 8);
        long.then_some(start..end)
    });
    found.collect()
}

/// I-46: up to the second part's mark; what it marks stays.
fn json_web_token(text: &str, from: usize) -> Option<Match> {
    let bytes = text.as_bytes();
    let mut at = from;
    loop {
        let (dot, end) = (at..bytes.len()).find_map(|at| Some((at, Word::exact(".eyJ").at(bytes, at)?)))?;
        let part = run_back(bytes, at, dot, |b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'+' | b'/' | b'='));
        if let Some(start) = (part..dot).find(|at| Word::exact("eyJ").at(bytes, *at).is_some_and(|end| end <= dot)) {
            return Some((start..end, end));
        }
        // The second part may be the first of a pair.
        at = dot + 1;
    }
}

/// I-47: a port or path behind the host stays.
fn url_password(text: &str, from: usize) -> Option<Match> {
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
            return Some((scheme..end_of_host, authority));
        }
        // The next one may begin before this one ends.
        at = authority;
    }
}

/// I-48.
fn authorization(text: &str, from: usize) -> Option<Match> {
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
        let end = run(bytes, sign, |b| !matches!(b, b'\r' | b'\n'));
        Some((start..end, end))
    })
}

/// I-49: `--password <value>`, `password: <value>`.
fn passwords(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let blanks = |at: usize| run(bytes, at, |b| matches!(b, b' ' | b'\t'));
    let mut values = Runs::default();
    let found = (0..bytes.len()).filter_map(|at| {
        let word = Word::any_case("password");
        let (end, option) = match Word::exact("--").at(bytes, at).and_then(|name| word.at(bytes, name)) {
            Some(end) => (end, true),
            None => (word.at(bytes, at)?, false),
        };
        // The quote that ends a quoted name.
        let sign = blanks(run(bytes, end, is_quote));
        let value = match bytes.get(sign) {
            // This is I-36, and ends elsewhere.
            Some(b'=') if sign == end => return None,
            Some(b':' | b'=') => blanks(sign + 1),
            _ if option && sign > end => sign,
            _ => return None,
        };
        (value < bytes.len()).then(|| at..values.end(bytes, value, |b| !is_blank(b)))
    });
    found.collect()
}

/// I-49: the short password option of the usual database clients, `-p<value>` and where they allow it `-p <value>`.
fn client_options(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    // Which clients were named so far: a word that looks like one may be a user or a database of another.
    let mut named = [false; CLIENTS.len()];
    let mut at = 0;
    while at < bytes.len() {
        let start = run(bytes, at, |b| is_blank(b) || is_quote(b));
        let end = run(bytes, start, |b| !is_blank(b));
        at = end;
        let argument = bytes.get(start..end).unwrap_or_default();
        for (named, client) in named.iter_mut().zip(&CLIENTS) {
            *named |= client.is_named_by(argument);
        }
        let clients = || CLIENTS.iter().zip(&named).filter(|(client, named)| **named && argument.starts_with(client.option));
        let value = run(bytes, end, |b| matches!(b, b' ' | b'\t'));
        if clients().any(|(client, _)| argument.len() > client.option.len()) {
            found.push(start..end);
        } else if clients().any(|(client, _)| client.detached) && value > end && value < bytes.len() {
            at = run(bytes, value, |b| !is_blank(b));
            found.push(start..at);
        }
    }
    found
}

/// Database clients with the same password option.
struct Client {
    names: &'static [&'static [u8]],
    option: &'static [u8],
    /// Whether the value may be an argument of its own.
    detached: bool,
}

static CLIENTS: [Client; 3] = [
    Client { names: &[b"mysql", b"mariadb"], option: b"-p", detached: false },
    Client { names: &[b"mongo"], option: b"-p", detached: true },
    Client { names: &[b"sqlcmd", b"bcp", b"isql"], option: b"-P", detached: true },
];

impl Client {
    fn is_named_by(&self, program: &[u8]) -> bool {
        let name = program.rsplit(|b| *b == b'/').next().unwrap_or_default();
        // A dump tool is named after its client: mysqldump, mariadb-dump, mongodump.
        self.names.iter().any(|client| name.get(..client.len()).is_some_and(|start| start.eq_ignore_ascii_case(client)))
    }
}
