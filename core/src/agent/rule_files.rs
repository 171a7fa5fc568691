//! Following the rule files of the machine's owner (rules.md section 4.2): when to look, what a look means, what to say about it.
//!
//! What is in force is a function of the host's latest documents and of what the latest finished look at each file gave: nothing half-read
//! ever counts. A status that switches a file on, or brings another document, takes effect when the look that it asks for is finished; a
//! file that changes in between takes effect without any status.

use super::effect::{FileStamp, RuleFile};
use super::source::Source;
use super::{Agent, AgentEffect, Level};
use crate::authz::{Descriptor, Document, LocalRules, local};
use crate::identity::{Destination, PerDestination};
use crate::keeper::schedule::ANSWER_LIMIT;
use crate::time::{Mono, Now};
use core::time::Duration;
use ring::digest::{Digest, SHA256, digest};
use std::sync::Arc;

///
const ATTEMPTS: u8 = 3;
///
const PAUSE: Duration = Duration::from_millis(50);
/// A change is looked at so much later: it seldom comes alone.
const SETTLE: Duration = Duration::from_millis(50);

///
const STATE_CHANGED: &str = "LocalFileRulesStateChanged";
const PARSE_SUCCESS: &str = "LocalRulesFileParseSuccess";
const PARSE_FAILED: &str = "LocalRulesFileParseFailed";
const METADATA_FAILED: &str = "LocalRulesFileMetadataReadFailed";

/// Names a look at a rule file, so that its answer finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookId(pub u64);

/// The files of all endpoints that have one.
#[derive(Debug, Default)]
pub(super) struct RuleFiles {
    files: PerDestination<Watched>,
    last_id: u64,
    /// What is in force may be another document than before.
    changed: bool,
}

/// One file.
#[derive(Debug, Default)]
struct Watched {
    /// The host's document says that the file counts.
    on: bool,
    /// The raw id of the document that the file was last parsed for.
    parsed_for: Option<Box<str>>,
    /// What was last there; `None`: not looked at since the switch was on.
    seen: Option<Seen>,
    /// What that was worth.
    worth: Option<Worth>,
    look: Look,
    /// The latest status waits for the look.
    owed: bool,
}

/// What there is where the file should be.
#[derive(Debug, Clone)]
enum Seen {
    Missing,
    /// The content counts as well: nothing else tells a file that was rewritten within a tick of the clock (S-61). Without: not read.
    Present(FileStamp, Option<Digest>),
    Unknown(String),
}

impl PartialEq for Seen {
    fn eq(&self, other: &Self) -> bool {
        let bytes = |digest: &Option<Digest>| digest.map(|d| d.as_ref().to_vec());
        match (self, other) {
            (Self::Missing, Self::Missing) => true,
            (Self::Present(a, one), Self::Present(b, other)) => a == b && bytes(one) == bytes(other),
            (Self::Unknown(a), Self::Unknown(b)) => a == b,
            _ => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Worth {
    ///
    Missing,
    ///
    Rules(Arc<LocalRules>),
    /// why.
    Broken(String),
}

/// What a look gave.
enum Verdict {
    Missing,
    /// The rules of the look before.
    Known(Arc<LocalRules>),
    Parsed(Arc<LocalRules>),
    Broken {
        why: String,
        /// Looking again soon cannot help.
        is_final: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Look {
    #[default]
    Idle,
    Due {
        at: Mono,
        attempt: u8,
    },
    Asked {
        id: LookId,
        since: Mono,
        attempt: u8,
        /// It changed again meanwhile.
        again: bool,
    },
}

impl RuleFiles {
    /// Whether the latest status waits for a look.
    pub(super) fn owed(&self) -> bool {
        WATCHED.iter().any(|(destination, _)| self.files.get(*destination).owed)
    }

    /// Whether what is in force may have changed since the last call.
    pub(super) fn take_changed(&mut self) -> bool {
        core::mem::take(&mut self.changed)
    }

    /// When something is to be done.
    pub(super) fn deadline(&self) -> Option<Mono> {
        let times = WATCHED.iter().filter_map(|(destination, _)| match self.files.get(*destination).look {
            Look::Idle => None,
            Look::Due { at, .. } => Some(at),
            Look::Asked { since, .. } => Some(since + ANSWER_LIMIT),
        });
        times.min()
    }

    /// What is in force of a remote document.
    pub(super) fn effective(&self, destination: Destination, remote: &Document) -> Document {
        let displayed = local::displayed(destination, remote);
        let watched = self.files.get(destination);
        match &watched.worth {
            _ if !watched.on => displayed,
            Some(Worth::Missing) => displayed,
            Some(Worth::Rules(rules)) => rules.merge(&displayed),
            Some(Worth::Broken(_)) | None => local::fail_closed(&displayed),
        }
    }

    /// Files that cannot be used, and why: what people should know in every mode (S-25).
    pub(super) fn problems(&self) -> impl Iterator<Item = &str> {
        WATCHED.iter().filter_map(|(destination, _)| match &self.files.get(*destination).worth {
            Some(Worth::Broken(why)) => Some(why.as_str()),
            _ => None,
        })
    }
}

/// Who has a file, and its name.
const WATCHED: [(Destination, &str); 2] =
    [(Destination::WireServer, local::WIRESERVER_FILE), (Destination::Imds, local::IMDS_FILE)];

impl Agent {
    /// A good status: which files count, and a look at those.
    pub(super) fn look_at_files(&mut self, now: Now) {
        let Some(status) = self.keeper.status().cloned() else { return };
        for (destination, _) in WATCHED {
            let document = status.documents.get(destination).as_ref();
            let on = document.is_some_and(|document| Descriptor::parse(&document.id).use_local_file);
            let watched = self.rule_files.files.get_mut(destination);
            if on != watched.on {
                *watched = Watched { on, ..Watched::default() };
                self.rule_files.changed = true;
                let text = format!("{} local file rules {}.", destination.name(), if on { "enabled" } else { "disabled" });
                self.tell_of_file(STATE_CHANGED, destination, Level::Warn, &text);
            }
            let watched = self.rule_files.files.get_mut(destination);
            watched.owed = on;
            if on && matches!(watched.look, Look::Idle | Look::Due { attempt: 1, .. }) {
                self.look(now, destination, 1);
            }
        }
    }

    /// Something happened in the directory of the rule files.
    pub(super) fn files_changed(&mut self, now: Now) {
        for (destination, _) in WATCHED {
            let watched = self.rule_files.files.get_mut(destination);
            match &mut watched.look {
                Look::Asked { again, .. } => *again = true,
                Look::Idle if watched.on => watched.look = Look::Due { at: now.mono + SETTLE, attempt: 1 },
                Look::Idle | Look::Due { .. } => {}
            }
        }
    }

    /// Does what is due; whether a look was given up.
    pub(super) fn follow_files(&mut self, now: Now) -> bool {
        let mut given_up = false;
        for (destination, _) in WATCHED {
            match self.rule_files.files.get(destination).look {
                Look::Due { at, attempt } if now.mono >= at => self.look(now, destination, attempt),
                Look::Asked { id, since, .. } if now.mono.since(since) >= ANSWER_LIMIT => {
                    self.file_seen(now, destination, id, RuleFile::Unknown("no answer in time".to_owned()));
                    given_up = true;
                }
                _ => {}
            }
        }
        given_up
    }

    fn look(&mut self, now: Now, destination: Destination, attempt: u8) {
        let Some(name) = LocalRules::file_name(destination) else { return };
        self.rule_files.last_id += 1;
        let id = LookId(self.rule_files.last_id);
        self.rule_files.files.get_mut(destination).look = Look::Asked { id, since: now.mono, attempt, again: false };
        self.effects.push_back(AgentEffect::ReadRules { id, of: destination, name });
    }

    /// What a look gave. An answer to another one is ignored.
    pub(super) fn file_seen(&mut self, now: Now, destination: Destination, id: LookId, found: RuleFile) {
        let watched = self.rule_files.files.get_mut(destination);
        let Look::Asked { id: asked, attempt, again, .. } = watched.look else { return };
        if asked != id {
            return;
        }
        watched.look = Look::Idle;
        let raw_id = self.keeper.status().and_then(|status| status.documents.get(destination).as_ref()).map(|d| d.id.as_str());
        let (seen, verdict) = match found {
            RuleFile::Missing => (Seen::Missing, Verdict::Missing),
            RuleFile::Unknown(why) => (Seen::Unknown(why.clone()), Verdict::Broken { why, is_final: true }),
            RuleFile::Unreadable { stamp, reason } => {
                (Seen::Present(stamp, None), Verdict::Broken { why: reason, is_final: true })
            }
            RuleFile::Changing { stamp } => {
                let why = "it changes while it is read".to_owned();
                (Seen::Present(stamp, None), Verdict::Broken { why, is_final: false })
            }
            RuleFile::Read { stamp, bytes } => {
                let seen = Seen::Present(stamp, Some(digest(&SHA256, &bytes)));
                let is_known = watched.seen.as_ref() == Some(&seen) && watched.parsed_for.as_deref() == raw_id;
                let verdict = match &watched.worth {
                    Some(Worth::Rules(rules)) if is_known => Verdict::Known(Arc::clone(rules)),
                    _ => match LocalRules::parse(&bytes) {
                        Ok(rules) => Verdict::Parsed(Arc::new(rules)),
                        Err(e) => Verdict::Broken { why: e.to_string(), is_final: e.is_final },
                    },
                };
                (seen, verdict)
            }
        };
        if matches!(verdict, Verdict::Broken { is_final: false, .. }) && attempt < ATTEMPTS {
            // Perhaps somebody is writing it; what was in force stays until that is known.
            watched.look = Look::Due { at: now.mono + PAUSE, attempt: attempt + 1 };
            return;
        }
        watched.parsed_for = raw_id.map(Into::into);
        watched.owed = false;
        if again {
            watched.look = Look::Due { at: now.mono + SETTLE, attempt: 1 };
        }
        self.conclude(destination, seen, verdict, attempt);
    }

    /// A look is finished: keeps what it gave, and says what is new; what has not changed is said once.
    fn conclude(&mut self, destination: Destination, seen: Seen, verdict: Verdict, attempt: u8) {
        let (name, path) = (destination.name(), self.rule_file_path(destination));
        let worth = match &verdict {
            Verdict::Missing => Worth::Missing,
            Verdict::Known(rules) | Verdict::Parsed(rules) => Worth::Rules(Arc::clone(rules)),
            Verdict::Broken { why, .. } => {
                Worth::Broken(format!("{name} rules: fail-closed, because {path} cannot be used: {why}"))
            }
        };
        let watched = self.rule_files.files.get_mut(destination);
        let is_other = watched.worth.as_ref() != Some(&worth);
        watched.worth = Some(worth);
        let before = watched.seen.replace(seen.clone());
        let is_news = before.as_ref() != Some(&seen);
        self.rule_files.changed |= is_other;
        if is_news {
            let (level, text) = match (&seen, &before) {
                (Seen::Missing, _) => (Level::Warn, format!("local rules file deleted or not found at {path}.")),
                (Seen::Present(..), Some(Seen::Present(..))) => (Level::Warn, format!("local rules file changed at {path}.")),
                (Seen::Present(..), _) => (Level::Warn, format!("local rules file found at {path}.")),
                (Seen::Unknown(why), _) => (Level::Error, format!("local rules file metadata read failed at {path}: {why}")),
            };
            self.tell_of_file(STATE_CHANGED, destination, level, &format!("{name} {text}"));
        }
        match (verdict, seen) {
            (Verdict::Parsed(rules), _) => {
                let id = rules.id().unwrap_or("unknown");
                let text = format!("Successfully parsed {name} local rules file {path} with id '{id}' on attempt {attempt}.");
                self.tell_of_file(PARSE_SUCCESS, destination, Level::Info, &text);
            }
            (Verdict::Broken { why, .. }, Seen::Unknown(_)) if is_news || is_other => {
                let rest = "Treat it as parse failure and apply fail-closed rules.";
                let text = format!("Failed to read {name} local rules file metadata {path}: {why}. {rest}");
                self.tell_of_file(METADATA_FAILED, destination, Level::Error, &text);
            }
            (Verdict::Broken { why, .. }, _) if is_news || is_other => {
                let text = format!("Failed to parse {name} local rules file {path}: {why}. Apply fail-closed rules.");
                self.tell_of_file(PARSE_FAILED, destination, Level::Error, &text);
            }
            (Verdict::Missing | Verdict::Known(_) | Verdict::Broken { .. }, _) => {}
        }
    }

    /// An event of R-120, which is in the log as well.
    fn tell_of_file(&mut self, task: &'static str, destination: Destination, level: Level, text: &str) {
        self.tell(Source { task, component: destination.name() }, level, false, text);
    }

    fn rule_file_path(&self, destination: Destination) -> String {
        let name = LocalRules::file_name(destination).unwrap_or_default();
        format!("{}/{name}", self.config.rules_folder.trim_end_matches('/'))
    }
}
