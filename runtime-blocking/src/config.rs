//! The configuration file: where it is, what it means, and what is wrong with it (files.md section 1).
//!
//! Two types: `Raw` is the shape of the JSON, [`Config`] is its meaning. Everything else in the product sees only the
//! second. Nothing here is global: `main` loads it once and passes it down.

mod raw;
pub(crate) use azure_proxy_agent_core::suggest;
#[cfg(test)]
mod tests;

pub use azure_proxy_agent_core::authz::CanonicalMode;
use log::Level;
use raw::{Document, Problem};
use std::ffi::OsString;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the package puts the file (FS-01).
pub const DEFAULT_PATH: &str = "/etc/azure/proxy-agent.json";
/// Name of the file next to the executable, used if [`DEFAULT_PATH`] does not exist (FS-01).
pub const FILE_NAME: &str = "proxy-agent.json";
/// Exit status after a fatal configuration error (FS-03).
pub const EXIT_STATUS: u8 = 101;
/// Where status file and snapshots go (FS-28).
pub const STATUS_FOLDER: &str = "/var/log/azure-proxy-agent";

/// Where the kernel half is pinned.
pub const PIN_FOLDER: &str = "/sys/fs/bpf/azure-proxy-agent";

/// A configuration file that is larger than this is not one. Bytes.
const MAX_SIZE: u64 = 1 << 20;

/// What the configuration means. The member of the file is named at each field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file that this was read from.
    pub path: PathBuf,
    /// `logFolder` (FS-04): directory of the log files; `None` (written `""`) turns file logs off.
    pub log_folder: Option<PathBuf>,
    /// `eventFolder` (FS-05): directory of event files.
    pub event_folder: PathBuf,
    /// `latchKeyFolder` (FS-06): key directory.
    pub key_folder: PathBuf,
    /// `statusFolder` (ours): where `status.json` and the snapshots go instead of [`STATUS_FOLDER`] (FS-28).
    pub status_folder: PathBuf,
    /// `pollKeyStatusIntervalInSeconds` (FS-08): pause between status polls, at least one second (FS-20).
    pub poll_interval: Duration,
    /// `maxEventFileCount` (FS-09): limit of generic event files.
    pub max_event_files: u64,
    /// `ebpfProgramName` (FS-10, FS-22): file name of the kernel program.
    pub ebpf_program_name: String,
    /// `ebpfFileFullPath` (FS-11): kernel program to use instead of the one in the executable, if the file exists.
    pub ebpf_file: Option<PathBuf>,
    /// `cgroupRoot` (FS-12, design section 4): used as given when it is a cgroup2 directory, else the first cgroup2 mount.
    pub cgroup_root: PathBuf,
    /// `egressBackstop` (ours): drop packets to guarded destinations that are neither redirected nor the agent's. Costs about
    /// 0.1 µs per packet of the whole machine, therefore off unless asked for.
    pub egress_backstop: bool,
    /// `pinFolder` (ours): directory of a bpffs where the kernel half stays when the agent ends (S-03); `None` (written `""`): it ends
    /// with the agent.
    pub pin_folder: Option<PathBuf>,
    /// `fileLogLevel` (FS-13): highest level written to log files.
    pub file_level: Level,
    /// `fileLogLevelForEvents` (FS-14): log lines up to this level also become telemetry events.
    pub event_level: Option<Level>,
    /// `fileLogLevelForSystemEvents` (FS-15): highest level written to standard output and standard error.
    pub system_level: Level,
    /// `enableHttpProxyTrace` (FS-16): per-request trace (PX-113).
    pub trace_requests: bool,
    /// `canonicalRequestMode` (FS-17). Canonical matching decides in every mode; it selects what is logged.
    pub canonical_mode: CanonicalMode,
}

impl Config {
    /// Reads the file at `path`, or the one that FS-01 names, with the environment of this process.
    ///
    /// # Errors
    /// Anything that FS-03 calls fatal; its text is what belongs on standard error, [`EXIT_STATUS`] the exit status.
    pub fn load(path: Option<&Path>) -> Result<(Self, Vec<Warning>), ConfigError> {
        let path = path.map_or_else(|| standard_path(Path::new(DEFAULT_PATH), &beside_executable()), Path::to_path_buf);
        let bytes = read(&path)?;
        Self::parse(&path, &bytes, &|name| std::env::var_os(name))
    }

    /// Makes a configuration of the bytes of a file. `environment` answers for `%NAME%` (FS-19).
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(
        path: &Path,
        bytes: &[u8],
        environment: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<(Self, Vec<Warning>), ConfigError> {
        let fail = |problems| ConfigError { path: path.to_path_buf(), problems };
        let (document, raw) = Document::read(bytes).map_err(fail)?;
        let mut warnings = Warnings { path, document: &document, list: Vec::new() };
        for problem in document.unknown_members() {
            warnings.list.push(Warning { path: path.to_path_buf(), problem });
        }

        let folder = |text: &str| PathBuf::from(expand(text, environment));
        let key_folder = folder(&raw.latch_key_folder);
        if key_folder.as_os_str().is_empty() {
            return Err(fail(vec![document.problem_at("latchKeyFolder", "the key directory has no name")]));
        }
        let log_folder = Some(folder(&raw.log_folder)).filter(|f| !f.as_os_str().is_empty());
        let event_folder = folder(&raw.event_folder);
        let status_folder = raw.status_folder.as_deref().map_or_else(|| STATUS_FOLDER.into(), folder);
        let pin_folder = Some(raw.pin_folder.as_deref().map_or_else(|| PIN_FOLDER.into(), folder));
        let pin_folder = pin_folder.filter(|f: &PathBuf| !f.as_os_str().is_empty());
        for (member, path) in [
            ("latchKeyFolder", Some(&key_folder)),
            ("logFolder", log_folder.as_ref()),
            ("eventFolder", Some(&event_folder)),
            ("statusFolder", Some(&status_folder)),
            ("pinFolder", pin_folder.as_ref()),
        ] {
            if path.is_some_and(|p| !p.is_absolute() && !p.as_os_str().is_empty()) {
                warnings.add(member, "is not an absolute path; it depends on where the agent is started");
            }
        }
        if raw.poll_key_status_interval_in_seconds == 0 {
            warnings.add("pollKeyStatusIntervalInSeconds", "0 would poll without pause; 1 is used");
        }

        let config = Self {
            path: path.to_path_buf(),
            log_folder,
            event_folder,
            key_folder,
            status_folder,
            poll_interval: Duration::from_secs(raw.poll_key_status_interval_in_seconds.max(1)),
            max_event_files: raw.max_event_file_count.unwrap_or(30),
            ebpf_program_name: raw.ebpf_program_name,
            ebpf_file: raw.ebpf_file_full_path.filter(|p| !p.is_empty()).map(PathBuf::from),
            cgroup_root: raw.cgroup_root.unwrap_or_else(|| "/sys/fs/cgroup".into()).into(),
            egress_backstop: raw.egress_backstop.unwrap_or(false),
            pin_folder,
            file_level: warnings.level("fileLogLevel", raw.file_log_level.as_deref()).unwrap_or(Level::Info),
            event_level: warnings.level("fileLogLevelForEvents", raw.file_log_level_for_events.as_deref()),
            system_level: warnings
                .level("fileLogLevelForSystemEvents", raw.file_log_level_for_system_events.as_deref())
                .unwrap_or(Level::Error),
            trace_requests: raw.enable_http_proxy_trace.unwrap_or(false),
            canonical_mode: warnings.canonical_mode(raw.canonical_request_mode.as_deref()),
        };
        Ok((config, warnings.list))
    }

    /// Members that differ from `new` and are looked at only when the agent starts.
    #[must_use]
    pub fn fixed_members(&self, new: &Self) -> Vec<&'static str> {
        // Named one by one: a member that is added must be thought about here.
        let Self {
            path: _,
            log_folder,
            event_folder,
            key_folder,
            status_folder,
            poll_interval: _,
            max_event_files,
            ebpf_program_name: _,
            ebpf_file,
            cgroup_root,
            egress_backstop,
            pin_folder,
            file_level: _,
            event_level: _,
            system_level: _,
            trace_requests,
            canonical_mode,
        } = self;
        [
            ("logFolder", *log_folder == new.log_folder),
            ("eventFolder", *event_folder == new.event_folder),
            ("latchKeyFolder", *key_folder == new.key_folder),
            ("statusFolder", *status_folder == new.status_folder),
            ("maxEventFileCount", *max_event_files == new.max_event_files),
            ("ebpfFileFullPath", *ebpf_file == new.ebpf_file),
            ("cgroupRoot", *cgroup_root == new.cgroup_root),
            ("egressBackstop", *egress_backstop == new.egress_backstop),
            ("pinFolder", *pin_folder == new.pin_folder),
            ("enableHttpProxyTrace", *trace_requests == new.trace_requests),
            ("canonicalRequestMode", *canonical_mode == new.canonical_mode),
        ]
        .into_iter()
        .filter_map(|(member, same)| (!same).then_some(member))
        .collect()
    }

    /// Directory of the local rule files: the key directory's sibling `rules` (FS-06, FS-25).
    #[must_use]
    pub fn rules_folder(&self) -> PathBuf {
        self.key_folder.parent().unwrap_or_else(|| Path::new("")).join("rules")
    }
}

/// Why there is no configuration. Displays as the text of FS-03, then position, reason and hint of each problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    path: PathBuf,
    /// At least one.
    problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        write!(f, "Error in reading Config from Json file: {path}")?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {path}{problem}"))
    }
}

impl std::error::Error for ConfigError {}

/// Something in the file that has no effect, or another one than its author may think. Never fatal. Displays as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    path: PathBuf,
    problem: Problem,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        write!(f, "{:#}", self.problem)
    }
}

/// Collects warnings while the shape is turned into meaning.
struct Warnings<'a> {
    path: &'a Path,
    document: &'a Document<'a>,
    list: Vec<Warning>,
}

impl Warnings<'_> {
    fn add(&mut self, member: &str, what: &str) {
        let problem = self.document.problem_at(member, what);
        self.list.push(Warning { path: self.path.to_path_buf(), problem });
    }

    /// FS-18: any letter case; an unknown word counts as `Info`.
    fn level(&mut self, member: &str, word: Option<&str>) -> Option<Level> {
        let word = word?;
        Some(word.parse().unwrap_or_else(|_| {
            self.add(member, "is not one of Error, Warn, Info, Debug, Trace; Info is used");
            Level::Info
        }))
    }

    /// case and blanks ignored; an unknown word counts as `off`.
    fn canonical_mode(&mut self, word: Option<&str>) -> CanonicalMode {
        let Some(word) = word else { return CanonicalMode::Off };
        CanonicalMode::parse(word).unwrap_or_else(|| {
            self.add("canonicalRequestMode", "is not one of off, shadow, enforce; off is used");
            CanonicalMode::Off
        })
    }
}

/// FS-01: the first of the two that exists; if none does, the second one, so that the error names the last place looked at.
fn standard_path(packaged: &Path, beside: &Path) -> PathBuf {
    if packaged.exists() { packaged.into() } else { beside.into() }
}

fn beside_executable() -> PathBuf {
    std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf)).unwrap_or_default().join(FILE_NAME)
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let fail =
        |what: String, hint: &str| ConfigError { path: path.to_path_buf(), problems: vec![Problem::whole_file(what, hint)] };
    let open = std::fs::File::open(path).and_then(|file| {
        let mut bytes = Vec::new();
        file.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    let bytes = open.map_err(|e| {
        let hint = match e.kind() {
            std::io::ErrorKind::NotFound => {
                format!(
                    "the agent looks for {DEFAULT_PATH}, then for {FILE_NAME} beside its executable; --config FILE names another"
                )
            }
            std::io::ErrorKind::PermissionDenied => "run the agent as root, or make the file readable".into(),
            std::io::ErrorKind::IsADirectory => format!("name the file in it, for example {}", path.join(FILE_NAME).display()),
            _ => "see the reason above".into(),
        };
        fail(e.to_string(), &hint)
    })?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(fail("the file is larger than 1 MiB".into(), "this is not a configuration file; look at the path"));
    }
    Ok(bytes)
}

/// FS-19: `%NAME%` becomes the environment variable, or the bare `NAME` if that is not set. Anything else stays as it is.
fn expand(text: &str, environment: &dyn Fn(&str) -> Option<OsString>) -> OsString {
    let mut out = OsString::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        out.push(before);
        match after.split_once('%') {
            Some((name, tail)) if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') => {
                out.push(environment(name).unwrap_or_else(|| name.into()));
                rest = tail;
            }
            _ => {
                out.push("%");
                rest = after;
            }
        }
    }
    out.push(rest);
    out
}
