//! The limit on our own processor time (FS-100): the service manager is asked to set it, until the next boot. Best effort.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::process::{PidfdFlags, pidfd_open};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Where `systemctl` is. Never looked for in `PATH`: that is the environment's, and we are root.
const SYSTEMCTL: [&str; 2] = ["/usr/bin/systemctl", "/bin/systemctl"];
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes of its complaint that are passed on.
const COMPLAINT: u64 = 512;

/// How to reach the service manager.
#[derive(Debug, Clone)]
pub struct ServiceManager {
    systemctl: PathBuf,
    patience: Duration,
}

impl Default for ServiceManager {
    fn default() -> Self {
        let [usual, other] = SYSTEMCTL.map(Path::new);
        Self { systemctl: if usual.exists() { usual } else { other }.into(), patience: PATIENCE }
    }
}

impl ServiceManager {
    /// Limits this service, and the redirector if that is another one, each to `percent` of one processor until the next boot. Says how
    /// it went: a service without limit is as good.
    pub(crate) fn limit_cpu(&self, percent: u8, has_redirector: bool) {
        let Some(own) = own_unit() else { return log::debug!("Not started by systemd: processor time is not limited") };
        let other =
            has_redirector.then(|| own.strip_suffix(".service").map(|name| format!("{name}-redirector.service"))).flatten();
        for unit in [Some(own), other].into_iter().flatten() {
            match self.set_quota(&unit, percent) {
                Ok(()) => log::info!("Processor time of {unit} is limited to {percent} %"),
                Err(e) => log::info!("Processor time of {unit} is not limited: {e}"),
            }
        }
    }

    fn set_quota(&self, unit: &str, percent: u8) -> io::Result<()> {
        let mut child = Command::new(&self.systemctl)
            .args(["--no-ask-password", "set-property", "--runtime", unit])
            .arg(format!("CPUQuota={percent}%"))
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", self.systemctl.display())))?;
        let ended = ends_within(&child, self.patience);
        if !matches!(ended, Ok(true)) {
            child.kill()?;
        }
        let status = child.wait()?;
        match (ended?, status.success()) {
            (true, true) => Ok(()),
            (true, false) => Err(io::Error::other(format!("systemctl: {status}: {}", complaint(&mut child)))),
            (false, _) => Err(io::Error::other(format!("systemctl took more than {:?}", self.patience))),
        }
    }
}

fn ends_within(child: &Child, patience: Duration) -> io::Result<bool> {
    let pid = rustix::process::Pid::from_child(child);
    let ended = pidfd_open(pid, PidfdFlags::empty())?;
    let timeout = crate::wait::timespec(patience);
    loop {
        match poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result? > 0),
        }
    }
}

/// What it printed, as far as it is there: a child of its own may still hold the pipe.
fn complaint(child: &mut Child) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = child.stderr.take()
        && rustix::fs::fcntl_setfl(&pipe, OFlags::NONBLOCK).is_ok()
    {
        // What was read before an error stays.
        let _ = pipe.take(COMPLAINT).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).trim().replace(char::is_control, " ")
}

/// The unit that systemd started this very process as; `None` if it did not. The variable alone is not enough: it is inherited by
/// whatever a service starts, and another service's limit is none of our business.
fn own_unit() -> Option<String> {
    std::env::var_os("INVOCATION_ID")?;
    let ours = match std::env::var("SYSTEMD_EXEC_PID") {
        Ok(pid) => pid == std::process::id().to_string(),
        // Before systemd 248.
        Err(_) => rustix::process::getppid().is_some_and(rustix::process::Pid::is_init),
    };
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    ours.then(|| unit_of(&cgroups)).flatten()
}

/// The service in the control group that systemd manages: of the unified hierarchy, or its own of the old ones (cgroups(7)).
fn unit_of(cgroups: &str) -> Option<String> {
    cgroups.lines().find_map(|line| {
        let (hierarchy, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        if !(hierarchy == "0" && controllers.is_empty() || controllers == "name=systemd") {
            return None;
        }
        let unit = path.rsplit('/').next()?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        (unit.len() > ".service".len() && unit.ends_with(".service") && !unit.starts_with('-') && unit.chars().all(allowed))
            .then(|| unit.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A stand-in for systemctl.
    fn manager(scratch: &Scratch, script: &str) -> ServiceManager {
        let systemctl = scratch.path().join("systemctl");
        std::fs::write(&systemctl, format!("#!/bin/sh\ncd {}\n{script}\n", scratch.path().display())).expect("write");
        std::fs::set_permissions(&systemctl, PermissionsExt::from_mode(0o755)).expect("mode");
        ServiceManager { systemctl, patience: PATIENCE }
    }

    #[test]
    fn fs100_systemctl_is_asked_with_a_clean_environment() {
        let scratch = Scratch::new("quota");
        let manager = manager(&scratch, "echo \"$@\" > asked; /usr/bin/env > environment; cat > input");
        manager.set_quota("azure-proxy-agent.service", 15).expect("done");
        let read = |name: &str| std::fs::read_to_string(scratch.path().join(name)).expect("read");
        assert_eq!(read("asked"), "--no-ask-password set-property --runtime azure-proxy-agent.service CPUQuota=15%\n");
        // What a shell sets by itself.
        let left: Vec<String> = read("environment").lines().map(|l| l.split('=').next().unwrap_or_default().to_owned()).collect();
        assert!(left.iter().all(|name| ["PWD", "OLDPWD", "SHLVL", "_"].contains(&name.as_str())), "{left:?}");
        assert_eq!(read("input"), "");
    }

    #[test]
    fn fs100_failure_is_told_and_harmless() {
        let scratch = Scratch::new("quota");
        let refused = manager(&scratch, "echo 'Access denied' >&2; exit 4").set_quota("a.service", 15).expect_err("fails");
        assert_eq!(refused.to_string(), "systemctl: exit status: 4: Access denied");
        let missing = ServiceManager { systemctl: "/nonexistent/systemctl".into(), patience: PATIENCE };
        let missing = missing.set_quota("a.service", 15).expect_err("fails");
        assert!(missing.to_string().starts_with("/nonexistent/systemctl: No such file"), "{missing}");
        // One that never ends, and whose child keeps the pipe open.
        let slow = ServiceManager { patience: Duration::from_millis(50), ..manager(&scratch, "sleep 5") };
        let slow = slow.set_quota("a.service", 15).expect_err("fails");
        assert_eq!(slow.to_string(), "systemctl took more than 50ms");
    }

    #[test]
    fn fs100_only_a_service_has_a_unit() {
        for (cgroups, unit) in [
            ("0::/system.slice/azure-proxy-agent.service\n", Some("azure-proxy-agent.service")),
            ("12:cpu:/x\n1:name=systemd:/system.slice/a-b.service\n0::/\n", Some("a-b.service")),
            ("0::/system.slice/system-a.slice/a@1\\x2d2.service\n", Some("a@1\\x2d2.service")),
            ("0::/user.slice/user-0.slice/session-1.scope\n", None),
            ("0::/system.slice/cron.service/sub\n", None),
            ("0::/system.slice/--help.service\n", None),
            ("0::/system.slice/a b.service\n", None),
            ("0::/.service\n", None),
            ("4:cpu:/system.slice/a.service\n", None),
            ("", None),
        ] {
            assert_eq!(unit_of(cgroups).as_deref(), unit, "{cgroups}");
        }
    }
}
