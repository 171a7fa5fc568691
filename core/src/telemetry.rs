//! Events: facts and log lines that are told to the platform (telemetry.md sections 1 and 2). Best effort: nothing waits for them,
//! and nothing is lost because of them (T-10).
//!
//! An event becomes text the moment it happens, redacted and cut; what waits is bounded in number and in bytes.

use crate::identity::redact;
use crate::time::Wall;
use log::Level;
use serde::Serialize;

/// Most events that wait (T-10).
const EVENTS: usize = 1000;
/// Most bytes of text that wait: a file of events is not larger, so that every reader takes it (T-18).
const BYTES: usize = 1024 * 1024 - 2;
/// Most bytes of a message (T-02b).
const MESSAGE: usize = 4096;
/// Most bytes of a message that are looked at. Redaction comes before the cut, so that no secret is cut to an unrecognizable rest.
const RAW_MESSAGE: usize = 64 * 1024;

/// Something that happened (T-02).
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// How bad it is.
    pub level: Level,
    /// The operation that reports.
    pub task: &'a str,
    /// The component that reports.
    pub component: &'a str,
    /// What happened. Redacted and cut here.
    pub message: &'a str,
    /// When.
    pub time: Wall,
    /// Process that reports.
    pub process: u32,
    /// Its thread.
    pub thread: u32,
}

/// Members in this order, all strings (T-02).
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Object<'a> {
    event_level: &'static str,
    message: &'a str,
    version: &'a str,
    task_name: &'a str,
    event_pid: String,
    event_tid: String,
    operation_id: &'a str,
    time_stamp: String,
}

/// Events that wait to be taken away (T-10).
#[derive(Debug)]
pub struct Events {
    /// Version of the product (T-02c).
    version: Box<str>,
    waiting: Batch,
}

/// Events that were taken away together.
#[derive(Debug, Default)]
pub struct Batch {
    /// Objects with commas between them.
    text: Vec<u8>,
    count: usize,
    /// Events that found no room since the batch before.
    pub dropped: u64,
}

impl Events {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(version: &str) -> Self {
        Self { version: version.into(), waiting: Batch::default() }
    }

    /// Takes one in, or counts it as dropped if there is no room.
    pub fn push(&mut self, event: &Event<'_>) {
        let waiting = &mut self.waiting;
        // Before any work: a flood is dropped cheaply.
        if waiting.count >= EVENTS || waiting.text.len() + MESSAGE > BYTES {
            waiting.dropped += 1;
            return;
        }
        let raw = event.message;
        let raw = raw.get(..raw.floor_char_boundary(RAW_MESSAGE)).unwrap_or_default();
        let message = redact::redact(raw);
        let object = Object {
            event_level: event.level.as_str(),
            // T-03
            message: message.get(..message.floor_char_boundary(MESSAGE)).unwrap_or_default(),
            version: &self.version,
            task_name: event.task,
            event_pid: event.process.to_string(),
            event_tid: format!("{:08}", event.thread),
            operation_id: event.component,
            time_stamp: event.time.stamp().to_string(),
        };
        let before = waiting.text.len();
        if before > 0 {
            waiting.text.push(b',');
        }
        // Strings written to memory: cannot fail. Escapes may have made it too long.
        if crate::json::append(&mut waiting.text, &object).is_err() || waiting.text.len() > BYTES {
            waiting.text.truncate(before);
            waiting.dropped += 1;
        } else {
            waiting.count += 1;
        }
    }

    /// Takes everything away; its memory too.
    pub fn take(&mut self) -> Batch {
        core::mem::take(&mut self.waiting)
    }

    /// Gives back what could not be written, in front of what came since; what has no room any more is dropped, the newest first.
    pub fn restore(&mut self, batch: Batch) {
        let newer = core::mem::replace(&mut self.waiting, batch);
        let waiting = &mut self.waiting;
        waiting.dropped += newer.dropped;
        if newer.count == 0 {
        } else if waiting.count + newer.count <= EVENTS && waiting.text.len() + newer.text.len() < BYTES {
            if waiting.count > 0 {
                waiting.text.push(b',');
            }
            waiting.text.extend_from_slice(&newer.text);
            waiting.count += newer.count;
        } else {
            waiting.dropped += newer.count as u64;
        }
    }
}

impl Batch {
    /// Number of events.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Content of the file that holds them: an array of objects (FS-80).
    #[must_use]
    pub fn file(&self) -> Vec<u8> {
        let mut file = Vec::with_capacity(self.text.len() + 2);
        file.push(b'[');
        file.extend_from_slice(&self.text);
        file.push(b']');
        file
    }
}

/// Name of a file of events that is written at `wall` (FS-80).
#[must_use]
pub fn file_name(wall: Wall) -> String {
    format!("{}.json", wall.0)
}

/// Whether a name in the event folder is that of a file of generic events, whoever wrote it (FS-82): those are counted (FS-09).
#[must_use]
pub fn is_generic_file(name: &str) -> bool {
    name.strip_suffix(".json").is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: Event<'_> = Event {
        level: Level::Warn,
        task: "start",
        component: "proxy_listener",
        message: "Started proxy listener, ready to accept request - 9",
        time: Wall(1_767_687_242_119_000_000),
        process: 714,
        thread: 731,
    };

    fn parse(batch: &Batch) -> Vec<serde_json::Value> {
        serde_json::from_slice(&batch.file()).unwrap()
    }

    #[test]
    fn t02_members_in_their_order_all_strings() {
        let mut events = Events::new("1.2.3");
        events.push(&EVENT);
        assert_eq!(
            String::from_utf8(events.take().file()).unwrap(),
            r#"[{"EventLevel":"WARN","Message":"Started proxy listener, ready to accept request - 9","Version":"1.2.3","TaskName":"start","EventPid":"714","EventTid":"00000731","OperationId":"proxy_listener","TimeStamp":"2026-01-06T08:14:02.119"}]"#
        );
        assert!(events.take().is_empty());
    }

    #[test]
    fn t03_s50_messages_are_cut_at_a_character_at_or_before_4096_bytes() {
        let mut events = Events::new("1");
        for (text, kept) in [("a".repeat(4096), 4096), (format!("{}é", "a".repeat(4095)), 4095), ("é".repeat(3000), 4096)] {
            events.push(&Event { message: &text, ..EVENT });
            let message = parse(&events.take())[0]["Message"].as_str().unwrap().to_owned();
            assert_eq!(message.len(), kept);
            assert!(text.starts_with(&message));
        }
    }

    #[test]
    fn i33_sec_f1_secrets_are_redacted_before_the_cut() {
        let mut events = Events::new("1");
        let at_the_edge = format!("{} sig=abc%3D&se=2", "a".repeat(4090));
        for text in ["?sv=1&sig=abc%3D&se=2", &at_the_edge] {
            events.push(&Event { message: text, ..EVENT });
        }
        let text = String::from_utf8(events.take().file()).unwrap();
        assert!(!text.contains("abc%3D") && !text.contains("sig=") && text.contains("?sv=1&[REDACTED]&se=2"), "{text}");
    }

    #[test]
    fn t10_a_thousand_events_wait_and_the_rest_is_dropped_and_counted() {
        let mut events = Events::new("1");
        for _ in 0..1007 {
            events.push(&EVENT);
        }
        let batch = events.take();
        assert_eq!((batch.len(), batch.dropped, parse(&batch).len()), (1000, 7, 1000));
    }

    #[test]
    fn t18_hostile_messages_stay_below_one_mebibyte() {
        let mut events = Events::new("1");
        let text = "\u{1}".repeat(4096);
        for _ in 0..1000 {
            events.push(&Event { message: &text, ..EVENT });
        }
        let batch = events.take();
        assert!(batch.len() > 30 && batch.file().len() <= 1 << 20, "{} events", batch.len());
        assert_eq!(batch.len() as u64 + batch.dropped, 1000);
        assert_eq!(parse(&batch).len(), batch.len());
    }

    #[test]
    fn what_could_not_be_written_comes_first_the_next_time() {
        let mut events = Events::new("1");
        let say = |events: &mut Events, message| events.push(&Event { message, ..EVENT });
        say(&mut events, "one");
        let batch = events.take();
        say(&mut events, "two");
        events.restore(batch);
        let batch = events.take();
        assert_eq!(parse(&batch).iter().map(|e| e["Message"].as_str().unwrap()).collect::<Vec<_>>(), ["one", "two"]);
        events.restore(Batch::default());
        say(&mut events, "three");
        assert_eq!(parse(&events.take()).len(), 1);
        events.restore(batch);
        for _ in 0..2000 {
            say(&mut events, "flood");
        }
        let batch = events.take();
        assert_eq!((batch.len(), batch.dropped), (1000, 1002));
        say(&mut events, "newer");
        events.restore(batch);
        let batch = events.take();
        assert_eq!((batch.len(), batch.dropped), (1000, 1003), "the newest goes");
    }

    #[test]
    fn fs80_fs82_names() {
        assert_eq!(file_name(Wall(1_767_687_242_119_000_000)), "1767687242119000000.json");
        for (name, generic) in
            [("1.json", true), ("extension_1.json", false), (".json", false), ("1.json.tmp", false), ("1x.json", false)]
        {
            assert_eq!(is_generic_file(name), generic, "{name}");
        }
    }
}
