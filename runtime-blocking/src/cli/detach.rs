//! `detach`: removes what agents left in the kernel. For who removes the product, or wants the machine as if it had never been there.

use crate::config::{self, Config, DEFAULT_PATH, PIN_FOLDER};
use crate::host::Host;
use redirect_ebpf::{Detached, RedirectError, detach};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Anything but success and a configuration that cannot be used.
const FAILED: u8 = 1;

/// How often, and after which pause, to try again while somebody holds the lock.
const PATIENCE: (u32, Duration) = (20, Duration::from_millis(100));

/// The exit status: 0 also if there was nothing to remove.
pub(super) fn run(program: &str, config: Option<&Path>, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    if !rustix::process::geteuid().is_root() {
        let _ = writeln!(err, "{program}: detach needs root");
        return FAILED;
    }
    let folder = match folder(config) {
        Ok(folder) => folder,
        Err(e) => {
            let _ = writeln!(err, "{e}");
            return config::EXIT_STATUS;
        }
    };
    let folder = match folder {
        Folder::Of(config) if !Host::new(&config).claim() => return running(program, err),
        Folder::Of(config) => config.pin_folder,
        Folder::Standard => Some(PathBuf::from(PIN_FOLDER)),
    };
    let Some(folder) = folder else {
        let _ = writeln!(out, "nothing to remove: nothing outlives an agent of this configuration");
        return 0;
    };
    match patiently(&folder) {
        Ok(done) if done.directories.is_empty() => {
            let _ = writeln!(out, "nothing to remove in {}", folder.display());
            0
        }
        Ok(done) => {
            let _ = writeln!(out, "{done}");
            0
        }
        Err(RedirectError::Busy { .. }) => running(program, err),
        Err(e) => {
            let _ = writeln!(err, "{program}: {e}");
            FAILED
        }
    }
}

/// The process that holds the lock may be the redirector of an agent that has ended: it ends, too.
fn patiently(folder: &Path) -> Result<Detached, RedirectError> {
    for _ in 0..PATIENCE.0 {
        match detach(folder) {
            Err(RedirectError::Busy { .. }) => std::thread::sleep(PATIENCE.1),
            other => return other,
        }
    }
    detach(folder)
}

fn running(program: &str, err: &mut dyn Write) -> u8 {
    let _ = writeln!(err, "{program}: an agent is running; stop it first, then detach");
    FAILED
}

/// Where to look.
enum Folder {
    /// There is a configuration.
    Of(Box<Config>),
    /// There is none, as after the product was removed: what agents use that are not told otherwise.
    Standard,
}

fn folder(config: Option<&Path>) -> Result<Folder, config::ConfigError> {
    match Config::load(config) {
        Ok((config, _)) => Ok(Folder::Of(Box::new(config))),
        Err(_) if config.is_none() && !Path::new(DEFAULT_PATH).exists() => Ok(Folder::Standard),
        Err(e) => Err(e),
    }
}
