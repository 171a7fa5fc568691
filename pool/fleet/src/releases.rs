//! Packages of the agent under several versions: the real program, in which the digits of its version are others, in a real package.

use crate::Result;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// What is in a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// The agent.
    Good,
    /// Something that says its version, and cannot do more.
    NeverReady,
    /// The agent; but the package needs another one, so that dpkg unpacks and does not configure it.
    WontConfigure,
}

/// Makes packages.
#[derive(Debug)]
pub struct Releases {
    folder: PathBuf,
    program: Vec<u8>,
    base: String,
    /// Held while one is made.
    making: Mutex<()>,
}

impl Releases {
    /// Of this agent; packages go into `folder`, which is made.
    ///
    /// # Errors
    /// No agent, or no strip(1).
    pub fn new(agent: &Path, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let said = Command::new(agent).arg("--version").output()?;
        let base = String::from_utf8(said.stdout)?.trim().to_owned();
        let stripped = folder.join("agent");
        // What is built for tests carries 20 MB for debuggers.
        run(Command::new("strip").arg("-o").arg(&stripped).arg(agent))?;
        Ok(Self { folder: folder.to_owned(), program: fs::read(stripped)?, base, making: Mutex::default() })
    }

    /// The agent's own version if `n` is 0, else the `n`th above it.
    #[must_use]
    pub fn version(&self, n: u8) -> String {
        let (major, rest) = self.base.split_once('.').unwrap_or((&self.base, "0"));
        // As many digits as before, so that it fits where the other was.
        let major = major.parse::<u8>().unwrap_or(0) + n;
        format!("{major}.{rest}")
    }

    /// The package of a version.
    ///
    /// # Errors
    /// dpkg-deb cannot make it.
    pub fn package(&self, n: u8, build: Build) -> Result<PathBuf> {
        let version = self.version(n);
        let package = self.folder.join(format!("azure-proxy-agent_{version}_{build:?}.deb"));
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if package.exists() {
            return Ok(package);
        }
        let tree = package.with_extension("tree");
        let program = tree.join("usr/sbin/azure-proxy-agent");
        fs::create_dir_all(tree.join("usr/sbin"))?;
        fs::create_dir_all(tree.join("DEBIAN"))?;
        match build {
            Build::Good | Build::WontConfigure => fs::write(&program, replaced(&self.program, &self.base, &version)?)?,
            Build::NeverReady => {
                let script =
                    format!("#!/bin/sh\n[ \"$1\" = --version ] && echo {version} && exit 0\necho 'it is broken' >&2\nexit 1\n");
                fs::write(&program, script)?;
            }
        }
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        let architecture = String::from_utf8(Command::new("dpkg").arg("--print-architecture").output()?.stdout)?;
        let needs = if build == Build::WontConfigure { "Depends: a-package-that-is-not-there\n" } else { "" };
        let control = format!(
            "Package: azure-proxy-agent\nVersion: {version}\nArchitecture: {}\nMaintainer: nobody <nobody@localhost>\n{needs}\
             Description: The agent, for a test\n",
            architecture.trim()
        );
        fs::write(tree.join("DEBIAN/control"), control)?;
        run(Command::new("dpkg-deb").args(["--root-owner-group", "-Zgzip", "-z1", "--build"]).arg(&tree).arg(&package))?;
        fs::remove_dir_all(&tree)?;
        Ok(package)
    }
}

fn replaced(program: &[u8], old: &str, new: &str) -> Result<Vec<u8>> {
    if old.len() != new.len() {
        return Err(format!("{new} does not fit where {old} is").into());
    }
    let mut program = program.to_vec();
    let (mut at, mut times) = (0, 0);
    while let Some(window) = program.get_mut(at..at + old.len()) {
        if window == old.as_bytes() {
            window.copy_from_slice(new.as_bytes());
            times += 1;
        }
        at += 1;
    }
    if times == 0 { Err(format!("{old} does not occur in the agent").into()) } else { Ok(program) }
}

/// Runs a command to its good end.
///
/// # Errors
/// Another end, with what it said.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().map_err(|e| format!("{}: {e}", command.get_program().to_string_lossy()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command:?}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)).into())
}
