use super::Tasks;
use crate::command::Runner;
use crate::config::Config;
use crate::store::Folder;
use pool_core::job::{Spec, TaskCall};
use pool_core::pool::Ended;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// A machine in a folder, whose agent is a script.
struct Machine {
    folder: PathBuf,
    config: Config,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Machine {
    fn new() -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("updater-tasks-{}-{number}", std::process::id()));
        for name in ["log", "lib/keys", "lib/rules", "state"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        let at = |name: &str| folder.join(name);
        let script = format!(
            "#!/bin/sh\ncd {}\ncase \"$1\" in\n--version) echo 1.0.0;;\n--status) exit $(cat ready);;\n--check-config) echo good;;\n\
             rules) for file; do :; done; if grep -q bad \"$file\"; then echo '{{\"files\":[{{\"findings\":[{{\"severity\":\"error\",\
             \"line\":2,\"place\":\"rules\",\"message\":\"it is bad\"}}]}}]}}'; exit 1; fi; echo '{{}}';;\nesac\n",
            folder.display()
        );
        fs::write(at("agent"), script).unwrap();
        fs::set_permissions(at("agent"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(at("ready"), "0").unwrap();
        let path = |name: &str| at(name).display().to_string();
        let agent_config =
            serde_json::json!({ "logFolder": path("log"), "latchKeyFolder": path("lib/keys"), "statusFolder": path("log") });
        fs::write(at("agent.json"), agent_config.to_string()).unwrap();
        let config = Config {
            agent: at("agent"),
            agent_config: at("agent.json"),
            state_folder: at("state"),
            reload: vec!["true".into()],
            rules_within: 0,
            ..Config::default()
        };
        let machine = Self { folder, config };
        machine.say("");
        machine
    }

    /// The agent's status, with this message of the key module.
    fn say(&self, message: &str) {
        let status = serde_json::json!({ "proxyAgentStatus": { "status": "SUCCESS", "keyLatchStatus": { "message": message } } });
        fs::write(self.folder.join("log/status.json"), status.to_string()).unwrap();
    }

    fn with<T>(&self, work: impl FnOnce(&Tasks<'_>) -> T) -> T {
        let (folder, runner) = (Folder::open(&self.config.state_folder).unwrap(), Runner::new(None));
        work(&Tasks { config: &self.config, folder: &folder, runner: &runner })
    }

    fn perform(&self, name: &str, version: &str, input: &str) -> Result<Value, String> {
        let call = TaskCall { name: name.into(), version: version.parse().unwrap(), input: input.into() };
        let spec = Spec { tasks: vec![call], ..Spec::default() };
        match self.with(|tasks| tasks.perform(&spec, &AtomicBool::new(false))) {
            Ended::Well { result } => Ok(serde_json::from_str::<Value>(&result).unwrap()[0]["result"].clone()),
            Ended::Badly { why } => Err(why),
        }
    }

    fn rules(&self) -> PathBuf {
        self.folder.join("lib/rules/IMDS_Rules.json")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn rules_are_applied_whole_with_the_mode_that_the_agent_demands() {
    let machine = Machine::new();
    let result = machine.perform("ApplyRules", "1.0.0", r#"{"destination": "imds", "document": {"id": "a"}}"#).unwrap();
    assert_eq!((&result["changed"], &result["seenByAgent"]), (&Value::Bool(true), &Value::Bool(true)));
    assert_eq!(fs::read_to_string(machine.rules()).unwrap(), "{\n  \"id\": \"a\"\n}\n");
    assert_eq!(mode(&machine.rules()), 0o600);
    // Nothing else is in the folder, and nothing is kept to be undone.
    assert_eq!(fs::read_dir(machine.rules().parent().unwrap()).unwrap().count(), 1);
    machine.with(|tasks| tasks.undo());
    assert!(machine.rules().exists());
    let result = machine.perform("ApplyRules", "1.0.0", r#"{"destination": "imds", "document": {"id": "a"}}"#).unwrap();
    assert_eq!(result["changed"], false);
}

#[test]
fn what_the_agent_said_of_the_file_before_is_not_held_against_the_new_one() {
    let mut machine = Machine::new();
    machine.config.rules_within = 600;
    let complaint = |why: &str| format!("fail-closed, because {} cannot be used: {why})", machine.rules().display());
    machine.say(&complaint("old"));
    std::thread::scope(|scope| {
        let apply = scope.spawn(|| machine.perform("ApplyRules", "1.0.0", r#"{"destination": "imds", "document": {"id": "a"}}"#));
        while !machine.rules().exists() {
            std::thread::yield_now();
        }
        // Another complaint is about the new file.
        machine.say(&complaint("new"));
        let why = apply.join().unwrap().unwrap_err();
        assert!(why.contains("the agent rejected it, and the file is again as it was: ") && why.contains("used: new"), "{why}");
    });
    assert!(!machine.rules().exists());
    // The agent is content in the end.
    machine.config.rules_within = 2;
    let path = machine.rules();
    machine.say(&format!("fail-closed, because {} cannot be used: old)", path.display()));
    std::thread::scope(|scope| {
        let apply = scope.spawn(|| machine.perform("ApplyRules", "1.0.0", r#"{"destination": "imds", "document": {"id": "a"}}"#));
        while !path.exists() && !apply.is_finished() {
            std::thread::yield_now();
        }
        machine.say("");
        assert_eq!(apply.join().unwrap().unwrap()["changed"], true);
    });
}

#[test]
fn rules_that_the_check_rejects_change_nothing() {
    let machine = Machine::new();
    fs::write(machine.rules(), "old").unwrap();
    let why = machine.perform("ApplyRules", "1.0.0", r#"{"destination": "imds", "document": {"id": "bad"}}"#).unwrap_err();
    assert_eq!(
        why,
        "task `ApplyRules` version 1.0.0: nothing was changed, because the agent would not take this document: line 2, rules: it is bad"
    );
    assert_eq!(fs::read_to_string(machine.rules()).unwrap(), "old");
    for input in ["", "{}", r#"{"destination": "hostga", "document": {}}"#, r#"{"destination": "../x", "document": {}}"#] {
        machine.perform("ApplyRules", "1.0.0", input).unwrap_err();
    }
    assert_eq!(fs::read_dir(machine.rules().parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn rules_that_the_running_agent_rejects_are_rolled_back() {
    let machine = Machine::new();
    let message = format!("(IMDS rules: fail-closed, because {} cannot be used: too odd)", machine.rules().display());
    machine.say(&message);
    for old in [None, Some("old")] {
        if let Some(old) = old {
            fs::write(machine.rules(), old).unwrap();
        }
        let why = machine.perform("ApplyRules", "1.0.0", r#"{"destination": "imds", "document": {"id": "a"}}"#).unwrap_err();
        assert!(why.contains("the agent rejected it, and the file is again as it was: "), "{why}");
        assert!(why.contains("cannot be used: too odd"), "{why}");
        assert_eq!(fs::read_to_string(machine.rules()).ok().as_deref(), old);
    }
}

#[test]
fn rules_that_a_crash_left_unconfirmed_are_rolled_back() {
    let machine = Machine::new();
    fs::write(machine.rules(), "old").unwrap();
    machine.with(|tasks| tasks.write_rules(&machine.rules(), Some("old".into()), "new")).unwrap();
    assert_eq!(fs::read_to_string(machine.rules()).unwrap(), "new");
    machine.with(|tasks| tasks.undo());
    assert_eq!(fs::read_to_string(machine.rules()).unwrap(), "old");
}

#[test]
fn health_is_one_result() {
    let machine = Machine::new();
    fs::write(machine.rules(), "{}").unwrap();
    let result = machine.perform("CheckHealth", "1.0.0", "").unwrap();
    assert_eq!(
        (&result["healthy"], &result["version"], &result["rules"][0]["valid"]),
        (&true.into(), &"1.0.0".into(), &true.into())
    );
    fs::write(machine.rules(), "bad").unwrap();
    fs::write(machine.folder.join("ready"), "1").unwrap();
    let result = machine.perform("CheckHealth", "1.0.0", "").unwrap();
    assert_eq!(
        (&result["healthy"], &result["ready"], &result["rules"][0]["valid"]),
        (&false.into(), &false.into(), &false.into())
    );
    assert_eq!(result["rules"][0]["why"], "line 2, rules: it is bad");
}

#[test]
fn diagnostics_are_an_archive_without_secrets() {
    let machine = Machine::new();
    let lines = "{\"url\":\"/a\"}\n{\"url\":\"/b?sig=abcdef\"}\n{\"h\":\"Bearer eyJ0\"}\n".to_owned();
    fs::write(machine.folder.join("log/audit.jsonl"), lines + &"{\"url\":\"/c\"}\n".repeat(100_000)).unwrap();
    fs::write(machine.folder.join("lib/keys/x.key"), "the-key").unwrap();
    fs::write(machine.folder.join("log/other.log"), "not ours").unwrap();
    let result = machine.perform("CollectDiagnostics", "1.0.0", "").unwrap();
    let archive =
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, result["archive"].as_str().unwrap()).unwrap();
    let tar = machine.folder.join("a.tar");
    fs::write(&tar, &archive).unwrap();
    let listed = std::process::Command::new("tar").arg("-tf").arg(&tar).output().unwrap();
    let names = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(names.lines().collect::<Vec<_>>(), ["version.txt", "ready.txt", "check-config.txt", "status.json", "audit.jsonl"]);
    let text = String::from_utf8_lossy(&archive);
    assert!(
        text.contains("{\"url\":\"/c\"}") && !text.contains("the-key") && !text.contains("not ours") && !text.contains("sig=")
    );
    // Short enough for the secret lines to be in it.
    fs::write(machine.folder.join("log/audit.jsonl"), "{\"url\":\"/b?sig=abcdef\"}\n{\"url\":\"/d\"}\n").unwrap();
    let result = machine.perform("CollectDiagnostics", "1.0.0", "").unwrap();
    let archive =
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, result["archive"].as_str().unwrap()).unwrap();
    let text = String::from_utf8_lossy(&archive);
    assert!(text.contains("(a line was left out: it may have a secret)\n{\"url\":\"/d\"}") && !text.contains("abcdef"));
}

#[test]
fn logs_are_rolled_and_the_agent_is_told() {
    let mut machine = Machine::new();
    machine.config.reload = vec!["touch".into(), machine.folder.join("told").display().to_string()];
    fs::write(machine.folder.join("log/ProxyAgent.log"), "line\n").unwrap();
    fs::write(machine.folder.join("log/audit.jsonl"), "").unwrap();
    let result = machine.perform("RotateLogs", "1.0.0", "").unwrap();
    let rotated = result["rotated"][0].as_str().unwrap();
    assert!(rotated.starts_with("ProxyAgent.log.20") && rotated.ends_with(".log"), "{rotated}");
    assert_eq!(fs::read_to_string(machine.folder.join("log").join(rotated)).unwrap(), "line\n");
    assert!(machine.folder.join("told").exists() && !machine.folder.join("log/ProxyAgent.log").exists());
    assert_eq!(result["rotated"].as_array().unwrap().len(), 1);
}

#[test]
fn what_is_not_known_is_said_and_what_was_taken_back_is_not_begun() {
    let machine = Machine::new();
    let why = machine.perform("Dance", "1.0.0", "").unwrap_err();
    assert!(why.starts_with("task `Dance` version 1.0.0: this updater does not know it; it knows ApplyRules"), "{why}");
    let why = machine.perform("CheckHealth", "2.0.0", "").unwrap_err();
    assert!(why.contains("knows version 1 of it only"), "{why}");
    let call = TaskCall { name: "CheckHealth".into(), version: "1".parse().unwrap(), input: String::new() };
    let spec = Spec { tasks: vec![call], ..Spec::default() };
    let ended = machine.with(|tasks| tasks.perform(&spec, &AtomicBool::new(true)));
    assert!(matches!(ended, Ended::Badly { why } if why.contains("was not begun, because the job was taken back")));
}
