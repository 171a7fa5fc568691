//! A fixture as text: one form for each.

use super::fixture::{Fixture, Input, Output, PeerSpec, Report, Step};
use super::text;
use super::world::destination_word;
use crate::effect::{ConnectError, How, LocalQuery, LocalReply, RecordKind, Side};
use crate::identity::Destination;
use core::fmt;
use core::net::SocketAddrV4;
use core::time::Duration;

impl fmt::Display for Fixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("replay 1\n")?;
        plain(f, &self.comments)?;
        if let Some(why) = &self.core_only {
            writeln!(f, "core-only {why}")?;
        }
        writeln!(f, "epoch {}", String::from_utf8_lossy(self.epoch.http_date().as_bytes()))?;
        for policy in &self.policies {
            json(f, "policy", &policy.name, &policy.text)?;
        }
        for claims in &self.claims {
            json(f, "claims", &claims.name, &claims.text)?;
        }
        for step in &self.steps {
            write!(f, "{step}")?;
        }
        plain(f, &self.trailer)
    }
}

fn plain(f: &mut fmt::Formatter<'_>, lines: &[String]) -> fmt::Result {
    lines.iter().try_for_each(|line| writeln!(f, "{line}"))
}

fn json(f: &mut fmt::Formatter<'_>, word: &str, name: &str, text: &str) -> fmt::Result {
    if !text.contains('\n') {
        return writeln!(f, "{word} {name} {text}");
    }
    writeln!(f, "{word} {name}")?;
    for line in text.lines() {
        writeln!(f, "    {line}")?;
    }
    f.write_str("    .\n")
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        plain(f, &self.comments)?;
        let time = moment(Duration::from_nanos(self.at.0));
        write!(f, "{time:<6} < ")?;
        input(f, &self.input)?;
        for output in &self.outputs {
            write!(f, "{time:<6} > {output}")?;
        }
        Ok(())
    }
}

fn input(f: &mut fmt::Formatter<'_>, input: &Input) -> fmt::Result {
    match input {
        Input::Accept(addr) => writeln!(f, "accept {addr}"),
        Input::Identified(peer) => {
            f.write_str("identified ")?;
            match peer {
                PeerSpec::Redirected { to, claims } => writeln!(f, "redirected {} {claims}", endpoint(*to)),
                PeerSpec::Unidentified { to } => writeln!(f, "unidentified {}", endpoint(*to)),
                PeerSpec::Direct { claims: Some(claims) } => writeln!(f, "direct {claims}"),
                PeerSpec::Direct { claims: None } => f.write_str("direct\n"),
                PeerSpec::Unknown => f.write_str("unknown\n"),
            }
        }
        Input::Bytes(side, bytes) => heredoc(f, side_word(*side), bytes),
        Input::Eof(side) => writeln!(f, "{} eof", side_word(*side)),
        Input::Reset(side) => writeln!(f, "{} reset", side_word(*side)),
        Input::Unwritable(side) => writeln!(f, "{} unwritable", side_word(*side)),
        Input::Blocked(side) => writeln!(f, "{} blocked", side_word(*side)),
        Input::Unblocked(side) => writeln!(f, "{} unblocked", side_word(*side)),
        Input::Connect(Ok(())) => f.write_str("connected\n"),
        Input::Connect(Err(error)) => writeln!(f, "connect-failed {}", connect_word(*error)),
        Input::Reply(LocalReply::Json(body)) => heredoc(f, "reply", body),
        Input::Reply(LocalReply::Unavailable) => f.write_str("reply unavailable\n"),
        Input::Policy(name) => writeln!(f, "policy {name}"),
        Input::Timeout => f.write_str("timeout\n"),
        Input::Wall(wall) => writeln!(f, "wall {}", String::from_utf8_lossy(wall.http_date().as_bytes())),
        Input::Drain => f.write_str("drain\n"),
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identify => f.write_str("identify\n"),
            Self::Connect(to) => writeln!(f, "connect {to}"),
            Self::Ask(LocalQuery::Status) => f.write_str("ask status\n"),
            Self::Ask(LocalQuery::Rules) => f.write_str("ask rules\n"),
            Self::Ask(LocalQuery::Provision { tick, notify }) => writeln!(f, "ask provision tick={tick} notify={notify}"),
            Self::Intend(request) => writeln!(f, "intend request={request}"),
            Self::Report(report) => writeln!(f, "{report}"),
            Self::Shutdown(side, how) => writeln!(f, "shutdown {} {}", side_word(*side), how_word(*how)),
            Self::Bytes(side, bytes) => heredoc(f, side_word(*side), bytes),
            Self::Done => f.write_str("done\n"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            RecordKind::Normal => "normal",
            RecordKind::Failed => "failed",
        };
        write!(
            f,
            "report {kind} request={} method={} url={} status={} elapsed={} decision={} epoch={} user={} to={} details={}",
            self.request,
            text::escape(&self.method),
            text::escape(&self.url),
            self.status,
            moment(self.elapsed),
            self.decision,
            self.epoch,
            self.user,
            self.to,
            text::escape(self.details.as_bytes())
        )
    }
}

fn heredoc(f: &mut fmt::Formatter<'_>, word: &str, bytes: &[u8]) -> fmt::Result {
    writeln!(f, "{word}")?;
    for line in text::lines(bytes) {
        if line.is_empty() {
            f.write_str("\n")?;
        } else {
            writeln!(f, "    {line}")?;
        }
    }
    f.write_str("    .\n")
}

/// A time in the largest unit that it is a whole number of.
fn moment(d: Duration) -> String {
    let n = d.as_nanos();
    for (unit, name) in [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us")] {
        if n.is_multiple_of(unit) {
            return format!("{}{name}", n / unit);
        }
    }
    format!("{n}ns")
}

pub(super) const fn side_word(side: Side) -> &'static str {
    match side {
        Side::Client => "client",
        Side::Upstream => "upstream",
    }
}

const fn how_word(how: How) -> &'static str {
    match how {
        How::Write => "write",
        How::Close => "close",
        How::Abort => "abort",
    }
}

const fn connect_word(error: ConnectError) -> &'static str {
    match error {
        ConnectError::Refused => "refused",
        ConnectError::Unreachable => "unreachable",
        ConnectError::TimedOut => "timed-out",
        ConnectError::Local => "local",
    }
}

fn endpoint(addr: SocketAddrV4) -> String {
    Destination::from_addr(addr).map_or_else(|| addr.to_string(), |d| destination_word(d).into())
}
