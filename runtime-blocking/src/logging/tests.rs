//! What arrives where, byte for byte.

use super::*;
use crate::host::scratch::Scratch;
use azure_proxy_agent_core::conn::{Details, Steps, Summary};
use azure_proxy_agent_core::effect::RecordKind;
use azure_proxy_agent_core::http::reply::Status;
use azure_proxy_agent_core::identity::{Claims, Confidence, Destination, Executable, OnDemand, Peer, RawText};
use azure_proxy_agent_core::policy::Epoch;
use azure_proxy_agent_core::report;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// A stream that can be read afterwards.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("lock").clone()).expect("UTF-8")
    }
}

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn config(log_folder: &str, file: &str, system: &str) -> Config {
    let json = format!(
        r#"{{"logFolder": "{log_folder}", "eventFolder": "/e", "latchKeyFolder": "/k", "monitorIntervalInSeconds": 1,
            "pollKeyStatusIntervalInSeconds": 1, "ebpfProgramName": "x", "fileLogLevel": "{file}", "fileLogLevelForSystemEvents": "{system}"}}"#
    );
    Config::parse(Path::new("test"), json.as_bytes(), &|_| None).expect("configuration").0
}

/// A logger with captured streams: logger, standard output, standard error.
fn logger(config: &Config, style: Style) -> (Logger, Captured, Captured) {
    let (out, err) = (Captured::default(), Captured::default());
    let pipe = |c: &Captured| (Target::Pipe(Box::new(c.clone())), style);
    (Logger::new(config, Arc::default(), pipe(&out), pipe(&err)), out, err)
}

/// The handle of a logger that shows nothing.
pub(crate) fn handle(log_folder: &str, file: &str) -> Handle {
    logger(&config(log_folder, file, "Error"), Style::Plain).0.handle
}

fn say(logger: &Logger, level: Level, target: &str, text: &str) {
    logger.log(&Record::builder().level(level).target(target).args(format_args!("{text}")).build());
}

#[test]
fn fs71_streams_get_the_bare_text_up_to_their_level_and_errors_go_to_standard_error() {
    let (logger, out, err) = logger(&config("", "Trace", "Info"), Style::Plain);
    for level in [Level::Error, Level::Warn, Level::Info, Level::Debug] {
        say(&logger, level, "runtime_blocking", &format!("at {level}"));
    }
    assert_eq!((out.text().as_str(), err.text().as_str()), ("at WARN\nat INFO\n", "at ERROR\n"));
}

#[test]
fn fs60_fs61_fs70_files_get_header_and_text_each_record_in_its_file() {
    let scratch = Scratch::new("logging");
    let folder = scratch.path().to_str().expect("UTF-8");
    let (logger, out, _) = logger(&config(folder, "Info", "Error"), Style::Plain);
    say(&logger, Level::Info, "azure_proxy_agent_core::agent", "hello");
    say(&logger, Level::Debug, "azure_proxy_agent_core::agent", "too detailed");
    say(&logger, Level::Info, CONNECTION, "{}");
    say(&logger, Level::Warn, "redirect_ebpf", "two\nlines\n");
    assert_eq!(out.text(), "", "FS-15");
    assert_eq!(scratch.names(), [CONNECTION_FILE, AGENT_FILE]);
    let connection = std::fs::read_to_string(scratch.path().join(CONNECTION_FILE)).expect("read");
    assert_eq!(connection.split_at(23).1, " [INFO]    {}\n");

    let text = std::fs::read_to_string(scratch.path().join(AGENT_FILE)).expect("read");
    let lines: Vec<(&str, &str)> = text.lines().map(|l| l.split_at(23)).collect();
    assert!(
        lines.iter().take(2).all(|(t, _)| t.as_bytes().get(10) == Some(&b'T') && t.as_bytes().get(19) == Some(&b'.')),
        "{text}"
    );
    let blank = " ".repeat(23);
    assert_eq!((lines[0].1, lines[1].1, lines[2]), (" [INFO]    hello", " [WARN]    two", (blank.as_str(), "           lines")));
}

/// PX-112: so do other lines of the connection log.
#[test]
fn px108_summaries_reach_the_journal_as_bare_lines() {
    let (logger, out, _) = logger(&config("", "Trace", "Info"), Style::Plain);
    say(&logger, Level::Info, CONNECTION, r#"{"id":1}"#);
    assert_eq!(out.text(), "{\"id\":1}\n");
}

#[test]
fn sec_f2_no_text_forges_a_line_or_commands_a_terminal() {
    let (logger, out, _) = logger(&config("", "Info", "Info"), Style::Plain);
    say(&logger, Level::Info, "runtime_blocking", "a\r\x1b[2Jb\u{9b}\tc");
    assert_eq!(out.text(), "a\\r\\u{1b}[2Jb\\u{9b}\tc\n");
}

/// PX-112: what the connection log gets with headers the streams get without; PX-113: what was asked for is for the system log alone.
#[test]
fn traces_go_to_the_streams_and_not_again_to_the_files_px112_px113() {
    let scratch = Scratch::new("logging");
    let folder = scratch.path().to_str().expect("UTF-8");
    let (logger, out, err) = logger(&config(folder, "Trace", "Trace"), Style::Journal);
    say(&logger, Level::Trace, TRACE, "1[1] - one\n1[1] - two");
    say(&logger, Level::Warn, SYSTEM_TRACE, "[1] - one\n[1] - two");
    assert_eq!(out.text(), "<7>1[1] - one\n<7>1[1] - two\n<4>[1] - one\n<4>[1] - two\n");
    assert_eq!((err.text().as_str(), scratch.names()), ("", vec![]));
    logger.handle.write_trace(clock::wall(), b"1[1] - one\n1[1] - two\n");
    assert_eq!(std::fs::read_to_string(scratch.path().join(CONNECTION_FILE)).expect("read"), "1[1] - one\n1[1] - two\n");
}

/// PX-112, PX-113
#[test]
fn traces_are_wanted_by_level() {
    for (file, system, wanted) in [
        ("Trace", "Info", [true, false, true]),
        ("Debug", "Trace", [false, true, true]),
        ("Trace", "Error", [true, false, false]),
    ] {
        let handle = logger(&config("/none", file, system), Style::Plain).0.handle;
        assert_eq!([handle.keeps_traces(), handle.shows_traces(), handle.shows_system_traces()], wanted, "{file}, {system}");
    }
}

/// PX-108, PX-114, SEC-F2: what records say comes through journal, connection log and terminal as the same JSON, one line each. A
/// control character that JSON allows would be escaped here in a way that JSON does not know.
#[test]
fn records_come_through_the_log_as_json_whatever_callers_choose() {
    let nasty = "\u{7f}\u{85}\u{9b}31m\u{2028}\n{\"id\":2}\r\x1b[2J\"\\\u{4e2d}";
    let claims = Claims {
        user_id: 1000,
        group_id: 1000,
        user_name: RawText::from(nasty),
        user_groups: vec![RawText::from(nasty)],
        process_id: 7,
        executable: Executable::Known(RawText::from(nasty)),
        command_line: nasty.into(),
        cgroup: 1,
        confidence: Confidence::Verified,
        on_demand: OnDemand::default(),
    };
    let summary = Summary {
        kind: RecordKind::Normal,
        request: 1,
        connection: 1,
        method: nasty.as_bytes(),
        url: nasty.as_bytes(),
        client: "127.0.0.1:40112".parse().expect("address"),
        peer: &Peer::Redirected { to: Destination::Imds.addr(), claims: Arc::new(claims) },
        status: Status::OK,
        elapsed: std::time::Duration::ZERO,
        details: Details::UnsupportedMethod,
        decision: None,
        divergence: None,
        epoch: Epoch(1),
        rules: None,
        forwarded: true,
        steps: Steps::default(),
    };
    let mut line = Vec::new();
    report::write_summary(&mut line, &summary);
    let line = String::from_utf8(line).expect("UTF-8");

    let scratch = Scratch::new("logging");
    let folder = scratch.path().to_str().expect("UTF-8");
    for (style, before) in [(Style::Plain, ""), (Style::Journal, "<6>"), (Style::Colour, "")] {
        let (logger, out, _) = logger(&config(folder, "Info", "Info"), style);
        say(&logger, Level::Info, SUMMARY, &line);
        assert_eq!(out.text(), format!("{before}{line}\n"));
    }
    let file = std::fs::read_to_string(scratch.path().join(CONNECTION_FILE)).expect("read");
    assert_eq!(file.lines().count(), 3, "{file}");
    for line in file.lines() {
        let record: serde_json::Value = serde_json::from_str(&line[HEADER..]).expect("JSON");
        assert_eq!((record["processFullPath"].as_str(), record["processCmdLine"].as_str()), (Some(nasty), Some(nasty)));
    }
}

#[test]
fn the_journal_gets_a_priority_on_every_line() {
    let (logger, out, err) = logger(&config("", "Info", "Trace"), Style::Journal);
    for level in [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace] {
        say(&logger, level, "runtime_blocking", "one\ntwo\n\n");
    }
    assert_eq!(out.text(), "<4>one\n<4>two\n<6>one\n<6>two\n<7>one\n<7>two\n<7>one\n<7>two\n");
    assert_eq!(err.text(), "<3>one\n<3>two\n");
}

#[test]
fn a_terminal_gets_colours_for_what_is_not_ordinary() {
    let (logger, out, err) = logger(&config("", "Info", "Debug"), Style::Colour);
    for level in [Level::Error, Level::Warn, Level::Info, Level::Debug] {
        say(&logger, level, "runtime_blocking", "x");
    }
    assert_eq!(out.text(), "\x1b[33mx\x1b[0m\nx\n\x1b[2mx\x1b[0m\n");
    assert_eq!(err.text(), "\x1b[31mx\x1b[0m\n");
}

#[test]
fn libraries_are_heard_from_warnings_on() {
    let (logger, out, _) = logger(&config("", "Trace", "Trace"), Style::Plain);
    say(&logger, Level::Debug, "polling::epoll", "chatter");
    say(&logger, Level::Warn, "aya::bpf", "matters");
    say(&logger, Level::Trace, "redirect_ebpf::load", "ours");
    assert_eq!(out.text(), "matters\nours\n");
}

#[test]
fn sec_e2_a_refused_log_folder_is_reported_once_and_the_streams_go_on() {
    let scratch = Scratch::new("logging");
    std::os::unix::fs::symlink("/nonexistent", scratch.path().join("link")).expect("link");
    let folder = scratch.path().join("link");
    let (logger, out, err) = logger(&config(folder.to_str().expect("UTF-8"), "Info", "Info"), Style::Plain);
    say(&logger, Level::Info, "runtime_blocking", "one");
    say(&logger, Level::Info, "runtime_blocking", "two");
    assert_eq!(out.text(), "one\ntwo\n");
    let expected =
        format!("The log file ProxyAgent.log is not written: {}: refused, because it is a symbolic link\n", folder.display());
    assert_eq!(err.text(), expected);
}

/// FS-13 to FS-15
#[test]
fn nothing_is_formatted_that_nobody_reads() {
    let level = |folder, file, system| logger(&config(folder, file, system), Style::Plain).0.handle.0.level();
    assert_eq!(level("", "Trace", "Warn"), LevelFilter::Warn, "file logs are off");
    assert_eq!(level("/nowhere", "Debug", "Warn"), LevelFilter::Debug);
    assert_eq!(level("/nowhere", "Error", "Info"), LevelFilter::Info);
}

#[test]
fn the_journal_is_recognized_by_device_and_inode() {
    let scratch = Scratch::new("logging");
    let file = std::fs::File::create(scratch.path().join("stream")).expect("create");
    let stat = rustix::fs::fstat(&file).expect("stat");
    let id = format!("{}:{}", stat.st_dev, stat.st_ino);
    assert_eq!(Style::of(file.as_fd(), Some(&id), false), Style::Journal);
    assert_eq!(Style::of(file.as_fd(), Some("1:2"), false), Style::Plain, "inherited from a parent");
    assert_eq!(Style::of(file.as_fd(), None, false), Style::Plain);
}

/// A logger whose events can be looked at.
fn with_events(json: &str) -> (Logger, Arc<Telemetry>) {
    let config = Config::parse(Path::new("test"), json.as_bytes(), &|_| None).expect("configuration").0;
    let telemetry = Arc::<Telemetry>::default();
    let nowhere = || (Target::Pipe(Box::new(io::sink())), Style::Plain);
    (Logger::new(&config, Arc::clone(&telemetry), nowhere(), nowhere()), telemetry)
}

const EVENTS: &str = r#"{"logFolder": "", "eventFolder": "/e", "latchKeyFolder": "/k", "monitorIntervalInSeconds": 1,
    "pollKeyStatusIntervalInSeconds": 1, "ebpfProgramName": "x""#;

#[test]
fn fs14_t06_lines_up_to_the_level_become_events() {
    let (logger, telemetry) = with_events(&format!("{EVENTS}, \"fileLogLevelForEvents\": \"Info\"}}"));
    assert_eq!(logger.handle.0.level(), LevelFilter::Info);
    say(&logger, Level::Info, "runtime_blocking", "one");
    say(&logger, Level::Debug, "runtime_blocking", "too detailed");
    say(&logger, Level::Warn, CONNECTION, "two");
    // Those who say these make events of them, or not, themselves.
    say(&logger, Level::Info, SUMMARY, "{}");
    say(&logger, Level::Error, NOTICE, "three");
    let events: Vec<serde_json::Value> = serde_json::from_slice(&telemetry.take_events().file()).expect("JSON");
    let found: Vec<_> =
        events.iter().map(|e| ["EventLevel", "Message", "TaskName", "OperationId"].map(|m| e[m].as_str().unwrap())).collect();
    assert_eq!(found, [["INFO", "one", "CommonLogger", "ProxyAgent"], ["WARN", "two", "ConnectionLogger", "ProxyAgent"]]);
}

#[test]
fn t07_without_the_member_no_line_becomes_an_event() {
    let (logger, telemetry) = with_events(&format!("{EVENTS}}}"));
    say(&logger, Level::Error, "runtime_blocking", "one");
    assert!(telemetry.take_events().is_empty());
}

#[test]
fn sec_e3_a_log_file_that_fails_and_works_again_is_told() {
    let scratch = Scratch::new("logging");
    let folder = scratch.path().join("logs");
    std::fs::write(&folder, "in the way").expect("write");
    let json = EVENTS.replace(r#""logFolder": """#, &format!("\"logFolder\": \"{}\"", folder.display()));
    let (logger, telemetry) = with_events(&format!("{json}}}"));
    say(&logger, Level::Info, "runtime_blocking", "lost");
    say(&logger, Level::Info, "runtime_blocking", "lost, too");
    let Some(Some(trouble)) = telemetry.take_troubles() else { panic!("told") };
    assert!(trouble.starts_with("The log file ProxyAgent.log is not written: "), "{trouble}");
    assert_eq!(telemetry.take_troubles(), None);
}

#[test]
fn levels_and_files_can_change_while_it_runs() {
    let scratch = Scratch::new("reload");
    let folder = scratch.path().to_str().expect("UTF-8");
    let (logger, out, _) = logger(&config(folder, "Error", "Error"), Style::Plain);
    say(&logger, Level::Info, "runtime_blocking", "one");
    logger.handle.0.set_levels(&config(folder, "Info", "Info"));
    say(&logger, Level::Info, "runtime_blocking", "two");
    let (file, moved) = (scratch.path().join(AGENT_FILE), scratch.path().join("moved"));
    std::fs::rename(&file, &moved).expect("renamed");
    say(&logger, Level::Info, "runtime_blocking", "three");
    logger.handle.reopen();
    say(&logger, Level::Info, "runtime_blocking", "four");
    assert_eq!(out.text(), "two\nthree\nfour\n");
    let lines = |path| std::fs::read_to_string(path).expect("there").lines().map(|l| l[34..].to_owned()).collect::<Vec<_>>();
    assert_eq!((lines(&moved), lines(&file)), (vec!["two".to_owned(), "three".into()], vec!["four".into()]));
}
