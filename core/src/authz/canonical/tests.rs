use super::*;
use crate::authz::traversal_guard;
use crate::seeded::Seeded;
use serde_json::Value;

fn rows(json: &str) -> Vec<Value> {
    let mut vectors: Value = serde_json::from_str(json).unwrap();
    match vectors["vectors"].take() {
        Value::Array(rows) => rows,
        other => panic!("no rows: {other}"),
    }
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect()
}

/// The row's error code or an equally conforming one.
fn expects_error(row: &Value, error: CanonError) -> bool {
    row["error"] == error.code() || row["also_accepted"].as_array().is_some_and(|codes| codes.contains(&error.code().into()))
}

/// PX-44
#[test]
fn canonical_path_json() {
    let rows = rows(include_str!("../../../../testdata/vectors/canonical_path.json"));
    assert_eq!(rows.len(), 94);
    let mut path = Path::default();
    for row in &rows {
        let raw = row["input"].as_str().unwrap().as_bytes();
        match path.read(raw) {
            Ok(()) => {
                let segments: Vec<&str> =
                    core::iter::once("").chain(path.segments().map(|s| core::str::from_utf8(s).unwrap())).collect();
                assert_eq!(segments, strings(&row["segments"]), "{row}");
                assert_eq!(row["trailing_slash"], path.trailing_slash(), "{row}");
            }
            // Ours alone is the distinction of R-182: the row's own code, not the alternative.
            Err(error) => assert_eq!(row["error"], error.code(), "{row}"),
        }
        assert_eq!(row["traversal_guard_blocks"], traversal_guard(raw), "{row}");
    }
}

///
#[test]
fn canonical_query_json() {
    let rows = rows(include_str!("../../../../testdata/vectors/canonical_query.json"));
    assert_eq!(rows.len(), 44);
    let mut query = Query::default();
    for row in &rows {
        match query.read(row["input"].as_str().unwrap().as_bytes()) {
            Ok(()) => {
                let mut pairs = serde_json::Map::new();
                for (name, value) in query.pairs() {
                    let [name, value] = [name, value].map(|t| core::str::from_utf8(t).unwrap());
                    let values = pairs.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                    values.as_array_mut().unwrap().push(value.into());
                }
                assert_eq!(row["pairs"], Value::Object(pairs), "{row}");
            }
            Err(error) => assert_eq!(row["error"], error.code(), "{row}"),
        }
    }
}

///
#[test]
fn canonical_authority_json() {
    let rows = rows(include_str!("../../../../testdata/vectors/canonical_authority.json"));
    assert_eq!(rows.len(), 36);
    let mut scratch = Scratch::new();
    for row in &rows {
        let [method, target] = ["method", "target"].map(|m| row[m].as_str().unwrap().as_bytes());
        match check(method, target, &mut scratch) {
            Ok(canonical) => {
                let name = match canonical.destination() {
                    Some(Destination::Imds) => "imds",
                    Some(Destination::WireServer) => "wireserver",
                    Some(Destination::HostGaPlugin) => "hostga",
                    None => "unknown",
                };
                assert_eq!(row["destination"], name, "{row}");
            }
            Err(error) => assert!(expects_error(row, error), "{error}: {row}"),
        }
    }
}

#[test]
fn authorities_beyond_the_vectors() {
    use CanonError::{Host, Port};
    for (authority, expected) in [
        ("169.254.169.254.", Ok(Some(Destination::Imds))),
        ("169.254.169.254..:080", Ok(Some(Destination::Imds))),
        ("0xA9FEA9FE", Ok(Some(Destination::Imds))),
        ("0x0a9fea9fe", Err(Host)),
        ("[::FFFF:169.254.169.254]:80", Ok(Some(Destination::Imds))),
        ("[::169.254.169.254]", Ok(None)),
        ("4294967296", Err(Host)),
        ("169.254.65536", Err(Host)),
        ("256.1", Err(Host)),
        ("1..2", Err(Host)),
        ("08", Err(Host)),
        ("0x", Err(Host)),
        ("", Err(Host)),
        (".", Err(Host)),
        (":80", Err(Host)),
        ("abc", Err(Host)),
        ("a-b", Ok(None)),
        ("[::1", Err(Host)),
        ("[::1]x", Err(Host)),
        ("[::1%25lo]", Err(Host)),
        ("[\u{e9}]", Err(Host)),
        ("h:", Err(Port)),
        ("h:+80", Err(Port)),
        ("h:8x", Err(Port)),
        ("h:65536", Err(Port)),
        ("h:1:2", Err(Port)),
        ("h:65535", Ok(None)),
    ] {
        assert_eq!(authority::classify(authority.as_bytes()), expected, "{authority}");
    }
}

///
#[test]
fn the_first_failing_stage_decides() {
    let mut scratch = Scratch::new();
    for (method, target, code) in [
        ("BREW", "ftp://u@x y:z/%/..?%", "CANON_SCHEME"),
        ("BREW", "http://u@x y:z/%/..?%", "CANON_METHOD"),
        ("GET", "http://u@x y:z/%/..?%", "CANON_USERINFO"),
        ("GET", "http://x y:z/%/..?%", "CANON_HOST"),
        ("GET", "http://h:z/%/..?%", "CANON_PORT"),
        ("GET", "http://h/%/..?%", "CANON_PCT"),
        ("GET", "http://h/%C0/%01/..?%", "CANON_OVERLONG"),
        ("GET", "http://h/%80/%01/..?%", "CANON_UTF8"),
        ("GET", "http://h/%C3%A9%01/%3F/..?%", "CANON_CTRL"),
        ("GET", "http://h/%C3%A9/%3F/..?%", "CANON_NON_ASCII"),
        ("GET", "http://h/%3F/../..?%", "CANON_EMBQ"),
        ("GET", "http://h/x/../..?%", "CANON_UNDERFLOW"),
        ("GET", "http://h/?%", "CANON_PCT"),
        ("GET", "http://h/?a=%80&%", "CANON_UTF8"),
        ("GET", "h:80", "CANON_SCHEME"),
        ("GET", "", "CANON_SCHEME"),
        ("get", "/", "CANON_METHOD"),
    ] {
        let error = check(method.as_bytes(), target.as_bytes(), &mut scratch).unwrap_err();
        assert_eq!(error.code(), code, "{method} {target}");
    }
}

/// S-22
#[test]
fn ambiguous_paths_of_r84() {
    let mut scratch = Scratch::new();
    for target in ["/a%25b", "/a\\b", "/a%5C", "/a./b", "/a%20", "/a/b.", "/a%2E/b", "/a.;x/b"] {
        assert!(check(b"GET", target.as_bytes(), &mut scratch).unwrap().is_ambiguous(), "{target}");
    }
    for target in ["/", "/a.b", "/a%20b", "/.a", "/a/./b", "/a?b=%25%5C.", "/%20a"] {
        assert!(!check(b"GET", target.as_bytes(), &mut scratch).unwrap().is_ambiguous(), "{target}");
    }
}

/// What the same scratch says of one request does not depend on the one before; a huge one does not keep its memory.
#[test]
fn a_scratch_forgets() {
    let mut scratch = Scratch::new();
    let huge = format!("/{}?{}", "a/".repeat(20_000), "a=b&".repeat(20_000));
    assert_eq!(check(b"GET", huge.as_bytes(), &mut scratch).unwrap().segments().count(), 20_000);
    let canonical = check(b"GET", b"/B/?C", &mut scratch).unwrap();
    assert_eq!(canonical.to_string(), "/b/?c=");
    assert_eq!(canonical.destination(), None);
    assert!(check(b"GET", b"http://169.254.169.254/..", &mut scratch).is_err());
    assert!(scratch.path.segments().next().is_none() && scratch.query.pairs().next().is_none());
}

/// total, and idempotent.
#[test]
fn canonicalizing_the_rendered_form_changes_nothing_r167() {
    const PIECES: [&str; 40] = [
        "/",
        "/",
        "/",
        "a",
        "B",
        "c.d",
        ".",
        "..",
        ";x=1",
        "%2F",
        "%2f",
        "%2E",
        "%25",
        "%3B",
        "%23",
        "%20",
        "+",
        "%2B",
        "%41",
        "~",
        "?",
        "?",
        "&",
        "&",
        "=",
        "=",
        "%26",
        "%3D",
        "%C3%A9",
        "%E4%B8%AD",
        "%00",
        "%80",
        "%",
        "%3F",
        "\\",
        "*",
        "//",
        "http://h",
        "key",
        "\u{e9}",
    ];
    let mut seeded = Seeded(7);
    let (mut scratch, mut again) = (Scratch::new(), Scratch::new());
    let mut canonical_ones = 0;
    for case in 0..60_000 {
        let mut target = String::from(if case % 8 == 0 { "" } else { "/" });
        for _ in 0..seeded.below(12) {
            target.push_str(PIECES[seeded.below(PIECES.len())]);
        }
        let Ok(first) = check(b"GET", target.as_bytes(), &mut scratch) else { continue };
        canonical_ones += 1;
        let rendered = first.to_string();
        let second = check(b"GET", rendered.as_bytes(), &mut again).unwrap_or_else(|e| panic!("{target} -> {rendered}: {e}"));
        assert!(first.segments().eq(second.segments()), "{target} -> {rendered}");
        assert!(first.parameters().eq(second.parameters()), "{target} -> {rendered}");
        assert_eq!(first.trailing_slash(), second.trailing_slash(), "{target} -> {rendered}");
        assert_eq!(rendered, second.to_string(), "{target}");
    }
    assert!(canonical_ones > 10_000, "{canonical_ones}");
}

/// arbitrary bytes give a form or an error, never an abort.
#[test]
fn canonicalization_is_total_r167() {
    let mut seeded = Seeded(11);
    let mut scratch = Scratch::new();
    for _ in 0..60_000 {
        let mut target: Vec<u8> = (0..seeded.below(24)).map(|_| u8::try_from(seeded.below(256)).unwrap()).collect();
        if seeded.below(2) == 0 {
            target.splice(0..0, *b"http://");
        }
        let _ = check(b"GET", &target, &mut scratch);
        let _ = traversal_guard(&target);
    }
}
