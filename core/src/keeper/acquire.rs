//! How a key is obtained (wire.md section 6.3): from disk, or from the host by way of the disk.
//!
//! A key that the host handed out is kept until it is attested, whatever our own side does wrong: a full disk makes the keeper try the
//! disk again, and not the host, which would hand out key after key. No attestation without a file that was written and read back.

use super::answer::{exactly_200, local_key, read_back, read_key};
use super::wire::Delivery;
use super::{KeyKeeper, METADATA, Phase, Step, StoreError, StoreId, StoredKey, local_failure};
use crate::exchange::{FetchError, HostResponse};
use crate::sign::{KeyGuid, Signer};
use crate::time::Now;
use std::sync::Arc;

/// The key in use.
pub(super) struct Held {
    pub(super) signer: Arc<Signer>,
    pub(super) incarnation: Option<u32>,
}

/// A key from the host on its way to be attested; overwritten when dropped.
pub(super) struct Fresh {
    key: StoredKey,
    /// What the status named when the host was asked for a key.
    named: Option<KeyGuid>,
}

impl Fresh {
    /// Whether it would still do for a status that names this key.
    fn serves(&self, named: Option<&KeyGuid>) -> bool {
        named == self.named.as_ref() || named == Some(self.key.guid())
    }
}

impl KeyKeeper {
    /// The status asks for a key that is not in use (W-80).
    pub(super) fn obtain(&mut self, now: Now, named: Option<&KeyGuid>) {
        if self.fresh.as_ref().is_some_and(|fresh| !fresh.serves(named)) {
            self.fresh = None;
        }
        match named {
            Some(guid) => {
                let id = self.load(now, guid.clone());
                self.phase = Phase::LoadLocal(id, guid.clone());
            }
            None => self.acquire(now),
        }
    }

    /// W-90.
    pub(super) fn found(&mut self, now: Now, guid: &KeyGuid, result: Result<Option<StoredKey>, StoreError>) {
        match local_key(guid, result) {
            Ok(Some(held)) => self.hold(now, held, "Found key details from local and ready to use."),
            Ok(None) => self.acquire(now),
            Err(e) => {
                let text = format!("{}: {e}", local_failure(guid));
                // Beside the module's message: what comes next may fail too, and the two must not take turns in the log.
                if self.local_problem.as_ref() != Some(&text) {
                    self.steps.push_back(Step::Problem(text.clone()));
                    self.local_problem = Some(text);
                }
                self.acquire(now);
            }
        }
    }

    /// W-91, unless a key was handed out before and only waits to be stored.
    fn acquire(&mut self, now: Now) {
        if self.status.as_ref().is_some_and(|status| status.delivery == Delivery::Vtpm) {
            return self.fail(
                now,
                "Failed to acquire key details: the host delivers keys by vtpm, which no agent of this kind can receive"
                    .to_owned(),
            );
        }
        if let Some(fresh) = &self.fresh {
            let key = fresh.key.clone();
            return self.store(now, key);
        }
        let fields = &[METADATA, ("Content-Type", "application/json")];
        let body = br#"{"authorizationScheme": "Azure-HMAC-SHA256"}"#;
        let id = self.fetch(now, "POST", "/secure-channel/key", fields, body, None);
        self.phase = Phase::Acquire(id);
    }

    pub(super) fn acquired(&mut self, now: Now, result: Result<HostResponse, FetchError>) {
        match exactly_200(result).and_then(|response| read_key(&response)) {
            Ok(key) => {
                let named = self.status.as_ref().and_then(|status| status.key.clone());
                self.fresh = Some(Fresh { key: key.clone(), named });
                self.store(now, key);
            }
            Err(e) => self.fail(now, format!("Failed to acquire key details: {e}")),
        }
    }

    /// W-92.
    fn store(&mut self, now: Now, key: StoredKey) {
        let id = StoreId(self.next_id(now));
        self.steps.push_back(Step::Store(id, key));
        self.phase = Phase::Store(id);
    }

    pub(super) fn stored(&mut self, now: Now, result: Result<(), StoreError>) {
        let guid = self.fresh.as_ref().map(|fresh| fresh.key.guid().clone());
        match (result, guid) {
            (Ok(()), Some(guid)) => {
                let id = self.load(now, guid);
                self.phase = Phase::ReadBack(id);
            }
            (Ok(()), None) => self.fail_read_back(now, "it is not wanted any more"),
            (Err(e), _) => self.fail(now, format!("Failed to save key details to file: {e}")),
        }
    }

    fn load(&mut self, now: Now, guid: KeyGuid) -> StoreId {
        let id = StoreId(self.next_id(now));
        self.steps.push_back(Step::Load(id, guid));
        id
    }

    /// W-93, then W-94: signed with the key that is attested.
    pub(super) fn read_back(&mut self, now: Now, result: Result<Option<StoredKey>, StoreError>) {
        let Some(fresh) = &self.fresh else { return self.fail_read_back(now, "it is not wanted any more") };
        match read_back(&fresh.key, result) {
            Ok(held) => {
                let target = format!("/secure-channel/key/{}/key-attestation", held.signer.guid());
                let id = self.fetch(now, "POST", &target, &[METADATA], b"", Some(&held.signer));
                self.phase = Phase::Attest(id, held);
            }
            Err(e) => self.fail_read_back(now, &e),
        }
    }

    pub(super) fn fail_read_back(&mut self, now: Now, why: &str) {
        let text = match &self.fresh {
            Some(fresh) => format!("{}: {why}", local_failure(fresh.key.guid())),
            None => format!("Failed to check the key details saved locally: {why}"),
        };
        self.fail(now, text);
    }

    pub(super) fn attested(&mut self, now: Now, held: Held, result: Result<HostResponse, FetchError>) {
        // Any answer is the host's last word about this key. Without one it may have been attested or not: it serves again.
        if result.is_ok() {
            self.fresh = None;
        }
        match exactly_200(result) {
            Ok(_) => self.hold(now, held, "Successfully attest the key and ready to use."),
            Err(e) => self.fail(now, format!("Failed to attest the key: {e}")),
        }
    }

    /// W-95: from now on requests are signed with this key.
    fn hold(&mut self, now: Now, held: Held, text: &str) {
        self.fresh = None;
        self.local_problem = None;
        self.held = Some(held);
        self.steps.push_back(Step::KeyChanged);
        self.reach(self.with_uptime(now, text));
        self.report_latch();
        self.succeed(now);
    }
}
