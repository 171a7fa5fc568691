//! Real clients, unmodified: each gets its document and its token through the agent, on both runtimes, from a host that
//! verifies every signature. Needs root.
//!
//! Programs and pinned versions are in `testdata/clients/`; what has to be installed for them is kept in the target directory.
//! A machine without one of the languages fails its tests and says which package to install; with `E2E_OPTIONAL_CLIENTS=1` they
//! say "not run" instead.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is the report")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use azure_host_sim::documents::VM_ID;
use sandbox::User;
use support::clients::{cache, carry_out, install, installed, source, usable, which};
use support::{Runtime, World, copy_program, on_both_runtimes, root, text, until};

on_both_runtimes!(curl, python_requests, python_azure_identity, java, node_fetch, node_azure_identity, go_net_http);

const PYTHON: &str = "/usr/bin/python3";
const DOCUMENT: &str = "/metadata/instance?api-version=2021-02-01";
const TOKEN: &str = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";
const SCOPE: &str = "https://vault.azure.net/.default";

fn curl(runtime: Runtime) {
    if installed("curl", "curl") {
        let world = World::start(runtime);
        let mut client = world.client(&ordinary(), "curl");
        client.args(["-sS", "-m", "60", "--fail", "-H", "Metadata: true", "-w", r"\n"]);
        expect_documents(&world, client, "curl", 1);
    }
}

fn python_requests(runtime: Runtime) {
    let Some(python) = virtual_environment() else { return };
    let world = World::start(runtime);
    // As root: the target directory may be closed to others.
    let mut client = world.client(&root(), python.to_str().unwrap());
    client.arg(source("python/document.py"));
    expect_documents(&world, client, PYTHON, 1);
}

fn python_azure_identity(runtime: Runtime) {
    let Some(python) = virtual_environment() else { return };
    let world = World::start(runtime);
    let mut client = world.client(&root(), python.to_str().unwrap());
    client.arg(source("python/identity.py"));
    expect_token(&world, client, PYTHON);
}

fn java(runtime: Runtime) {
    if !(installed("java", "default-jdk-headless") && installed("javac", "default-jdk-headless")) {
        return;
    }
    let world = World::start(runtime);
    let mut client = world.client(&ordinary(), "java");
    // Quick to start, otherwise as it comes; above all with its dual-stack sockets (S-01).
    client.args(["-XX:TieredStopAtLevel=1", "-Xmx128m"]).arg(visible(&world, "java/Document.java"));
    expect_documents(&world, client, "java", 2);
}

fn node_fetch(runtime: Runtime) {
    if installed("node", "nodejs") {
        let world = World::start(runtime);
        let mut client = world.client(&ordinary(), "node");
        client.arg(visible(&world, "node/document.mjs"));
        expect_documents(&world, client, "node", 1);
    }
}

fn node_azure_identity(runtime: Runtime) {
    let Some(directory) = node_modules() else { return };
    let world = World::start(runtime);
    let mut client = world.client(&root(), "node");
    client.arg(directory.join("identity.mjs"));
    expect_token(&world, client, "node");
}

fn go_net_http(runtime: Runtime) {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    if !installed("go", "golang-go") {
        return;
    }
    let built = BUILT.get_or_init(|| {
        let directory = cache().join("go");
        let program = directory.join("document");
        let mut go = Command::new("go");
        go.args(["build", "-o"]).arg(&program).arg(source("go/main.go")).current_dir("/");
        // The standard library is all it needs: nothing is fetched.
        go.env("GOPROXY", "off").env("GOFLAGS", "-mod=mod").env("GOTOOLCHAIN", "local").env("GOCACHE", directory.join("cache"));
        carry_out(go).map(|()| program)
    });
    let program = built.as_ref().unwrap_or_else(|why| panic!("{why}"));
    let world = World::start(runtime);
    let inside = world.sandbox.directory().join("document");
    copy_program(program, &inside);
    let inside = inside.to_str().unwrap();
    expect_documents(&world, world.client(&ordinary(), inside), inside, 1);
}

/// Most applications run so.
fn ordinary() -> User {
    User::new(65534, 65534, &[])
}

/// Runs a client that prints the body of each URL that it is given, `times` over.
fn expect_documents(world: &World, mut client: Command, program: &str, times: usize) {
    client.args([DOCUMENT, TOKEN].map(|target| format!("http://169.254.169.254{target}")));
    let printed = run(client);
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 2 * times, "{printed}");
    for pair in lines.chunks(2) {
        let body = |at: usize| serde_json::from_str::<serde_json::Value>(pair[at]).unwrap_or_else(|e| panic!("{e}: {printed}"));
        assert_eq!(body(0)["compute"]["vmId"], VM_ID);
        assert_token(body(1)["access_token"].as_str().unwrap());
    }
    for target in [DOCUMENT, TOKEN] {
        assert_signed(world, target, program, times);
    }
}

/// Runs a client that prints a token for each scope that it is given.
fn expect_token(world: &World, mut client: Command, program: &str) {
    // What would send it to another source of tokens than IMDS.
    for variable in ["IDENTITY_ENDPOINT", "IMDS_ENDPOINT", "MSI_ENDPOINT", "AZURE_POD_IDENTITY_AUTHORITY_HOST", "AZURE_CLIENT_ID"]
    {
        client.env_remove(variable);
    }
    client.arg(SCOPE);
    assert_token(run(client).trim_end());
    let asked: Vec<_> = world.seen().into_iter().filter(|r| r.target.starts_with("/metadata/identity/oauth2/token?")).collect();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_signed(world, &asked[0].target, program, 1);
}

fn run(mut client: Command) -> String {
    // What they print fits into the pipes, so the end can be waited for first.
    client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = client.spawn().unwrap_or_else(|e| panic!("{client:?}: {e}"));
    let ended = until(support::PATIENCE * 2, || child.try_wait().transpose());
    if ended.is_none() {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    assert!(ended.is_some(), "{client:?} does not end: {}", text(&output));
    assert!(output.status.success(), "{client:?}: {}: {}", output.status, text(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn assert_token(token: &str) {
    let parts: Vec<&str> = token.split('.').collect();
    assert!(parts.len() == 3 && parts.iter().all(|p| p.len() > 10), "not a token: {token}");
}

/// It was signed, came through the agent, and the agent knew who asked.
fn assert_signed(world: &World, target: &str, program: &str, times: usize) {
    let seen: Vec<_> = world.seen().into_iter().filter(|r| r.target == target).collect();
    assert!(seen.len() == times && seen.iter().all(|r| r.verified == "signed" && r.status == 200), "{seen:?}");
    let program = fs::canonicalize(which(program).unwrap_or_else(|| program.into())).unwrap();
    for line in world.audit_lines(times, |line| line["url"] == target) {
        let found = (&line["processFullPath"], &line["identity"], &line["decision"]);
        assert_eq!(found, (&program.to_str().unwrap().into(), &"verified".into(), &"allow".into()), "{line:#}");
    }
}

// What the clients need.

/// A copy of a client program where every user can read it.
fn visible(world: &World, name: &str) -> PathBuf {
    let copy = world.sandbox.directory().join(Path::new(name).file_name().unwrap());
    fs::copy(source(name), &copy).unwrap();
    copy
}

/// The Python of an environment that has what `requirements.txt` says.
fn virtual_environment() -> Option<PathBuf> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    if !installed("python3", "python3-venv") {
        return None;
    }
    let made = MADE.get_or_init(|| {
        install("python", "requirements.txt", |directory| {
            // Debian's, not one of the user's that may be ahead in the path.
            let mut make = Command::new(PYTHON);
            make.args(["-m", "venv"]).arg(directory);
            carry_out(make)?;
            let mut pip = Command::new(directory.join("bin/python"));
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
            pip.arg(source("python/requirements.txt"));
            carry_out(pip)
        })
    });
    usable(made, "python3-venv").map(|directory| directory.join("bin/python"))
}

/// A directory with `identity.mjs` and the packages that it imports.
fn node_modules() -> Option<PathBuf> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    if !(installed("node", "nodejs") && installed("npm", "npm")) {
        return None;
    }
    let made = MADE.get_or_init(|| {
        let directory = install("node", "package-lock.json", |directory| {
            for name in ["package.json", "package-lock.json"] {
                fs::copy(source("node").join(name), directory.join(name)).map_err(|e| format!("{name}: {e}"))?;
            }
            let mut npm = Command::new("npm");
            npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]).current_dir(directory);
            carry_out(npm)
        })?;
        fs::copy(source("node/identity.mjs"), directory.join("identity.mjs")).map_err(|e| e.to_string())?;
        Ok(directory)
    });
    usable(made, "npm")
}
