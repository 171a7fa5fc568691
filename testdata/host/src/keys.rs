//! The host's side of key delivery: issues, attests, rotates and remembers keys (W-46 to W-51, W-90 to W-98).
//!
//! What it knows survives a restart when it has a state directory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::date;
use crate::signature::{SCHEME, from_hex, to_hex};

/// One issued key.
#[derive(Clone, Debug)]
pub struct Key {
    /// The 32 bytes.
    pub bytes: Vec<u8>,
    issued: String,
    incarnation: u32,
}

/// All keys, and which of them the host expects.
#[derive(Debug, Default)]
pub struct Keys {
    keys: BTreeMap<String, Key>,
    /// The guid that the status document names.
    current: Option<String>,
    /// The attested key before the current one; requests in flight still carry it (W-97).
    previous: Option<String>,
    /// A key that the host wants to be fetched, not attested yet.
    pending: Option<String>,
    incarnation: u32,
    file: Option<PathBuf>,
}

impl Keys {
    /// Reads the state of an earlier run, if there is any.
    ///
    /// # Errors
    /// A state directory that cannot be made, or a state file that is not one.
    pub fn load(directory: Option<PathBuf>) -> io::Result<Self> {
        let Some(directory) = directory else { return Ok(Self::default()) };
        fs::create_dir_all(&directory)?;
        let file = directory.join("keys.json");
        let mut keys = Self { file: Some(file.clone()), ..Self::default() };
        match fs::read(&file) {
            Ok(bytes) => keys.restore(&bytes).ok_or_else(|| io::Error::other(format!("{} is damaged", file.display())))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        Ok(keys)
    }

    fn restore(&mut self, bytes: &[u8]) -> Option<()> {
        let state: Value = serde_json::from_slice(bytes).ok()?;
        let guid = |member: &str| state[member].as_str().map(str::to_owned);
        (self.current, self.previous, self.pending) = (guid("current"), guid("previous"), guid("pending"));
        self.incarnation = u32::try_from(state["incarnation"].as_u64()?).ok()?;
        for (guid, key) in state["keys"].as_object()? {
            let key = Key {
                bytes: from_hex(key["key"].as_str()?)?,
                issued: key["issued"].as_str()?.to_owned(),
                incarnation: u32::try_from(key["incarnation"].as_u64()?).ok()?,
            };
            self.keys.insert(guid.clone(), key);
        }
        Some(())
    }

    fn store(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let temporary = file.with_extension("tmp");
        fs::write(&temporary, self.to_json().to_string())?;
        fs::rename(temporary, file)
    }

    /// Everything, with the key bytes: the form of the state file and of `GET /keys`. Tests need the bytes to search logs
    /// for them.
    pub fn to_json(&self) -> Value {
        let keys: serde_json::Map<String, Value> = self
            .keys
            .iter()
            .map(|(guid, key)| {
                (guid.clone(), json!({"key": to_hex(&key.bytes), "issued": key.issued, "incarnation": key.incarnation}))
            })
            .collect();
        json!({
            "current": self.current, "previous": self.previous, "pending": self.pending,
            "incarnation": self.incarnation, "keys": keys,
        })
    }

    /// The guid that the status document names, with its incarnation.
    pub fn current(&self) -> Option<(&str, u32)> {
        let guid = self.current.as_deref()?;
        Some((guid, self.keys.get(guid).map_or(self.incarnation, |k| k.incarnation)))
    }

    /// The key of a guid, if requests signed with it are accepted now.
    pub fn accepted(&self, guid: &str) -> Option<&Key> {
        let held = self.pending.as_deref() != Some(guid);
        let known = self.current.as_deref() == Some(guid) || self.previous.as_deref() == Some(guid);
        if held && known { self.keys.get(guid) } else { None }
    }

    /// The key of a guid whatever its standing: for attestation (W-94).
    pub fn issued(&self, guid: &str) -> Option<&Key> {
        self.keys.get(guid)
    }

    /// Answers `POST /secure-channel/key` (W-91): the key that a rotation prepared, or a new one.
    ///
    /// # Errors
    /// When there is no randomness, or the state cannot be stored.
    pub fn issue(&mut self, now: i64) -> io::Result<Value> {
        let guid = match self.pending.clone() {
            Some(guid) => guid,
            None => self.make(now)?,
        };
        self.store()?;
        let key = self.keys.get(&guid).ok_or_else(|| io::Error::other("the state file names a key that it does not hold"))?;
        Ok(json!({
            "authorizationScheme": SCHEME, "guid": guid, "incarnationId": key.incarnation,
            "issued": key.issued, "key": to_hex(&key.bytes),
        }))
    }

    /// Records a verified attestation: from now on the host expects this key.
    ///
    /// # Errors
    /// When the state cannot be stored.
    pub fn attested(&mut self, guid: &str) -> io::Result<()> {
        if self.pending.as_deref() == Some(guid) {
            self.pending = None;
        } else if self.current.as_deref() != Some(guid) {
            self.previous = self.current.replace(guid.to_owned());
        }
        self.store()
    }

    /// Demands another key (W-97): the status names a guid whose key nobody has fetched yet. The old one is accepted until
    /// the next rotation.
    ///
    /// # Errors
    /// When there is no randomness, or the state cannot be stored.
    pub fn rotate(&mut self, now: i64) -> io::Result<String> {
        let guid = self.make(now)?;
        if self.pending.is_none() {
            self.previous = self.current.take();
        }
        self.current = Some(guid.clone());
        self.pending = Some(guid.clone());
        self.store()?;
        Ok(guid)
    }

    /// Forgets which key was latched: the status names none, as on a host that never saw this machine.
    ///
    /// # Errors
    /// When the state cannot be stored.
    pub fn unlatch(&mut self) -> io::Result<()> {
        (self.current, self.previous, self.pending) = (None, None, None);
        self.store()
    }

    /// Stops accepting the key before the current one at once.
    ///
    /// # Errors
    /// When the state cannot be stored.
    pub fn revoke_previous(&mut self) -> io::Result<()> {
        self.previous = None;
        self.store()
    }

    fn make(&mut self, now: i64) -> io::Result<String> {
        let mut random = [0; 48];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let hex = to_hex(&random[32..]);
        let guid = format!("{}-{}-4{}-9{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..]);
        self.incarnation += 1;
        // Not ISO 8601 on purpose: the observed form has a blank (W-49).
        let stamp = date::format(now);
        let issued = format!("{} T {}Z", &stamp[5..16], &stamp[17..25]);
        self.keys.insert(guid.clone(), Key { bytes: random[..32].to_vec(), issued, incarnation: self.incarnation });
        Ok(guid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issue(keys: &mut Keys) -> String {
        keys.issue(0).unwrap()["guid"].as_str().unwrap().to_owned()
    }

    #[test]
    fn a_key_counts_only_after_its_attestation() {
        let mut keys = Keys::default();
        let guid = issue(&mut keys);
        assert!(guid.len() == 36 && guid.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit()), "W-51: {guid}");
        assert!(keys.accepted(&guid).is_none() && keys.issued(&guid).is_some() && keys.current().is_none());
        keys.attested(&guid).unwrap();
        assert!(keys.accepted(&guid).is_some());
        assert_eq!(keys.current(), Some((guid.as_str(), 1)));
    }

    #[test]
    fn rotation_demands_a_new_key_and_keeps_the_old_one_for_requests_in_flight() {
        let mut keys = Keys::default();
        let old = issue(&mut keys);
        keys.attested(&old).unwrap();
        let new = keys.rotate(0).unwrap();
        assert_eq!(keys.current().unwrap().0, new);
        assert!(keys.accepted(&old).is_some() && keys.accepted(&new).is_none());
        assert_eq!(issue(&mut keys), new);
        keys.attested(&new).unwrap();
        assert!(keys.accepted(&old).is_some() && keys.accepted(&new).is_some());
        keys.revoke_previous().unwrap();
        assert!(keys.accepted(&old).is_none());
        keys.unlatch().unwrap();
        assert!(keys.current().is_none() && keys.accepted(&new).is_none());
    }
}
