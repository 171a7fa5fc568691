//! The sandbox itself: what is in it, what is not, and that nothing of it stays. These tests need root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is the report")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use azure_host_sim::netns::Netlink;
use rustix::process::{Pid, Signal, kill_process_group};
use sandbox::{AgentOptions, HostOptions, Mode, Ready, Sandbox, User};

fn enter() -> Sandbox {
    Sandbox::enter().expect("these tests need root")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Waits for a file or directory to vanish; another process removes it, so there is nothing else to wait on.
fn gone(path: &Path) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    while path.exists() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// The sandbox's cgroup as the test sees it, if cgroup2 is mounted outside too.
fn cgroup_outside(name: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|l| l.contains(" - cgroup2 "))?;
    Some(Path::new(line.split(' ').nth(4)?).join(name))
}

const UNSIGNED: [&str; 8] = [
    "-sS",
    "-m5",
    "-H",
    "Metadata: true",
    "-w",
    " %{http_code} %{remote_ip}",
    "http://169.254.169.254/metadata/instance?api-version=2021-02-01",
    "--http1.1",
];

#[test]
fn the_network_is_lo_and_the_platforms_addresses() {
    assert!(Sandbox::assert_inside().is_err(), "the test itself is outside");
    let sandbox = enter();
    let (links, addresses) = sandbox
        .in_network(|| {
            let netlink = Netlink::open().unwrap();
            (netlink.links().unwrap(), netlink.addresses().unwrap())
        })
        .unwrap();
    assert_eq!(links.iter().filter(|l| l.up).map(|l| l.name.as_str()).collect::<Vec<_>>(), ["lo"]);
    assert!(addresses.contains(&(1, sandbox::IMDS)) && addresses.contains(&(1, sandbox::WIRESERVER)), "{addresses:?}");
}

#[test]
fn curl_meets_the_simulated_host_and_is_refused_without_a_signature() {
    let sandbox = enter();
    let host = sandbox.start_host(HostOptions::default()).unwrap();
    let refused = text(&sandbox.command("curl").args(UNSIGNED).output().unwrap());
    assert!(refused.contains("unsigned") && refused.ends_with(" 401 169.254.169.254"), "{refused}");
    host.host().set_mode(Mode::Audit);
    let served = text(&sandbox.command("curl").args(UNSIGNED).output().unwrap());
    assert!(served.contains("demo-vm") && served.ends_with(" 200 169.254.169.254"), "{served}");
    assert_eq!(host.host().records.all().iter().map(|r| r.status).collect::<Vec<_>>(), [401, 200]);
}

/// A third implementation of the signature, as short as it can be, run as an unprivileged user.
const PYTHON: &str = r#"
import hashlib, hmac, http.client, json, time
def ask(method, target, key=None, guid=None):
    h = {"Host": "168.63.129.16", "Metadata": "True", "Content-Length": "0", "x-ms-azure-host-claims": '{ "isRoot": "true"}',
         "x-ms-azure-host-date": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())}
    if key:
        lines = "".join(f"{n.lower()}:{h[n]}\n" for n in sorted(h, key=str.lower))
        path, _, query = target.partition("?")
        s = f"{method}\n\n{lines}{path}\n{query}".encode()
        h["x-ms-azure-host-authorization"] = f"Azure-HMAC-SHA256 {guid} " + hmac.new(bytes.fromhex(key), s, hashlib.sha256).hexdigest()
    c = http.client.HTTPConnection("168.63.129.16", 80, timeout=5)
    c.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    for n, v in h.items(): c.putheader(n, v)
    c.endheaders()
    r = c.getresponse()
    return r.status, r.read()
k = json.loads(ask("POST", "/secure-channel/key")[1])
print(ask("POST", f"/secure-channel/key/{k['guid']}/key-attestation", k["key"], k["guid"])[0],
      ask("GET", "/machine?comp=goalstate", k["key"], k["guid"])[0], ask("GET", "/machine?comp=goalstate")[0],
      ask("GET", "/machine?comp=goalstate", "00" * 32, k["guid"])[0])
"#;

#[test]
fn a_python_client_takes_a_key_and_signs() {
    let sandbox = enter();
    let host = sandbox.start_host(HostOptions::default()).unwrap();
    let nobody = User::new(65534, 65534, &[]);
    let out = sandbox.command_as(&nobody, "/usr/bin/python3").args(["-c", PYTHON]).output().unwrap();
    assert_eq!(text(&out), "200 200 401 401\n");
    // A host that starts again still knows the key.
    let latched = host.host().status_document()["keyGuid"].clone();
    drop(host);
    let host = sandbox.start_host(HostOptions::default()).unwrap();
    assert!(latched.is_string());
    assert_eq!(host.host().status_document()["keyGuid"], latched);
}

#[test]
fn clients_are_in_the_cgroup_with_the_credentials_and_directory_asked_for() {
    let sandbox = enter();
    let user = User::new(4242, 0, &[7, 8]);
    let script = "id -u; id -g; id -G; pwd; grep '^0::' /proc/self/cgroup; grep -c . /sys/fs/bpf/x";
    let out = sandbox.command_as(&user, "/bin/sh").args(["-c", script]).current_dir("/usr/bin").output().unwrap();
    let text = text(&out);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..4], ["4242", "0", "0 7 8", "/usr/bin"], "{text}");
    assert!(lines[4].ends_with(&format!("/{}/vm", sandbox.name())), "{text}");
    let dir = sandbox.cgroup();
    let inside = sandbox.command("/bin/sh").arg("-c").arg(format!("cat {}/cgroup.procs", dir.display())).output().unwrap();
    assert!(inside.status.success(), "the agent finds its cgroup: {inside:?}");
    assert!(!dir.exists(), "the mount is private");
}

#[test]
fn everything_is_gone_after_drop() {
    let sandbox = enter();
    let (name, directory) = (sandbox.name().to_owned(), sandbox.directory().to_owned());
    // Deaf to polite requests, and with a cgroup of its own below.
    let script = format!("trap '' TERM HUP; mkdir {}/sub; echo up; sleep 1000", sandbox.cgroup().display());
    let mut child = sandbox.command("/bin/sh").args(["-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    drop(sandbox);
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert!(!directory.exists());
    assert!(cgroup_outside(&name).is_none_or(|c| !c.exists()));
}

/// A `sandbox run` whose command runs `first`, says where it is, and goes on with `then`.
fn owner(first: &str, then: &str) -> (Child, PathBuf) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sandbox"))
        .args(["run", "--", "/bin/sh", "-c", &format!("{first}; echo $SANDBOX_DIR; {then}")])
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim_end().into())
}

#[test]
fn everything_is_gone_after_the_owner_was_killed() {
    let (mut child, directory) = owner(":", "sleep 1000");
    assert!(directory.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(gone(&directory), "{directory:?}");
    let name = directory.file_name().unwrap().to_str().unwrap();
    assert!(cgroup_outside(name).is_none_or(|c| !c.exists()));
}

#[test]
fn ctrl_c_ends_the_command_and_then_the_sandbox() {
    let (mut child, directory) = owner("trap 'exit 7' INT", "while :; do sleep 0.01; done");
    kill_process_group(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(7));
    assert!(!directory.exists());
}

#[test]
fn what_dead_owners_left_is_swept() {
    let directory = std::env::temp_dir().join("azure-proxy-agent-sandbox-4194304-1-1");
    fs::create_dir_all(directory.join("log")).unwrap();
    drop(enter());
    assert!(!directory.exists());
}

#[test]
fn the_binary_hands_back_the_status_and_refuses_nonsense() {
    let run = |arguments: &[&str]| Command::new(env!("CARGO_BIN_EXE_sandbox")).args(arguments).output().unwrap();
    assert_eq!(run(&["run", "--", "/bin/sh", "-c", "exit 3"]).status.code(), Some(3));
    assert_eq!(run(&["run", "--", "/bin/sh", "-c", "kill -9 $$"]).status.code(), Some(137));
    assert_eq!(
        run(&["run", "--user", "nobody", "--host-mode=audit", "--", "curl", "-sf", "http://168.63.129.16/health"]).status.code(),
        Some(0)
    );
    for wrong in
        [&["run"][..], &["run", "--nonsense", "--", "true"], &["walk"], &[], &["run", "--host-mode", "strict", "--", "true"]]
    {
        assert_eq!(run(wrong).status.code(), Some(2), "{wrong:?}");
    }
    assert_eq!(run(&["run", "--user", "no such user", "--", "true"]).status.code(), Some(125));
}

/// Listens after a moment and is provisioned at the second question; prints how it was started.
const FAKE_AGENT: &str = r#"#!/usr/bin/python3
import http.server, json, os, signal, sys
print(sys.argv[1:], flush=True)
config = json.load(open(sys.argv[2]))
assert os.path.isdir(config["cgroupRoot"]), "cgroupRoot is not there"
assert config["pollKeyStatusIntervalInSeconds"] == 2 and "fileLogLevel" not in config
signal.signal(signal.SIGTERM, lambda *a: os._exit(5))
asked = 0
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *a): pass
    def do_GET(self):
        global asked
        asked += self.path == "/provision"
        body = json.dumps({"finished": asked >= 2, "errorMessage": ""}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
http.server.HTTPServer(("127.0.0.1", 3080), Handler).serve_forever()
"#;

fn program(sandbox: &Sandbox, text: &str) -> PathBuf {
    let path = sandbox.directory().join("program");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn an_agent_is_configured_waited_for_and_ended() {
    let sandbox = enter();
    let options = AgentOptions::new(program(&sandbox, FAKE_AGENT))
        .config("pollKeyStatusIntervalInSeconds", 2)
        .config("fileLogLevel", serde_json::Value::Null);
    let mut agent = sandbox.start_agent(&options).unwrap();
    assert!(agent.output().contains("'--config'") && agent.output().contains("'--foreground'"), "{}", agent.output());
    assert!(agent.is_running().unwrap());
    assert_eq!(agent.stop().unwrap().code(), Some(5));
    let again = sandbox.start_agent(&options.until(Ready::Listening)).unwrap();
    let mut answer = String::new();
    sandbox
        .in_network(|| {
            let mut stream = std::net::TcpStream::connect("127.0.0.1:3080").unwrap();
            std::io::Write::write_all(&mut stream, b"GET /x HTTP/1.0\r\n\r\n").unwrap();
            stream.read_to_string(&mut answer).unwrap();
        })
        .unwrap();
    assert!(answer.contains("finished"));
    drop(again);
}

#[test]
fn an_agent_that_ends_is_reported_with_its_words() {
    let sandbox = enter();
    let options = AgentOptions::new(program(&sandbox, "#!/bin/sh\necho no such kernel feature >&2\nexit 101\n"));
    let error = sandbox.start_agent(&options).unwrap_err().to_string();
    assert!(error.contains("exit status: 101") && error.contains("no such kernel feature"), "{error}");
}
