//! A controller process and updater processes on loopback; the agent and the package manager are scripts in a folder.

use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio, id};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const UPDATER: &str = env!("CARGO_BIN_EXE_azure-proxy-agent-updater");

/// The agent: what is installed says what it is.
const AGENT: &str = r#"#!/bin/sh
cd "$HOME_OF_IT" || exit 9
case "$1" in
--version) sed -n 's/^version=//p' installed;;
--status) grep -q '^ready=yes' installed && exit 0; echo "still provisioning"; exit 1;;
--check-config) echo good;;
rules)
    for file; do :; done
    sed -n 's/.*"id": "\(.*\)".*/\1/p' "$file" >> checked
    grep -q bad "$file" && { echo '{"files":[{"findings":[{"severity":"error","line":1,"place":"id","message":"it is bad"}]}]}'; exit 1; }
    echo '{}';;
esac
"#;

/// The package manager: slow enough to be killed around, and it tells when there are two.
const MANAGER: &str = r#"#!/bin/sh
cd "$HOME_OF_IT" || exit 9
[ -e busy ] && { echo "dpkg: error: dpkg frontend lock was locked by another process with pid 1" >&2; exit 2; }
mkdir running || { echo overlap >> overlaps; exit 2; }
echo "$1" >> installations
sed -i 's/^version=/version=0.0./' installed
sleep 0.1
cp "$1" installed.new && mv installed.new installed
rmdir running
grep -q '^fail=yes' installed && { echo "post-installation script returned error exit status 1" >&2; exit 1; }
exit 0
"#;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A controller, and a folder for everything.
pub(crate) struct World {
    pub(crate) folder: PathBuf,
    pub(crate) address: String,
    /// With TLS: the authority's certificate.
    pub(crate) ca: Option<PathBuf>,
    controller: Option<Child>,
    token: String,
    http: ureq::Agent,
    public_key: String,
}

pub(crate) fn program() -> PathBuf {
    let path = Path::new(UPDATER).with_file_name("azure-proxy-agent-pool");
    assert!(path.exists(), "{} is not built: cargo build -p azure-proxy-agent-pool", path.display());
    path
}

/// Asks until it is so.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(30));
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::begin(false)
    }

    /// The controller has a certificate for 127.0.0.1.
    pub(crate) fn secure() -> Self {
        Self::begin(true)
    }

    fn begin(secure: bool) -> Self {
        let folder = std::env::temp_dir().join(format!("updater-test-{}-{}", id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir_all(&folder).unwrap();
        let mut http = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(60)));
        let ca = secure.then(|| authority(&folder, "ca"));
        if let Some(ca) = &ca {
            certificate(&folder, "ca", "server", "IP:127.0.0.1");
            let ca = ureq::tls::Certificate::from_pem(&fs::read(ca).unwrap()).unwrap();
            let roots = ureq::tls::RootCerts::Specific(vec![ca].into());
            http = http.tls_config(ureq::tls::TlsConfig::builder().root_certs(roots).build());
        }
        let (address, token, public_key) = ("127.0.0.1:0".into(), String::new(), String::new());
        let mut world = Self { folder, address, ca, controller: None, token, http: http.build().into(), public_key };
        world.start_controller();
        world.token = fs::read_to_string(world.folder.join("pool.admin-token")).unwrap().trim().into();
        world.public_key = world.tool(&["release", "keygen", "--key", &world.path("release.key")]).trim().into();
        world.ok("POST", "/pools", &json!({ "name": "p" }));
        let settings = json!({ "offlineAfter": 20_000, "beginWithin": 4000, "updateWithin": 90_000, "lostAfter": 20_000 });
        world.ok("PUT", "/pools/p/settings", &settings);
        world
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    pub(crate) const fn scheme(&self) -> &'static str {
        if self.ca.is_some() { "https" } else { "http" }
    }

    /// At the same address as before.
    pub(crate) fn start_controller(&mut self) {
        let mut command = Command::new(program());
        command.args(["serve", "--listen", &self.address, "--database", &self.path("pool.db")]);
        if self.ca.is_some() {
            command.args(["--tls-certificate", &self.path("server.pem"), "--tls-key", &self.path("server.key")]);
        }
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(File::options().append(true).create(true).open(self.folder.join("controller.log")).unwrap())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        self.address =
            lines.find_map(|line| Some(line.unwrap().strip_prefix("listening on ")?.split_once("://")?.1.to_owned())).unwrap();
        self.controller = Some(child);
    }

    pub(crate) fn kill_controller(&mut self) {
        if let Some(mut controller) = self.controller.take() {
            controller.kill().unwrap();
            controller.wait().unwrap();
        }
    }

    /// The controller's command line.
    pub(crate) fn tool(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .env("POOL_SERVER", format!("{}://{}", self.scheme(), self.address))
            .env("POOL_TOKEN", &self.token);
        if let Some(ca) = &self.ca {
            command.env("POOL_CA", ca);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn ok(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.call(method, path, body).unwrap();
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// `None`: nobody answered.
    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}://{}/api/v1{path}", self.scheme(), self.address))
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json");
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let mut answer = self.http.run(request.body(text).unwrap()).ok()?;
        let text = answer.body_mut().read_to_string().ok()?;
        Some((answer.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::Null)))
    }

    /// Publishes a package: signed, unless a signature is given.
    pub(crate) fn publish(&self, version: &str, content: &str, signature: Option<&str>) {
        let file = self.path(&format!("agent-{version}.deb"));
        fs::write(&file, format!("version={version}\n{content}")).unwrap();
        let key = self.path("release.key");
        let signed = self.tool(&["release", "sign", &file, "--release-version", version, "--key", &key]);
        let signature = signature.unwrap_or(signed.trim());
        self.tool(&["release", "publish", "p", &file, "--release-version", version, "--signature", signature]);
    }

    pub(crate) fn ask_for_update(&self, agent: &str, to: Option<&str>, force: bool) -> Value {
        self.ok("POST", "/pools/p/agents/update", &json!({ "agents": [agent], "to": to, "force": force }))
    }

    pub(crate) fn agent(&self, name: &str) -> Value {
        let page = self.ok("GET", "/pools/p/agents?limit=100", &Value::Null);
        page["items"].as_array().unwrap().iter().find(|agent| agent["name"] == name).cloned().unwrap()
    }

    pub(crate) fn await_agent(&self, name: &str, state: &str, version: &str) -> Value {
        until(&format!("{name} {state} {version}"), || {
            Some(self.agent(name)).filter(|agent| agent["state"] == state && agent["version"] == version)
        })
    }

    /// Submits a job, and waits for its end.
    pub(crate) fn job(&self, task: &str, input: &Value) -> Value {
        let input = if input.is_null() { String::new() } else { input.to_string() };
        let spec = json!({ "tasks": [{ "name": task, "version": "1.0.0", "input": input }] });
        let id = self.ok("POST", "/pools/p/jobs", &spec)["id"].clone();
        until(&format!("job {id}"), || {
            let state = self.ok("GET", &format!("/pools/p/jobs/{id}?wait=5"), &Value::Null)["state"].clone();
            matches!(state["state"].as_str(), Some("succeeded" | "failed")).then_some(state)
        })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill_controller();
        if thread::panicking() {
            eprintln!("kept: {}", self.folder.display());
        } else {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn openssl(folder: &Path, line: &str) {
    let output = Command::new("openssl").args(line.split(' ')).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A certificate authority; its certificate.
pub(crate) fn authority(folder: &Path, name: &str) -> PathBuf {
    let new = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(folder, &format!("req -x509 {new} -days 30 -subj /CN={name} -keyout {name}.key -out {name}.pem"));
    folder.join(format!("{name}.pem"))
}

/// A server's certificate from it, `name`.pem, and its key, `name`.key.
pub(crate) fn certificate(folder: &Path, ca: &str, name: &str, whom: &str) {
    let new = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(folder, &format!("req {new} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
    fs::write(folder.join(format!("{name}.ext")), format!("subjectAltName={whom}\n")).unwrap();
    let sign = format!("-CA {ca}.pem -CAkey {ca}.key -CAcreateserial -days 30 -extfile {name}.ext");
    openssl(folder, &format!("x509 -req -in {name}.csr {sign} -out {name}.pem"));
}

/// A machine with an updater.
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    child: Option<Child>,
}

impl Machine {
    /// Registers it at `address`, and starts its updater; `more` goes over its configuration.
    pub(crate) fn new(world: &World, name: &str, address: &str, more: &Value) -> Self {
        let folder = world.folder.join(name);
        for name in ["log", "lib/keys"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        let path = |name: &str| folder.join(name).display().to_string();
        for (name, script) in [("agent", AGENT), ("manager", MANAGER)] {
            let text = script.replacen("cd \"$HOME_OF_IT\"", &format!("cd '{}'", folder.display()), 1);
            fs::write(path(name), text).unwrap();
            fs::set_permissions(path(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(path("installed"), "version=1.0.0\nready=yes\n").unwrap();
        fs::write(path("log/status.json"), json!({ "proxyAgentStatus": { "status": "SUCCESS" } }).to_string()).unwrap();
        let agent = json!({ "logFolder": path("log"), "latchKeyFolder": path("lib/keys"), "statusFolder": path("log") });
        fs::write(path("agent.json"), agent.to_string()).unwrap();
        let mut config = json!({
            "keys": [world.public_key], "stateFolder": path("state"), "agent": path("agent"), "agentConfig": path("agent.json"),
            "install": [path("manager"), "{package}"], "restart": ["true"], "reload": ["true"], "installFolders": [path("")],
            "spareBytes": 0, "readyWithin": 2, "rulesWithin": 0, "pollWait": 5, "reportEvery": 1,
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        fs::write(path("updater.json"), config.to_string()).unwrap();
        let token = world.tool(&["token", "create", name, "--role", "register", "--pool", "p"]);
        fs::write(path("token"), token).unwrap();
        let server = format!("{}://{address}", world.scheme());
        let mut register = Command::new(UPDATER);
        register.args(["register", "--server", &server, "--pool", "p", "--name", name, "--token-file", &path("token")]);
        if let Some(ca) = &world.ca {
            register.arg("--ca").arg(ca);
        }
        let output = register.args(["--config", &path("updater.json")]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut machine = Self { name: name.into(), folder, child: None };
        machine.start();
        machine
    }

    pub(crate) fn start(&mut self) {
        let log = File::options().append(true).create(true).open(self.folder.join("updater.log")).unwrap();
        let mut command = Command::new(UPDATER);
        command.args(["run", "--config", &self.folder.join("updater.json").display().to_string()]);
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    /// As kill -9 does: what it started goes on.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap_or_default()
    }

    pub(crate) fn status(&self) -> Value {
        let config = self.folder.join("updater.json").display().to_string();
        let output = Command::new(UPDATER).args(["status", "--json", "--config", &config]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("{}: {}", self.name, self.read("updater.log"));
        }
    }
}
