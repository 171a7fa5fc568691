//! What must have been seen, and what is different.

use super::stage::{End, Received, State};
use azure_proxy_agent_core::effect::{How, Side};
use azure_proxy_agent_core::replay::{Fixture, Input, Output, PeerSpec, Segment, Step, Streams};
use std::fmt::Write;

/// Bytes shown before and after the first difference.
const CONTEXT: usize = 48;

/// What the story has brought about so far.
pub(super) struct Expected {
    outputs: Vec<Output>,
    streams: Streams,
    /// The client sees the end of what it is sent.
    client_ends: bool,
    /// Connections to the host, and how many of them have ended.
    hosts: usize,
    hosts_end: usize,
    done: bool,
    /// Without a record nobody is asked who it is.
    identified: bool,
}

impl Expected {
    pub(super) fn new(fixture: &Fixture) -> Self {
        Self {
            outputs: Vec::new(),
            streams: Streams::default(),
            client_ends: false,
            hosts: 0,
            hosts_end: 0,
            done: false,
            identified: !fixture.steps.iter().any(|s| s.input == Input::Identified(PeerSpec::Unknown)),
        }
    }

    /// One step further.
    pub(super) fn add(&mut self, step: &Step) {
        for output in &step.outputs {
            match output {
                Output::Connect(_) => self.hosts += 1,
                Output::Shutdown(Side::Client, _) => self.client_ends = true,
                Output::Shutdown(Side::Upstream, How::Close | How::Abort) => self.hosts_end = self.hosts,
                Output::Done => self.done = true,
                _ => {}
            }
            self.outputs.push(match output {
                Output::Report(report) => Output::Report(report.clone().timeless()),
                other => other.clone(),
            });
        }
        self.streams = Streams::of(&self.outputs);
        let identified = self.identified;
        self.streams.effects.retain(|o| match o {
            Output::Identify => identified,
            Output::Shutdown(..) | Output::Done => false,
            _ => true,
        });
    }

    /// Whether all of it was seen, or more.
    pub(super) fn is_seen(&self, s: &State) -> bool {
        let bytes = |wanted: &Segment, got: &Received| got.end.is_some() || got.bytes.len() >= wanted.bytes.len();
        s.effects.len() >= self.streams.effects.len()
            && bytes(&self.streams.client, &s.client)
            && (!self.client_ends || s.client.end.is_some())
            && s.upstream.len() >= self.streams.upstream.len()
            && self.streams.upstream.iter().zip(&s.upstream).all(|(wanted, got)| bytes(wanted, got))
            && s.upstream.iter().take(self.hosts_end).all(|got| got.end.is_some())
            && (!self.done || s.served)
    }

    /// The first difference.
    pub(super) fn difference(&self, s: &State) -> Option<String> {
        let effects = self.streams.effects.iter().map(Some).chain(std::iter::repeat(None));
        let seen = s.effects.iter().map(Some).chain(std::iter::repeat(None));
        let most = self.streams.effects.len().max(s.effects.len());
        for (number, (wanted, got)) in effects.zip(seen).take(most).enumerate() {
            if wanted != got {
                let show = |o: Option<&Output>| o.map_or_else(|| "nothing".into(), |o| o.to_string().trim_end().to_owned());
                return Some(format!("effect {}:\n  core:  {}\n  shell: {}", number + 1, show(wanted), show(got)));
            }
        }
        // A host that is left with unread bytes sees a reset where core says close: only an end that must be one is held to it.
        let upstream = self.streams.upstream.iter().zip(&s.upstream).enumerate();
        segment("the client receives", &self.streams.client, &s.client, true).or_else(|| {
            upstream.into_iter().find_map(|(n, (wanted, got))| {
                segment(&format!("host connection {} receives", n + 1), wanted, got, wanted.aborted)
            })
        })
    }
}

/// Whether all sockets have ended.
pub(super) fn ended(s: &State) -> bool {
    s.client.end.is_some() && s.upstream.iter().all(|r| r.end.is_some())
}

fn segment(who: &str, wanted: &Segment, got: &Received, judge_end: bool) -> Option<String> {
    let aborted = if judge_end && got.end != Some(End::Own) { got.reset || got.end == Some(End::Reset) } else { wanted.aborted };
    let seen = Segment { bytes: got.bytes.clone(), aborted };
    if wanted.agrees(&seen) {
        return None;
    }
    let at = wanted.bytes.iter().zip(&seen.bytes).take_while(|(a, b)| a == b).count();
    let mut text = format!("what {who} differs at byte {at} of {} and {}", wanted.bytes.len(), seen.bytes.len());
    for (name, segment) in [("core", wanted), ("shell", &seen)] {
        let from = at.saturating_sub(CONTEXT);
        let part =
            |from: usize, to: usize| segment.bytes.get(from..to.min(segment.bytes.len())).unwrap_or_default().escape_ascii();
        let end = if segment.aborted { ", reset" } else { "" };
        let _ = write!(text, "\n  {name:<6} …{}▸{}…{end}", part(from, at), part(at, at + CONTEXT));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "replay 1\n0s < accept 127.0.0.1:1\n0s > identify\n0s < identified direct\n0s < client\n    x\n    .\n\
                        0s > client\n    abc\n    .\n0s > shutdown client close\n0s > done\n";

    fn expected() -> Expected {
        let fixture: Fixture = TEXT.parse().unwrap();
        let mut expected = Expected::new(&fixture);
        fixture.steps.iter().for_each(|step| expected.add(step));
        expected
    }

    fn seen(bytes: &[u8], end: End) -> State {
        let client = Received { bytes: bytes.into(), end: Some(end), reset: false };
        State { client, effects: vec![Output::Identify], served: true, ..State::default() }
    }

    #[test]
    fn equal_is_equal() {
        let (expected, seen) = (expected(), seen(b"abc\r\n", End::Eof));
        assert!(expected.is_seen(&seen));
        assert_eq!(expected.difference(&seen), None);
    }

    #[test]
    fn a_wrong_byte_a_missing_one_one_too_many_and_a_reset_are_differences() {
        for (bytes, end, at) in [
            (&b"abX\r\n"[..], End::Eof, "byte 2 of 5 and 5"),
            (b"abc\r", End::Eof, "byte 4 of 5 and 4"),
            (b"abc\r\n!", End::Eof, "byte 5 of 5 and 6"),
            (b"abc\r\n", End::Reset, "byte 5 of 5 and 5"),
        ] {
            let text = expected().difference(&seen(bytes, end)).unwrap();
            assert!(text.contains(at), "{text}");
        }
    }

    #[test]
    fn an_effect_too_many_is_a_difference() {
        let mut seen = seen(b"abc\r\n", End::Eof);
        seen.effects.push(Output::Identify);
        assert!(expected().difference(&seen).unwrap().contains("effect 2"));
    }

    #[test]
    fn the_end_is_waited_for() {
        let mut seen = seen(b"abc\r\n", End::Eof);
        seen.client.end = None;
        assert!(!expected().is_seen(&seen));
    }
}
