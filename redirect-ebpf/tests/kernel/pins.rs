//! What outlives the agent: the redirect in enforce (S-03), in audit for a while, and nothing after `detach`.

use crate::bpf;
use crate::sandbox::{Agent, Caller, Sandbox, accept, all, connect, listen_exempt, new_network_namespace, real, tcp};
use azure_proxy_agent_core::identity::{Destination, LISTENER, Route, TargetMode};
use redirect_ebpf::{EbpfRedirector, LoadOptions, Pins, RedirectError, Redirector, detach};
use rustix::net::{AddressFamily, sockopt};
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

const IMDS: SocketAddrV4 = Destination::Imds.addr();

/// Everything below the pins: name, and number of map or link and of the program behind it.
pub(crate) fn pinned(options: &LoadOptions) -> Vec<(PathBuf, [u32; 3])> {
    let mut all = Vec::new();
    let Ok(layouts) = fs::read_dir(options.pins.as_ref().unwrap()) else { return all };
    for layout in layouts.map(|e| e.unwrap().path()) {
        for path in fs::read_dir(&layout).unwrap().map(|e| e.unwrap().path()) {
            let [kind, id, third, ..] = bpf::info(&bpf::open_pin(&path));
            all.push((path, [kind, id, third]));
        }
    }
    all.sort();
    all
}

/// The pins of that layout.
pub(crate) fn dir(options: &LoadOptions, layout: u32) -> PathBuf {
    options.pins.as_ref().unwrap().join(format!("v{layout}"))
}

pub(crate) fn refused(to: SocketAddrV4) -> bool {
    connect(to).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
}

sandboxed! {
    /// The effect before the cure, and the cure.
    fn enforce_outlives_the_agent_s03(sandbox) {
        let imds = real(Destination::Imds);
        drop(sandbox.agent(TargetMode::Enforce));
        connect(IMDS).expect("without pins the redirect ends with the agent");
        accept(&imds);

        let options = sandbox.pinning();
        let mut agent = Caller::start(|stage| {
            let _agent = Agent::start(&options, TargetMode::Enforce);
            stage.pause();
        });
        agent.paused();
        agent.kill();
        assert!(refused(IMDS), "killed: nobody listens, and nobody is let past");
        drop(Agent::start(&options, TargetMode::Enforce));
        assert!(refused(IMDS), "an orderly stop counts as a crash");
        for addr in ["127.0.0.1:3080", "0.0.0.0:3080"] {
            let error = std::net::TcpListener::bind(addr).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "the guard stays too: {addr}");
        }
        assert_eq!(bpf::held("bpf_link").len() + bpf::held("bpf-prog").len(), 0, "it is the pins that hold them");

        let agent = Agent::start(&options, TargetMode::Enforce);
        connect(IMDS).unwrap();
        assert_eq!(agent.record().original, IMDS);
    }
}

sandboxed! {
    /// Endpoints stay as they were until the new agent says otherwise.
    fn targets_are_as_they_were_s03(sandbox) {
        let options = sandbox.pinning();
        drop(Agent::start(&options, TargetMode::Enforce));
        let redirector = EbpfRedirector::load(&options).unwrap();
        redirector.check().unwrap();
        assert!(refused(IMDS), "nor does checking change them");
        redirector.set_targets(all(TargetMode::Off)).unwrap();
        drop(redirector);
        let imds = real(Destination::Imds);
        let redirector = EbpfRedirector::load(&options).unwrap();
        redirector.check().unwrap();
        connect(IMDS).unwrap();
        accept(&imds);
    }
}

fn heartbeat(options: &LoadOptions, seconds_ago: u64) {
    let map = bpf::open_pin(&dir(options, 1).join("heartbeat"));
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap();
    bpf::overwrite_long(map.as_raw_fd(), now.saturating_sub(seconds_ago * 1_000_000_000));
}

sandboxed! {
    fn audit_is_given_up_when_the_agent_is_gone_s03(sandbox) {
        let options = sandbox.pinning();
        let agent = Agent::start(&options, TargetMode::Audit);
        connect(IMDS).unwrap();
        agent.record();
        drop(agent);
        let imds = real(Destination::Imds);
        // A restart leaves no gap: 30 seconds at least, and heartbeats come every 10.
        heartbeat(&options, 39);
        assert!(refused(IMDS));
        heartbeat(&options, 41);
        for to in [IMDS.into(), crate::sandbox::mapped(IMDS)] {
            connect(to).unwrap();
            accept(&imds);
        }
        // Taking over alone is no life sign: nobody may be listening yet.
        let redirector = EbpfRedirector::load(&options).unwrap();
        connect(IMDS).unwrap();
        accept(&imds);
        assert_eq!(redirector.counters().unwrap().given_up, 3);
        redirector.heartbeat().unwrap();
        assert!(refused(IMDS), "redirected again");
        let listener = listen_exempt(&redirector, LISTENER);
        connect(IMDS).unwrap();
        accept(&listener);
        // Nor does switching on after a long time without heartbeats begin with a gap.
        heartbeat(&options, 1000);
        redirector.set_targets(all(TargetMode::Audit)).unwrap();
        connect(IMDS).unwrap();
        accept(&listener);
        // In enforce, time plays no part.
        redirector.set_targets(all(TargetMode::Enforce)).unwrap();
        heartbeat(&options, 1000);
        connect(IMDS).unwrap();
        accept(&listener);
    }
}

sandboxed! {
    /// The packet backstop gives up together with the redirect.
    fn the_backstop_gives_up_too_s03(sandbox) {
        let options = LoadOptions { egress_backstop: true, ..sandbox.pinning() };
        let redirector = EbpfRedirector::load(&options).unwrap();
        let imds = listen_exempt(&redirector, IMDS);
        redirector.set_targets(all(TargetMode::Audit)).unwrap();
        drop(redirector);
        heartbeat(&options, 41);
        connect(IMDS).unwrap();
        accept(&imds);
    }
}

sandboxed! {
    fn detach_removes_everything_s03(sandbox) {
        let options = LoadOptions { egress_backstop: true, ..sandbox.pinning() };
        let root = options.pins.clone().unwrap();
        assert_eq!(detach(&root).unwrap().to_string(), "nothing was pinned");
        let agent = Agent::start(&options, TargetMode::Enforce);
        assert!(matches!(detach(&root).unwrap_err(), RedirectError::Busy { .. }), "not while an agent runs");
        drop(agent);
        let done = detach(&root).unwrap();
        assert_eq!((done.programs.len(), done.maps), (10, 10), "{done}");
        assert!(done.programs.iter().take(2).all(|p| p.starts_with("connect")), "the redirect first: {done}");
        assert!(done.to_string().starts_with("10 programs detached (connect"), "{done}");
        assert!(!root.exists());
        assert!(bpf::hooks_in_use(&sandbox.cgroup).is_empty());
        let imds = real(Destination::Imds);
        connect(IMDS).unwrap();
        accept(&imds);
        assert_eq!(detach(&root).unwrap().to_string(), "nothing was pinned", "once is enough");
    }
}

sandboxed! {
    /// Of other layouts, and when half of it is gone already.
    fn detach_removes_what_any_layout_left(sandbox) {
        let options = sandbox.pinning();
        drop(Agent::start(&options, TargetMode::Enforce));
        // As if a take-over had ended in the middle.
        let other = dir(&options, 7);
        fs::create_dir(&other).unwrap();
        fs::rename(dir(&options, 1).join("link_connect6"), other.join("link_connect6")).unwrap();
        fs::rename(dir(&options, 1).join("sk_exempt"), other.join("sk_exempt")).unwrap();
        fs::remove_file(dir(&options, 1).join("targets")).unwrap();
        // Directories are no pins.
        fs::create_dir_all(other.join("link_none/deeper")).unwrap();
        let done = detach(options.pins.as_ref().unwrap()).unwrap();
        assert_eq!((done.programs.len(), done.directories.len()), (9, 3), "{done}");
        assert!(bpf::hooks_in_use(&sandbox.cgroup).is_empty());
        assert!(!options.pins.unwrap().exists());
    }
}

sandboxed! {
    /// S-05: as without pins, what a failing start made is undone.
    fn a_failing_start_leaves_no_pins_s05(sandbox) {
        let options = sandbox.pinning();
        let other = bpf::bystander(bpf::CONNECT6);
        bpf::attach(&sandbox.cgroup, &other, bpf::CONNECT6, bpf::EXCLUSIVE);
        let error = EbpfRedirector::load(&options).unwrap_err();
        assert!(matches!(error, RedirectError::Exclusive { program: "connect6" }), "{error:?}");
        assert_eq!(bpf::hooks_in_use(&sandbox.cgroup), [bpf::CONNECT6], "only the other one");
        assert!(!options.pins.as_ref().unwrap().exists());
        let missing = LoadOptions { object: Some("/nonexistent.o".into()), ..options.clone() };
        assert!(matches!(EbpfRedirector::load(&missing).unwrap_err(), RedirectError::ObjectFile { .. }));
        assert!(!options.pins.unwrap().exists());
    }
}

sandboxed! {
    fn only_one_agent_at_a_time(sandbox) {
        let options = sandbox.pinning();
        let agent = Agent::start(&options, TargetMode::Enforce);
        let before = pinned(&options);
        let error = EbpfRedirector::load(&options).unwrap_err();
        assert!(matches!(error, RedirectError::Busy { .. }), "{error:?}");
        assert!(error.to_string().contains("another agent is running"), "{error}");
        assert_eq!(pinned(&options), before, "nothing was touched");
        connect(IMDS).unwrap();
        agent.record();
        drop(agent);
        EbpfRedirector::load(&options).unwrap();
    }
}

sandboxed! {
    /// The guard that an earlier agent left refuses everybody; the successor's listener is marked before it has loaded anything.
    fn a_successor_gets_past_the_guard_before_loading_s10(sandbox) {
        let options = sandbox.pinning();
        let root = options.pins.clone().unwrap();
        assert!(Pins::open(&root).unwrap().is_none());
        drop(Agent::start(&options, TargetMode::Enforce));
        let pins = Pins::open(&root).unwrap().unwrap();
        let socket = tcp(AddressFamily::INET);
        sockopt::set_socket_reuseaddr(&socket, true).unwrap();
        assert_eq!(rustix::net::bind(&socket, &LISTENER), Err(rustix::io::Errno::PERM));
        pins.exempt(socket.as_fd()).unwrap();
        rustix::net::bind(&socket, &LISTENER).unwrap();
        rustix::net::listen(&socket, 16).unwrap();
        // Connections that come before anything is loaded have an identity afterwards.
        connect(IMDS).unwrap();
        let redirector = EbpfRedirector::load(&options).unwrap();
        let accepted = accept(&socket.into());
        assert_eq!(redirector.identify(accepted.as_fd()).unwrap().unwrap().tgid, std::process::id());
        assert!(pins.exempt(fs::File::open("/dev/null").unwrap().as_fd()).is_err());
    }
}

sandboxed! {
    /// With what cannot be trusted, or is no bpffs, the redirector works, says so, and ends with the agent.
    fn without_a_good_place_nothing_is_pinned(sandbox) {
        let options = sandbox.pinning();
        let root = options.pins.clone().unwrap();
        let with = |pins: &Path| {
            let redirector = EbpfRedirector::load(&LoadOptions { pins: Some(pins.to_owned()), ..options.clone() }).unwrap();
            redirector.describe()
        };
        let not_pinned = |why: String, reason: &str| {
            let text = format!("{reason}; the redirect ends with the agent");
            assert!(why.contains("not pinned: ") && why.contains(&text), "{why}");
        };
        let temporary = std::env::temp_dir().join(format!("redirect-ebpf-pins-{}", std::process::id()));
        not_pinned(with(&temporary), "no bpf file system is mounted there");
        assert!(!temporary.exists());
        fs::create_dir(&temporary).unwrap();
        not_pinned(with(&temporary), "is not in a bpf file system");
        fs::remove_dir(&temporary).unwrap();

        symlink("/", &root).unwrap();
        not_pinned(with(&root), "is no directory, or a link to one");
        assert!(matches!(Pins::open(&root).unwrap_err(), RedirectError::PinRoot { .. }));
        assert!(matches!(detach(&root).unwrap_err(), RedirectError::PinRoot { .. }));
        fs::remove_file(&root).unwrap();
        fs::create_dir(&root).unwrap();
        std::os::unix::fs::chown(&root, Some(1000), None).unwrap();
        not_pinned(with(&root), "is not owned by root");
        std::os::unix::fs::chown(&root, Some(0), None).unwrap();
        fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        not_pinned(with(&root), "is writable by others than root");
        assert!(bpf::hooks_in_use(&sandbox.cgroup).is_empty());
        fs::remove_dir(&root).unwrap();

        let description = with(&root);
        assert!(description.contains(&format!("new, pinned in {}", root.join("v1").display())), "{description}");
        for dir in [root.clone(), root.join("v1")] {
            assert_eq!(fs::metadata(dir).unwrap().mode() & 0o7777, 0o700);
        }
    }
}

/// Connects from another network namespace.
fn elsewhere(sandbox: &Sandbox, count: usize) {
    let _ = sandbox;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            new_network_namespace();
            let _imds = real(Destination::Imds);
            for _ in 0..count {
                let _ = connect(IMDS);
            }
        });
    });
}

sandboxed! {
    /// Who it was, in audit (let through) and in enforce (refused).
    fn connections_from_elsewhere_are_noted_s08(sandbox) {
        let agent = sandbox.agent(TargetMode::Audit);
        elsewhere(sandbox, 1);
        agent.redirector.set_targets(all(TargetMode::Enforce)).unwrap();
        elsewhere(sandbox, 1);
        let notes = [(); 2].map(|()| agent.redirector.next_foreign().unwrap().unwrap());
        assert_eq!(notes.map(|n| n.route), [Route::Passed, Route::Refused]);
        for note in notes {
            assert_eq!((note.original, note.uid, note.tgid), (IMDS, 0, std::process::id()));
            assert_ne!(note.netns, 0);
            assert!(note.exe.is_some() && note.start_boottime != 0);
        }
        assert_ne!(notes[0].netns, notes[1].netns);
        assert_eq!(agent.redirector.next_foreign().unwrap(), None);
        // What happens at home is no note.
        connect(IMDS).unwrap();
        agent.record();
        assert_eq!(agent.redirector.next_foreign().unwrap(), None);
    }
}

sandboxed! {
    /// Bounded; what did not fit is counted, and there is room again.
    fn a_flood_of_notes_is_bounded_and_counted_s08(sandbox) {
        let agent = sandbox.agent(TargetMode::Enforce);
        elsewhere(sandbox, 520);
        let counters = agent.redirector.counters().unwrap();
        assert_eq!((counters.foreign_refused, counters.foreign_lost), (520, 8));
        assert!(agent.redirector.describe().contains("(not noted 8)"), "{}", agent.redirector.describe());
        let mut notes = 0;
        while agent.redirector.next_foreign().unwrap().is_some() {
            notes += 1;
        }
        assert_eq!(notes, 512);
        elsewhere(sandbox, 1);
        assert!(agent.redirector.next_foreign().unwrap().is_some());
    }
}
