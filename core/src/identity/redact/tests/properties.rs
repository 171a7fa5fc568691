//! No secret of a listed shape survives, wherever it stands and whatever stands around it (I-33a, I-34 to I-49, S-59).

use super::*;
use std::fmt::Write;

const LOWER: &str = "abcdefghijklmnopqrstuvwxyz";
const UPPER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const DIGITS: &str = "0123456789";
/// Letters that no pattern gives a meaning, so that a value is nothing but a value.
const ODD: &str = "\u{e9}\u{4e2d}\u{1F511}!%*~";

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    fn value(&mut self, alphabet: &str, length: usize) -> String {
        let alphabet: Vec<char> = alphabet.chars().collect();
        (0..length).map(|_| alphabet[self.below(alphabet.len())]).collect()
    }

    fn any_case(&mut self, word: &str) -> String {
        word.chars().map(|c| if self.below(2) == 0 { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() }).collect()
    }

    fn base64(&mut self, length: usize) -> String {
        self.value(&format!("{LOWER}{UPPER}{DIGITS}+/"), length)
    }
}

/// A text of one shape, and what of it is secret.
struct Planted {
    shape: &'static str,
    text: String,
    secret: String,
}

impl Planted {
    fn new(shape: &'static str, before: &str, secret: String, after: &str) -> Self {
        Self { shape, text: format!("{before}{secret}{after}"), secret }
    }
}

const SHAPES: usize = 19;

fn plant(shape: usize, r: &mut Random) -> Planted {
    let free = format!("{LOWER}{UPPER}{DIGITS}{ODD}+/._-");
    let alnum = format!("{LOWER}{UPPER}{DIGITS}");
    let length = 8 + r.below(60);
    let blank = r.one(&["", " "]);
    match shape {
        0 => Planted::new("I-35", &r.any_case("pwd="), r.value(&format!("{free} &"), length), ";"),
        1 => Planted::new("I-36", &r.any_case("password="), r.value(&format!("{free} &"), length), ";"),
        2 => Planted::new(
            "I-37",
            r.one(&["AccountKey=", "PrimaryKey=", "SecondaryKey="]),
            r.value(&format!("{free}=& "), length),
            ";",
        ),
        3 => Planted::new("I-38", "sig=", r.value(&format!("{free}= ;"), length), "&"),
        4 => {
            let tail = format!("AzCa{}{}=", r.value("ABCDEFGHIJKLMNOP", 1), r.value(&alnum, 5));
            Planted::new("I-39, short", "", r.value(&alnum, 33) + &tail, "")
        }
        5 => {
            let tail = format!("AzCa{}{}", r.value(&alnum, 5), r.value("AQgw", 1));
            Planted::new("I-39, long", "", r.value(&alnum, 44) + &tail, "")
        }
        6 => {
            let kind = r.one(&["", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "]);
            let body: String = (0..1 + r.below(6)).map(|_| r.base64(64) + "\n").collect();
            let (begin, end) = (format!("-----BEGIN {kind}PRIVATE KEY-----\n"), format!("-----END {kind}PRIVATE KEY-----\n"));
            Planted::new("I-40", &begin, body, &end)
        }
        7 => {
            let word = r.one(&["token", "ado", "vsts", "azuredevops", "pat"]);
            let joint = r.one(&["=", ":", " ", "_", "\u{e9}", "\u{1F511}"]);
            let before = format!("{}{joint}", r.any_case(word));
            Planted::new("I-41", &before, r.value(&format!("{LOWER}{UPPER}234567"), 52), "")
        }
        8 | 9 => {
            let word = r.one(&["key", "access", "sas", "shared", "secret", "password", "pwd", "pswd", "credential"]);
            let gap = r.below(200);
            let gap = r.value(&format!("{LOWER}{ODD} "), gap) + r.one(&[":", " ", "\"", "=", "\u{4e2d}"]);
            let before = format!("{}{gap}", r.any_case(word));
            let length = if shape == 8 { 43 } else { 86 };
            Planted::new(if shape == 8 { "I-42" } else { "I-43" }, &before, r.base64(length), "=")
        }
        10 => {
            let word =
                r.one(&["aws_secret_access_key", "amazon secret", "secret", "access key", "access-token", "AWS.secretkey"]);
            let separator = r.one(&["=", " = ", ":", "\": \"", " => ", " "]);
            Planted::new("I-44", &format!("{}{separator}", r.any_case(word)), r.base64(40), r.one(&[" ", "\"", ";", "\n", ","]))
        }
        11 | 12 => {
            let owner = r.one(&["application", "app", "client", "api"]);
            let kind = r.one(&["secret", "scrt", "sct", "key"]);
            let (token, sid) = (r.one(&["refresh", "account"]), r.one(&["token", "sid"]));
            let (owner, kind) = if r.below(3) == 0 { (token, sid) } else { (owner, kind) };
            let name = format!("{}{}{}", r.any_case(owner), r.one(&["", "_", "-", ".", " "]), r.any_case(kind));
            if shape == 11 {
                let sign = r.one(&["=", ":", " = ", ": ", "=>", " := "]);
                return Planted::new(
                    "I-45, bare",
                    &format!("{name}{sign}"),
                    r.value(&free, length),
                    r.one(&[" ", "&", ";", "\n"]),
                );
            }
            let quote = r.one(&["\"", "'", "`"]);
            let sign = r.one(&["=", ": ", " ", " => "]);
            Planted::new("I-45, quoted", &format!("{name}{sign}{quote}"), r.value(&format!("{free} &;"), length), quote)
        }
        13 => {
            // What the second part says stays, by the specification's example.
            let first = format!("eyJ{}", r.value(&format!("{alnum}_-"), length));
            Planted::new("I-46", "", first, ".eyJhYg")
        }
        14 => {
            let scheme = r.one(&["https", "postgres", "amqp", "redis", "git+ssh"]);
            let user = r.value(LOWER, 4);
            let host = r.one(&["db.example", "[::1]", "10.0.0.1"]);
            let secret = r.value(&format!("{free}@:=&;").replace('/', ""), length);
            Planted::new(
                "I-47",
                &format!("{scheme}://{user}:"),
                secret,
                &format!("@{host}{}", r.one(&["", ":80", "/path", "/?x=y"])),
            )
        }
        15 => {
            let scheme = r.one(&["Basic", "Bearer", "Digest", "Negotiate", "OAuth", "AWS4-HMAC-SHA256", "Azure-HMAC-SHA256"]);
            let sign = r.one(&[":", ": ", "=", "\": \""]);
            let before = format!("{}{sign}{} ", r.any_case("authorization"), r.any_case(scheme));
            Planted::new("I-48", &before, r.value(&format!("{free}= \"',;"), length), "\n")
        }
        16 => Planted::new("I-49, option", &format!("{} ", r.any_case("--password")), r.value(&free, length), " "),
        17 => {
            let before = format!("{}{blank}:{blank}", r.any_case("password"));
            Planted::new("I-49, field", &before, r.value(&free, length), " ")
        }
        _ => {
            let (client, option) = *[
                ("mysql", "-p"),
                ("/usr/bin/mysqldump", "-p"),
                ("MariaDB", "-p"),
                ("mongosh", "-p"),
                ("mongo", "-p "),
                ("sqlcmd", "-P"),
                ("bcp", "-P "),
            ]
            .get(r.below(7))
            .unwrap();
            // Words that look like another client change nothing.
            let between = r.one(&["", "-h db ", "-u mysql ", "-u sqlcmd ", "-d mongo ", "--user \u{4e2d} "]);
            let secret = format!("x{}", r.value(&free, length));
            Planted::new("I-49, client", &format!(" {client} {between}{option}"), secret, " ")
        }
    }
}

/// Text to stand around: words of the patterns, other secrets, what ends a line or a value.
fn surroundings(r: &mut Random) -> String {
    let mut text = String::new();
    for _ in 0..r.below(8) {
        match r.below(4) {
            0 => {
                let shape = r.below(SHAPES);
                text += &plant(shape, r).text;
            }
            1 => {
                let length = r.below(30);
                text += &r.value(&format!("{LOWER}{UPPER}{ODD} ="), length);
            }
            _ => {
                text += r.one(&[
                    " ",
                    "\n",
                    ";",
                    "&",
                    "\"",
                    "'",
                    "=",
                    ":",
                    "://",
                    "@",
                    "-",
                    "key",
                    "Secret",
                    "token",
                    "PWD",
                    "password",
                    "client_",
                    "api",
                    "eyJ",
                    ".eyJ",
                    "BEGIN ",
                    "PRIVATE KEY",
                    "-----",
                    "authorization",
                    "basic",
                    "mysql ",
                    "mongo ",
                    "-p",
                    "AzCa",
                    "sig",
                    "access",
                    "--password",
                    "\u{4e2d}",
                    "[REDACTED]",
                    "curl ",
                    "http://host/",
                    "aws",
                ]);
            }
        }
    }
    text
}

/// The parts of a secret that must not be seen: its runs of eight characters.
fn windows(secret: &str) -> impl Iterator<Item = &str> {
    let starts: Vec<usize> = secret.char_indices().map(|(at, _)| at).chain([secret.len()]).collect();
    (0..starts.len().saturating_sub(8))
        .map(move |at| &secret[starts[at]..starts[at + 8]])
        .filter(|window| !window.contains("eyJ"))
}

fn survives<'a>(planted: &'a Planted, before: &str, after: &str, output: &str) -> Option<&'a str> {
    windows(&planted.secret).find(|window| !before.contains(window) && !after.contains(window) && output.contains(window))
}

#[test]
fn i34_to_i49_s59_no_secret_survives_whatever_stands_around_it() {
    let mut r = Random(7);
    let mut failures = String::new();
    for round in 0..8_000 {
        let planted = plant(round % SHAPES, &mut r);
        let (mut before, after) = (surroundings(&mut r), surroundings(&mut r));
        // A word that a secret ends at must not be what begins it.
        if r.below(2) == 0 {
            before.push(' ');
        }
        let text = format!("{before}{}{after}", planted.text);
        let output = redact(&text);
        if let Some(window) = survives(&planted, &before, &after, &output) {
            writeln!(failures, "{}: {window:?}\n  of {text:?}\n  in {output:?}", planted.shape).unwrap();
        }
        let again = redact(&output);
        if again != output {
            writeln!(failures, "{} again:\n  {text:?}\n  {output:?}\n  {again:?}", planted.shape).unwrap();
        }
    }
    let shown: String = failures.lines().take(40).map(|line| format!("{line}\n")).collect();
    assert!(failures.is_empty(), "{} lines:\n{shown}", failures.lines().count());
}

/// I-32 to I-33a: what four arguments and 1024 bytes leave of a command line shows no part of a secret either.
#[test]
fn i33a_no_secret_survives_in_a_command_line_that_is_cut() {
    let mut r = Random(11);
    for round in 0..3_000 {
        let planted = plant(round % SHAPES, &mut r);
        // The secret begins near where the text is cut, or where its reading is.
        let at = if round % 101 == 0 { RAW_LIMIT } else { LIMIT };
        let distance = r.below(300);
        let pad = (at + 50).saturating_sub(distance);
        let filler = if at == RAW_LIMIT { format!("pwd={};", "\u{e9}".repeat(pad / 2 - 3)) } else { "\u{e9} ".repeat(pad / 3) };
        let mut raw = format!("/bin/x\0{filler}\0{} {}", planted.text, "z".repeat(r.below(400)));
        // Blanks of the secret may be ends of arguments.
        if r.below(2) == 0 {
            raw = raw.replacen(' ', "\0", r.below(3));
        }
        let line = command_line(Some(raw.as_bytes()));
        assert!(line.len() <= LIMIT);
        if let Some(window) = survives(&planted, "", "", &line) {
            panic!("{}: {window:?} of {:?} in {line:?}", planted.shape, planted.text);
        }
    }
}

/// Text without a secret comes back as it is, also when it is full of the patterns' words.
#[test]
fn i34_text_without_secrets_is_not_changed() {
    let mut r = Random(13);
    for _ in 0..5_000 {
        let words = [
            "key",
            "Token",
            "SECRET",
            "password",
            "client",
            "access",
            "sas",
            "authorization",
            "basic",
            "eyJ",
            "AzCa",
            "PRIVATE",
            "BEGIN",
            "mysql",
            "-v",
            "--key",
            "http://host/a",
            "\u{4e2d}",
            "\u{1F511}",
            "pat",
            "/etc/passwd",
            "sig",
            "pwd",
            "x=y",
            "a:b",
            "user@host",
            "(key)",
        ];
        let text = (0..r.below(20)).map(|_| r.one(&words)).collect::<Vec<_>>().join(r.one(&[" ", "  ", ", "]));
        assert_eq!(redact(&text), text);
    }
}
