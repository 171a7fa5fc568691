//! The vectors of the specification, played against the host's own code.

use serde_json::Value;

use super::*;

fn vectors() -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("../../../vectors/signature.json")).unwrap();
    file["vectors"].as_array().unwrap().clone()
}

fn base64(text: &str) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut out, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for b in text.bytes().filter(|b| *b != b'=') {
        bits = bits << 6 | alphabet.iter().position(|a| *a == b).unwrap() as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}

fn text<'a>(vector: &'a Value, member: &str) -> &'a str {
    vector[member].as_str().unwrap_or_else(|| panic!("{}: no {member}", vector["id"]))
}

/// Every vector, so that one of a new kind fails the test instead of being passed over.
#[test]
fn all_vectors_of_the_specification() {
    let mut played = 0;
    for vector in vectors() {
        let id = text(&vector, "id");
        match text(&vector, "kind") {
            "hmac" => {
                let mut mac = mac(&from_hex(text(&vector, "key_hex")).unwrap());
                mac.update(&base64(text(&vector, "message_base64")));
                assert_eq!(to_hex(&mac.finalize().into_bytes()), text(&vector, "signature_hex"), "{id} (W-59)");
            }
            "target" => {
                let (path, parameters) = canonical_target(text(&vector, "target").as_bytes());
                assert_eq!(String::from_utf8(path).unwrap(), text(&vector, "canonical_path"), "{id} (W-54)");
                assert_eq!(String::from_utf8(parameters).unwrap(), text(&vector, "canonical_parameters"), "{id} (W-55)");
            }
            "request" => {
                let headers: Vec<Field<'_>> = vector["headers"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|pair| (pair[0].as_str().unwrap().as_bytes(), pair[1].as_str().unwrap().as_bytes()))
                    .collect();
                let (method, target) = (text(&vector, "method"), text(&vector, "target").as_bytes());
                let body = base64(text(&vector, "body_base64"));
                let got = string_to_sign(method, &headers, target, &body);
                let want = base64(text(&vector, "string_to_sign_base64"));
                assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&want), "{id} (W-52)");
                assert_eq!(got, want, "{id} (W-52)");
                let key = from_hex(text(&vector, "key_hex")).unwrap();
                assert_eq!(sign(&key, method, &headers, target, &body), text(&vector, "signature_hex"), "{id} (W-59)");
            }
            "error" => assert_eq!(from_hex(text(&vector, "key_hex")), None, "{id} (W-63)"),
            other => panic!("{id}: kind {other} is not known here"),
        }
        played += 1;
    }
    assert_eq!(played, 27);
}

#[test]
fn target_forms_of_w54() {
    let path = |target: &str| String::from_utf8(canonical_target(target.as_bytes()).0).unwrap();
    assert_eq!(path("http://169.254.169.254"), "/");
    assert_eq!(path("http://169.254.169.254?a=b"), "/");
    assert_eq!(path("*"), "*");
    assert_eq!(path("/a#b?c"), "/a");
    assert_eq!(path("/a:b://c"), "/a:b://c");
}
