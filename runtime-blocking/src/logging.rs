//! Where `log::` records go (files.md section 7): to standard output and standard error for people and the journal, and to
//! two rolled files.
//!
//! The streams get the bare text (FS-71), with the priority in front if the journal reads them and in colour if a person does.
//! The files get time and level in front (FS-70). Control characters are escaped everywhere, so no text can forge a line or
//! command a terminal (SEC-F2); whoever logs a caller's text still has to write it as a JSON string (PX-114).

mod line;
#[cfg(test)]
pub(crate) mod tests;

use crate::clock;
use crate::config::Config;
use crate::host::logfile::{Appended, LogFile};
use crate::telemetry::Telemetry;
use azure_proxy_agent_core::time::Wall;
use env_logger::Target;
use line::{Escaped, Style};
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Target of records that belong to the connection log (FS-61) instead of the agent log: `log::info!(target: CONNECTION, …)`.
/// A rolled file has one writer: nobody else may open that file.
pub const CONNECTION: &str = "connection";
/// Target of summary objects: they go where [`CONNECTION`] goes, and are events of their own (PX-108).
pub(crate) const SUMMARY: &str = "connection::summary";
/// Target of traces of requests: for streams and events; the connection log gets them otherwise (PX-111, PX-112).
const TRACE: &str = "connection::trace";
/// Target of traces that were asked for: for the system log alone (PX-113).
const SYSTEM_TRACE: &str = "connection::system";
/// Target of what the agent machine says: it says itself what of that is an event.
pub(crate) const NOTICE: &str = "azure_proxy_agent::notice";

/// File of the agent log (FS-60).
pub const AGENT_FILE: &str = "ProxyAgent.log";
/// File of the connection log (FS-61).
pub const CONNECTION_FILE: &str = "ProxyAgent.Connection.log";

/// Sends everything that is logged from now on where `config` says. The first call counts; a file that cannot be opened is
/// reported and tried again later, the streams work in any case. The handle changes it later.
pub fn init(config: &Config, telemetry: &Arc<Telemetry>) -> Handle {
    let journal = std::env::var("JOURNAL_STREAM").ok();
    let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let style = |stream: &dyn AsStream| Style::of(stream.fd(), journal.as_deref(), plain);
    let (out, err) = (style(&std::io::stdout()), style(&std::io::stderr()));
    let logger = Logger::new(config, Arc::clone(telemetry), (Target::Stdout, out), (Target::Stderr, err));
    let handle = logger.handle.clone();
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(handle.0.level());
    }
    handle
}

/// What can be changed about a logger that is in use.
#[derive(Debug, Clone)]
pub struct Handle(Arc<Sinks>);

impl Handle {
    /// Takes the levels of another configuration; the files stay where they are.
    pub fn apply(&self, config: &Config) {
        self.0.set_levels(config);
        log::set_max_level(self.0.level());
    }

    /// Lets go of the files, so that others may have moved them; they are opened again with the next line.
    pub fn reopen(&self) {
        if let Some(files) = &self.0.files {
            files.agent.reopen();
            files.connection.reopen();
        }
    }

    /// Whether the connection log takes traces of requests ([`write_trace`](Self::write_trace)).
    #[must_use]
    pub fn keeps_traces(&self) -> bool {
        self.0.files_for(Level::Trace).is_some()
    }

    /// Whether standard output or events take them (`show_trace`).
    #[must_use]
    pub fn shows_traces(&self) -> bool {
        self.0.system_takes(Level::Trace) || self.0.events_take(Level::Trace)
    }

    /// Whether the system log takes those that were asked for (`show_system_trace`).
    #[must_use]
    pub fn shows_system_traces(&self) -> bool {
        self.0.system_takes(Level::Warn)
    }

    /// Appends lines that have their header to the connection log, with one system call. What cannot be written is dropped.
    pub fn write_trace(&self, wall: Wall, lines: &[u8]) {
        let Some(files) = self.0.files_for(Level::Trace) else { return };
        if let Appended::No(failure) = files.connection.append(wall, lines) {
            log::error!("{failure}");
            self.0.telemetry.log_fails(&files.connection, failure);
        }
    }
}

/// Shows the trace of a request, without headers, where traces are shown (PX-112).
pub(crate) fn show_trace(text: &[u8]) {
    log::trace!(target: TRACE, "{}", String::from_utf8_lossy(text));
}

/// Makes the trace of a request one entry of the system log (PX-113).
pub(crate) fn show_system_trace(text: &[u8]) {
    log::warn!(target: SYSTEM_TRACE, "{}", String::from_utf8_lossy(text));
}

/// Lets one closure take both standard streams.
trait AsStream {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_>;
}

impl<T: AsFd> AsStream for T {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.as_fd()
    }
}

struct Logger {
    /// Standard output: everything but errors.
    out: env_logger::Logger,
    /// Standard error: errors.
    err: env_logger::Logger,
    handle: Handle,
}

#[derive(Debug)]
struct Sinks {
    /// Levels as numbers ([`LevelFilter`] as it counts).
    system_level: AtomicUsize,
    file_level: AtomicUsize,
    /// `None`: file logs are off (FS-04).
    files: Option<Files>,
    /// Lines up to this level become events (FS-14).
    event_level: AtomicUsize,
    telemetry: Arc<Telemetry>,
}

#[derive(Debug)]
struct Files {
    agent: Arc<LogFile>,
    connection: Arc<LogFile>,
}

impl Logger {
    fn new(config: &Config, telemetry: Arc<Telemetry>, out: (Target, Style), err: (Target, Style)) -> Self {
        let stream = |(target, style): (Target, Style)| {
            env_logger::Builder::new()
                .filter_level(LevelFilter::Trace)
                .target(target)
                .format(move |buffer, record| style.write(buffer, record.level(), record.args()))
                .build()
        };
        let sinks = Sinks {
            system_level: AtomicUsize::default(),
            file_level: AtomicUsize::default(),
            files: config.log_folder.as_ref().map(|folder| Files {
                agent: Arc::new(LogFile::new(folder, AGENT_FILE)),
                connection: Arc::new(LogFile::new(folder, CONNECTION_FILE)),
            }),
            event_level: AtomicUsize::default(),
            telemetry,
        };
        sinks.set_levels(config);
        Self { out: stream(out), err: stream(err), handle: Handle(Arc::new(sinks)) }
    }
}

impl Sinks {
    fn set_levels(&self, config: &Config) {
        self.system_level.store(config.system_level as usize, Ordering::Relaxed);
        self.file_level.store(config.file_level as usize, Ordering::Relaxed);
        self.event_level.store(config.event_level.map_or(0, |level| level as usize), Ordering::Relaxed);
    }

    fn system_takes(&self, level: Level) -> bool {
        level as usize <= self.system_level.load(Ordering::Relaxed)
    }

    /// The files, if they take that.
    fn files_for(&self, level: Level) -> Option<&Files> {
        self.files.as_ref().filter(|_| level as usize <= self.file_level.load(Ordering::Relaxed))
    }

    fn events_take(&self, level: Level) -> bool {
        level as usize <= self.event_level.load(Ordering::Relaxed)
    }

    fn takes(&self, level: Level) -> bool {
        self.system_takes(level) || self.files_for(level).is_some() || self.events_take(level)
    }

    /// Above this nobody is interested.
    fn level(&self) -> LevelFilter {
        Level::iter().filter(|level| self.takes(*level)).last().map_or(LevelFilter::Off, |level| level.to_level_filter())
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.handle.0.takes(metadata.level()) && (metadata.level() <= Level::Warn || is_ours(metadata.target()))
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let stream = if record.level() == Level::Error { &self.err } else { &self.out };
        let sinks = &self.handle.0;
        if sinks.system_takes(record.level()) {
            stream.log(record);
        }
        if let Some(files) = sinks.files_for(record.level()).filter(|_| !is_trace(record.target())) {
            let file = if is_connection(record.target()) { &files.connection } else { &files.agent };
            match write(file, clock::wall(), record) {
                Appended::Yes | Appended::StillNot => {}
                Appended::No(failure) => {
                    // Straight to standard error: the log is what does not work.
                    self.err.log(&Record::builder().level(Level::Error).args(format_args!("{failure}")).build());
                    sinks.telemetry.log_fails(file, failure);
                }
            }
        }
        if sinks.events_take(record.level()) && !matches!(record.target(), SUMMARY | NOTICE | SYSTEM_TRACE) {
            let task =
                if is_connection(record.target()) || is_trace(record.target()) { "ConnectionLogger" } else { "CommonLogger" };
            sinks.telemetry.event(record.level(), task, "ProxyAgent", &record.args().to_string());
        }
    }

    fn flush(&self) {
        self.out.flush();
        self.err.flush();
    }
}

fn is_connection(target: &str) -> bool {
    matches!(target, CONNECTION | SUMMARY)
}

fn is_trace(target: &str) -> bool {
    matches!(target, TRACE | SYSTEM_TRACE)
}

/// Libraries have a lot to tell below `Warn` (a line per readiness event); the shipped file level is `Trace`.
fn is_ours(target: &str) -> bool {
    let root = target.split_once("::").map_or(target, |(root, _)| root);
    root == CONNECTION || root.starts_with("azure_proxy_agent") || root.starts_with("runtime_") || root == "redirect_ebpf"
}

/// Writes one record to one file.
fn write(file: &LogFile, wall: Wall, record: &Record<'_>) -> Appended {
    thread_local! {
        /// The line under construction; kept, so that logging allocates nothing once warm.
        static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    LINE.with_borrow_mut(|line| {
        line.clear();
        compose(line, wall, record);
        file.append(wall, line)
    })
}

/// Width of time and level (FS-70). Characters.
const HEADER: usize = 34;

/// One record as it stands in a file: header, text, line feed; further lines of the text are indented, so that every line that
/// begins with a time is one of ours.
fn compose(line: &mut Vec<u8>, wall: Wall, record: &Record<'_>) {
    // Writing to memory does not fail.
    let _ = write!(line, "{} [{}]", wall.stamp(), record.level());
    line.resize(HEADER.max(line.len()), b' ');
    let _ = Escaped::new(&mut *line, &[b' '; HEADER]).write_fmt(*record.args());
    line.push(b'\n');
}
