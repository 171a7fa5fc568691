//! Files of generic events in the event folder (files.md section 8). Other programs write there too, and a sender takes files away:
//! what is not ours stays as it is.

use super::Host;
use super::files::{Access, Dir, FileError};
use azure_proxy_agent_core::agent::EventsWritten;
use azure_proxy_agent_core::telemetry::{Batch, file_name, is_generic_file};
use azure_proxy_agent_core::time::Wall;
use std::path::Path;

/// Mode of event files (T-73).
const MODE: u32 = 0o600;

impl Host {
    /// Takes the events that wait to a file, unless there are `most` files already (FS-80). What cannot be written waits on.
    #[must_use]
    pub fn write_events(&self, wall: Wall, most: u64) -> EventsWritten {
        let batch = self.telemetry.take_events();
        if batch.is_empty() {
            return EventsWritten::Nothing;
        }
        let Some(folder) = &self.event_folder else { return EventsWritten::Nothing };
        match write(folder, wall, most, &batch) {
            Ok(true) => EventsWritten::Written { dropped: batch.dropped },
            Ok(false) => EventsWritten::Full { dropped: batch.dropped + batch.len() as u64 },
            Err(e) => {
                self.telemetry.restore_events(batch);
                EventsWritten::Failed(e.to_string())
            }
        }
    }
}

fn write(folder: &Path, wall: Wall, most: u64, batch: &Batch) -> Result<bool, FileError> {
    let dir = Dir::create(folder, Access::Shared)?;
    let files = dir.names()?.iter().filter(|name| is_generic_file(name)).count();
    if files as u64 >= most {
        return Ok(false);
    }
    let name = file_name(wall);
    dir.add(&name, &format!("{name}.tmp"), MODE, &batch.file()).map_err(|e| e.of(folder))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;
    use crate::config::Config;
    use log::Level;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn host(scratch: &Scratch, folder: &str) -> Host {
        let root = scratch.path().to_str().expect("UTF-8");
        let folder = if folder.is_empty() { String::new() } else { format!("{root}/{folder}") };
        let json = format!(
            r#"{{"logFolder": "", "eventFolder": "{folder}", "latchKeyFolder": "{root}/keys", "monitorIntervalInSeconds": 1,
                "pollKeyStatusIntervalInSeconds": 1, "ebpfProgramName": "x"}}"#
        );
        Host::new(&Config::parse(Path::new("test"), json.as_bytes(), &|_| None).expect("configuration").0)
    }

    fn say(host: &Host, text: &str) {
        host.telemetry.event(Level::Info, "task", "component", text);
    }

    #[test]
    fn fs80_fs82_t73_a_batch_is_a_file_of_its_own() {
        let scratch = Scratch::new("events");
        let host = host(&scratch, "logs/events");
        assert_eq!(host.write_events(Wall(7), 30), EventsWritten::Nothing);
        assert_eq!(scratch.names(), [] as [&str; 0], "without events no folder");
        say(&host, "one");
        say(&host, "two");
        assert_eq!(host.write_events(Wall(7), 30), EventsWritten::Written { dropped: 0 });
        let path = scratch.path().join("logs/events/7.json");
        let events: serde_json::Value = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
        assert_eq!((&events[0]["Message"], &events[1]["Message"]), (&"one".into(), &"two".into()));
        assert_eq!(events[0]["EventPid"], std::process::id().to_string());
        assert_eq!(events[0]["EventTid"].as_str().map(str::len), Some(8), "T-02f");
        assert_eq!(fs::metadata(&path).expect("stat").permissions().mode() & 0o7777, 0o600);
        assert_eq!(host.write_events(Wall(8), 30), EventsWritten::Nothing);
    }

    #[test]
    fn fs09_fs80_fs83_the_limit_counts_everybodys_files_of_that_kind() {
        let scratch = Scratch::new("events");
        let host = host(&scratch, "events");
        fs::create_dir(scratch.path().join("events")).expect("mkdir");
        for name in ["1.json", "2.json", "extension_3.json", "4.json.tmp", "notes"] {
            fs::write(scratch.path().join("events").join(name), "theirs").expect("write");
        }
        say(&host, "lost");
        assert_eq!(host.write_events(Wall(7), 2), EventsWritten::Full { dropped: 1 });
        say(&host, "two");
        assert_eq!(host.write_events(Wall(8), 3), EventsWritten::Written { dropped: 0 });
        let text = fs::read_to_string(scratch.path().join("events/8.json")).expect("read");
        assert!(!text.contains("lost") && text.contains("two"), "{text}");
        for name in ["1.json", "2.json", "extension_3.json", "4.json.tmp", "notes"] {
            assert_eq!(fs::read(scratch.path().join("events").join(name)).expect("read"), b"theirs");
        }
    }

    #[test]
    fn sec_e2_what_cannot_be_written_waits_and_nothing_is_overwritten() {
        let scratch = Scratch::new("events");
        let host = host(&scratch, "events");
        symlink("elsewhere", scratch.path().join("events")).expect("link");
        say(&host, "one");
        let EventsWritten::Failed(why) = host.write_events(Wall(7), 30) else { panic!("refused") };
        assert!(why.ends_with("refused, because it is a symbolic link"), "{why}");
        fs::remove_file(scratch.path().join("events")).expect("remove");
        fs::create_dir(scratch.path().join("events")).expect("mkdir");
        fs::write(scratch.path().join("events/7.json"), "theirs").expect("write");
        assert!(matches!(host.write_events(Wall(7), 30), EventsWritten::Failed(_)));
        assert_eq!(fs::read(scratch.path().join("events/7.json")).expect("read"), b"theirs");
        assert_eq!(host.write_events(Wall(8), 30), EventsWritten::Written { dropped: 0 });
        assert!(fs::read_to_string(scratch.path().join("events/8.json")).expect("read").contains("one"));
        assert!(!scratch.path().join("elsewhere").exists());
    }

    #[test]
    fn fs05_without_a_folder_there_are_no_files() {
        let scratch = Scratch::new("events");
        let host = host(&scratch, "");
        say(&host, "one");
        assert_eq!(host.write_events(Wall(7), 30), EventsWritten::Nothing);
        assert_eq!(scratch.names(), [] as [&str; 0]);
    }
}
