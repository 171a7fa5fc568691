//! Probes of somebody who looks for a way around: other machines, other namespaces, other names of the same address or program,
//! repeated requests, keys of others (security.md, scenarios A to D). What is probed elsewhere is cited there. These tests need root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is the report")]

mod support;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use sandbox::User;
use serde_json::{Value, json};
use support::process::usage;
use support::wire::{Caller, HOSTGA, IMDS, LISTENER, WIRESERVER, Wire};
use support::{Runtime, World, copy_program, not_run, on_both_runtimes, root, text};

on_both_runtimes!(
    another_machine_meets_no_listener,
    the_kernel_says_that_the_agent_is_the_peer,
    a_repeated_request_is_nobody_elses,
    others_cannot_read_keys,
    a_program_mounted_over_a_trusted_one_is_not_trusted,
    links_and_copies_of_a_trusted_program,
    a_user_and_a_cgroup_namespace_change_nothing,
    every_way_to_write_an_address,
    connections_and_requests_are_numbered,
    an_accept_that_fails_ends_nothing,
);

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\nMetadata: true\r\n\r\n")
}

fn nobody() -> User {
    User::new(65534, 65534, &[])
}

/// Runs curl, or what is curl in the path's place, as `user`; the status, or `000`.
fn curl(world: &World, user: &User, program: &str, url: &str) -> String {
    let mut command = world.client(user, program);
    command.args(["-gsS", "-m", "30", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Metadata: true", url]);
    let output = command.output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A world in which IMDS serves one program only.
fn world_for_program(runtime: Runtime, program: impl FnOnce(&Path) -> PathBuf) -> (World, PathBuf) {
    let world = World::start(runtime);
    let program = program(world.sandbox.directory());
    let rules = json!({
        "privileges": [{"name": "all", "path": "/"}], "roles": [{"name": "trusted", "privileges": ["all"]}],
        "identities": [{"name": "it", "exePath": program}], "roleAssignments": [{"role": "trusted", "identities": ["it"]}],
    });
    let document = json!({"defaultAccess": "deny", "mode": "enforce", "id": "one-program", "rules": rules});
    world.host.host().set_rules(Some(json!({"imds": document})));
    world.wait("the rules are in force", || {
        (Caller::nobody(&world.sandbox).ask(IMDS, get("/test/echo")).status == 403).then_some(())
    });
    (world, program)
}

/// SEC-A2: a machine on the same network, here a namespace at the other end of a veth pair.
fn another_machine_meets_no_listener(runtime: Runtime) {
    const SCRIPT: &str = r#"
set -e
unshare -n sh -c 'echo > "$1"; exec sleep 60' sh "$1" &
other=$!
trap 'kill $other 2>/dev/null; ip link del near 2>/dev/null || true' EXIT
while [ ! -e "$1" ]; do sleep 0.01; done
ip link add near type veth peer name far netns $other
ip addr add 192.0.2.1/24 dev near
ip link set near up
nsenter -t $other -n ip addr add 192.0.2.2/24 dev far
nsenter -t $other -n ip link set far up
nsenter -t $other -n ip link set lo up
nsenter -t $other -n ip route add 127.0.0.1/32 via 192.0.2.1 2>/dev/null || true
nsenter -t $other -n python3 -c '
import socket
for to in ("192.0.2.1", 9), ("192.0.2.1", 3080), ("127.0.0.1", 3080):
    s = socket.socket()
    s.settimeout(1)
    try:
        s.connect(to)
        print("connected", *to)
    except OSError as e:
        print(type(e).__name__, *to)
'
"#;
    let world = World::start(runtime);
    let there = world.sandbox.directory().join("there");
    let output = world.sandbox.command("sh").args(["-c", SCRIPT, "sh"]).arg(&there).output().unwrap();
    let said = text(&output);
    // The first line: the network works, and nobody is there.
    let refused = |to: &str| said.lines().any(|line| line == format!("ConnectionRefusedError {to}"));
    assert!(refused("192.0.2.1 9"), "{said}");
    assert!(refused("192.0.2.1 3080"), "{said}");
    assert!(!said.contains("connected"), "{said}");
    assert!(world.audit().is_empty());
}

/// SEC-B1b
fn the_kernel_says_that_the_agent_is_the_peer(runtime: Runtime) {
    let world = World::start(runtime);
    let caller = Caller::nobody(&world.sandbox);
    for to in [IMDS, WIRESERVER, HOSTGA] {
        let wire = caller.connect(to);
        let SocketAddr::V4(local) = wire.stream().local_addr().unwrap() else { panic!("IPv4") };
        let table = text(&world.sandbox.command("cat").arg("/proc/net/tcp").output().unwrap());
        let local = format!(":{:04X}", local.port());
        let remote = table.lines().filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            columns.get(1).is_some_and(|there| there.ends_with(&local)).then(|| columns[2].to_owned())
        });
        assert_eq!(remote.collect::<Vec<_>>(), ["0100007F:0C08"], "{to}");
    }
}

/// SEC-B2: through the agent a copy is its sender's own request, signed afresh; around the agent it is worth nothing when its time is
/// over.
fn a_repeated_request_is_nobody_elses(runtime: Runtime) {
    let world = World::start(runtime);
    let of_root = Caller::root(&world.sandbox).ask(IMDS, get("/test/echo")).json();
    let copied: String =
        of_root["headers"].as_array().unwrap().iter().fold(String::new(), |head, field| {
            format!("{head}{}: {}\r\n", field[0].as_str().unwrap(), field[1].as_str().unwrap())
        });
    assert!(copied.contains("x-ms-azure-host-claims: { \"isRoot\": \"true\"}"), "{copied}");
    let copy = format!("GET /test/echo HTTP/1.1\r\n{copied}\r\n");

    let again = Caller::nobody(&world.sandbox).ask(IMDS, &copy);
    assert_eq!(again.status, 200);
    let fields = again.json()["headers"].clone();
    let values = |fields: &Value, name: &str| -> Vec<String> {
        let all = fields.as_array().unwrap().iter().filter(|f| f[0].as_str().unwrap().eq_ignore_ascii_case(name));
        all.map(|f| f[1].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(values(&fields, "x-ms-azure-host-claims"), ["{ \"isRoot\": \"false\"}"]);
    let signatures = [&fields, &of_root["headers"]].map(|fields| values(fields, "x-ms-azure-host-authorization"));
    assert_eq!((signatures[0].len(), signatures[1].len()), (1, 1));
    assert_ne!(signatures[0], signatures[1], "signed afresh");

    world.host.host().set_skew(3600);
    let direct = world.sandbox.in_network(|| {
        let mut wire = Wire::new(TcpStream::connect(IMDS).unwrap()).unwrap();
        wire.send(&copy);
        wire.answer().status
    });
    assert!(matches!(direct.unwrap(), 401 | 403), "an old copy is refused by the host");
}

/// SEC-B3
fn others_cannot_read_keys(runtime: Runtime) {
    let world = World::start(runtime);
    let folder = world.sandbox.key_folder();
    let keys: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(keys.iter().any(|path| path.extension().is_some_and(|e| e == "key")), "{keys:?}");
    for user in [nobody(), User::new(4242, 0, &[0])] {
        for (program, path) in keys.iter().map(|path| ("cat", path)).chain([("ls", &folder)]) {
            let output = world.client(&user, program).arg(path).output().unwrap();
            assert!(!output.status.success() && output.stdout.is_empty(), "{program} {}", path.display());
        }
    }
    assert!(world.client(&root(), "ls").arg(&folder).output().unwrap().status.success(), "the effect before the cure");
}

/// SEC-C3, I-28, S-11: what is at a trusted path in the caller's mount namespace only is not trusted.
fn a_program_mounted_over_a_trusted_one_is_not_trusted(runtime: Runtime) {
    let (world, trusted) = world_for_program(runtime, |_| fs::canonicalize("/usr/bin/curl").unwrap());
    let url = "http://169.254.169.254/test/echo";
    assert_eq!(curl(&world, &nobody(), "curl", url), "200");
    // A copy has the same bytes and would print the same; it is another file.
    let copy = world.sandbox.directory().join("impostor");
    copy_program(&trusted, &copy);
    let script = format!("mount --bind {} {} && exec \"$@\"", copy.display(), trusted.display());
    let mut command = world.client(&root(), "unshare");
    command.args(["-m", "sh", "-c", &script, "sh"]).arg(&trusted);
    let output =
        command.args(["-sS", "-m", "30", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Metadata: true", url]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "403", "{}", text(&output));
    let lines = world.audit_lines(1, |line| line["userId"] == 0);
    assert_eq!(
        (&lines[0]["processFullPath"], &lines[0]["decision"]),
        (&format!("mnt:{}", trusted.display()).into(), &"deny".into())
    );
}

/// SEC-D2, I-27: the resolved path counts.
fn links_and_copies_of_a_trusted_program(runtime: Runtime) {
    let (world, trusted) = world_for_program(runtime, |directory| {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
        let program = fs::canonicalize(directory).unwrap().join("trusted");
        copy_program("/usr/bin/curl", &program);
        program
    });
    let beside = |name: &str| trusted.with_file_name(name);
    symlink(&trusted, beside("symbolic")).unwrap();
    fs::hard_link(&trusted, beside("hard")).unwrap();
    copy_program(&trusted, beside("copy"));
    for (name, status) in [("trusted", "200"), ("symbolic", "200"), ("hard", "403"), ("copy", "403")] {
        let program = beside(name);
        let url = format!("http://169.254.169.254/test/echo?{name}");
        assert_eq!(curl(&world, &nobody(), program.to_str().unwrap(), &url), status, "{name}");
    }
}

/// SEC-C5, I-20: still redirected, still the user that it is outside.
fn a_user_and_a_cgroup_namespace_change_nothing(runtime: Runtime) {
    let world = World::start(runtime);
    let inside = |url: &str| {
        let mut command = world.client(&nobody(), "unshare");
        command.args(["-UrC", "curl", "-sS", "-m", "30", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Metadata: true", url]);
        command.output().unwrap()
    };
    if !world.client(&nobody(), "unshare").args(["-UrC", "true"]).output().unwrap().status.success() {
        return not_run("user and cgroup namespaces (ordinary users may not make them here)");
    }
    for (url, target, status) in [
        ("http://169.254.169.254/test/echo?ns", "/test/echo?ns", "200"),
        ("http://168.63.129.16/test/echo?ns-ws", "/test/echo?ns-ws", "403"),
    ] {
        let output = inside(url);
        assert_eq!(String::from_utf8_lossy(&output.stdout), status, "{}", text(&output));
        let line = world.audit_for(target);
        assert_eq!((&line["userId"], &line["runAsElevated"]), (&65534.into(), &false.into()), "{line:#}");
    }
}

/// SEC-C7, S-01
fn every_way_to_write_an_address(runtime: Runtime) {
    let world = World::start(runtime);
    for (number, (imds, wireserver)) in [
        ("169.254.169.254", "168.63.129.16"),
        ("0xa9fea9fe", "0xa83f8110"),
        ("2852039166", "2822734096"),
        ("0251.0376.0251.0376", "0250.077.0201.020"),
        ("[::ffff:169.254.169.254]", "[::ffff:168.63.129.16]"),
        ("[::ffff:a9fe:a9fe]", "[::ffff:a83f:8110]"),
    ]
    .into_iter()
    .enumerate()
    {
        for (user, host, status) in [(&nobody(), imds, "200"), (&root(), wireserver, "200"), (&nobody(), wireserver, "403")] {
            let target = format!("/test/echo?{number}-{host}-{}", user.uid).replace(['[', ']'], "");
            assert_eq!(curl(&world, user, "curl", &format!("http://{host}{target}")), status, "{host}");
            assert_eq!(
                world.seen_for(&target).map(|seen| seen.verified),
                (status == "200").then(|| "signed".to_owned()),
                "{host}"
            );
        }
    }
}

/// PX-06, PX-81, PX-11: each connection has its number, and each request of the process.
fn connections_and_requests_are_numbered(runtime: Runtime) {
    let world = World::start(runtime);
    let caller = Caller::nobody(&world.sandbox);
    for first in [0, 2, 4] {
        let mut wire = caller.connect(IMDS);
        for at in [first, first + 1] {
            wire.send(get(&format!("/test/echo?{at}")));
            assert_eq!(wire.answer().status, 200);
        }
    }
    let lines = world.audit_lines(6, |line| line["url"].as_str().is_some_and(|url| url.starts_with("/test/echo?")));
    let numbers = |name: &str| lines.iter().map(|line| line[name].as_u64().unwrap()).collect::<Vec<_>>();
    let (requests, connections) = (numbers("id"), numbers("connection"));
    assert!(requests.windows(2).all(|pair| pair[1] == pair[0] + 1), "{requests:?}");
    let first = connections[0];
    assert_eq!(connections, [first, first, first + 1, first + 1, first + 2, first + 2]);
}

/// PX-04: descriptors run out, which is said; with descriptors it goes on.
fn an_accept_that_fails_ends_nothing(runtime: Runtime) {
    let mut world = World::start(runtime);
    let agent = Pid::from_raw(world.agent.id().cast_signed());
    let caller = Caller::nobody(&world.sandbox);
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let before =
        prlimit(agent, Resource::Nofile, Rlimit { current: Some(usage(world.agent.id()).descriptors as u64), maximum }).unwrap();
    let mut wires = caller.connect_many(LISTENER, 8);
    world.wait("a failure to accept is said", || {
        let said = world.agent.output() + &world.sandbox.log("ProxyAgent.log").unwrap_or_default();
        said.contains("A connection could not be accepted").then_some(())
    });
    prlimit(agent, Resource::Nofile, before).unwrap();
    // Those that waited are served, and new ones are.
    wires.push(caller.connect(LISTENER));
    for wire in &mut wires {
        wire.send(get("/provision"));
        assert_eq!(wire.answer().status, 200);
    }
    assert!(world.agent.is_running().unwrap());
}
