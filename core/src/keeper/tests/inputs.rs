//! Everything that a keeper can be told, by names that people understand.

use super::*;
use crate::effect::ConnectError;

/// One thing that happens to a keeper.
#[derive(Clone)]
pub(super) enum Input {
    Start,
    /// A timer that goes off before its time.
    Early,
    Timer,
    Notify,
    Drain,
    /// The host answers the newest question, or what was the newest one.
    Fetched(Result<HostResponse, FetchError>),
    Loaded(Result<Option<StoredKey>, StoreError>),
    Stored(Result<(), StoreError>),
    /// Answers to the question before the newest one.
    LateFetched,
    LateLoaded,
    LateStored,
}

impl Input {
    pub(super) fn apply(self, mut bench: Bench) -> Bench {
        // An answer that nobody waits for opens and closes nothing.
        let unexpected = |bench: &Bench, wanted: bool| if wanted { 0 } else { bench.open };
        let phase = &bench.keeper.phase;
        let fetching = matches!(phase, Phase::AskStatus(_) | Phase::Acquire(_) | Phase::Attest(..));
        let loading = matches!(phase, Phase::LoadLocal(..) | Phase::ReadBack(_));
        let storing = matches!(phase, Phase::Store(_));
        match self {
            Self::Start => bench.keeper.handle_start(bench.now),
            Self::Early => bench.keeper.handle_timeout(bench.now),
            Self::Timer => return bench.timer(),
            Self::Notify => return bench.notify(),
            Self::Drain => return bench.drain(),
            Self::Fetched(result) => {
                bench.open = unexpected(&bench, fetching);
                bench.keeper.handle_fetched(bench.now, FetchId(bench.id), result);
            }
            Self::Loaded(result) => {
                bench.open = unexpected(&bench, loading);
                bench.keeper.handle_loaded(bench.now, StoreId(bench.id), result);
            }
            Self::Stored(result) => {
                bench.open = unexpected(&bench, storing);
                bench.keeper.handle_stored(bench.now, StoreId(bench.id), result);
            }
            Self::LateFetched => bench.keeper.handle_fetched(bench.now, FetchId(bench.id.wrapping_sub(1)), answer(200, "")),
            Self::LateLoaded => {
                bench.keeper.handle_loaded(bench.now, StoreId(bench.id.wrapping_sub(1)), Ok(Some(key(GUID_A))));
            }
            Self::LateStored => bench.keeper.handle_stored(bench.now, StoreId(bench.id.wrapping_sub(1)), Ok(())),
        }
        bench.take();
        bench
    }
}

/// Inputs that are told apart only where that makes a difference.
pub(super) type Class = (&'static str, Vec<(&'static str, Input)>);

/// All of them, with their names.
pub(super) fn all() -> Vec<Class> {
    let body = |text: &str| Input::Fetched(answer(200, text));
    let bodies = |list: Vec<(&'static str, String)>| list.into_iter().map(|(name, text)| (name, body(&text))).collect();
    let answers = |list: Vec<(&'static str, Result<_, _>)>| list.into_iter().map(|(name, r)| (name, Input::Fetched(r))).collect();
    let failed = |text: &str| StoreError(text.to_owned());
    vec![
        (
            "events",
            vec![
                ("start", Input::Start),
                ("a timer too early", Input::Early),
                ("its timer", Input::Timer),
                ("notification", Input::Notify),
                ("drain", Input::Drain),
            ],
        ),
        ("any good status", bodies(good_status())),
        ("any bad status", bodies(bad_status())),
        ("any answer without a document, or none", answers(no_document())),
        ("any key document", answers(key_documents())),
        (
            "any news of a file",
            vec![
                ("file written", Input::Stored(Ok(()))),
                ("file not written, disk full", Input::Stored(Err(failed("no space left on device")))),
                ("file with key A", Input::Loaded(Ok(Some(key(GUID_A))))),
                ("file with key B", Input::Loaded(Ok(Some(key(GUID_B))))),
                ("no file", Input::Loaded(Ok(None))),
                ("damaged file", Input::Loaded(Err(BadKey::Shape { column: 1 }.into()))),
            ],
        ),
        (
            "any answer to an earlier question",
            vec![
                ("late answer of the host", Input::LateFetched),
                ("late answer about a file that was read", Input::LateLoaded),
                ("late answer about a file that was written", Input::LateStored),
            ],
        ),
    ]
}

/// W-24 to W-44: documents that are acted upon.
fn good_status() -> Vec<(&'static str, String)> {
    let a2 = v2(Some(GUID_A));
    vec![
        ("v1 Disabled", v1("Disabled", None)),
        ("v1 Wireserver, no key named", v1("Wireserver", None)),
        ("v1 Wireserver, key A", v1("Wireserver", Some(GUID_A))),
        ("v1 Wireserver, key B", v1("Wireserver", Some(GUID_B))),
        ("v1 WireserverAndImds, key A", v1("WireserverAndImds", Some(GUID_A))),
        ("v2, no key named", v2(None)),
        ("v2, key A", a2.clone()),
        ("v2, key A, other incarnation", a2.replace("\"keyIncarnationId\":3", "\"keyIncarnationId\":4")),
        ("v2, key A, other rule id", a2.replace("\"w1\"", "\"w2\"")),
        ("v2, key A, audit for enforce", a2.replace("enforce", "audit")),
        ("v2, key A, all modes disabled", a2.replace("enforce", "disabled").replace("audit", "disabled")),
        ("v2, key B", v2(Some(GUID_B))),
        ("v2 not enabled, key A", a2.replace("true", "false")),
        ("v2 without rules, key A", a2.replace("\"authorizationRules\"", "\"x\"")),
        ("v2 with empty rules, key A", a2.replace("\"authorizationRules\"", "\"authorizationRules\":{},\"x\"")),
        ("v7 Wireserver, key A", v1("Wireserver", Some(GUID_A)).replace("1.0", "7")),
        ("vtpm, no key named", v1("Wireserver", None).replace("http", "vtpm")),
        ("vtpm, key A", v1("Wireserver", Some(GUID_A)).replace("http", "vtpm")),
    ]
}

/// W-33 to W-37, W-51 and worse: documents that change nothing (W-38).
fn bad_status() -> Vec<(&'static str, String)> {
    let (one, two) = (v1("Wireserver", Some(GUID_B)), v2(Some(GUID_B)));
    vec![
        ("status without a state (W-33)", one.replace("secureChannelState", "x")),
        ("status with state Audit (W-34)", one.replace("Wireserver", "Audit")),
        (
            "v1 with the switch of v2 (W-35)",
            one.replace("\"secureChannelState\":\"Wireserver\"", "\"secureChannelEnabled\":true"),
        ),
        ("v2 with the state of v1 (W-35)", two.replace("\"secureChannelEnabled\":true", "\"secureChannelState\":\"Wireserver\"")),
        ("status with another scheme (W-36)", one.replace("SHA256", "SHA512")),
        ("status with another delivery (W-36)", one.replace("http", "mail")),
        ("v7 with the switch of v2 (W-37)", two.replace("2.0", "7")),
        ("status with a malformed guid (W-51)", one.replace(GUID_B, "../../etc/passwd")),
        ("status with a wrong type", two.replace("true", "\"true\"")),
        ("status with a number out of range", two.replace(":3,", ":4294967296,")),
        ("status with a member twice", one.replace("\"version\":\"1.0\"", "\"version\":\"1.0\",\"version\":\"1.0\"")),
        ("status with a member missing", one.replace("\"version\"", "\"x\"")),
        ("status cut in half", two[..two.len() / 2].to_owned()),
        ("status as an array", format!("[{one}]")),
        ("garbage", "\u{0}\u{1}<<>>\u{fffd}".repeat(100)),
        ("200 with nothing", String::new()),
    ]
}

/// Answers that hold no document, and no answers.
fn no_document() -> Vec<(&'static str, Result<HostResponse, FetchError>)> {
    let with_type = |content_type: &str| {
        answer(200, &v1("Wireserver", None))
            .map(|response| HostResponse { content_type: Some(content_type.as_bytes().into()), ..response })
    };
    vec![
        ("XML", with_type("text/xml")),
        ("UTF-32", with_type("application/json; charset=utf-32")),
        ("204", answer(204, "")),
        ("302", answer(302, &v1("Disabled", None))),
        ("404", answer(404, "")),
        ("500", answer(500, &v1("Disabled", None))),
        ("connection refused", Err(FetchError::Connect(ConnectError::Refused))),
        ("host unreachable", Err(FetchError::Connect(ConnectError::Unreachable))),
        ("connect timed out", Err(FetchError::Connect(ConnectError::TimedOut))),
        ("silent or slow host", Err(FetchError::TimedOut)),
        ("closed without a response", Err(FetchError::NoResponse)),
        ("truncated response", Err(FetchError::Truncated)),
        ("reset", Err(FetchError::Reset)),
        ("not HTTP", Err(FetchError::Malformed)),
        ("huge body", Err(FetchError::TooLarge)),
    ]
}

/// W-46 to W-51.
fn key_documents() -> Vec<(&'static str, Result<HostResponse, FetchError>)> {
    let a = key_document(GUID_A, KEY_A);
    vec![
        ("key A", answer(200, &a)),
        ("key B", answer(200, &key_document(GUID_B, KEY_B))),
        ("key A with 201", answer(201, &a)),
        ("key of another scheme", answer(200, &a.replace("SHA256", "SHA512"))),
        ("key with a malformed guid", answer(200, &a.replace(GUID_A, "../x"))),
        ("key that is not hex", answer(200, &a.replace("0011", "00xx"))),
        ("key document without key", answer(200, &a.replace("\"key\"", "\"x\""))),
    ]
}
