//! Controller processes that share a database, and what people do at them.

use crate::releases::run;
use crate::{Programs, Result, until};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use ureq::tls::{PemItem, RootCerts, TlsConfig};

/// How to set a controller up.
#[derive(Debug, Clone)]
pub struct Options {
    /// The pool that is made.
    pub pool: String,
    /// `postgres://…`, for any number of controllers; a file of its own if absent, for one.
    pub database: Option<String>,
    /// How many processes.
    pub processes: usize,
    /// Whether they speak TLS, with a certificate of an authority that is made for it.
    pub tls: bool,
    /// Where the first one listens; the others at ports of the kernel's choice.
    pub listen: SocketAddr,
}

impl Options {
    /// One process with a file, on loopback, at a port of the kernel's choice.
    #[must_use]
    pub fn new(pool: &str) -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { pool: pool.into(), database: None, processes: 1, tls: false, listen }
    }
}

/// The controllers of one database.
#[derive(Debug)]
pub struct Controllers {
    /// The pool.
    pub pool: String,
    program: PathBuf,
    folder: PathBuf,
    database: String,
    processes: Vec<Process>,
    token: String,
    http: ureq::Agent,
    tls: bool,
    public_key: String,
}

#[derive(Debug)]
struct Process {
    address: SocketAddr,
    child: Option<Child>,
}

impl Controllers {
    /// Starts them, and makes the pool. Everything is kept in `folder`, which exists.
    ///
    /// # Errors
    /// They do not start.
    pub fn start(programs: &Programs, folder: &Path, options: &Options) -> Result<Self> {
        let database = options.database.clone().unwrap_or_else(|| folder.join("pool.db").display().to_string());
        let mut config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(60)));
        if options.tls {
            certificates(folder)?;
            let pem = fs::read(folder.join("ca.pem"))?;
            let authority: Vec<_> = ureq::tls::parse_pem(&pem)
                .filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                })
                .collect();
            config = config.tls_config(TlsConfig::builder().root_certs(RootCerts::Specific(Arc::new(authority))).build());
        }
        let any = SocketAddr::new(options.listen.ip(), 0);
        let listen = core::iter::once(options.listen).chain(core::iter::repeat(any));
        let mut controllers = Self {
            pool: options.pool.clone(),
            program: programs.controller.clone(),
            folder: folder.to_owned(),
            database,
            processes: listen.take(options.processes).map(|address| Process { address, child: None }).collect(),
            token: String::new(),
            http: config.build().into(),
            tls: options.tls,
            public_key: String::new(),
        };
        let key = folder.join("release.key");
        controllers.public_key =
            run(Command::new(&controllers.program).args(["release", "keygen", "--key"]).arg(key))?.trim().to_owned();
        for n in 0..options.processes {
            controllers.start_one(n)?;
        }
        controllers.token = fs::read_to_string(controllers.token_file())?.trim().to_owned();
        controllers.ok("POST", "", &json!({ "name": options.pool }))?;
        Ok(controllers)
    }

    /// The file with the first administrator's token.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.folder.join("admin.token")
    }

    /// The authority that the controllers' certificate is of, if they speak TLS.
    #[must_use]
    pub fn authority(&self) -> Option<PathBuf> {
        self.tls.then(|| self.folder.join("ca.pem"))
    }

    /// What releases are signed with: its public half.
    #[must_use]
    pub fn public_key(&self) -> &str {
        &self.public_key
    }

    /// Where they listen.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.processes.iter().map(|process| process.address).collect()
    }

    /// Starts one, at the address that it had.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_one(&mut self, n: usize) -> Result<()> {
        let token = self.token_file();
        let process = self.processes.get_mut(n).ok_or("there are not so many controllers")?;
        let mut command = Command::new(&self.program);
        command.args(["serve", "--listen", &process.address.to_string(), "--database", &self.database]);
        command.arg("--admin-token-file").arg(token);
        if self.tls {
            command.arg("--tls-certificate").arg(self.folder.join("server.pem"));
            command.arg("--tls-key").arg(self.folder.join("server.key"));
        }
        let log = File::options().append(true).create(true).open(self.folder.join("controller.log"))?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines().map_while(|line| line.ok());
        let listening = lines.find_map(|line| line.strip_prefix("listening on ")?.split_once("://")?.1.parse().ok());
        // Whatever else it prints has nowhere to go, and is not waited for.
        match listening {
            Some(address) => {
                process.address = address;
                process.child = Some(child);
                Ok(())
            }
            None => {
                let _ = (child.kill(), child.wait());
                Err(format!("the controller did not start: see {}", self.folder.join("controller.log").display()).into())
            }
        }
    }

    /// Kills one (SIGKILL).
    pub fn kill(&mut self, n: usize) {
        if let Some(mut child) = self.processes.get_mut(n).and_then(|process| process.child.take()) {
            let _ = (child.kill(), child.wait());
        }
    }

    /// What a person asks, and the answer's status and body; `None`: no controller answered. It is asked of the first that does.
    pub fn call(&self, method: &str, path: &str, body: &Value, key: Option<&str>) -> Option<(u16, Value)> {
        let path = format!("/pools{}", if path.is_empty() { String::new() } else { format!("/{}{path}", self.pool) });
        self.processes.iter().find_map(|process| {
            let text = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
            self.ask(process.address, method, &path, text, key)
        })
    }

    fn ask(&self, at: SocketAddr, method: &str, path: &str, body: Vec<u8>, key: Option<&str>) -> Option<(u16, Value)> {
        let scheme = if self.tls { "https" } else { "http" };
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{scheme}://{at}/api/v1{path}"))
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let mut answer = self.http.run(request.body(body).ok()?).ok()?;
        let text = answer.body_mut().with_config().limit(64 << 20).read_to_string().ok()?;
        Some((answer.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::Null)))
    }

    /// What a person asks of the pool (or of all, if `path` is empty), and the good answer.
    ///
    /// # Errors
    /// No answer, or another one.
    pub fn ok(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        match self.call(method, path, body, None) {
            Some((status, answer)) if (200..300).contains(&status) => Ok(answer),
            Some((status, answer)) => Err(format!("{method} {path}: {status} {answer}").into()),
            None => Err(format!("{method} {path}: nobody answered").into()),
        }
    }

    /// The pool at a glance.
    ///
    /// # Errors
    /// The controller's.
    pub fn summary(&self) -> Result<Value> {
        let at = self.addresses().first().copied().ok_or("no controller")?;
        let (_, answer) = self.ask(at, "GET", &format!("/pools/{}", self.pool), Vec::new(), None).ok_or("nobody answered")?;
        Ok(answer)
    }

    /// A token that one machine can register with.
    ///
    /// # Errors
    /// The controller's.
    pub fn registration_token(&self, name: &str) -> Result<String> {
        let body = json!({ "name": name, "role": "register", "pool": self.pool }).to_string().into_bytes();
        let at = self.addresses().first().copied().ok_or("no controller")?;
        let (_, answer) = self.ask(at, "POST", "/tokens", body, None).ok_or("nobody answered")?;
        Ok(answer["token"].as_str().ok_or_else(|| answer.to_string())?.to_owned())
    }

    /// Offers a package: signed, unless a signature is given.
    ///
    /// # Errors
    /// The controller's.
    pub fn publish(&self, version: &str, package: &Path, signature: Option<&str>) -> Result<()> {
        let mut sign = Command::new(&self.program);
        sign.args(["release", "sign", "--release-version", version, "--key"]).arg(self.folder.join("release.key")).arg(package);
        let signed = run(&mut sign)?;
        let sum = run(Command::new("sha256sum").arg("--binary").arg(package))?;
        let sum = sum.split_whitespace().next().ok_or("sha256sum said nothing")?;
        let at = self.addresses().first().copied().ok_or("no controller")?;
        let uploaded = self.ask(at, "PUT", &format!("/files/{sum}"), fs::read(package)?, None);
        if !matches!(uploaded, Some((200..300, _))) {
            return Err(format!("the package was not taken: {uploaded:?}").into());
        }
        let signature = signature.unwrap_or(signed.trim());
        let body = json!({ "version": version, "file": "azure-proxy-agent.deb", "sha256": sum, "signature": signature });
        self.ok("POST", "/releases", &body).map(drop)
    }

    /// Asks an agent to update.
    ///
    /// # Errors
    /// The controller's.
    pub fn ask_for_update(&self, agent: &str, to: Option<&str>, force: bool) -> Result<Value> {
        self.ok("POST", "/agents/update", &json!({ "agents": [agent], "to": to, "force": force }))
    }

    /// An agent, as people see it.
    ///
    /// # Errors
    /// The controller's.
    pub fn agent(&self, name: &str) -> Result<Value> {
        self.ok("GET", &format!("/agents/{name}"), &Value::Null)
    }

    /// Waits until an agent is in a state, and runs a version.
    ///
    /// # Errors
    /// In vain.
    pub fn await_agent(&self, name: &str, state: &str, version: &str) -> Result<Value> {
        let mut last = Value::Null;
        let found = until(&format!("{name} {state} {version}"), || {
            last = self.agent(name).ok()?;
            Some(last.clone()).filter(|agent| agent["state"] == state && agent["version"] == version)
        });
        found.map_err(|e| format!("{e}; it is {last}").into())
    }

    /// Submits a job; its number.
    ///
    /// # Errors
    /// The controller's.
    pub fn submit(&self, spec: &Value) -> Result<i64> {
        let job = self.ok("POST", "/jobs", spec)?;
        job["id"].as_i64().ok_or_else(|| job.to_string().into())
    }

    /// Waits for the end of a job; its state.
    ///
    /// # Errors
    /// In vain.
    pub fn await_end(&self, id: i64) -> Result<Value> {
        let mut last = Value::Null;
        let found = until(&format!("the end of job {id}"), || {
            last = self.ok("GET", &format!("/jobs/{id}?wait=5"), &Value::Null).ok()?;
            Some(last["state"].clone()).filter(is_final)
        });
        found.map_err(|e| format!("{e}; it is {last}").into())
    }

    /// Submits a job, and waits for its end; its state.
    ///
    /// # Errors
    /// The controller's; in vain.
    pub fn job(&self, spec: &Value) -> Result<Value> {
        self.await_end(self.submit(spec)?)
    }

    /// What the command line prints, and its exit code.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn tool(&self, arguments: &[&str]) -> Result<(String, Option<i32>)> {
        let server = format!("http://{}", self.addresses().first().ok_or("no controller")?);
        let mut command = Command::new(&self.program);
        let output = command.args(arguments).env("POOL_SERVER", server).env("POOL_TOKEN", &self.token).output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok((String::from_utf8(text)?, output.status.code()))
    }

    /// What Prometheus is told.
    ///
    /// # Errors
    /// Nobody answered.
    pub fn metrics(&self) -> Result<String> {
        let at = self.addresses().first().copied().ok_or("no controller")?;
        let request = self.http.get(format!("http://{at}/metrics")).header("authorization", format!("Bearer {}", self.token));
        Ok(request.call()?.body_mut().read_to_string()?)
    }

    /// Everything that was done, oldest first.
    ///
    /// # Errors
    /// The controller's.
    pub fn audit(&self) -> Result<Vec<Value>> {
        let mut lines = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.ok("GET", &format!("/audit?limit=100{cursor}"), &Value::Null)?;
            lines.extend(page["items"].as_array().into_iter().flatten().cloned());
            match page["next"].as_i64() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        lines.reverse();
        Ok(lines)
    }
}

/// Whether a job in this state has ended.
#[must_use]
pub fn is_final(state: &Value) -> bool {
    matches!(state["state"].as_str(), Some("succeeded" | "failed" | "canceled"))
}

/// A job with one task.
#[must_use]
pub fn one_task(name: &str, input: &Value) -> Value {
    let input = if input.is_null() { String::new() } else { input.to_string() };
    json!({ "tasks": [{ "name": name, "version": "1.0.0", "input": input }] })
}

impl Drop for Controllers {
    fn drop(&mut self) {
        for n in 0..self.processes.len() {
            self.kill(n);
        }
    }
}

/// An authority, and a certificate of it for 127.0.0.1.
fn certificates(folder: &Path) -> Result<()> {
    let openssl = |line: &str| run(Command::new("openssl").args(line.split(' ')).current_dir(folder));
    fs::write(folder.join("san"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")?;
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority"))?;
    openssl(&format!("req {key} -keyout server.key -out server.csr -subj /CN=controller"))?;
    openssl("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out server.pem")?;
    Ok(())
}
