//! Who tidies up when the owner cannot: a small shell process that waits for the owner's end (the pipe between them closes,
//! whatever the reason) and then kills, unmounts by letting go, and removes. It is also what an orderly end uses, so there
//! is one way down, not two.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The first word of every sandbox's name.
pub(crate) const PREFIX: &str = "azure-proxy-agent-sandbox-";

/// Standard input is the pipe from the owner; standard output is a directory descriptor, the root of cgroup2, moved to 3.
/// `cgroup.kill` exists since Linux 5.14; before, processes are killed one by one.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM
exec 3>&1 >/dev/null 2>&1
read -r _
top=/proc/self/fd/3/$1
tries=0
while [ -d "$top" ] && [ $tries -lt 500 ]; do
    echo 1 > "$top/cgroup.kill" || find "$top" -name cgroup.procs -exec cat {} + | while read -r pid; do kill -KILL "$pid"; done
    find "$top" -depth -type d -exec rmdir {} \;
    [ -d "$top" ] && sleep 0.01
    tries=$((tries + 1))
done
rm -rf -- "$2"
"#;

#[derive(Debug)]
pub(crate) struct Guard(Child);

impl Guard {
    /// Watches over a sandbox from now on.
    pub(crate) fn watch(name: &str, directory: &Path, cgroup_root: &OwnedFd) -> io::Result<Self> {
        Ok(Self(shell(name, directory, cgroup_root)?.stdin(Stdio::piped()).spawn()?))
    }

    /// Tells it that the end has come, and waits until everything is gone.
    pub(crate) fn finish(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn shell(name: &str, directory: &Path, cgroup_root: &OwnedFd) -> io::Result<Command> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", SCRIPT, "sandbox-guard", name]).arg(directory).current_dir("/");
    // Its own process group: Ctrl-C is for the owner, and the guard acts on the owner's end.
    command.stdout(cgroup_root.as_fd().try_clone_to_owned()?).stderr(Stdio::null()).process_group(0);
    Ok(command)
}

/// The name of a new sandbox: who owns it (process and its start time, so that a reused number is not mistaken) and which
/// of the owner's it is.
pub(crate) fn name(number: u64) -> io::Result<String> {
    let pid = std::process::id();
    let start = start_time(pid).ok_or_else(|| io::Error::other("cannot read my own start time from /proc"))?;
    Ok(format!("{PREFIX}{pid}-{start}-{number}"))
}

fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Field 22; counted after the command name, which may contain anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Whether a name is that of a sandbox whose owner is gone.
fn is_stale(name: &str) -> bool {
    let mut numbers = name.strip_prefix(PREFIX).into_iter().flat_map(|n| n.split('-'));
    let (Some(pid), Some(start)) = (numbers.next(), numbers.next()) else { return false };
    match (pid.parse(), start.parse()) {
        (Ok(pid), Ok(start)) => start_time(pid) != Some(start),
        _ => false,
    }
}

/// Removes what owners left behind whose guard was killed too.
pub(crate) fn sweep(parent: &Path, cgroup_root: &OwnedFd) -> io::Result<()> {
    let cgroups = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(cgroup_root));
    let mut stale: Vec<String> = Vec::new();
    for place in [parent, Path::new(&cgroups)] {
        for entry in fs::read_dir(place)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_stale(&name) && !stale.contains(&name) {
                stale.push(name);
            }
        }
    }
    for name in stale {
        shell(&name, &parent.join(&name), cgroup_root)?.stdin(File::open("/dev/null")?).status()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_dead_owners_are_stale() {
        let own = name(1).unwrap();
        assert!(!is_stale(&own), "{own}");
        let pid = std::process::id();
        assert!(is_stale(&format!("{PREFIX}{pid}-1-1")), "the number was reused");
        assert!(is_stale(&format!("{PREFIX}4194304-5-1")), "no such process");
        for other in ["azure-proxy-agent", PREFIX, "azure-proxy-agent-sandbox-x-y-z", "azure-proxy-agent-sandbox-1"] {
            assert!(!is_stale(other), "{other}");
        }
    }
}
