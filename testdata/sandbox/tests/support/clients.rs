//! Programs that are not ours: what has to be there for them, and where that is kept between runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{PATIENCE, not_run, target_directory, until};

/// A file of `testdata/clients/`.
pub(crate) fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients").join(name)
}

/// Where installed clients stay between runs.
pub(crate) fn cache() -> PathBuf {
    let directory = target_directory().join("clients");
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// Whether the client's language is there. Without it the test fails, unless that is allowed.
pub(crate) fn installed(program: &str, package: &str) -> bool {
    which(program).is_some() || excused(&format!("{program} is missing: `apt-get install {package}`"))
}

pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file())
}

/// `false`, which lets the test end, if clients are optional. Fails if they are not.
pub(crate) fn excused(why: &str) -> bool {
    if std::env::var_os("E2E_OPTIONAL_CLIENTS").is_some_and(|v| v == "1") {
        not_run(why);
        return false;
    }
    panic!("{why}; with E2E_OPTIONAL_CLIENTS=1 this client is left out");
}

/// What was made, or why the test ends.
pub(crate) fn usable(made: &Result<PathBuf, String>, package: &str) -> Option<PathBuf> {
    match made {
        Ok(directory) => Some(directory.clone()),
        Err(why) => {
            excused(&format!("{why}(is {package} installed, and a package index reachable?)"));
            None
        }
    }
}

/// Makes a directory of the cache anew with `make`, unless it was made from the same list before.
pub(crate) fn install(name: &str, list: &str, make: impl FnOnce(&Path) -> Result<(), String>) -> Result<PathBuf, String> {
    let wanted = fs::read_to_string(source(name).join(list)).map_err(|e| format!("{list}: {e}"))?;
    let directory = cache().join(name);
    // Written last, so what it vouches for is whole.
    let stamp = directory.join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|had| had == wanted) {
        return Ok(directory);
    }
    if directory.exists() {
        fs::remove_dir_all(&directory).map_err(|e| e.to_string())?;
    }
    fs::create_dir_all(&directory).map_err(|e| e.to_string())?;
    make(&directory)?;
    fs::write(&stamp, wanted).map_err(|e| e.to_string())?;
    Ok(directory)
}

/// Runs a command outside the sandbox; it may take as long as an installation takes, but not for ever.
pub(crate) fn carry_out(mut command: Command) -> Result<(), String> {
    let mut child = command.stdin(Stdio::null()).spawn().map_err(|e| format!("{command:?}: {e}"))?;
    match until(PATIENCE * 10, || child.try_wait().transpose()) {
        Some(Ok(status)) if status.success() => Ok(()),
        Some(Ok(status)) => Err(format!("{command:?}: {status} ")),
        Some(Err(e)) => Err(format!("{command:?}: {e} ")),
        None => {
            let _ = child.kill();
            let _ = child.wait();
            Err(format!("{command:?}: took too long "))
        }
    }
}
