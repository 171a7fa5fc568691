//! Important messages on the serial console (FS-36).

use azure_proxy_agent_core::time::Wall;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;

/// Where important messages also go.
#[derive(Debug, Clone)]
pub struct Console {
    path: PathBuf,
}

impl Default for Console {
    fn default() -> Self {
        Self::at("/dev/console".into())
    }
}

impl Console {
    /// Another device or file, for tests.
    #[must_use]
    pub const fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Writes one line; a failure is reported on standard error and ignored. `text` is ours, never a caller's; control characters
    /// become blanks all the same.
    pub fn write(&self, wall: Wall, text: &str) {
        if let Err(e) = self.try_write(wall, text) {
            // Not through the log: it may be what is being written.
            let _ = writeln!(io::stderr(), "Cannot write to {}: {e}", self.path.display());
        }
    }

    fn try_write(&self, wall: Wall, text: &str) -> io::Result<()> {
        let text = text.trim_end().replace(char::is_control, " ");
        let line = format!("{} azure-proxy-agent_{}({}) - {text}\n", wall.stamp(), crate::cli::VERSION, std::process::id());
        // NONBLOCK: a serial line whose other side has stopped the flow must not stop us.
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&self.path, flags, Mode::empty())?;
        File::from(fd).write_all(line.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;

    #[test]
    fn fs36_one_line_with_time_version_and_process_id() {
        let scratch = Scratch::new("console");
        let path = scratch.path().join("console");
        std::fs::write(&path, "").expect("write");
        let console = Console::at(path.clone());
        console.write(Wall(1_767_687_330_412_000_000), "Provision finished\r\nsuccessfully\r\n");
        let pid = std::process::id();
        let expected = format!(
            "2026-01-06T08:15:30.412 azure-proxy-agent_{}({pid}) - Provision finished  successfully\n",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(std::fs::read_to_string(path).expect("read"), expected);
    }

    #[test]
    fn fs36_nothing_is_created() {
        let scratch = Scratch::new("console");
        Console::at(scratch.path().join("none")).try_write(Wall(0), "x").expect_err("there is none");
        assert_eq!(scratch.names(), [] as [&str; 0]);
    }
}
