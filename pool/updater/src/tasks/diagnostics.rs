//! `CollectDiagnostics`: what somebody who is to help wants to see, in one archive, without secrets.
//!
//! Only what the agent itself wrote to be read by people goes in: its answers, its status, its audit log, which it has redacted. Keys, events and traces stay
//! out, and so does every line that looks as if it had a secret nevertheless.

use super::{RULE_FILES, Tasks};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Most bytes of each file of the archive: its end counts.
const LONGEST_FILE: usize = 128 << 10;
/// Most bytes of the archive: base64 makes four bytes of three, and a result has at most 1 MiB.
const LONGEST_ARCHIVE: usize = 700 << 10;
/// What a line with a secret in it has.
const SECRETS: [&str; 9] =
    ["sig=", "eyj", "private key", "bearer ", "password", "secret", "sharedaccess", "accountkey", "authorization:"];

impl Tasks<'_> {
    pub(super) fn collect_diagnostics(&self) -> Result<Value, String> {
        let mut files: Vec<(String, String)> = Vec::new();
        let config = self.config.agent_config.display().to_string();
        for (name, arguments) in [
            ("version.txt", vec!["--version"]),
            ("ready.txt", vec!["--status"]),
            ("check-config.txt", vec!["--check-config", "--config", &config]),
        ] {
            let text = match self.agent(&arguments) {
                Ok(said) => format!("{}{}exit code {:?}\n", said.out, said.err, said.code),
                Err(why) => format!("{why}\n"),
            };
            files.push((name.into(), text));
        }
        match self.agent_config() {
            Err(why) => files.push(("agent-config.txt".into(), format!("{why}\n"))),
            Ok(agent) => {
                files.push(("status.json".into(), tail(&agent.status_folder.join("status.json"))));
                if !agent.log_folder.is_empty() {
                    files.push(("audit.jsonl".into(), tail(&Path::new(&agent.log_folder).join("audit.jsonl"))));
                }
                for (destination, name) in RULE_FILES {
                    let path = agent.rules().join(name);
                    if path.exists() {
                        let text = match self.check_rules(destination, &path) {
                            Ok((true, _)) => "good\n".into(),
                            Ok((false, why)) | Err(why) => format!("{why}\n"),
                        };
                        files.push((format!("{name}.check.txt"), text));
                    }
                }
            }
        }
        let mut archive = Vec::new();
        for (name, text) in &mut files {
            *text = clean(text);
            entry(&mut archive, name, text.as_bytes());
        }
        archive.extend([0; 1024]);
        if archive.len() > LONGEST_ARCHIVE {
            return Err(format!("the archive has {} bytes; at most {LONGEST_ARCHIVE} are taken", archive.len()));
        }
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        Ok(json!({ "format": "tar", "encoding": "base64", "files": names, "archive": STANDARD.encode(archive) }))
    }
}

/// The end of a file, from the beginning of a line on.
fn tail(path: &Path) -> String {
    let read = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let from = length.saturating_sub(LONGEST_FILE as u64);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(LONGEST_FILE as u64).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok::<_, std::io::Error>(if from == 0 {
            text
        } else {
            text.split_once('\n').map_or(String::new(), |(_, rest)| rest.into())
        })
    };
    read().unwrap_or_else(|e| format!("{}: {e}\n", path.display()))
}

/// Without lines that may have a secret, and not too long.
fn clean(text: &str) -> String {
    let mut cleaned = String::new();
    for line in text.lines() {
        let lower = line.to_ascii_lowercase();
        cleaned +=
            if SECRETS.iter().any(|mark| lower.contains(mark)) { "(a line was left out: it may have a secret)" } else { line };
        cleaned.push('\n');
    }
    let mut from = cleaned.len().saturating_sub(LONGEST_FILE);
    while !cleaned.is_char_boundary(from) {
        from += 1;
    }
    cleaned.split_off(from)
}

/// One file of an archive (POSIX ustar).
fn entry(archive: &mut Vec<u8>, name: &str, content: &[u8]) {
    let mut header = [0u8; 512];
    let mut put = |at: usize, text: &str| {
        if let Some(field) = header.get_mut(at..at + text.len()) {
            field.copy_from_slice(text.as_bytes());
        }
    };
    put(0, name);
    put(100, "0000640\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", content.len()));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    if let Some(field) = header.get_mut(148..156) {
        field.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    archive.extend(header);
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(512), 0);
}
