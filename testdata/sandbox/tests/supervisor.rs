//! The stand-in for systemd keeps its word: what a process gets from it is what sd_notify(3) and sd_listen_fds(3) say. These
//! tests need root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is the report")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use sandbox::{AgentOptions, Ready, Sandbox, Store, Supervisor};

const PATIENCE: Duration = Duration::from_secs(30);

/// A service in a few lines: says what it was given, stores a socket, says that it is ready, and stays.
const SERVICE: &str = r#"#!/usr/bin/env python3
import os, signal, socket, array
given = os.environ.get
fds = range(3, 3 + int(given('LISTEN_FDS', '0')))
mine = str(os.getpid())
print('pid', given('LISTEN_PID') == mine, given('WATCHDOG_PID') == mine, given('WATCHDOG_USEC'), flush=True)
print('given', given('LISTEN_FDNAMES'), [socket.socket(fileno=os.dup(fd)).getsockname() for fd in fds], flush=True)
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
manager.connect(given('NOTIFY_SOCKET'))
if not fds:
    one, two = socket.create_server(('127.0.0.1', 7001)), socket.create_server(('127.0.0.1', 7002))
    socket.send_fds(manager, [b'FDSTORE=1\nFDNAME=one\n'], [one.fileno()])
    socket.send_fds(manager, [b'FDSTORE=1\nFDNAME=two\n'], [two.fileno()])
manager.send(b'READY=1\nSTATUS=here\n')
signal.pause()
"#;

/// FS-101, design section 3: descriptors outlive the process that stored them, in order, with their names, for the one process
/// that `LISTEN_PID` names.
#[test]
fn the_next_process_gets_what_the_first_one_stored() {
    let sandbox = Sandbox::enter().unwrap_or_else(|e| panic!("these tests need root: {e}"));
    let service = sandbox.directory().join("service");
    fs::write(&service, SERVICE).unwrap();
    fs::set_permissions(&service, fs::Permissions::from_mode(0o755)).unwrap();
    let options = AgentOptions::new(&service).until(Ready::Started);
    for (store, expected) in
        [(Store::Kept, "given one:two [('127.0.0.1', 7001), ('127.0.0.1', 7002)]"), (Store::None, "given None []")]
    {
        let mut supervisor = Supervisor::new(&sandbox, store).unwrap();
        supervisor.watchdog(Duration::from_millis(1500));
        let mut first = supervisor.start(&sandbox, &options).unwrap();
        assert!(supervisor.heard(first.id(), "READY=1", PATIENCE), "{}", first.output());
        first.kill().unwrap();
        let before = first.output().len();
        let mut second = supervisor.start(&sandbox, &options).unwrap();
        assert!(supervisor.heard(second.id(), "STATUS=here", PATIENCE), "{}", second.output());
        assert!(!supervisor.heard(second.id(), "STOPPING=1", Duration::ZERO));
        assert_eq!(second.output()[before..].trim_end(), format!("pid True True 1500000\n{expected}"));
        second.kill().unwrap();
    }
}
