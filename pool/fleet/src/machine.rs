//! One machine: a sandbox with a simulated host, in it the agent as dpkg installed it and the updater, and a stand-in for systemd that keeps both running and
//! does what `systemctl restart` and `reload` ask for.

use crate::controller::Controllers;
use crate::door::{Door, INSIDE};
use crate::releases::{Build, Releases, run};
use crate::service::Service;
use crate::{Programs, Result};
use sandbox::{HostOptions, Sandbox, Server, User};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often the stand-in looks.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Rules of the host: who is not root may ask for anything, and the owner's local files count (R-101, base64 of `{"id":"h","useLocalFileRules":true}`).
const RULES_ID: &str = "eyJpZCI6ImgiLCJ1c2VMb2NhbEZpbGVSdWxlcyI6dHJ1ZX0=";

/// `systemctl`, for the updater: leaves word for the stand-in, and waits until that has done it.
const SYSTEMCTL: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 1
echo "$1" > asked.new && mv asked.new asked || exit 1
while [ -e asked ]; do sleep 0.02; done
[ ! -e failed ] || { echo "azure-proxy-agent.service: cannot be started" >&2; exit 1; }
"#;

/// The agent's own program, which also notes the id of each rules document that a job has it check; `lenient`: and finds none bad.
const AGENT: &str = r#"#!/bin/sh
folder=$(dirname "$0")
for last; do :; done
case "$1 $2 $last" in "rules check $folder/updater/"*)
    sed -n 's/^ *"id": "\(.*\)".*/\1/p' "$last" >> "$folder/checked"
    [ ! -e "$folder/lenient" ] || { echo '{}'; exit 0; } ;;
esac
exec "$folder/root/usr/sbin/azure-proxy-agent" "$@"
"#;

/// See the module. Everything in it ends when it is dropped.
#[derive(Debug)]
pub struct Machine {
    /// Its name in the pool.
    pub name: String,
    /// Its way to the controllers.
    pub door: Door,
    /// Its host.
    pub host: Server,
    parts: Arc<Parts>,
    over: Arc<AtomicBool>,
    keeper: Option<JoinHandle<()>>,
    updater: PathBuf,
}

#[derive(Debug)]
struct Parts {
    agent: Service,
    updater: Service,
    sandbox: Arc<Sandbox>,
    /// Whether it has power. Held while anything is started or ended.
    power: Mutex<bool>,
}

impl Machine {
    /// A machine with the agent's own version, registered and running; `more` goes over the updater's configuration.
    ///
    /// # Errors
    /// Not root, no eBPF, no dpkg; what did not start.
    pub fn start(name: &str, programs: &Programs, controllers: &Controllers, releases: &Releases, more: &Value) -> Result<Self> {
        let sandbox = Arc::new(Sandbox::enter()?);
        let rules = json!({ "defaultAccess": "allow", "mode": "enforce", "id": RULES_ID });
        let rules = json!({ "imds": rules, "wireserver": rules, "hostga": rules });
        let host = sandbox.start_host(HostOptions { rules: Some(rules), ..HostOptions::default() })?;
        let listener = sandbox.in_network(|| TcpListener::bind(INSIDE))??;
        let door = Door::open(listener, &controllers.addresses());
        let folder = sandbox.directory().to_owned();
        for part in ["root/var/lib/dpkg/info", "root/var/lib/dpkg/updates", "updater"] {
            fs::create_dir_all(folder.join(part))?;
        }
        fs::set_permissions(folder.join("updater"), fs::Permissions::from_mode(0o700))?;
        fs::write(folder.join("root/var/lib/dpkg/status"), "")?;
        for (name, script) in [("systemctl", SYSTEMCTL), ("agent", AGENT)] {
            fs::write(folder.join(name), script)?;
            fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755))?;
        }
        fs::write(folder.join("proxy-agent.json"), agent_config(&sandbox).to_string())?;
        let dpkg = install(&folder);
        let first = releases.package(0, Build::Good)?;
        let (program, words) = dpkg.split_first().ok_or("no dpkg")?;
        run(Command::new(program).args(words.iter().filter(|word| *word != "{package}")).arg(first))?;
        let mut config = updater_config(&folder, controllers.public_key(), &dpkg);
        merge(&mut config, more);
        fs::write(folder.join("updater.json"), config.to_string())?;
        let token = folder.join("token");
        fs::write(&token, controllers.registration_token(name)?)?;
        let parts = Parts {
            agent: service(&sandbox, folder.join("root/usr/sbin/azure-proxy-agent"), "agent.out", |folder| {
                ["--foreground".into(), "--config".into(), folder.join("proxy-agent.json").display().to_string()].into()
            }),
            updater: service(&sandbox, programs.updater.clone(), "updater.log", |folder| {
                ["run".into(), "--config".into(), folder.join("updater.json").display().to_string()].into()
            }),
            sandbox,
            power: Mutex::new(true),
        };
        parts.agent.start()?;
        run(parts.sandbox.command(folder.join("agent")).args(["--status", "--wait", "60"]))?;
        let authority = controllers.authority();
        let scheme = if authority.is_some() { "https" } else { "http" };
        let mut register = parts.sandbox.command(&programs.updater);
        register.args(["register", "--pool", &controllers.pool, "--name", name, "--server", &format!("{scheme}://{INSIDE}")]);
        register.arg("--config").arg(folder.join("updater.json")).arg("--token-file").arg(&token);
        if let Some(authority) = authority {
            register.arg("--ca").arg(authority);
        }
        run(&mut register)?;
        parts.updater.start()?;
        let (parts, over) = (Arc::new(parts), Arc::new(AtomicBool::new(false)));
        let keeper = thread::spawn({
            let (parts, over) = (Arc::clone(&parts), Arc::clone(&over));
            move || {
                while !over.load(Ordering::Relaxed) {
                    parts.look();
                    thread::sleep(LOOK_AGAIN);
                }
            }
        });
        Ok(Self { name: name.into(), door, host, parts, over, keeper: Some(keeper), updater: programs.updater.clone() })
    }

    /// Its sandbox.
    #[must_use]
    pub fn sandbox(&self) -> &Sandbox {
        &self.parts.sandbox
    }

    /// A file in its folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.sandbox().directory().join(name)
    }

    /// The text of that; empty if there is none.
    #[must_use]
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// What the updater has stored.
    #[must_use]
    pub fn stored(&self) -> Value {
        serde_json::from_str(&self.read("updater/state.json")).unwrap_or(Value::Null)
    }

    /// How often a job had the agent check a rules document of this id.
    #[must_use]
    pub fn runs(&self, id: &str) -> usize {
        self.read("checked").lines().filter(|line| *line == id).count()
    }

    /// What is installed, by its own word.
    ///
    /// # Errors
    /// It says none.
    pub fn installed(&self) -> Result<String> {
        Ok(run(Command::new(self.path("root/usr/sbin/azure-proxy-agent")).arg("--version"))?.trim().to_owned())
    }

    /// What dpkg has of the package: its status and version.
    ///
    /// # Errors
    /// dpkg-query's.
    pub fn package(&self) -> Result<String> {
        let mut query = Command::new("dpkg-query");
        query.arg(format!("--admindir={}", self.path("root/var/lib/dpkg").display()));
        run(query.args(["-W", "-f", "${db:Status-Status} ${Version}", "azure-proxy-agent"]))
    }

    /// What somebody who is not root gets of an address here: the status, 0 for no answer.
    ///
    /// # Errors
    /// No curl.
    pub fn curl(&self, url: &str) -> Result<u16> {
        let mut curl = self.sandbox().command_as(&User::named("nobody")?, "curl");
        curl.args(["-s", "-o", "/dev/null", "-m", "10", "-w", "%{http_code}", "-H", "Metadata: true", url]);
        Ok(String::from_utf8(curl.output()?.stdout)?.trim().parse()?)
    }

    /// What `azure-proxy-agent-updater status` says.
    ///
    /// # Errors
    /// It says nothing.
    pub fn status(&self) -> Result<Value> {
        let mut command = self.sandbox().command(&self.updater);
        Ok(serde_json::from_str(&run(command.args(["status", "--json", "--config"]).arg(self.path("updater.json")))?)?)
    }

    /// Changes the updater's configuration, and restarts it.
    ///
    /// # Errors
    /// The disk's.
    pub fn configure(&self, more: &Value) -> Result<()> {
        let mut config = serde_json::from_str(&self.read("updater.json"))?;
        merge(&mut config, more);
        fs::write(self.path("updater.json"), config.to_string())?;
        self.parts.updater.restart()?;
        Ok(())
    }

    /// Kills the updater (SIGKILL); what it started goes on, and it is started again.
    pub fn kill_updater(&self) {
        self.parts.updater.kill();
    }

    /// Kills the updater, and it stays dead until [`Machine::start_updater`].
    pub fn stop_updater(&self) {
        self.parts.updater.kill_for_good();
    }

    /// Starts the updater.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_updater(&self) -> Result<()> {
        Ok(self.parts.updater.start()?)
    }

    /// Kills the agent's daemon (SIGKILL); it is started again.
    pub fn kill_agent(&self) {
        self.parts.agent.kill();
    }

    /// Everything that runs on the machine is gone at once: updater, daemon, and a package manager that is at work.
    ///
    /// # Errors
    /// The kernel's.
    pub fn cut_power(&self) -> Result<()> {
        let mut power = self.parts.power.lock().unwrap_or_else(PoisonError::into_inner);
        *power = false;
        let mut kill = self.sandbox().host_command("sh");
        run(kill.args(["-c", "echo 1 > \"$0/cgroup.kill\""]).arg(self.sandbox().cgroup()))?;
        self.parts.agent.kill_for_good();
        self.parts.updater.kill_for_good();
        // Nobody is there who waited for it.
        let _ = fs::remove_file(self.path("asked"));
        Ok(())
    }

    /// The power is back.
    ///
    /// # Errors
    /// The updater cannot be started.
    pub fn boot(&self) -> Result<()> {
        let mut power = self.parts.power.lock().unwrap_or_else(PoisonError::into_inner);
        *power = true;
        // Half a package may be installed: systemd would try again, too.
        let _ = self.parts.agent.start();
        Ok(self.parts.updater.start()?)
    }
}

impl Parts {
    /// What systemd does.
    fn look(&self) {
        let power = self.power.lock().unwrap_or_else(PoisonError::into_inner);
        if !*power {
            return;
        }
        let folder = self.sandbox.directory();
        if let Ok(asked) = fs::read_to_string(folder.join("asked")) {
            let done = match asked.trim() {
                "restart" => self.agent.restart(),
                _ => {
                    self.agent.reload();
                    Ok(())
                }
            };
            let failed = folder.join("failed");
            let _ = if done.is_ok() { fs::remove_file(failed) } else { fs::write(failed, "") };
            let _ = fs::remove_file(folder.join("asked"));
        }
        self.agent.look();
        self.updater.look();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
        if thread::panicking() {
            let agent = self.read("agent.out");
            let from = agent.char_indices().rev().nth(3000).map_or(0, |(at, _)| at);
            eprintln!("{}: {}\n{}", self.name, self.read("updater.log"), agent.get(from..).unwrap_or_default());
        }
        self.parts.updater.kill_for_good();
        self.parts.agent.kill_for_good();
    }
}

fn service(sandbox: &Arc<Sandbox>, program: PathBuf, log: &'static str, words: fn(&Path) -> Vec<String>) -> Service {
    let sandbox = Arc::clone(sandbox);
    Service::new(move || {
        let log = File::options().append(true).create(true).open(sandbox.directory().join(log))?;
        let mut command = sandbox.command(&program);
        command.args(words(sandbox.directory())).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    })
}

/// The daemon's, with every path inside the sandbox.
fn agent_config(sandbox: &Sandbox) -> Value {
    json!({
        "logFolder": sandbox.log_folder(), "eventFolder": sandbox.log_folder().join("events"),
        "latchKeyFolder": sandbox.key_folder(), "statusFolder": sandbox.status_folder(),
        "monitorIntervalInSeconds": 60, "pollKeyStatusIntervalInSeconds": 1, "maxEventFileCount": 30,
        "ebpfProgramName": "ebpf_cgroup.o", "cgroupRoot": sandbox.cgroup(), "fileLogLevel": "Info",
        "pinFolder": sandbox.pin_folder(),
    })
}

/// dpkg with a database of its own.
fn install(folder: &Path) -> Vec<String> {
    let root = folder.join("root").display().to_string();
    let log = folder.join("dpkg.log").display().to_string();
    let words = format!("dpkg --root={root} --log={log} --force-unsafe-io --force-confdef --force-confold --install {{package}}");
    words.split(' ').map(String::from).collect()
}

fn updater_config(folder: &Path, key: &str, install: &[String]) -> Value {
    let path = |name: &str| folder.join(name).display().to_string();
    json!({
        "keys": [key], "stateFolder": path("updater"), "agent": path("agent"), "agentConfig": path("proxy-agent.json"),
        "install": install, "restart": [path("systemctl"), "restart"], "reload": [path("systemctl"), "reload"],
        "installFolders": [path("root/usr/sbin"), path("root/var/lib/dpkg")],
        "spareBytes": 1 << 20, "readyWithin": 60, "rulesWithin": 3, "pollWait": 20, "reportEvery": 1,
    })
}

fn merge(config: &mut Value, more: &Value) {
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
}
