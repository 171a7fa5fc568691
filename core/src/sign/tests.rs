use super::*;
use serde_json::Value;

const VECTORS: &str = include_str!("../../../testdata/vectors/signature.json");
const GUID: &str = "7f9c2ba4-e88f-4e6d-9c1a-5d0f3f6b2a11";
const KEY: &str = "4A404E635266556A586E3272357538782F413F4428472B4B6250645367566B59";

fn text<'a>(row: &'a Value, member: &str) -> &'a str {
    row[member].as_str().unwrap()
}

fn base64(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let (mut bits, mut held) = (0u32, 0);
    for byte in text.bytes().filter(|b| *b != b'=') {
        let value = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".iter().position(|b| *b == byte).unwrap();
        bits = bits << 6 | u32::try_from(value).unwrap();
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push(u8::try_from(bits >> held & 0xFF).unwrap());
        }
    }
    out
}

fn signer(key: &str) -> Signer {
    Signer::new(KeyGuid::parse(GUID).unwrap(), &Key::from_hex(key).unwrap())
}

fn mac(signer: &Signer, message: &[u8]) -> String {
    let tag = hmac::sign(&signer.key, message);
    String::from_utf8(Signature::from_tag(tag.as_ref()).as_bytes().to_vec()).unwrap()
}

#[test]
fn all_vectors_of_signature_json() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let rows = vectors["vectors"].as_array().unwrap();
    assert_eq!(rows.len(), 27);
    for row in rows {
        let id = text(row, "id");
        match text(row, "kind") {
            "hmac" => {
                let message = base64(text(row, "message_base64"));
                assert_eq!(mac(&signer(text(row, "key_hex")), &message), text(row, "signature_hex"), "{id}");
            }
            "target" => {
                let signed = string_to_sign(b"GET", text(row, "target").as_bytes(), [].into_iter(), b"");
                let expected = format!("GET\n\n{}\n{}", text(row, "canonical_path"), text(row, "canonical_parameters"));
                assert_eq!(String::from_utf8(signed).unwrap(), expected, "{id}");
            }
            "request" => {
                let (method, target) = (text(row, "method").as_bytes(), text(row, "target").as_bytes());
                let fields: Vec<_> = row["headers"].as_array().unwrap().iter().collect();
                let fields = || fields.iter().map(|f| (f[0].as_str().unwrap().as_bytes(), f[1].as_str().unwrap().as_bytes()));
                let body = base64(text(row, "body_base64"));
                let signed = string_to_sign(method, target, fields(), &body);
                let expected = base64(text(row, "string_to_sign_base64"));
                assert_eq!(signed.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{id}");
                let signer = signer(text(row, "key_hex"));
                let signature = signer.sign(method, target, fields(), &body);
                let signature = core::str::from_utf8(signature.as_bytes()).unwrap();
                assert_eq!(signature, text(row, "signature_hex"), "{id}");
                if let Some(header) = row["authorization_header"].as_str() {
                    let prefix = core::str::from_utf8(signer.authorization_prefix()).unwrap();
                    assert_eq!(format!("{prefix}{signature}"), header, "{id} (W-61)");
                }
            }
            "error" => {
                let error = Key::from_hex(text(row, "key_hex")).unwrap_err();
                let said = format!("{error} {error:?}");
                assert!(!said.contains(text(row, "key_hex")), "{id}: {said}");
            }
            kind => panic!("{id}: unknown kind {kind}"),
        }
    }
}

#[test]
fn known_answer_of_w59() {
    assert_eq!(mac(&signer(KEY), b"Hello world"), "a15b46f621193876a6d3121b836dc2af4180e2786642e55235ef916fc5b082a3");
}

#[test]
fn fields_of_w53_by_hand() {
    let fields: [(&[u8], &[u8]); 7] = [
        (b"B", b"1"),
        (b"a", b" \t x\ty \t"),
        (b"b", b"  "),
        (b"X-MS-Azure-Host-AUTHORIZATION", b"forged"),
        (b"a-", b"z"),
        (b"A", b"last"),
        (b"C", b"\xFF"),
    ];
    let signed = string_to_sign(b"GET", b"/", fields.into_iter(), b"");
    assert_eq!(signed, b"GET\n\na:last\na-:z\nb:\nc:\xFF\n/\n");
}

#[test]
fn targets_of_w54() {
    for (target, expected) in [
        ("http://h", "/\n"),
        ("http://h?b&a", "/\na&b"),
        ("HTTP://h:1/P?Q=R", "/P\nq=R"),
        ("*", "*\n"),
        ("/a??b=?", "/a\n?b=?"),
        ("/http://h/x", "/http://h/x\n"),
    ] {
        let signed = string_to_sign(b"M", target.as_bytes(), [].into_iter(), b"");
        assert_eq!(String::from_utf8(signed).unwrap(), format!("M\n\n{expected}"), "{target}");
    }
}

/// Beyond the stack arrays the result is the same as within: the later half repeats the earlier one.
#[test]
fn many_fields_and_parameters_are_signed_like_few() {
    let names: Vec<String> = (0..150).rev().map(|i| format!("X-{:03}-{}", i % 75, "n".repeat(i % 75 + 60))).collect();
    let fields = names.iter().enumerate().map(|(i, name)| (name.as_bytes(), if i < 75 { &b"old"[..] } else { b" new" }));
    let query: Vec<String> = (0..150).rev().map(|i| format!("P{:03}={i}", i % 75)).collect();
    let target = format!("/?{}", query.join("&"));
    let signed = String::from_utf8(string_to_sign(b"GET", target.as_bytes(), fields, b"")).unwrap();
    let mut lines: Vec<String> = names[75..].iter().map(|n| format!("{}:new", n.to_ascii_lowercase())).collect();
    lines.sort();
    let mut pairs: Vec<String> = query.iter().map(|q| q.to_ascii_lowercase()).collect();
    pairs.sort_by_key(|pair| pair.replace('=', ""));
    assert_eq!(signed, format!("GET\n\n{}\n/\n{}", lines.join("\n"), pairs.join("&")));
}

#[test]
fn only_the_two_uploads_are_exempt_w65() {
    for (method, target) in [
        ("PUT", "/vmAgentLog"),
        ("PUT", "/VMAGENTLOG"),
        ("POST", "/machine/?comp=telemetrydata"),
        ("POST", "/Machine/?COMP=TelemetryData"),
    ] {
        assert!(is_exempt(method.as_bytes(), target.as_bytes()), "{method} {target}");
    }
    for (method, target) in [
        ("put", "/vmagentlog"),
        ("POST", "/vmagentlog"),
        ("PUT", "/vmagentlog?"),
        ("PUT", "/vmagentlog/"),
        ("PUT", "//vmagentlog"),
        ("PUT", "http://168.63.129.16/vmagentlog"),
        ("PUT", "/machine/?comp=telemetrydata"),
        ("POST", "/machine?comp=telemetrydata"),
        ("POST", "/machine/?comp=telemetrydata&x"),
        ("POST", "/machine/?comp=telemetry%64ata"),
    ] {
        assert!(!is_exempt(method.as_bytes(), target.as_bytes()), "{method} {target}");
    }
}

/// S-33
#[test]
fn guids_and_keys_are_checked_w51() {
    for good in [GUID, "A", "-", &"f".repeat(64)] {
        assert_eq!(KeyGuid::parse(good).unwrap().as_str(), good);
    }
    for bad in ["", "g", "a b", "../a", "a\n", "\u{e9}", &"f".repeat(65)] {
        assert_eq!(KeyGuid::parse(bad), Err(KeyError::Guid), "{bad:?}");
    }
    assert_eq!(*Key::from_hex("0aFF").unwrap().to_hex(), "0aff");
    for (bad, error) in [
        ("", KeyError::Empty),
        ("a", KeyError::OddLength),
        ("+1", KeyError::NotHex),
        ("0x", KeyError::NotHex),
        (" 0", KeyError::NotHex),
        ("\u{e9}", KeyError::NotHex),
    ] {
        assert_eq!(Key::from_hex(bad).unwrap_err(), error, "{bad:?}");
    }
}

#[test]
fn nothing_prints_a_key_or_a_signature_sec08() {
    let key = Key::from_hex(KEY).unwrap();
    let signer = Signer::new(KeyGuid::parse(GUID).unwrap(), &key);
    let signature = signer.sign(b"GET", b"/", [].into_iter(), b"");
    let said = format!("{key:?} {key:#?} {signer:?} {signer:#?} {signature:?} {signature:#?}");
    assert_eq!(
        said,
        format!(
            "Key(..) Key(..) Signer {{ guid: KeyGuid({GUID}), .. }} Signer {{\n    guid: KeyGuid({GUID}),\n    ..\n}} Signature(..) Signature(..)"
        )
    );
}
