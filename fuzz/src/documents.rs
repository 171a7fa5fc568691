//! Any bytes as a rule document, as the owner's rule file, and as an id. Refused, or read as what is written there; compiled to rules that decide
//! about every request without a panic; written and read again, the same policy.

use std::sync::Arc;

use azure_proxy_agent_core::authz::{Decision, Descriptor, Document, Mode, Request, RuleLists, Rules, Scratch, decide};
use azure_proxy_agent_core::identity::{Destination, PerDestination};
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::{claims, local_file, naive};

const TARGETS: [&[u8]; 5] = [
    b"/metadata/instance?api-version=2021-02-01",
    b"/machine/?comp=goalstate",
    b"/a%2f..;x?b&b=1&B=2",
    b"/metadata/identity/oauth2/token?resource=https%3A%2F%2Fvault.example&api-version=2018-02-01",
    b"http://x@y:z/\xFF",
];

/// The input is a JSON document, a rule file, or an id.
pub fn run(data: &[u8]) {
    local_file::run(data);
    descriptor(&base64(data));
    let Ok(text) = std::str::from_utf8(data) else { return };
    descriptor(text);
    let Ok(document) = serde_json::from_str::<Document>(text) else { return };
    // A value has numbers and depths that it cannot hold; documents pass over them where nobody reads them.
    if let Ok(value) = serde_json::from_str(text) {
        as_written(&document, &value);
    }
    descriptor(&document.id);

    let again = printed(&document);

    let (rules, findings) = Rules::compile(&document);
    for finding in &findings {
        let line = finding.to_string();
        assert!(!line.is_empty() && !line.contains(['\n', '\r']), "{line}");
    }
    let shown = serde_json::to_string(&rules).expect("rules can be shown");
    let (same, _) = Rules::compile(&again);
    assert_eq!(serde_json::to_string(&same).ok(), Some(shown));
    decisions(&document, rules, same);
}

/// The document, written and read again. Members that nobody knows are remembered of what was read, and not written.
pub(crate) fn printed(document: &Document) -> Document {
    let text = serde_json::to_string(document).expect("what was read can be written");
    let again: Document = serde_json::from_str(&text).expect("what was written can be read");
    assert_eq!(serde_json::to_string(&again).ok(), Some(text));
    let indented = serde_json::to_string_pretty(document).expect("what was read can be written");
    assert_eq!(serde_json::from_str::<Document>(&indented).ok().as_ref(), Some(&again));
    again
}

/// Rules decide as the document says, and what was written and read again as what was read first.
fn decisions(document: &Document, rules: Rules, same: Rules) {
    let (mode, word) = (rules.mode(), rules.mode_word().to_ascii_lowercase());
    assert_eq!(mode == Mode::Enforce, word == "enforce");
    assert_eq!(mode == Mode::Audit, word == "audit");
    let [rules, same] = [rules, same].map(|rules| {
        let rules = Some(Arc::new(rules));
        PerDestination { wireserver: rules.clone(), hostga: rules.clone(), imds: rules }
    });
    let mut scratch = Scratch::new();
    for claims in ["root", "alice"].map(claims) {
        for to in [Destination::Imds, Destination::WireServer] {
            for target in TARGETS {
                let request = Request { method: b"GET", target };
                let decision = decide(&rules, to.addr(), &claims, request, &mut scratch);
                assert_eq!(decide(&same, to.addr(), &claims, request, &mut scratch), decision);
                // The comparison is slow where there is much to compare.
                if small(document) {
                    let expected = naive::decide(document, to, &claims, b"GET", target);
                    assert_eq!(crate::outcome(decision), expected, "{}", target.escape_ascii());
                }
                assert!(!matches!(decision, Decision::Deny(_)) || mode == Mode::Enforce || to != Destination::Imds);
            }
        }
    }
}

fn small(document: &Document) -> bool {
    let lists = document.rules.clone().unwrap_or_default();
    let RuleLists { privileges, roles, identities, role_assignments, unknown: _ } = &lists;
    let counts = [
        privileges.as_ref().map(Vec::len),
        roles.as_ref().map(Vec::len),
        identities.as_ref().map(Vec::len),
        role_assignments.as_ref().map(Vec::len),
    ];
    counts.iter().flatten().all(|n| *n <= 100)
}

/// What was read is what is written there, by a reader that knows nothing of documents.
fn as_written(document: &Document, value: &Value) {
    assert!(value.is_object());
    for (read, member) in [(&document.default_access, "defaultAccess"), (&document.mode, "mode"), (&document.id, "id")] {
        assert_eq!(value[member], *read.as_str());
    }
    assert_eq!(document.rules.is_none(), value["rules"].is_null());
    let Some(lists) = &document.rules else { return };
    let privileges = lists.privileges.as_ref().map(|list| serde_json::to_value(list).expect("a list"));
    let roles = lists.roles.as_ref().map(|list| serde_json::to_value(list).expect("a list"));
    let identities = lists.identities.as_ref().map(|list| serde_json::to_value(list).expect("a list"));
    let assignments = lists.role_assignments.as_ref().map(|list| serde_json::to_value(list).expect("a list"));
    for (list, member) in
        [(privileges, "privileges"), (roles, "roles"), (identities, "identities"), (assignments, "roleAssignments")]
    {
        let written = &value["rules"][member];
        match list {
            None => assert!(written.is_null()),
            Some(list) => {
                let (list, written) = (list.as_array().expect("a list"), written.as_array().expect("a list"));
                assert_eq!(list.len(), written.len());
                // Nothing is invented: each member of what was read is there. What is not read is null, or nobody knows it.
                for (read, written) in list.iter().zip(written) {
                    for (name, value) in read.as_object().expect("an object") {
                        assert_eq!(written[name], *value);
                    }
                }
            }
        }
    }
}

/// An id switches local files on only if it is the base64 of an object that says so.
fn descriptor(id: &str) {
    let descriptor = Descriptor::parse(id);
    let json = decoded(id.trim()).and_then(|json| String::from_utf8(json).ok()).unwrap_or_default();
    match serde_json::from_str::<Value>(&json) {
        _ if descriptor.logical_id == id.trim() && !descriptor.use_local_file => {}
        Ok(Value::Object(packed)) => {
            assert_eq!(packed.get("useLocalFileRules").and_then(Value::as_bool).unwrap_or(false), descriptor.use_local_file);
            assert_eq!(packed.get("id").and_then(Value::as_str).unwrap_or_default(), descriptor.logical_id);
        }
        // Half a surrogate pair, or a number beyond all bounds, in a member that nobody reads.
        Err(_) if serde_json::from_str::<IgnoredAny>(&json).is_ok() => {}
        _ => panic!("{id:?} is no descriptor: {descriptor:?}"),
    }
    let shown = descriptor.displayed_id();
    assert_eq!(shown.is_none(), descriptor.logical_id.is_empty());
    assert!(shown.is_none_or(|shown| shown.ends_with(&format!("-useLocalFileRules-{}", descriptor.use_local_file))));
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648 section 4, bit by bit.
fn base64(bytes: &[u8]) -> String {
    let mut bits: Vec<bool> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1)).collect();
    bits.resize(bits.len().div_ceil(6) * 6, false);
    let digit = |six: &[bool]| DIGITS[six.iter().fold(0, |n, bit| n << 1 | usize::from(*bit))];
    let mut text: String = bits.chunks(6).map(|six| char::from(digit(six))).collect();
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

/// What the text is the base64 of: what gives the text when it is encoded.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').bytes().map(|b| DIGITS.iter().position(|d| *d == b));
    let digits: Vec<usize> = digits.collect::<Option<_>>()?;
    let bits: Vec<bool> = digits.iter().flat_map(|digit| (0..6).rev().map(move |bit| digit >> bit & 1 == 1)).collect();
    let byte = |bits: &[bool]| bits.iter().fold(0u8, |n, bit| n << 1 | u8::from(*bit));
    let bytes: Vec<u8> = bits.chunks_exact(8).map(byte).collect();
    (base64(&bytes) == text).then_some(bytes)
}
