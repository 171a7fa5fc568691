//! The shape of the file: JSON with positions. Knows member names, types and examples; knows nothing of their meaning.

use super::suggest::closest;
use serde::Deserialize;
use serde::de::Error as _;
use serde_json::{Map, Value};
use std::fmt;

/// Members as they are written (FS-04 to FS-17, and ours). Unknown ones are ignored here and reported by
/// [`Document::unknown_members`].
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Raw {
    pub(super) log_folder: String,
    pub(super) event_folder: String,
    pub(super) latch_key_folder: String,
    /// FS-07: must be there and a number; has no meaning.
    #[serde(rename = "monitorIntervalInSeconds")]
    _monitor_interval_in_seconds: u64,
    pub(super) poll_key_status_interval_in_seconds: u64,
    pub(super) max_event_file_count: Option<u64>,
    pub(super) ebpf_program_name: String,
    pub(super) ebpf_file_full_path: Option<String>,
    pub(super) cgroup_root: Option<String>,
    pub(super) file_log_level: Option<String>,
    pub(super) file_log_level_for_events: Option<String>,
    pub(super) file_log_level_for_system_events: Option<String>,
    pub(super) enable_http_proxy_trace: Option<bool>,
    pub(super) canonical_request_mode: Option<String>,
    pub(super) status_folder: Option<String>,
    pub(super) egress_backstop: Option<bool>,
    pub(super) pin_folder: Option<String>,
}

/// Every member that means something, with an example for hints (the shipped value where there is one).
const MEMBERS: [(&str, &str); 17] = [
    ("logFolder", r#""/var/log/azure-proxy-agent""#),
    ("eventFolder", r#""/var/log/azure-proxy-agent/events""#),
    ("latchKeyFolder", r#""/var/lib/azure-proxy-agent/keys""#),
    ("monitorIntervalInSeconds", "60"),
    ("pollKeyStatusIntervalInSeconds", "15"),
    ("maxEventFileCount", "30"),
    ("ebpfProgramName", r#""ebpf_cgroup.o""#),
    ("ebpfFileFullPath", r#""/usr/lib/azure-proxy-agent/ebpf_cgroup.o""#),
    ("cgroupRoot", r#""/sys/fs/cgroup""#),
    ("fileLogLevel", r#""Info""#),
    ("fileLogLevelForEvents", r#""Info""#),
    ("fileLogLevelForSystemEvents", r#""Info""#),
    ("enableHttpProxyTrace", "false"),
    ("canonicalRequestMode", r#""off""#),
    ("statusFolder", r#""/var/log/azure-proxy-agent""#),
    ("egressBackstop", "false"),
    ("pinFolder", r#""/sys/fs/bpf/azure-proxy-agent""#),
];

/// Members of deployed files that never meant anything to us: ignored without a word (FS-02).
const SILENT: [&str; 3] = ["hostGAPluginSupport", "imdsSupport", "wireServerSupport"];

/// Line and column, both from 1; the column counts bytes, as `serde_json` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct At {
    line: usize,
    column: usize,
}

/// What is wrong, where, and what to do. Displays as `:3:17: what`, then the hint on its own line; with `#` all on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    at: Option<At>,
    what: String,
    hint: String,
}

impl Problem {
    /// A problem of the file itself, not of a place in it.
    pub(super) fn whole_file(what: String, hint: &str) -> Self {
        Self { at: None, what, hint: hint.to_owned() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(At { line, column }) = self.at {
            write!(f, ":{line}:{column}")?;
        }
        let between = if f.alternate() { "; hint: " } else { "\n  hint: " };
        write!(f, ": {}{between}{}", self.what, self.hint)
    }
}

/// The text, and where its top-level members begin.
pub(super) struct Document<'a> {
    text: &'a str,
    /// Offset of the opening quote, and the name.
    members: Vec<(usize, String)>,
}

impl<'a> Document<'a> {
    /// Reads the text as JSON of the shape [`Raw`].
    pub(super) fn read(bytes: &'a [u8]) -> Result<(Self, Raw), Vec<Problem>> {
        let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
        let text = std::str::from_utf8(bytes).map_err(|e| {
            let at = position(bytes.get(..e.valid_up_to()).unwrap_or_default());
            vec![Problem { at: Some(at), what: "the file is not UTF-8".into(), hint: "save it as UTF-8 text".into() }]
        })?;
        let document = Self { text, members: members(text) };
        // A derived struct would also take an array of values.
        let read = match text.trim_start().bytes().next() {
            Some(b'{') | None => serde_json::from_str(text),
            Some(_) => Err(serde_json::Error::custom("the document is not a JSON object")),
        };
        match read {
            Ok(raw) => Ok((document, raw)),
            Err(e) => {
                let first = document.explain(&e);
                let others = document.others(&first);
                Err([first].into_iter().chain(others).collect())
            }
        }
    }

    /// One problem per member that means nothing (FS-02, design section 4).
    pub(super) fn unknown_members(&self) -> impl Iterator<Item = Problem> + '_ {
        self.members.iter().filter(|(_, name)| !is_known(name)).map(|(offset, name)| Problem {
            at: Some(self.at(*offset)),
            what: format!("unknown member {name:?} is ignored"),
            hint: closest(name, MEMBERS.map(|(m, _)| m))
                .map_or_else(|| "remove it, or look its name up in the manual".into(), |m| format!("did you mean {m:?}?")),
        })
    }

    /// A problem of the value of a member.
    pub(super) fn problem_at(&self, member: &str, what: &str) -> Problem {
        let at = self.members.iter().find(|(_, name)| name == member).map(|(offset, _)| self.at(*offset));
        Problem { at, what: format!("{member:?} {what}"), hint: example(member) }
    }

    /// What is wrong besides `first`, at which reading ended: each member is looked at on its own.
    fn others(&self, first: &Problem) -> Vec<Problem> {
        // Text that is no JSON has no members to look at.
        let Ok(document) = serde_json::from_str::<Map<String, Value>>(self.text) else { return Vec::new() };
        let good: Map<String, Value> = MEMBERS
            .iter()
            .filter_map(|(name, example)| Some(((*name).to_owned(), serde_json::from_str(example).ok()?)))
            .collect();
        let mut problems = Vec::new();
        for (member, _) in MEMBERS {
            let mut probe = good.clone();
            match document.get(member) {
                Some(value) => drop(probe.insert(member.to_owned(), value.clone())),
                None => drop(probe.remove(member)),
            }
            let Err(e) = serde_json::from_value::<Raw>(Value::Object(probe)) else { continue };
            let problem = match self.missing(&e.to_string(), None) {
                Some(problem) => problem,
                None => self.problem_at(member, &format!("is wrong: {e}")),
            };
            // `first` may say the same in other words; it has the place of the value.
            let same = first.what == problem.what || first.what.starts_with(&format!("{member:?}"));
            if !same {
                problems.push(problem);
            }
        }
        problems
    }

    /// The problem of a required member that is not there, if `what` says that.
    fn missing(&self, what: &str, at: Option<At>) -> Option<Problem> {
        let missing = what.strip_prefix("missing field `").and_then(|w| w.strip_suffix('`'))?;
        let candidates = self.members.iter().map(|(_, n)| n.as_str()).filter(|n| !is_known(n));
        let hint = match closest(missing, candidates) {
            Some(typo) => format!("is {typo:?} meant to be {missing:?}? Letter case counts"),
            None => format!("add it: {}", example(missing)),
        };
        Some(Problem { at, what: format!("required member {missing:?} is missing"), hint })
    }

    /// Says which member `serde_json` was at, and what would be right there.
    fn explain(&self, error: &serde_json::Error) -> Problem {
        let at = (error.line() > 0).then(|| At { line: error.line(), column: error.column() });
        let text = error.to_string();
        let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what).to_owned();
        if let Some(problem) = self.missing(&what, at) {
            return problem;
        }
        if error.is_data() {
            let offset = at.map_or(0, |at| self.offset(at));
            return match self.members.iter().rev().find(|(start, _)| *start < offset) {
                Some((_, name)) if what.starts_with("duplicate") => {
                    Problem { at, what: format!("{name:?} is there twice"), hint: "keep one of them".into() }
                }
                Some((_, name)) => Problem { at, what: format!("{name:?}: {what}"), hint: example(name) },
                None => Problem { at, what, hint: r#"the file must look like { "logFolder": …, … }"#.into() },
            };
        }
        let hint = match what.as_str() {
            w if w.starts_with("EOF") && self.text.trim().is_empty() => "the file is empty",
            w if w.starts_with("EOF") => "the file ends too early: is a brace or a quote missing at its end?",
            w if w.starts_with("trailing comma") => "remove the comma after the last member",
            w if w.starts_with("expected `,`") => "is a comma missing at the end of the line before?",
            w if w.starts_with("key must be a string") => "names stand in double quotes; comments are not JSON",
            w if w.starts_with("trailing characters") => "remove what follows the closing brace",
            _ => "the file must be plain JSON: double quotes, no comments, no comma after the last member",
        };
        Problem { at, what, hint: hint.into() }
    }

    fn at(&self, offset: usize) -> At {
        position(self.text.as_bytes().get(..offset).unwrap_or_default())
    }

    fn offset(&self, at: At) -> usize {
        let lines = self.text.split_inclusive('\n').take(at.line - 1);
        lines.map(str::len).sum::<usize>() + at.column
    }
}

fn is_known(name: &str) -> bool {
    MEMBERS.iter().any(|(m, _)| *m == name) || SILENT.contains(&name)
}

fn example(member: &str) -> String {
    let value = MEMBERS.iter().find(|(m, _)| *m == member).map_or("…", |(_, v)| v);
    format!("write it as in {member:?}: {value}")
}

/// The place right after `before`.
fn position(before: &[u8]) -> At {
    let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    At { line: 1 + before.iter().filter(|b| **b == b'\n').count(), column: before.len() - line_start + 1 }
}

/// Finds the names of the outermost object. Trusts the text to be JSON; on other text it finds something or nothing, and only the
/// wording of an error depends on it.
fn members(text: &str) -> Vec<(usize, String)> {
    let bytes = text.as_bytes();
    let (mut found, mut depth, mut key_next, mut at) = (Vec::new(), 0u32, false, 0);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                key_next = depth == 1;
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' => key_next = depth == 1,
            b'"' => {
                let end = string_end(bytes, at);
                if std::mem::take(&mut key_next)
                    && let Some(name) = text.get(at..end).and_then(|t| serde_json::from_str(t).ok())
                {
                    found.push((at, name));
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Offset after the closing quote of the string that opens at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}
