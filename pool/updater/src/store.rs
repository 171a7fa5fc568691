//! The state folder: identity, state, packages. Everything is whole or not there, also after a power cut.

use crate::machine::Stored;
use pool_core::agent::AgentId;
use pool_core::version::Version;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Who this agent is.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The controller.
    pub server: String,
    /// The pool.
    pub pool: String,
    /// Number in the pool.
    pub id: AgentId,
    /// Name in the pool.
    pub name: String,
    /// The agent's version when it was registered.
    pub version: Version,
    /// What proves it. Shown to nobody.
    pub key: String,
    /// Certificates that the controller's must come from (PEM file), instead of the well-known ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({} of {} at {})", self.name, self.pool, self.server)
    }
}

/// The folder.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// Opens it; makes it, with mode 0700.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(path: &Path) -> Result<Self, String> {
        let make = || {
            DirBuilder::new().recursive(true).mode(0o700).create(path.join("packages"))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        };
        make().map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self(path.to_owned()))
    }

    /// A folder to read of.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The folder's own path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The lock that one updater holds, and every command that it starts: after a crash the next updater begins when the last of them has ended.
    ///
    /// # Errors
    /// It cannot be made; another updater runs, if `wait` is false.
    pub fn lock(&self, wait: bool) -> Result<File, String> {
        let path = self.0.join("lock");
        let said = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path).map_err(|e| said(&e))?;
        match (file.try_lock(), wait) {
            (Ok(()), _) => Ok(file),
            (Err(_), true) => file.lock().map(|()| file).map_err(|e| said(&e)),
            (Err(e), false) => Err(said(&e)),
        }
    }

    /// The identity; `None` before registration.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn identity(&self) -> Result<Option<Identity>, String> {
        self.read("identity.json")
    }

    /// Stores the identity.
    ///
    /// # Errors
    /// The disk's.
    pub fn put_identity(&self, identity: &Identity) -> io::Result<()> {
        self.put("identity.json", &serde_json::to_vec(identity)?)
    }

    /// The state; the default before anything was stored.
    ///
    /// # Errors
    /// It cannot be read. Then nothing may be done: a job might be done twice.
    pub fn state(&self) -> Result<Stored, String> {
        self.read("state.json").map(Option::unwrap_or_default)
    }

    /// Stores the state.
    ///
    /// # Errors
    /// The disk's.
    pub fn put_state(&self, stored: &Stored) -> io::Result<()> {
        self.put("state.json", &serde_json::to_vec(stored)?)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, String> {
        let path = self.0.join(name);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| format!("{}: {e}", path.display())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(format!("{}: {e}", path.display())),
        }
    }

    fn put(&self, name: &str, content: &[u8]) -> io::Result<()> {
        replace(&self.0.join(name), content)
    }

    /// Where a package is kept that was found good.
    #[must_use]
    pub fn package(&self, sha256: &str) -> PathBuf {
        self.0.join("packages").join(format!("{sha256}.deb"))
    }

    /// Where it is while it comes.
    #[must_use]
    pub fn part(&self, sha256: &str) -> PathBuf {
        self.0.join("packages").join(format!("{sha256}.part"))
    }

    /// Keeps a package that came whole.
    ///
    /// # Errors
    /// The disk's.
    pub fn keep(&self, sha256: &str) -> io::Result<()> {
        let part = self.part(sha256);
        File::open(&part)?.sync_all()?;
        fs::rename(part, self.package(sha256))?;
        File::open(self.0.join("packages"))?.sync_all()
    }

    /// Removes packages and parts that nobody needs.
    pub fn clean<'a>(&self, needed: impl Iterator<Item = &'a str>) {
        let needed: Vec<&str> = needed.collect();
        for entry in fs::read_dir(self.0.join("packages")).into_iter().flatten().flatten() {
            let path = entry.path();
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            if !needed.contains(&&*stem) {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

/// Replaces a file as a whole, with mode 0600: another name in the same folder, synced, renamed.
///
/// # Errors
/// The disk's; then the file is as it was.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    if let Err(e) = write() {
        let _ = fs::remove_file(&new);
        return Err(e);
    }
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
