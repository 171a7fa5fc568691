//! Canonicalization: total, idempotent (R-167), as the text says, the same with a warm scratch as with a fresh one; and no encoding
//! of a request is allowed what its canonical form is not.

use std::sync::{Arc, LazyLock};

use azure_proxy_agent_core::authz::canonical::{Scratch, check, trace};
use azure_proxy_agent_core::authz::{Decision, Document, Request, Rules, decide, raw_path, traversal_guard};
use azure_proxy_agent_core::identity::{Claims, Destination, PerDestination};

use crate::naive::{self, Form};
use crate::{Choices, claims};

/// The input is a request target.
pub fn run(target: &[u8]) {
    let mut scratch = Scratch::new();
    let once = form(target, &mut scratch);
    assert_eq!(once.as_ref().map(|(form, _)| form), naive::canonical(b"GET", target).as_ref());
    // Leftovers of an earlier request do not show.
    assert_eq!(form(target, &mut scratch), once);
    let told = trace(b"GET", target).pop().and_then(|step| step.after.err()).map(|e| e.code());
    assert_eq!(told.filter(|code| *code != "CANON_AMBIGUOUS"), once.as_ref().err().copied(), "the stages end where they fail");
    let Ok((form_once, text)) = once else { return };
    assert!(form_once.segments.iter().all(|s| !matches!(s.as_slice(), b"." | b"..") && !s.contains(&b'/')));
    // The rendered form has no authority any more, and a decision does not need it (R-170).
    let origin = Form { destination: None, ..form_once.clone() };
    assert_eq!(form(text.as_bytes(), &mut Scratch::new()), Ok((origin.clone(), text.clone())), "canonicalized twice");

    let variant = encode(&form_once, target);
    assert_eq!(form(&variant, &mut scratch).map(|(form, _)| form), Ok(origin), "{}", variant.escape_ascii());
    let own = rules_about(&form_once, &text);
    for rules in own.iter().chain(&*FIXED) {
        for claims in &*CALLERS {
            allows_no_more(rules, claims, target, text.as_bytes());
            allows_no_more(rules, claims, &variant, text.as_bytes());
        }
    }
    let [lock, grant] = &own;
    assert!(!allowed(lock, &CALLERS[0], b"GET", target), "a path is locked in every encoding");
    assert_eq!(
        allowed(grant, &CALLERS[0], b"GET", target),
        allowed(grant, &CALLERS[0], b"GET", text.as_bytes()) && guarded(target)
    );
}

fn form(target: &[u8], scratch: &mut Scratch) -> Result<(Form, String), &'static str> {
    let canonical = check(b"GET", target, scratch).map_err(|e| e.code())?;
    let form = Form {
        segments: canonical.segments().map(<[u8]>::to_vec).collect(),
        trailing_slash: canonical.trailing_slash(),
        parameters: canonical.parameters().map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
        destination: canonical.destination(),
    };
    Ok((form, canonical.to_string()))
}

static CALLERS: LazyLock<[Claims; 2]> = LazyLock::new(|| ["alice", "root"].map(claims));

/// Documents that grant and lock what seeds and dictionary talk about.
static FIXED: LazyLock<Vec<Compiled>> = LazyLock::new(|| {
    const LISTS: &str = r#"{"privileges":[
            {"name":"a","path":"/metadata/instance"},
            {"name":"b","path":"/metadata/identity/oauth2/token","queryParameters":{"resource":"https://vault.example/"}},
            {"name":"c","path":"/machine","queryParameters":{"comp":"goalstate","a b":""}},
            {"name":"d","path":"/a/b"},{"name":"e","path":"/a/b/c%25"},{"name":"locked","path":"/vmagentlog"}],
        "roles":[{"name":"r","privileges":["a","b","c","d","e"]}],"identities":[{"name":"i","userName":"alice"}],
        "roleAssignments":[{"role":"r","identities":["i"]}]}"#;
    ["allow", "deny"].map(|access| compiled(&document(access, LISTS))).into()
});

type Compiled = PerDestination<Option<Arc<Rules>>>;

fn document(access: &str, lists: &str) -> Document {
    let text = format!(r#"{{"defaultAccess":"{access}","mode":"enforce","id":"","rules":{lists}}}"#);
    serde_json::from_str(&text).expect("a document")
}

fn compiled(document: &Document) -> Compiled {
    let (rules, findings) = Rules::compile(document);
    assert!(findings.is_empty(), "{findings:?}");
    let rules = Some(Arc::new(rules));
    PerDestination { imds: rules.clone(), wireserver: rules.clone(), hostga: rules }
}

/// A privilege that is written as the rendered form of this request: nobody has it where all else is allowed, and everybody where
/// all else is denied.
fn rules_about(form: &Form, text: &str) -> [Compiled; 2] {
    let path = serde_json::Value::from(text.split('?').next().unwrap_or_default());
    let mut constraints = serde_json::Map::new();
    for (name, value) in &form.parameters {
        // Not rendered: a plain text with the three characters that would be read as something else (R-19).
        let [name, value] = [name, value].map(|t| String::from_utf8_lossy(t).replace('%', "%25").replace('+', "%2B"));
        constraints.insert(name, value.into());
    }
    let constraints = serde_json::Value::Object(constraints);
    let lists = |assigned: &str| {
        format!(
            r#"{{"privileges":[{{"name":"p","path":{path},"queryParameters":{constraints}}}],
                "roles":[{{"name":"r","privileges":["p"]}}],"identities":[{{"name":"all"}}],
                "roleAssignments":[{{"role":"r","identities":[{assigned}]}}]}}"#
        )
    };
    [compiled(&document("allow", &lists(""))), compiled(&document("deny", &lists(r#""all""#)))]
}

/// The same request in another spelling, as far as the traversal guard lets it through.
fn encode(form: &Form, choices: &[u8]) -> Vec<u8> {
    let mut choices = Choices(choices);
    let mut out = Vec::new();
    let mut character = |out: &mut Vec<u8>, byte: u8, plain: &[u8]| match choices.byte() % 4 {
        0 | 1 if (byte.is_ascii_alphanumeric() || plain.contains(&byte) || !byte.is_ascii()) => out.push(byte),
        2 if byte.is_ascii_alphabetic() => out.push(byte.to_ascii_uppercase()),
        3 => out.extend(format!("%{byte:02X}").into_bytes()),
        _ => out.extend(format!("%{byte:02x}").into_bytes()),
    };
    for (number, segment) in form.segments.iter().enumerate() {
        out.extend(if number % 3 == 2 { &b"/./"[..] } else { b"/" });
        segment.iter().for_each(|byte| character(&mut out, *byte, b".-_~*"));
        out.extend(if number % 3 == 1 { &b";x=%41"[..] } else { b"" });
    }
    if form.segments.is_empty() || form.trailing_slash {
        out.push(b'/');
    }
    for (number, (name, value)) in form.parameters.iter().enumerate() {
        out.extend(if number == 0 { &b"?"[..] } else { b"&&" });
        name.iter().for_each(|byte| character(&mut out, *byte, b"/:?.-_~"));
        out.push(b'=');
        value.iter().for_each(|byte| character(&mut out, *byte, b"/:?=.-_~"));
    }
    out
}

/// No method, destination and caller get more with one spelling than with the canonical one; and the same, where neither guard nor
/// exemption look at the spelling.
fn allows_no_more(rules: &Compiled, claims: &Claims, target: &[u8], canonical: &[u8]) {
    for method in [&b"GET"[..], b"PUT", b"POST"] {
        let got = allowed(rules, claims, method, target);
        let canonical = allowed(rules, claims, method, canonical);
        assert!(canonical || !got, "{} is allowed more than its canonical form", target.escape_ascii());
        if guarded(target) && (method == b"GET" || claims.user_id != 0) {
            assert_eq!(got, canonical, "{}", target.escape_ascii());
        }
    }
}

/// Whether the traversal guard lets it through (PX-44).
fn guarded(target: &[u8]) -> bool {
    !traversal_guard(raw_path(target))
}

fn allowed(rules: &Compiled, claims: &Claims, method: &[u8], target: &[u8]) -> bool {
    let decision = decide(rules, Destination::Imds.addr(), claims, Request { method, target }, &mut Scratch::new());
    guarded(target) && matches!(decision, Decision::Allow(_))
}
