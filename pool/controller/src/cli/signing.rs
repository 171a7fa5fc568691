//! Signatures of releases: made where the key is safe, checked by the updaters. Neither the controller nor its database has the key.

use super::Done;
use super::client::Failure;
use crate::auth::hex;
use pool_core::catalog::Release;
use pool_core::version::Version;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::json;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub(super) fn keygen(path: &Path) -> Result<Done, Failure> {
    let said = |e: &dyn std::fmt::Display| Failure::Call(format!("{}: {e}", path.display()));
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| said(&"the system has no randomness"))?;
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(|e| said(&e))?;
    // Never over a key that is there.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|e| said(&e))?;
    file.write_all(pkcs8.as_ref()).and_then(|()| file.sync_all()).map_err(|e| said(&e))?;
    let public = hex(pair.public_key().as_ref());
    Ok(Done::new(json!({ "publicKey": public }), format!("{public}\n")))
}

pub(super) fn sign(file: &Path, version: &str, key: &Path) -> Result<Done, Failure> {
    let read = |path: &Path| std::fs::read(path).map_err(|e| Failure::Call(format!("{}: {e}", path.display())));
    let version: Version = version.parse().map_err(|e| Failure::Call(format!("{e}")))?;
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&read(key)?)
        .map_err(|e| Failure::Call(format!("{}: no Ed25519 key in PKCS#8: {e}", key.display())))?;
    let sha256 = hex(ring::digest::digest(&ring::digest::SHA256, &read(file)?).as_ref());
    let signature = hex(pair.sign(Release::signed_text(&version, &sha256).as_bytes()).as_ref());
    let value = json!({ "version": version, "sha256": sha256, "signature": signature });
    Ok(Done::new(value, format!("{signature}\n")))
}
