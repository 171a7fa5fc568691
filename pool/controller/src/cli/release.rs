//! Releases: offered, withdrawn, signed.

use super::client::{self, Client};
use super::table::{self, Table};
use super::{Done, Failure, at, items, signing, word};
use clap::Subcommand;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Commands about releases.
#[derive(Debug, Subcommand)]
pub enum ReleaseCommand {
    /// All releases of a pool.
    List {
        /// Which pool.
        pool: String,
    },
    /// Offer a package to agents.
    Publish {
        /// To which pool.
        pool: String,
        /// The package file.
        file: PathBuf,
        /// Its version.
        #[arg(long = "release-version")]
        version: String,
        /// Ed25519 signature over the release, hexadecimal (pool/README.md says over what).
        #[arg(long)]
        signature: String,
        /// What is new.
        #[arg(long, default_value = "")]
        notes: String,
    },
    /// Take a release back.
    Withdraw {
        /// Which pool.
        pool: String,
        /// Which version.
        version: String,
    },
    /// Make a key that releases are signed with, and print its public half, for the updaters' configuration. Needs no controller.
    Keygen {
        /// The file to make (Ed25519, PKCS#8).
        #[arg(long)]
        key: PathBuf,
    },
    /// Print the signature of a package. Needs no controller: sign where the key is safe.
    Sign {
        /// The package file.
        file: PathBuf,
        /// Its version, as it will be published.
        #[arg(long = "release-version")]
        version: String,
        /// The file that keygen made.
        #[arg(long)]
        key: PathBuf,
    },
}

pub(super) fn run(client: &Client, command: &ReleaseCommand) -> Result<Done, Failure> {
    Ok(match command {
        ReleaseCommand::List { pool } => {
            let value = client.get(&at(pool, "/releases"))?;
            let mut table = Table::new(["VERSION", "FILE", "SIZE", "PUBLISHED", "SHA-256"]);
            for release in items(&value) {
                let published = table::time(release["published"].as_u64());
                table.row([
                    word(release, "version"),
                    word(release, "file"),
                    release["size"].to_string(),
                    published,
                    word(release, "sha256"),
                ]);
            }
            Done::new(value, table.to_string())
        }
        ReleaseCommand::Publish { pool, file, version, signature, notes } => {
            let content = std::fs::read(file).map_err(|e| Failure::Call(format!("{}: {e}", file.display())))?;
            let sha256 = crate::auth::hex(ring::digest::digest(&ring::digest::SHA256, &content).as_ref());
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            client.upload(&format!("/files/{sha256}"), &content)?;
            let body = json!({ "version": version, "file": name, "sha256": sha256, "signature": signature, "notes": notes });
            let value = client.send("POST", &at(pool, "/releases"), &body, None)?;
            Done::new(value, format!("{version} is offered to the agents of {pool}; no job's demands change by it\n"))
        }
        ReleaseCommand::Withdraw { pool, version } => {
            let value =
                client.send("DELETE", &at(pool, &format!("/releases/{}", client::segment(version))), &Value::Null, None)?;
            Done::new(value, format!("{version} is withdrawn\n"))
        }
        ReleaseCommand::Keygen { key } => signing::keygen(key)?,
        ReleaseCommand::Sign { file, version, key } => signing::sign(file, version, key)?,
    })
}
