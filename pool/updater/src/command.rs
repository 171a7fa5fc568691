//! Commands with a deadline: their words, no shell, bounded output.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Most bytes of output that are kept, of each kind.
const KEEP: usize = 1 << 20;
/// How often it is looked whether a command has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Its exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Whether it ended well.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.code == Some(0)
    }

    /// What to tell people: the last lines of what it said, one line.
    #[must_use]
    pub fn words(&self) -> String {
        let said = if self.err.trim().is_empty() { &self.out } else { &self.err };
        let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = lines.iter().skip(lines.len().saturating_sub(4)).copied().collect::<Vec<_>>().join("; ");
        match self.code {
            Some(code) if last.is_empty() => format!("exit code {code}"),
            Some(code) => format!("{last} (exit code {code})"),
            None => format!("it was killed; {last}"),
        }
    }
}

/// Runs commands; each holds the updater's lock until it ends, as its standard input, which is empty.
#[derive(Debug)]
pub struct Runner {
    lock: Option<File>,
}

impl Runner {
    /// With the lock that commands inherit.
    #[must_use]
    pub const fn new(lock: Option<File>) -> Self {
        Self { lock }
    }

    /// Runs `words` to their end, at most for `within`.
    ///
    /// # Errors
    /// It cannot be started, or did not end in time and was killed with everything in its process group.
    pub fn run(&self, words: &[String], within: Duration) -> Result<Said, String> {
        let (program, arguments) = words.split_first().ok_or("the command is empty")?;
        let stdin = match &self.lock {
            Some(lock) => Stdio::from(lock.try_clone().map_err(|e| e.to_string())?),
            None => Stdio::null(),
        };
        let mut command = Command::new(program);
        command.args(arguments).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8").current_dir("/");
        let mut child = command.spawn().map_err(|e| format!("{program} cannot be started: {e}"))?;
        let out = drain(child.stdout.take());
        let err = drain(child.stderr.take());
        let code = self.wait(&mut child, within);
        // What it left running may hold the pipes open; it is not waited for.
        let text = |from: mpsc::Receiver<Vec<u8>>| {
            let bytes = from.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let said = Said { code: code.unwrap_or_default(), out: text(out), err: text(err) };
        if code.is_none() {
            return Err(format!("{program} did not end within {} s and was killed", within.as_secs()));
        }
        Ok(said)
    }

    fn wait(&self, child: &mut Child, within: Duration) -> Option<Option<i32>> {
        let deadline = Instant::now() + within;
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Some(status.code()),
                Ok(None) if Instant::now() < deadline => thread::sleep(LOOK_EVERY),
                _ => {
                    let group = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
                    if let Some(group) = group {
                        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
                    }
                    let _ = child.wait();
                    return None;
                }
            }
        }
    }
}

/// Reads everything, keeps the end of it.
fn drain(from: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut kept = Vec::new();
        let mut buffer = [0; 8192];
        if let Some(mut from) = from {
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                kept.extend_from_slice(buffer.get(..n).unwrap_or_default());
                if kept.len() > 2 * KEEP {
                    kept.drain(..kept.len() - KEEP);
                }
            }
        }
        let _ = sender.send(kept);
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::Runner;
    use std::time::Duration;

    fn words(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(String::from).to_vec()
    }

    #[test]
    fn what_a_command_says_is_told_in_one_line() {
        let runner = Runner::new(None);
        let said = runner.run(&words("echo a; echo b >&2; echo c >&2; exit 3"), Duration::from_secs(60)).unwrap();
        assert_eq!((said.out.as_str(), said.code, said.words().as_str()), ("a\n", Some(3), "b; c (exit code 3)"));
        let error = runner.run(&["/nowhere/x".into()], Duration::from_secs(60)).unwrap_err();
        assert!(error.starts_with("/nowhere/x cannot be started: "), "{error}");
    }

    #[test]
    fn a_command_that_does_not_end_is_killed_with_what_it_started() {
        let error = Runner::new(None).run(&words("sleep 600 & sleep 600"), Duration::from_millis(200)).unwrap_err();
        assert!(error.contains("was killed"), "{error}");
    }
}
