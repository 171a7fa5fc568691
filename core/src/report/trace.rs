//! The trace of a request, for people: what happened to it, a line per step (PX-111 to PX-113). It is made when the request ends, of
//! what its record knows: nothing is kept for it on the way.
//!
//! Caller-controlled text appears only as JSON strings (PX-114); field values, signatures and keys do not appear at all (PX-115).

use super::{cut, decision_words, error_details, identity_word, process_path};
use crate::conn::{Details, Summary};
use crate::json::{number, string};
use crate::time::Wall;
use core::time::Duration;
use std::fmt::Display;
use std::io::Write as _;
use std::ops::Range;

/// Width of time and level in a log file (FS-70). Characters.
const HEADER: usize = 34;
/// Longest method, target or details. Bytes; the audit log has more of them.
const REQUEST: usize = 1024;
/// Longest text about the caller. Bytes.
const CALLER: usize = 256;

/// Appends the trace as whole lines of the connection log (PX-111), each with the time of its step and its level (FS-70). `wall` is
/// when the request ended.
pub fn write_trace(out: &mut Vec<u8>, summary: &Summary<'_>, wall: Wall) {
    Trace::new(out, Form::File, summary, wall).write();
    out.push(b'\n');
}

/// Appends the same lines as a text without headers, for standard output (PX-112).
pub fn write_trace_text(out: &mut Vec<u8>, summary: &Summary<'_>) {
    Trace::new(out, Form::Text, summary, Wall(0)).write();
}

/// Appends the entry of the system log with all steps (PX-113): several lines. `wall` is when the request ended.
pub fn write_system_trace(out: &mut Vec<u8>, summary: &Summary<'_>, wall: Wall) {
    Trace::new(out, Form::System, summary, wall).write();
}

/// What stands in front of the text of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Time, level, request, connection.
    File,
    /// Request, connection.
    Text,
    /// Request, milliseconds, time.
    System,
}

struct Trace<'a> {
    out: &'a mut Vec<u8>,
    form: Form,
    s: &'a Summary<'a>,
    /// When the head was complete.
    start: Wall,
    /// The last time that was written: its milliseconds, and where it is. Most steps share one, and printing it is the most expensive
    /// part of a line.
    last: Option<(u64, Range<usize>)>,
    begun: bool,
}

impl<'a> Trace<'a> {
    fn new(out: &'a mut Vec<u8>, form: Form, s: &'a Summary<'a>, wall: Wall) -> Self {
        let elapsed = u64::try_from(s.elapsed.as_nanos()).unwrap_or(u64::MAX);
        Self { out, form, s, start: Wall(wall.0.saturating_sub(elapsed)), last: None, begun: false }
    }

    fn write(mut self) {
        let s = self.s;
        if s.steps.first && self.form != Form::System {
            self.begin(0, Duration::ZERO, "Accepted a connection from ");
            self.shown(&s.client);
        }
        self.step(Duration::ZERO, "Request ");
        self.bytes(s.method);
        self.text(" ");
        self.bytes(s.url);
        if let Some(to) = s.peer.original() {
            self.text(" to ");
            self.shown(&to);
        } else {
            self.text(", its destination is not known");
        }
        self.caller();
        self.step(s.steps.decided.unwrap_or(s.elapsed), "Decision: ");
        let (decision, reason) = decision_words(s);
        self.text(decision);
        if let Some(reason) = reason {
            self.text(", ");
            self.shown(&reason);
            self.text(", epoch ");
            number(self.out, s.epoch.0);
        }
        if let Some(sent) = s.steps.sent {
            self.step(sent, "Forwarded to the host");
        }
        self.step(s.elapsed, "Ended with ");
        self.shown(&s.status);
        self.text(" after ");
        number(self.out, u64::try_from(s.elapsed.as_micros()).unwrap_or(u64::MAX));
        self.text(" us");
        // What is to be said of a denied request stands above.
        if !matches!(s.details, Details::None | Details::Denied) {
            self.text(": ");
            string(self.out, cut(&error_details(s), REQUEST));
        }
        if self.form != Form::System {
            self.step(s.elapsed, "------------------------ ConnectionLogger is dropped ------------------------");
        }
    }

    fn caller(&mut self) {
        self.step(Duration::ZERO, "Caller: ");
        if let Some(claims) = self.s.peer.claims() {
            self.text("user ");
            number(self.out, claims.user_id.into());
            self.text(" ");
            string(self.out, cut(&claims.user_name.lossy(), CALLER));
            self.text(", process ");
            number(self.out, claims.process_id.into());
            self.text(" ");
            string(self.out, cut(&process_path(claims), CALLER));
            self.text(", ");
        }
        self.text(identity_word(self.s.peer));
    }

    /// Begins a line about the request.
    fn step(&mut self, at: Duration, text: &'static str) {
        self.begin(self.s.request, at, text);
    }

    fn begin(&mut self, request: u64, at: Duration, text: &'static str) {
        if std::mem::replace(&mut self.begun, true) {
            self.out.push(b'\n');
        }
        match self.form {
            Form::File => {
                self.time(at, " [TRACE]   ");
                self.number_of(request);
            }
            Form::Text => self.number_of(request),
            Form::System => {
                self.text("[");
                number(self.out, request);
                self.text("] - ");
                number(self.out, u64::try_from(at.as_millis()).unwrap_or(u64::MAX));
                self.text(" - ");
                self.time(at, " - ");
            }
        }
        self.text(text);
    }

    /// `<requestNumber>[<connectionNumber>] - `
    fn number_of(&mut self, request: u64) {
        number(self.out, request);
        self.text("[");
        number(self.out, self.s.connection);
        self.text("] - ");
    }

    fn time(&mut self, at: Duration, then: &'static str) {
        let wall = self.start.plus(at);
        let millis = wall.0 / 1_000_000;
        match self.last.take() {
            Some((same, there)) if same == millis => {
                self.out.extend_from_within(there.clone());
                self.last = Some((same, there));
            }
            _ => {
                let from = self.out.len();
                self.shown(&wall.stamp());
                self.text(then);
                debug_assert!(self.form != Form::File || self.out.len() - from == HEADER, "FS-70");
                self.last = Some((millis, from..self.out.len()));
            }
        }
    }

    fn bytes(&mut self, text: &[u8]) {
        string(self.out, cut(&String::from_utf8_lossy(text), REQUEST));
    }

    fn text(&mut self, text: &'static str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    /// A number or word of ours.
    fn shown(&mut self, text: &impl Display) {
        // Writing to memory does not fail.
        let _ = write!(self.out, "{text}");
    }
}

#[cfg(test)]
mod tests;
