//! Real controllers as processes of their own, and what they cost.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Clock ticks per second in `/proc/PID/stat`: 100 on every Linux of today (proc_pid_stat(5), `USER_HZ`).
const TICKS: f64 = 100.0;

/// A running controller; dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Controller {
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    cgroup: Option<PathBuf>,
}

/// What a process has used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// CPU, user and system, seconds.
    pub(crate) cpu: f64,
    /// Resident now, MiB.
    pub(crate) rss: f64,
    /// Most that was ever resident, MiB.
    pub(crate) peak: f64,
}

impl Controller {
    /// Starts one. With `limit` MiB it gets a memory cgroup of that size, if this machine lets us make one: more is its end.
    pub(crate) fn start(program: &Path, database: &str, token: &Path, limit: u64) -> Result<Self, String> {
        let mut child = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0", "--database", database, "--admin-token-file"])
            .arg(token)
            .env("RUST_LOG", "warn,sqlx=error")
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{}: {e}", program.display()))?;
        let cgroup = confine(child.id(), limit);
        let out = child.stdout.take().ok_or("no output of the controller")?;
        let mut lines = BufReader::new(out).lines();
        let address =
            lines.by_ref().map_while(Result::ok).find_map(|line| line.strip_prefix("listening on http://")?.parse().ok());
        match address {
            Some(address) => Ok(Self { child, address, cgroup }),
            None => {
                let _ = child.kill();
                Err(format!("{} did not say where it listens: {:?}", program.display(), child.wait()))
            }
        }
    }

    /// Whether more memory than the limit would have been its end.
    pub(crate) const fn is_confined(&self) -> bool {
        self.cgroup.is_some()
    }

    /// What it has used until now.
    pub(crate) fn usage(&self) -> Usage {
        usage(&self.child.id().to_string())
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(cgroup) = &self.cgroup {
            let _ = fs::remove_dir(cgroup);
        }
    }
}

/// Version 2 of cgroups, or version 1, or none; whatever fails is as good as none.
fn confine(pid: u32, limit: u64) -> Option<PathBuf> {
    let bytes = (limit << 20).to_string();
    let places = [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")];
    for (place, file) in places {
        let cgroup = Path::new(place).join(format!("pool-bench-{pid}"));
        if !Path::new(place).join("cgroup.procs").exists() || fs::create_dir(&cgroup).is_err() {
            continue;
        }
        let confined =
            fs::write(cgroup.join(file), &bytes).and_then(|()| fs::write(cgroup.join("cgroup.procs"), pid.to_string()));
        if confined.is_ok() {
            return Some(cgroup);
        }
        let _ = fs::remove_dir(&cgroup);
    }
    None
}

/// What a process has used; `pid` may be `self`.
pub(crate) fn usage(pid: &str) -> Usage {
    let text = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    // The second field may hold blanks; what follows its parenthesis is numbers.
    let stat = text("stat");
    let fields: Vec<f64> = stat.rsplit(')').next().unwrap_or("").split_whitespace().map(|n| n.parse().unwrap_or(0.0)).collect();
    let field = |at: usize| fields.get(at).copied().unwrap_or(0.0);
    let status = text("status");
    let mib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    };
    Usage { cpu: (field(11) + field(12)) / TICKS, rss: mib("VmRSS:"), peak: mib("VmHWM:") }
}

/// Seconds that all CPUs together were busy, and were there.
pub(crate) fn machine() -> (f64, f64) {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<f64> =
        stat.lines().next().unwrap_or("").split_whitespace().skip(1).take(8).map(|n| n.parse().unwrap_or(0.0)).collect();
    let all: f64 = fields.iter().sum();
    // Idle, and waiting for the disk.
    let idle: f64 = fields.iter().skip(3).take(2).sum();
    ((all - idle) / TICKS, all / TICKS)
}
