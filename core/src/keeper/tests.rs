//! The keeper alone, one input at a time: nobody answers but the test.

mod inputs;
mod steps;
mod table;

use super::*;
use crate::time::Wall;
use zeroize::Zeroizing;

const GUID_A: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const GUID_B: &str = "bbbbbbbb-0000-4000-8000-000000000002";
const KEY_A: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const KEY_B: &str = "a0b0c0d0e0f00102030405060708090a0b0c0d0e0f1011121314151617181920";
const INTERVAL: Duration = Duration::from_secs(15);

fn key_document(guid: &str, key: &str) -> String {
    format!(r#"{{"authorizationScheme":"Azure-HMAC-SHA256","guid":"{guid}","incarnationId":5,"issued":"x","key":"{key}"}}"#)
}

fn key(guid: &str) -> StoredKey {
    StoredKey::from_json(key_document(guid, if guid == GUID_A { KEY_A } else { KEY_B }).as_bytes()).unwrap()
}

fn v1(state: &str, guid: Option<&str>) -> String {
    let guid = guid.map_or("null".to_owned(), |g| format!("\"{g}\""));
    format!(
        r#"{{"authorizationScheme":"Azure-HMAC-SHA256","keyDeliveryMethod":"http","keyGuid":{guid},"secureChannelState":"{state}","version":"1.0"}}"#
    )
}

fn v2(guid: Option<&str>) -> String {
    let guid = guid.map_or("null".to_owned(), |g| format!("\"{g}\""));
    format!(
        r#"{{"authorizationScheme":"Azure-HMAC-SHA256","keyDeliveryMethod":"http","keyGuid":{guid},"keyIncarnationId":3,"secureChannelEnabled":true,"version":"2.0","authorizationRules":{{"imds":{{"defaultAccess":"allow","mode":"audit","id":"i1"}},"wireserver":{{"defaultAccess":"deny","mode":"enforce","id":"w1"}}}}}}"#
    )
}

fn answer(status: u16, body: &str) -> Result<HostResponse, FetchError> {
    Ok(HostResponse { status, body: Zeroizing::new(body.as_bytes().to_vec()), ..HostResponse::default() })
}

/// A keeper, the clock, and what it waits for.
struct Bench {
    keeper: KeyKeeper,
    now: Now,
    /// The last number that it gave a question.
    id: u64,
    /// Questions that were put and not answered.
    open: usize,
    steps: Vec<String>,
    calls: usize,
}

impl Bench {
    fn new() -> Self {
        Self {
            keeper: KeyKeeper::new(INTERVAL, 100),
            now: Now { mono: Mono(5_000_000_000), wall: Wall(1_767_687_330_000_000_000) },
            id: 0,
            open: 0,
            steps: Vec::new(),
            calls: 0,
        }
    }

    fn started() -> Self {
        let mut bench = Self::new();
        bench.keeper.handle_start(bench.now);
        bench.take();
        bench
    }

    /// A keeper that holds key A after this status, and waits.
    fn holding_a(status: &str) -> Self {
        Self::started().ok(status).loaded(Ok(Some(key(GUID_A))))
    }

    /// The steps so far, by short names.
    fn take(&mut self) {
        self.steps.clear();
        while let Some(step) = self.keeper.poll_step() {
            let debug = format!("{step:?}");
            assert!(!debug.contains(&KEY_A[..16]) && !debug.contains(&KEY_B[..16]), "SEC-08: {debug}");
            let name = match step {
                Step::Fetch(FetchId(id), request) => {
                    (self.id, self.open, self.calls) = (id, self.open + 1, self.calls + 1);
                    format!("{} {}", request.method(), request.target())
                }
                Step::Load(StoreId(id), guid) => {
                    (self.id, self.open) = (id, self.open + 1);
                    format!("read file of {}", short(guid.as_str()))
                }
                Step::Store(StoreId(id), key) => {
                    (self.id, self.open) = (id, self.open + 1);
                    format!("write file of {}", short(key.guid().as_str()))
                }
                Step::ClockSet => "clock set".to_owned(),
                Step::StatusRead => "status taken".to_owned(),
                Step::KeyChanged => "key changed".to_owned(),
                Step::LatchReady => "latch ready".to_owned(),
                Step::LatchLost => "latch lost".to_owned(),
                Step::LatchCleared => "latch cleared, provisioning anew".to_owned(),
                Step::IterationEnded => "redirect in line".to_owned(),
                Step::Problem(text) => format!("say problem: {text}"),
                Step::Milestone(text) => format!("say: {text}"),
            };
            self.steps.push(name.replace(GUID_A, "A").replace(GUID_B, "B"));
        }
        assert!(self.open <= 1, "one question at a time: {:?}", self.steps);
        let asks = !matches!(self.keeper.phase, Phase::Idle | Phase::Waiting { .. });
        assert_eq!(self.open, usize::from(asks), "{:?}", self.steps);
    }

    fn fetched(mut self, result: Result<HostResponse, FetchError>) -> Self {
        self.open = self.open.saturating_sub(1);
        self.keeper.handle_fetched(self.now, FetchId(self.id), result);
        self.take();
        self
    }

    fn ok(self, body: &str) -> Self {
        self.fetched(answer(200, body))
    }

    fn loaded(mut self, result: Result<Option<StoredKey>, StoreError>) -> Self {
        self.open = self.open.saturating_sub(1);
        self.keeper.handle_loaded(self.now, StoreId(self.id), result);
        self.take();
        self
    }

    fn stored(mut self, result: Result<(), StoreError>) -> Self {
        self.open = self.open.saturating_sub(1);
        self.keeper.handle_stored(self.now, StoreId(self.id), result);
        self.take();
        self
    }

    /// Time passes until the keeper wants to hear of it.
    fn timer(mut self) -> Self {
        if let Some(at) = self.keeper.deadline() {
            self.pass(at.since(self.now.mono));
            if !matches!(self.keeper.phase, Phase::Idle | Phase::Waiting { .. }) {
                // Given up: its answer does not count any more.
                self.open = 0;
            }
        }
        self.keeper.handle_timeout(self.now);
        self.take();
        self
    }

    fn notify(mut self) -> Self {
        self.keeper.handle_notify(self.now);
        self.take();
        self
    }

    fn drain(mut self) -> Self {
        self.keeper.handle_drain();
        self.take();
        self
    }

    fn pass(&mut self, time: Duration) {
        self.now = Now { mono: self.now.mono + time, wall: self.now.wall.plus(time) };
    }

    fn key_in_use(&self) -> &'static str {
        self.keeper.signer().map_or("none", |signer| short(signer.guid().as_str()))
    }
}

fn short(guid: &str) -> &'static str {
    match guid {
        GUID_A => "A",
        GUID_B => "B",
        _ => "another",
    }
}
