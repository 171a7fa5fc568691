//! A pool in which everything is real but the machines' walls: controller processes, and machines that each have a network namespace, a simulated host, the
//! proxy daemon with its redirect, the updater, and a package database of its own that dpkg works on. Demo and tests drive it; it checks nothing.
//!
//! What is not real: who restarts services ([`machine`] stands in for systemd), and the way from a machine to the controller, since their networks have
//! none ([`door`] passes it through).
//!
//! | module | what |
//! |---|---|
//! | [`controller`] | controller processes, and what people do at them |
//! | [`machine`] | one machine |
//! | [`door`] | from a machine's loopback to the controllers; can break off, and hold something up |
//! | [`service`] | a process that is started again when it ends |
//! | [`releases`] | packages of the agent, under several versions |

#![forbid(unsafe_code)]

pub mod controller;
pub mod door;
pub mod machine;
pub mod releases;
pub mod service;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// What went wrong, for people.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// A value, or what went wrong.
pub type Result<T> = std::result::Result<T, Error>;

/// How long something may take that others bring about. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Looks until there is something.
///
/// # Errors
/// Not within [`PATIENCE`].
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            return Err(format!("in vain: {what}").into());
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// Where the programs are: controller, updater, daemon.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `azure-proxy-agent-pool`.
    pub controller: PathBuf,
    /// `azure-proxy-agent-updater`.
    pub updater: PathBuf,
    /// `azure-proxy-agent`.
    pub agent: PathBuf,
}

impl Programs {
    /// Those beside the calling program (or above it, for tests); the daemon, which is of another workspace, perhaps in `AZURE_PROXY_AGENT_BIN_DIR` or in
    /// that workspace's own folder.
    ///
    /// # Errors
    /// One is not built.
    pub fn find() -> Result<Self> {
        let own = std::env::current_exe()?;
        let mut folder = own.parent().unwrap_or(Path::new("/"));
        if folder.ends_with("deps") {
            folder = folder.parent().unwrap_or(folder);
        }
        let profile = folder.file_name().unwrap_or_default();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target").join(profile);
        let places: Vec<PathBuf> = std::env::var_os("AZURE_PROXY_AGENT_BIN_DIR")
            .map(PathBuf::from)
            .into_iter()
            .chain([folder.to_owned(), root])
            .collect();
        let find = |name: &str, places: &[PathBuf]| {
            let found = places.iter().map(|place| place.join(name)).find(|path| path.is_file());
            found.ok_or_else(|| format!("{name} is not built: not in {places:?}"))
        };
        let here = [folder.to_owned()];
        Ok(Self {
            controller: find("azure-proxy-agent-pool", &here)?,
            updater: find("azure-proxy-agent-updater", &here)?,
            agent: find("azure-proxy-agent", &places)?,
        })
    }
}
