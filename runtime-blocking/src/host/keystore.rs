//! Keys on disk (files.md sections 2 and 3): one file per guid in a private directory, old ones are kept. Knows where and how;
//! what is in a file, core says ([`StoredKey`]).
//!
//! The directory is checked anew for each operation, so a state directory that appears late (or a full disk that is cleaned up)
//! needs no restart (SEC-E3). No error text contains anything that was read from a key file.

use super::files::{Access, Dir, FileError};
use azure_proxy_agent_core::keeper::{BadKey, StoreError, StoredKey};
use azure_proxy_agent_core::sign::KeyGuid;
use std::fmt;
use std::path::{Path, PathBuf};

/// Mode of key files (FS-30) and of the tag files beside them.
pub(super) const MODE: u32 = 0o600;
/// A key file is a few hundred bytes. Bytes.
const MAX_SIZE: usize = 16 * 1024;

/// The key directory.
#[derive(Debug, Clone)]
pub struct KeyStore {
    path: PathBuf,
}

impl KeyStore {
    /// The key directory at `path`; nothing is touched yet.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directory if need be, checks it, gives it its mode (FS-24, FS-29).
    ///
    /// # Errors
    /// [`FileError`]: a link, of another owner, not a directory, or not to be made.
    pub fn open(&self) -> Result<Dir, FileError> {
        Dir::create(&self.path, Access::Private)
    }

    /// Reads the file of that guid; `None` if there is none. Whether the key in it bears that guid (W-99), core checks.
    ///
    /// # Errors
    /// [`KeyStoreError`]: the file or its directory is refused, or it is not a key file.
    pub fn load(&self, guid: &KeyGuid) -> Result<Option<StoredKey>, KeyStoreError> {
        let name = format!("{guid}.key");
        let Some(bytes) = self.open()?.read(&name, MAX_SIZE)? else { return Ok(None) };
        StoredKey::from_json(&bytes).map(Some).map_err(|e| KeyStoreError::Damaged(self.path.join(name), e))
    }

    /// Writes a key file, whole and synced, before this returns (FS-30, W-92, W-96).
    ///
    /// # Errors
    /// [`KeyStoreError::File`]; no file of that guid has been changed.
    pub fn store(&self, key: &StoredKey) -> Result<(), KeyStoreError> {
        let (name, temp) = (format!("{}.key", key.guid()), format!("{}.tmp", key.guid()));
        Ok(Dir::create_durable(&self.path, Access::Private)?.replace(&name, &temp, MODE, &key.to_json())?)
    }
}

/// Why a key could not be read or written. Its text goes to logs and status; it holds no key material.
#[derive(Debug)]
pub enum KeyStoreError {
    /// The directory or the file could not be used.
    File(FileError),
    /// The file is not a key file.
    Damaged(PathBuf, BadKey),
}

impl From<FileError> for KeyStoreError {
    fn from(e: FileError) -> Self {
        Self::File(e)
    }
}

impl From<KeyStoreError> for StoreError {
    fn from(e: KeyStoreError) -> Self {
        Self(e.to_string())
    }
}

impl fmt::Display for KeyStoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(e) => e.fmt(f),
            Self::Damaged(path, e) => write!(f, "{}: {e}", path.display()),
        }
    }
}

impl std::error::Error for KeyStoreError {}

#[cfg(test)]
mod tests;
