//! The steps of an update, each of which can be done again: fetch, verify, install, restart, wait until it is ready.

use crate::client::{Client, Trouble};
use crate::command::{Runner, Said};
use crate::config::{Config, hex, unhex};
use crate::machine::{Event, Package, Packages};
use crate::store::Folder;
use pool_core::catalog::{Release, is_hex};
use pool_core::version::Version;
use ring::digest;
use ring::signature::{ED25519, UnparsedPublicKey};
use rustix::fs::Access;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// How long the agent may take to say something about itself.
pub(crate) const BRIEF: Duration = Duration::from_secs(20);
/// Pause between two tries of a download, and between two looks whether the agent is ready.
const PAUSE: Duration = Duration::from_millis(500);
/// What an unpacked package needs, as a multiple of its size; dpkg has the old files beside the new ones for a while.
const UNPACKED: u64 = 4;

/// What the steps need.
#[derive(Debug)]
pub struct Installer<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The state folder.
    pub folder: &'a Folder,
    /// Runs commands.
    pub runner: &'a Runner,
}

/// The version of the agent that is installed, by its own word.
///
/// # Errors
/// It does not run, or says something else.
pub fn version(config: &Config, runner: &Runner) -> Result<Version, String> {
    let words = [config.agent.display().to_string(), "--version".into()];
    let said = runner.run(&words, BRIEF)?;
    let word = said.out.split_whitespace().last().unwrap_or_default();
    match word.parse() {
        Ok(version) if said.is_ok() => Ok(version),
        _ => Err(format!("{} --version: {}", config.agent.display(), said.words())),
    }
}

impl Installer<'_> {
    /// Whether it makes sense to begin, before anything is fetched.
    fn check(&self, packages: Packages<'_>) -> Result<(), String> {
        if self.config.keys.is_empty() {
            return Err("no release can be trusted: the updater's configuration has no public key (`keys`)".into());
        }
        let all = || [Some(packages.to), packages.back].into_iter().flatten();
        all().try_for_each(is_named_well)?;
        for size in all().map(|release| release.size) {
            if size > self.config.largest_package {
                return Err(format!("the package has {size} bytes; at most {} are taken", self.config.largest_package));
            }
        }
        for folder in &self.config.install_folders {
            rustix::fs::access(folder, Access::WRITE_OK).map_err(|e| match e {
                rustix::io::Errno::ROFS => format!("{} is read-only", folder.display()),
                _ => format!("no right to write to {}: {}", folder.display(), io::Error::from(e)),
            })?;
            self.check_room(folder, packages.to.size.saturating_mul(UNPACKED))?;
        }
        let there = |release: &Release| fs::metadata(self.folder.part(&release.sha256)).map_or(0, |part| part.len());
        let to_come = all().map(|release| release.size.saturating_sub(there(release))).fold(0, u64::saturating_add);
        self.check_room(self.folder.path(), to_come)
    }

    fn check_room(&self, folder: &Path, needed: u64) -> Result<(), String> {
        let disk = rustix::fs::statvfs(folder).map_err(|e| format!("{}: {}", folder.display(), io::Error::from(e)))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let needed = needed.saturating_add(self.config.spare_bytes);
        if free >= needed {
            return Ok(());
        }
        Err(format!(
            "not enough disk: {} has {} MiB free, {} MiB are needed",
            folder.display(),
            free >> 20,
            needed.div_ceil(1 << 20)
        ))
    }

    /// Fetches the packages, or the rest of them.
    ///
    /// # Errors
    /// Why they are not there.
    pub fn download(&self, client: &Client, packages: Packages<'_>) -> Result<(), String> {
        self.check(packages)?;
        if let Some(back) = packages.back {
            self.fetch(client, back).map_err(|why| format!("the package of {}, to go back to: {why}", back.version))?;
        }
        self.fetch(client, packages.to)
    }

    fn fetch(&self, client: &Client, release: &Release) -> Result<(), String> {
        if self.folder.package(&release.sha256).exists() {
            return Ok(());
        }
        let path = self.folder.part(&release.sha256);
        let deadline = Instant::now() + Config::seconds(self.config.download_within);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let why = match self.piece(client, release, &path, left.max(PAUSE)) {
                Ok(true) => return Ok(()),
                Ok(false) => "the connection ended early".into(),
                Err(Piecemeal::Final(why)) => return Err(why),
                Err(Piecemeal::Again(why)) => why,
            };
            if left.is_zero() {
                return Err(format!("the package did not come within {} s: {why}", self.config.download_within));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Appends what comes; whether that is all.
    fn piece(&self, client: &Client, release: &Release, path: &Path, within: Duration) -> Result<bool, Piecemeal> {
        let disk = |e: io::Error| Piecemeal::Final(format!("{}: {e}", path.display()));
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(disk)?;
        let mut there = file.metadata().map_err(disk)?.len();
        if there > release.size {
            file.set_len(0).map_err(disk)?;
            there = 0;
        }
        if there == release.size {
            return Ok(true);
        }
        let piece = client.package(release, there, within).map_err(|trouble| match trouble {
            Trouble::Unreachable(why) => Piecemeal::Again(why),
            Trouble::Refused(416, why) => {
                let _ = fs::remove_file(path);
                Piecemeal::Again(why)
            }
            Trouble::Refused(_, why) | Trouble::Unknown(why) => Piecemeal::Final(format!("the pool does not hand it out: {why}")),
        })?;
        if piece.from != there {
            file.set_len(0).map_err(disk)?;
            there = 0;
            if piece.from != 0 {
                return Err(Piecemeal::Again("the pool sent another part than was asked for".into()));
            }
        }
        let mut body = piece.body.into_reader();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let n = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) => return Err(Piecemeal::Again(e.to_string())),
            };
            there += n as u64;
            if there > release.size {
                drop(file);
                let _ = fs::remove_file(path);
                return Err(Piecemeal::Final(format!(
                    "the package is larger than the {} bytes that were announced",
                    release.size
                )));
            }
            file.write_all(buffer.get(..n).unwrap_or_default()).map_err(disk)?;
        }
        Ok(there == release.size)
    }

    /// Compares the SHA-256, checks the signature, and keeps the packages.
    ///
    /// # Errors
    /// One is not what the pool announced, or not from who may make releases.
    pub fn verify(&self, packages: Packages<'_>) -> Result<(), String> {
        if let Some(back) = packages.back {
            self.verify_one(back).map_err(|why| format!("the package of {}, to go back to: {why}", back.version))?;
        }
        self.verify_one(packages.to)
    }

    fn verify_one(&self, release: &Release) -> Result<(), String> {
        is_named_well(release)?;
        let (part, kept) = (self.folder.part(&release.sha256), self.folder.package(&release.sha256));
        let path = if part.exists() { &part } else { &kept };
        let actual = sha256(path).map_err(|e| format!("{}: {e}", path.display()))?;
        if actual != release.sha256 {
            let _ = fs::remove_file(path);
            return Err(format!("what came has the SHA-256 {actual}, and not the release's {}", release.sha256));
        }
        let text = Release::signed_text(&release.version, &release.sha256);
        let signature = unhex(&release.signature).unwrap_or_default();
        let keys = self.config.keys.iter().filter_map(|key| unhex(key));
        let signed =
            keys.into_iter().any(|key| UnparsedPublicKey::new(&ED25519, key).verify(text.as_bytes(), &signature).is_ok());
        if !signed {
            let _ = fs::remove_file(path);
            return Err("bad signature: the release is signed with none of the keys of the updater's configuration".into());
        }
        if path == &part {
            self.folder.keep(&release.sha256).map_err(|e| format!("{}: {e}", part.display()))?;
        }
        Ok(())
    }

    /// Has the package manager install a package.
    pub fn install(&self, sha256: &str) -> Event {
        let package = self.folder.package(sha256);
        if !package.exists() {
            return Event::Untouched(format!("{} is gone", package.display()));
        }
        let package = package.display().to_string();
        let words: Vec<String> = self.config.install.iter().map(|word| word.replace("{package}", &package)).collect();
        match self.runner.run(&words, Config::seconds(self.config.install_within)) {
            Ok(said) if said.is_ok() => Event::Done,
            Ok(said) if is_busy(&said) => Event::Untouched(format!("the package manager is busy: {}", said.words())),
            Ok(said) => Event::Failed(format!("the package manager failed: {}", said.words())),
            Err(why) => Event::Failed(format!("the package manager failed: {why}")),
        }
    }

    /// Restarts the agent.
    ///
    /// # Errors
    /// Why not.
    pub fn restart(&self) -> Result<(), String> {
        let said = self.runner.run(&self.config.restart, Duration::from_secs(60))?;
        if said.is_ok() { Ok(()) } else { Err(format!("the restart failed: {}", said.words())) }
    }

    /// Waits until this version says that it is ready.
    ///
    /// # Errors
    /// It does not within the deadline; what it says instead.
    pub fn await_ready(&self, wanted: Version) -> Result<(), String> {
        let deadline = Instant::now() + Config::seconds(self.config.ready_within);
        let agent = self.config.agent.display().to_string();
        loop {
            let why = match version(self.config, self.runner) {
                Err(why) => why,
                Ok(other) if other != wanted => format!("it is version {other}"),
                Ok(_) => {
                    // One question each: what answers may change while it starts.
                    match self.runner.run(&[agent.clone(), "--status".into()], BRIEF) {
                        Ok(said) if said.is_ok() => return Ok(()),
                        Ok(said) => said.words(),
                        Err(why) => why,
                    }
                }
            };
            if Instant::now() >= deadline {
                return Err(format!("version {wanted} was not ready within {} s: {why}", self.config.ready_within));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Installs what ran before, restarts, and waits until that is ready.
    ///
    /// # Errors
    /// Why not.
    pub fn go_back(&self, package: &Package) -> Result<(), String> {
        // Kept since it was installed; a disk may have changed it.
        let path = self.folder.package(&package.sha256);
        match sha256(&path) {
            Ok(actual) if actual == package.sha256 => {}
            Ok(_) => return Err(format!("{} is damaged", path.display())),
            Err(e) => return Err(format!("{}: {e}", path.display())),
        }
        let deadline = Instant::now() + Config::seconds(self.config.install_within);
        loop {
            match self.install(&package.sha256) {
                // Whoever holds the lock will let go; to stay with half a package is worse than to wait.
                Event::Untouched(_) if Instant::now() < deadline => thread::sleep(PAUSE),
                Event::Untouched(why) | Event::Failed(why) => return Err(why),
                _ => break,
            }
        }
        self.restart()?;
        self.await_ready(package.version)
    }
}

/// Why a piece did not come: for good, or perhaps with the next try.
enum Piecemeal {
    Final(String),
    Again(String),
}

/// The SHA-256 becomes the name of a file, before any signature is looked at: it must not lead out of the folder.
fn is_named_well(release: &Release) -> Result<(), String> {
    if is_hex(&release.sha256, 64) {
        return Ok(());
    }
    Err("what the pool calls the SHA-256 of the package is none".into())
}

/// Whether another package manager holds the lock: then nothing was touched.
fn is_busy(said: &Said) -> bool {
    // dpkg says "dpkg frontend lock was locked by another process", of the database, too; older ones "status database is locked by …"; rpm names its lock.
    [" lock was locked", "is locked by another process", ".rpm.lock"].iter().any(|words| said.err.contains(words))
}

/// SHA-256 of a file, lower-case hexadecimal.
pub(crate) fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(context.finish().as_ref())),
            n => context.update(buffer.get(..n).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Installer, Packages, Said, is_busy};
    use crate::client::Client;
    use crate::command::Runner;
    use crate::config::Config;
    use crate::store::{Folder, Identity};
    use pool_core::Millis;
    use pool_core::agent::AgentId;
    use pool_core::catalog::Release;

    #[test]
    fn what_a_pool_calls_a_hash_does_not_lead_out_of_the_state_folder() {
        let place = std::env::temp_dir().join(format!("updater-names-{}", std::process::id()));
        let folder = Folder::open(&place.join("state")).unwrap();
        let version = "2.0.0".parse().unwrap();
        let identity = Identity {
            // Nobody listens there, and nobody is asked.
            server: "http://127.0.0.1:1".into(),
            pool: "p".into(),
            id: AgentId(1),
            name: "m".into(),
            version,
            key: "k".into(),
            ca: None,
        };
        let client = Client::new(&identity).unwrap();
        let config = Config {
            keys: vec!["0".repeat(64)],
            install_folders: Vec::new(),
            spare_bytes: 0,
            download_within: 1,
            ..Config::default()
        };
        let installer = Installer { config: &config, folder: &folder, runner: &Runner::new(None) };
        let outside = place.join("outside.part");
        for sha256 in ["../../outside".to_owned(), place.join("outside").display().to_string(), "A".repeat(64), String::new()] {
            let to = Release {
                version,
                file: "f.deb".into(),
                size: 1,
                sha256,
                signature: "0".repeat(128),
                notes: String::new(),
                published: Millis(0),
            };
            let packages = Packages { to: &to, back: None };
            for why in [installer.download(&client, packages), installer.verify(packages)] {
                assert!(why.unwrap_err().contains("the SHA-256 of the package is none"), "{}", to.sha256);
            }
            assert!(!outside.exists(), "{}", to.sha256);
        }
        std::fs::remove_dir_all(&place).unwrap();
    }

    /// What dpkg 1.21 said while another process held its locks.
    #[test]
    fn a_package_manager_that_is_busy_is_told_from_one_that_fails() {
        let said = |err: &str| Said { code: Some(2), out: String::new(), err: err.into() };
        for busy in [
            "dpkg: error: dpkg frontend lock was locked by another process with pid 30199\nNote: removing the lock file is always wrong",
            "dpkg: error: dpkg database lock was locked by another process with pid 30199",
            "dpkg: error: dpkg status database is locked by another process",
        ] {
            assert!(is_busy(&said(busy)), "{busy}");
        }
        assert!(!is_busy(&said("dpkg: error processing package x (--install): cannot access archive")));
    }
}
