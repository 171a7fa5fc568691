//! Text to fixture. Strict: what it does not understand is an error with its line number. Never panics, whatever the text.

use super::fixture::{Fixture, Input, Output, PeerSpec, Report, Step};
use super::text;
use super::world::{ClaimsSpec, PolicySpec, destination_word};
use crate::effect::{ConnectError, How, LocalQuery, LocalReply, RecordKind, Side};
use crate::identity::Destination;
use crate::time::{Mono, Wall};
use core::fmt;
use core::net::SocketAddrV4;
use core::str::FromStr;
use core::time::Duration;

/// The wall clock of a fixture that names none.
const EPOCH: Wall = Wall(1_767_687_330_000_000_000);

/// What is wrong with a fixture's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl core::error::Error for ParseError {}

impl FromStr for Fixture {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut lines = Lines { rest: text.lines(), number: 0 };
        Self::read(&mut lines).map_err(|what| ParseError { line: lines.number, what })
    }
}

struct Lines<'a> {
    rest: core::str::Lines<'a>,
    number: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let line = self.rest.next()?;
        self.number += 1;
        Some(line)
    }

    /// The lines of a heredoc up to its dot, without indentation.
    fn heredoc(&mut self) -> Result<Vec<&'a str>, String> {
        let mut lines = Vec::new();
        loop {
            let line = self.next().ok_or("heredoc without end")?;
            match line.strip_prefix("    ") {
                Some(".") => return Ok(lines),
                Some(text) => lines.push(text),
                None if line.is_empty() => lines.push(""),
                None => return Err("a line of a heredoc is not indented by four".into()),
            }
        }
    }

    fn bytes(&mut self) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        for line in self.heredoc()? {
            if !text::unescape(line, &mut bytes)? {
                bytes.extend_from_slice(b"\r\n");
            }
        }
        Ok(bytes)
    }

    fn json(&mut self, inline: Option<&str>) -> Result<String, String> {
        match inline {
            Some(text) => Ok(text.into()),
            None => Ok(self.heredoc()?.join("\n")),
        }
    }
}

impl Fixture {
    fn read(lines: &mut Lines<'_>) -> Result<Self, String> {
        if lines.next() != Some("replay 1") {
            return Err("the first line is not `replay 1`".into());
        }
        let mut fixture = Self {
            comments: Vec::new(),
            core_only: None,
            epoch: EPOCH,
            policies: Vec::new(),
            claims: Vec::new(),
            steps: Vec::new(),
            trailer: Vec::new(),
        };
        let mut comments = Vec::new();
        let mut in_header = false;
        while let Some(line) = lines.next() {
            if line.trim().is_empty() || line.starts_with('#') {
                // Comments before the first header line are the fixture's, all others the next step's.
                let list = if in_header { &mut comments } else { &mut fixture.comments };
                list.push(line.trim_end().to_owned());
                continue;
            }
            in_header = true;
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "core-only" => fixture.core_only = Some(rest.trim().to_owned()),
                "epoch" => fixture.epoch = date(rest)?,
                "policy" => {
                    let (name, inline) = name_and_rest(rest);
                    let json = lines.json(inline)?;
                    fixture.policies.push(PolicySpec::parse(name, &json, fixture.policies.len() as u64 + 1)?);
                }
                "claims" => {
                    let (name, inline) = name_and_rest(rest);
                    let json = lines.json(inline)?;
                    fixture.claims.push(ClaimsSpec::parse(name, &json)?);
                }
                time => fixture.event(lines, time, rest.trim_start(), &mut comments)?,
            }
        }
        fixture.trailer = comments;
        if fixture.client().is_none() {
            return Err("the first step is not `accept`".into());
        }
        Ok(fixture)
    }

    fn event(&mut self, lines: &mut Lines<'_>, time: &str, rest: &str, comments: &mut Vec<String>) -> Result<(), String> {
        let at = Mono(u64::try_from(moment(time)?.as_nanos()).map_err(|_| "too late")?);
        let (direction, event) = rest.split_once(' ').ok_or("neither < nor >")?;
        match direction {
            "<" => {
                if self.steps.last().is_some_and(|s| s.at > at) {
                    return Err("time goes back".into());
                }
                let input = self.input(lines, event)?;
                self.steps.push(Step { comments: core::mem::take(comments), at, input, outputs: Vec::new() });
                Ok(())
            }
            ">" => {
                let step = self.steps.last_mut().ok_or("an output before any input")?;
                if step.at != at {
                    return Err("an output has the time of its input".into());
                }
                if comments.iter().any(|c| !c.is_empty()) {
                    return Err("a comment before an output would be lost".into());
                }
                comments.clear();
                step.outputs.push(output(lines, event)?);
                Ok(())
            }
            _ => Err("neither < nor >".into()),
        }
    }

    fn input(&self, lines: &mut Lines<'_>, event: &str) -> Result<Input, String> {
        let words: Vec<&str> = event.split_whitespace().collect();
        Ok(match words.as_slice() {
            ["accept", addr] => Input::Accept(parsed(addr)?),
            ["identified", peer @ ..] => Input::Identified(self.peer_spec(peer)?),
            ["connected"] => Input::Connect(Ok(())),
            ["connect-failed", why] => Input::Connect(Err(match *why {
                "refused" => ConnectError::Refused,
                "unreachable" => ConnectError::Unreachable,
                "timed-out" => ConnectError::TimedOut,
                "local" => ConnectError::Local,
                _ => return Err("unknown reason".into()),
            })),
            ["reply"] => Input::Reply(LocalReply::Json(lines.bytes()?.into())),
            ["reply", "unavailable"] => Input::Reply(LocalReply::Unavailable),
            ["policy", name] => {
                self.policy(name).ok_or("unknown policy")?;
                Input::Policy((*name).into())
            }
            ["timeout"] => Input::Timeout,
            ["wall", ..] => Input::Wall(date(event.strip_prefix("wall ").unwrap_or_default())?),
            ["drain"] => Input::Drain,
            [side] => Input::Bytes(side_of(side)?, lines.bytes()?),
            [side, "eof"] => Input::Eof(side_of(side)?),
            [side, "reset"] => Input::Reset(side_of(side)?),
            [side, "unwritable"] => Input::Unwritable(side_of(side)?),
            [side, "blocked"] => Input::Blocked(side_of(side)?),
            [side, "unblocked"] => Input::Unblocked(side_of(side)?),
            _ => return Err("unknown input".into()),
        })
    }

    fn peer_spec(&self, words: &[&str]) -> Result<PeerSpec, String> {
        let known = |name: &str| {
            let known = self.claims.iter().any(|c| c.name == name) || ClaimsSpec::builtin(name).is_some();
            if known { Ok(name.to_owned()) } else { Err("unknown caller") }
        };
        Ok(match words {
            ["redirected", to, name] => PeerSpec::Redirected { to: endpoint(to)?, claims: known(name)? },
            ["unidentified", to] => PeerSpec::Unidentified { to: endpoint(to)? },
            ["direct"] => PeerSpec::Direct { claims: None },
            ["direct", name] => PeerSpec::Direct { claims: Some(known(name)?) },
            ["unknown"] => PeerSpec::Unknown,
            _ => return Err("unknown kind of peer".into()),
        })
    }
}

fn output(lines: &mut Lines<'_>, event: &str) -> Result<Output, String> {
    let words: Vec<&str> = event.split_whitespace().collect();
    Ok(match words.as_slice() {
        ["identify"] => Output::Identify,
        ["connect", to] => Output::Connect(parsed(to)?),
        ["ask", "status"] => Output::Ask(LocalQuery::Status),
        ["ask", "rules"] => Output::Ask(LocalQuery::Rules),
        ["ask", "provision", tick, notify] => Output::Ask(LocalQuery::Provision {
            tick: parsed(tick.strip_prefix("tick=").ok_or("no tick")?)?,
            notify: parsed(notify.strip_prefix("notify=").ok_or("no notify")?)?,
        }),
        ["intend", request] => Output::Intend(parsed(request.strip_prefix("request=").ok_or("no request number")?)?),
        ["report", ..] => Output::Report(report(event)?),
        ["shutdown", side, how] => Output::Shutdown(
            side_of(side)?,
            match *how {
                "write" => How::Write,
                "close" => How::Close,
                "abort" => How::Abort,
                _ => return Err("unknown kind of shutdown".into()),
            },
        ),
        ["done"] => Output::Done,
        [side] => Output::Bytes(side_of(side)?, lines.bytes()?),
        _ => return Err("unknown output".into()),
    })
}

fn report(event: &str) -> Result<Report, String> {
    let mut rest = event.strip_prefix("report ").ok_or("no report")?;
    let kind = match rest.split_once(' ') {
        Some(("normal", after)) => {
            rest = after;
            RecordKind::Normal
        }
        Some(("failed", after)) => {
            rest = after;
            RecordKind::Failed
        }
        _ => return Err("unknown kind of report".into()),
    };
    // Members in order; the value of one ends where the next begins, so that values may have blanks.
    let names = ["request", "method", "url", "status", "elapsed", "decision", "epoch", "user", "to", "details"];
    let mut values = Vec::new();
    for (i, name) in names.iter().enumerate() {
        rest = rest.strip_prefix(name).and_then(|r| r.strip_prefix('=')).ok_or_else(|| format!("no {name}"))?;
        let end = match names.get(i + 1) {
            Some(next) => rest.find(&format!(" {next}=")).ok_or_else(|| format!("no {next}"))?,
            None => rest.len(),
        };
        let (value, after) = rest.split_at(end);
        values.push(value);
        rest = after.strip_prefix(' ').unwrap_or(after);
    }
    let [request, method, url, status, elapsed, decision, epoch, user, to, details] = values.as_slice() else {
        return Err("incomplete report".into());
    };
    let bytes = |text: &str| {
        let mut bytes = Vec::new();
        text::unescape(text, &mut bytes).map(|_| bytes)
    };
    Ok(Report {
        kind,
        request: parsed(request)?,
        method: bytes(method)?,
        url: bytes(url)?,
        status: parsed(status)?,
        elapsed: moment(elapsed)?,
        decision: (*decision).into(),
        epoch: parsed(epoch)?,
        user: (*user).into(),
        to: (*to).into(),
        details: String::from_utf8_lossy(&bytes(details)?).into_owned(),
    })
}

fn name_and_rest(rest: &str) -> (&str, Option<&str>) {
    match rest.split_once(' ') {
        Some((name, text)) => (name, Some(text.trim())),
        None => (rest, None),
    }
}

fn parsed<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("cannot read {text}"))
}

fn date(text: &str) -> Result<Wall, String> {
    Wall::parse_http_date(text.trim().as_bytes()).ok_or_else(|| "not an HTTP date".into())
}

fn moment(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("not a time: {text}"))?;
    let unit = match unit {
        "s" => 1_000_000_000,
        "ms" => 1_000_000,
        "us" => 1_000,
        "ns" => 1,
        _ => return Err(format!("not a time: {text}")),
    };
    number.checked_mul(unit).map(Duration::from_nanos).ok_or_else(|| "too late".into())
}

fn side_of(word: &str) -> Result<Side, String> {
    match word {
        "client" => Ok(Side::Client),
        "upstream" => Ok(Side::Upstream),
        _ => Err(format!("unknown event {word}")),
    }
}

fn endpoint(word: &str) -> Result<SocketAddrV4, String> {
    match Destination::ALL.into_iter().find(|d| destination_word(*d) == word) {
        Some(destination) => Ok(destination.addr()),
        None => parsed(word),
    }
}
