//! The agent under test: its configuration, its start, its end.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::sandbox::Sandbox;

/// Where the agent listens (W-04).
const LISTENER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 3080);
/// Pause between two looks at an agent that is starting.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How long an agent may take to end by itself before it is killed.
const END: Duration = Duration::from_secs(5);

/// What to wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ready {
    /// Nothing.
    Started,
    /// Its listener accepts connections.
    Listening,
    /// Provisioning finished without an error (PX-54): redirect, key and listener are there.
    #[default]
    Provisioned,
}

/// How to start an agent.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// The binary.
    pub program: PathBuf,
    /// Configuration members that differ from the sandbox's; `null` removes one.
    pub config: Vec<(String, Value)>,
    /// Further arguments.
    pub arguments: Vec<String>,
    /// Environment variables to set.
    pub environment: Vec<(String, String)>,
    /// What to wait for.
    pub ready: Ready,
    /// How long to wait for it.
    pub within: Duration,
}

impl AgentOptions {
    /// The usual: the sandbox's configuration, and provisioned within 20 s.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            config: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            ready: Ready::default(),
            within: Duration::from_secs(20),
        }
    }

    /// Sets a configuration member.
    #[must_use]
    pub fn config(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.config.push((member.to_owned(), value.into()));
        self
    }

    /// Sets what to wait for.
    #[must_use]
    pub fn until(mut self, ready: Ready) -> Self {
        self.ready = ready;
        self
    }
}

/// A running agent. Dropping it ends it.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    output: PathBuf,
    config: PathBuf,
}

impl Agent {
    pub(crate) fn start(sandbox: &Sandbox, options: &AgentOptions) -> io::Result<Self> {
        Self::start_as(sandbox, options, |arguments| {
            let mut command = sandbox.command(&options.program);
            command.args(arguments);
            command
        })
    }

    /// Starts it with the command that `command` makes of the program's arguments.
    pub(crate) fn start_as(
        sandbox: &Sandbox,
        options: &AgentOptions,
        command: impl FnOnce(&[OsString]) -> Command,
    ) -> io::Result<Self> {
        let config = sandbox.directory().join("proxy-agent.json");
        let text = serde_json::to_string_pretty(&configuration(sandbox, &options.config))?;
        fs::write(&config, text)?;
        let output = sandbox.directory().join("agent.out");
        let file = File::options().create(true).append(true).open(&output)?;
        let before = file.metadata()?.len();
        let mut arguments = vec!["--config".into(), config.clone().into_os_string(), "--foreground".into()];
        arguments.extend(options.arguments.iter().map(OsString::from));
        let mut command = command(&arguments);
        command.envs(options.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(std::process::Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", options.program.display())))?;
        let mut agent = Self { child, output, config };
        agent.wait(sandbox, options).map_err(|why| {
            let text = agent.output();
            let printed = text.get(usize::try_from(before).unwrap_or(0)..).unwrap_or(&text);
            io::Error::other(format!("{}: {why}; it printed:\n{printed}", options.program.display()))
        })?;
        Ok(agent)
    }

    fn wait(&mut self, sandbox: &Sandbox, options: &AgentOptions) -> Result<(), String> {
        let deadline = Instant::now() + options.within;
        let look = || match options.ready {
            Ready::Started => Ok(true),
            Ready::Listening => sandbox.in_network(|| TcpStream::connect(LISTENER).map(|_| true))?,
            Ready::Provisioned => sandbox.in_network(provisioned)?,
        };
        loop {
            let state = match look() {
                Ok(true) => return Ok(()),
                Ok(false) => "not finished yet".to_owned(),
                Err(e) if e.kind() == io::ErrorKind::Other => return Err(e.to_string()),
                Err(e) => e.to_string(),
            };
            if let Some(status) = self.child.try_wait().map_err(|e| e.to_string())? {
                return Err(format!("the agent ended: {status}"));
            }
            if Instant::now() >= deadline {
                return Err(format!("not {:?} within {:?}: {state}", options.ready, options.within));
            }
            // Its start has no event that an outsider could wait for; this looks again, it does not guess a time.
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// Those of waitpid(2).
    pub fn is_running(&mut self) -> io::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// What it and its predecessors in this sandbox printed.
    pub fn output(&self) -> String {
        fs::read(&self.output).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Its configuration file.
    pub fn config_file(&self) -> &Path {
        &self.config
    }

    /// Asks it to end (SIGTERM), waits up to 5 s, and returns how it ended; kills it after that.
    ///
    /// # Errors
    /// `TimedOut` if it had to be killed.
    pub fn stop(&mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + END;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                self.kill()?;
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("the agent ignored SIGTERM for {END:?}")));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Kills it (SIGKILL) and waits for its end.
    ///
    /// # Errors
    /// Those of kill(2) and waitpid(2).
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    fn signal(&mut self, signal: Signal) -> io::Result<()> {
        if self.is_running()?
            && let Some(pid) = Pid::from_raw(self.child.id().cast_signed())
        {
            kill_process(pid, signal)?;
        }
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// The configuration file (files.md section 1) with every path inside the sandbox.
fn configuration(sandbox: &Sandbox, changes: &[(String, Value)]) -> Value {
    let mut config = json!({
        "logFolder": sandbox.log_folder(), "eventFolder": sandbox.log_folder().join("events"),
        "latchKeyFolder": sandbox.key_folder(), "statusFolder": sandbox.status_folder(),
        "monitorIntervalInSeconds": 60, "pollKeyStatusIntervalInSeconds": 1, "maxEventFileCount": 30,
        "ebpfProgramName": "ebpf_cgroup.o", "cgroupRoot": sandbox.cgroup(), "fileLogLevel": "Info",
        "pinFolder": sandbox.pin_folder(),
    });
    for (member, value) in changes {
        match (value, config.as_object_mut()) {
            (Value::Null, Some(members)) => drop(members.remove(member)),
            (value, _) => config[member] = value.clone(),
        }
    }
    config
}

/// Asks `/provision` (PX-49 to PX-57). A provisioning that finished with errors is an error of kind `Other`.
fn provisioned() -> io::Result<bool> {
    let mut stream = TcpStream::connect(LISTENER)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(
        b"GET /provision HTTP/1.1\r\nHost: 127.0.0.1\r\nMetadata: true\r\nx-ms-azure-time-tick: 0\r\nConnection: close\r\n\r\n",
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let state: Value =
        serde_json::from_str(body).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("{e}: {answer:?}")))?;
    match (state["finished"].as_bool(), state["errorMessage"].as_str()) {
        (Some(true), Some("")) => Ok(true),
        (Some(true), error) => Err(io::Error::other(format!("provisioning failed: {}", error.unwrap_or("no reason")))),
        _ => Ok(false),
    }
}
