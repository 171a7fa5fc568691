//! What an answer of the host or of the key store is worth: a value to go on with, or a text for the module's message. No text
//! holds anything of a key document.

use super::key::StoredKey;
use super::{Held, StoreError};
use crate::exchange::{FetchError, HostResponse, Text};
use crate::sign::KeyGuid;
use std::borrow::Cow;
use std::sync::Arc;
use zeroize::Zeroizing;

/// W-17, W-18: nothing but 200 is a success.
pub(super) fn exactly_200(result: Result<HostResponse, FetchError>) -> Result<HostResponse, String> {
    match result {
        Ok(response) if response.status == 200 => Ok(response),
        Ok(response) => Err(format!("the host answered {}", response.status)),
        Err(e) => Err(e.to_string()),
    }
}

/// W-91: the document with a new key.
pub(super) fn read_key(response: &HostResponse) -> Result<StoredKey, String> {
    match response.text().map_err(|e| e.to_string())? {
        Text::Json(text) => {
            // Decoding may have made a copy.
            let text = match text {
                Cow::Borrowed(text) => return StoredKey::from_json(text.as_bytes()).map_err(|e| e.to_string()),
                Cow::Owned(text) => Zeroizing::new(text),
            };
            StoredKey::from_json(text.as_bytes()).map_err(|e| e.to_string())
        }
        Text::Xml(_) => Err("the host answered with XML".to_owned()),
    }
}

/// A key file is used only under its own name (W-99).
pub(super) fn local_key(guid: &KeyGuid, result: Result<Option<StoredKey>, StoreError>) -> Result<Option<Held>, String> {
    match result {
        Ok(None) => Ok(None),
        Ok(Some(key)) if key.guid() == guid => held(&key).map(Some),
        Ok(Some(_)) => Err("the file holds another guid".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

/// W-93.
pub(super) fn read_back(written: &StoredKey, result: Result<Option<StoredKey>, StoreError>) -> Result<Held, String> {
    match result {
        Ok(Some(read)) if read.is_same_key(written) => held(&read),
        Ok(Some(_)) => Err("the file holds another key than was written".to_owned()),
        Ok(None) => Err("the file is not there".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

fn held(key: &StoredKey) -> Result<Held, String> {
    let signer = key.signer().map_err(|e| e.to_string())?;
    Ok(Held { signer: Arc::new(signer), incarnation: key.incarnation() })
}
