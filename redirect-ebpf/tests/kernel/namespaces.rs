//! Callers in network namespaces other than the agent's: 127.0.0.1:3080 is somebody else there (S-02, S-08).

use crate::sandbox::{Agent, accept, all, connect, mapped, new_network_namespace, real};
use azure_proxy_agent_core::identity::{Destination, LISTENER, TargetMode};
use redirect_ebpf::{LoadOptions, Redirector};
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::thread;

const IMDS: std::net::SocketAddrV4 = Destination::Imds.addr();

/// What a caller in a container meets; the same for every step of the ladder that can tell namespaces apart.
fn callers_elsewhere(agent: &Agent) {
    thread::scope(|scope| {
        scope.spawn(|| {
            new_network_namespace();
            let imds = real(Destination::Imds);
            // Whoever listens there gets nothing in the agent's place.
            let impostor = TcpListener::bind(LISTENER).unwrap();

            agent.redirector.set_targets(all(TargetMode::Audit)).unwrap();
            for to in [IMDS.into(), mapped(IMDS)] {
                let client = connect(to).unwrap();
                assert_eq!(client.peer_addr().unwrap(), to);
                accept(&imds);
            }
            agent.redirector.set_targets(all(TargetMode::Enforce)).unwrap();
            for to in [IMDS.into(), mapped(IMDS)] {
                assert_eq!(connect(to).unwrap_err().kind(), ErrorKind::PermissionDenied, "EPERM at connect");
            }
            // A direct connection there is none of ours.
            connect(LISTENER).unwrap();
            let accepted = accept(&impostor);
            assert_eq!(agent.redirector.identify(accepted.as_fd()).unwrap(), None);
            // The agent's own sockets are exempt wherever they are.
            let socket = agent.exempt_socket();
            rustix::net::connect(&socket, &IMDS).unwrap();
            accept(&imds);
        });
    });
    assert!(agent.nobody_came());
    let counters = agent.redirector.counters().unwrap();
    assert_eq!((counters.foreign_passed, counters.foreign_refused), (2, 2));

    // Meanwhile, at home.
    connect(IMDS).unwrap();
    assert_eq!(agent.record().tgid, std::process::id());
}

sandboxed! {
    /// SEC-C6
    fn are_never_redirected_s08(sandbox) {
        callers_elsewhere(&sandbox.agent(TargetMode::Enforce));
    }
}

sandboxed! {
    /// Kernels before 5.15 tell namespaces apart by inode number.
    fn are_never_redirected_without_cookies_either_s08(sandbox) {
        let options = LoadOptions { first_step: 1, ..sandbox.options() };
        let agent = Agent::start(&options, TargetMode::Enforce);
        assert!(agent.redirector.describe().contains("inode number"), "{}", agent.redirector.describe());
        callers_elsewhere(&agent);
    }
}

sandboxed! {
    /// Kernels that do not let programs read memory: who, but not which program.
    fn without_task_reads_the_user_is_still_known(sandbox) {
        let options = LoadOptions { first_step: 2, ..sandbox.options() };
        let agent = Agent::start(&options, TargetMode::Enforce);
        let _client = connect(IMDS).unwrap();
        let record = agent.record();
        assert_eq!((record.tgid, record.uid, record.original), (std::process::id(), 0, IMDS));
        assert_eq!((record.exe, record.start_boottime), (None, 0));
        assert_ne!(record.comm, [0; 16]);
        assert!(agent.redirector.describe().contains("no executable identity"));
        callers_elsewhere(&agent);
    }
}

sandboxed! {
    /// The backstop does not stop what audit lets through, and stops what enforce refuses.
    fn the_backstop_agrees(sandbox) {
        callers_elsewhere(&Agent::start(&LoadOptions { egress_backstop: true, ..sandbox.options() }, TargetMode::Enforce));
    }
}
