//! One call of a client: who makes it and how, what it saw, and what the host saw of it.

use std::io;
use std::path::Path;
use std::process::Command;

use sandbox::{Record, Sandbox, Server, User};

/// Under whom a client runs, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Root, in the cgroup whose connections are redirected.
    Root,
    /// The user `nobody`, in the same cgroup.
    Nobody,
    /// Root, outside that cgroup: around the agent.
    Around,
}

impl Caller {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Root | Self::Around => "root",
            Self::Nobody => "nobody",
        }
    }

    pub(crate) const fn prompt(self) -> &'static str {
        match self {
            Self::Root | Self::Around => "root#",
            Self::Nobody => "nobody$",
        }
    }
}

/// What came of a call.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Status code of the answer; 0 if there was none.
    pub(crate) status: u16,
    /// Whom the client believes to speak to.
    pub(crate) peer: String,
    /// Whom the kernel's socket table names, if the client looked.
    pub(crate) table: Option<String>,
    /// The answer's body.
    pub(crate) body: String,
    /// What arrived at the host because of it.
    pub(crate) host: Vec<Record>,
}

/// Where calls are made.
pub(crate) struct Clients<'a> {
    pub(crate) sandbox: &'a Sandbox,
    pub(crate) server: &'a Server,
    pub(crate) nobody: User,
}

impl Clients<'_> {
    /// Runs curl with `arguments`, and with `-si -m 10 -w …` to see status and address.
    pub(crate) fn curl(&self, caller: Caller, arguments: &[&str]) -> io::Result<Seen> {
        let mut command = self.command(caller, "curl");
        command.args(["-si", "-m", "10", "-w", "\n%{http_code} %{remote_ip}:%{remote_port}"]).args(arguments);
        let (text, host) = self.run(command)?;
        let (answer, written) = text.rsplit_once('\n').unwrap_or_default();
        let (status, peer) = written.split_once(' ').unwrap_or_default();
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok(Seen { status: status.parse().unwrap_or(0), peer: peer.into(), table: None, body: body.into(), host })
    }

    /// Runs a Python program that prints status, believed peer, and the peer in the kernel's table.
    pub(crate) fn python(&self, program: &str) -> io::Result<Seen> {
        // The system's own first: others may be wrappers that need a home directory.
        let system = Path::new("/usr/bin/python3");
        let mut command = self.command(Caller::Root, if system.exists() { "/usr/bin/python3" } else { "python3" });
        command.args(["-c", program]);
        let (text, host) = self.run(command)?;
        let mut words = text.split_whitespace();
        Ok(Seen {
            status: words.next().and_then(|w| w.parse().ok()).unwrap_or(0),
            peer: words.next().unwrap_or_default().into(),
            table: words.next().map(str::to_owned),
            body: String::new(),
            host,
        })
    }

    fn command(&self, caller: Caller, program: &str) -> Command {
        match caller {
            Caller::Root => self.sandbox.command(program),
            Caller::Nobody => self.sandbox.command_as(&self.nobody, program),
            Caller::Around => self.sandbox.host_command(program),
        }
    }

    /// Its output, and what arrived at the host meanwhile, the agent's own calls left out.
    fn run(&self, mut command: Command) -> io::Result<(String, Vec<Record>)> {
        // No ~/.curlrc and no proxy setting changes what the demo shows.
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).env("HOME", self.sandbox.directory());
        let before = self.records().last().map_or(0, |r| r.number);
        let name = command.get_program().to_string_lossy().into_owned();
        let output = command.output().map_err(|e| io::Error::new(e.kind(), format!("{name}: {e}")))?;
        // The host writes its record before it answers, so it is there when the client has ended.
        let host =
            self.records().into_iter().filter(|r| r.number > before && !r.target.starts_with("/secure-channel/")).collect();
        Ok((String::from_utf8_lossy(&output.stdout).into_owned(), host))
    }

    fn records(&self) -> Vec<Record> {
        self.server.host().records.all()
    }
}
