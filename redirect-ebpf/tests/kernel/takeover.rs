//! One agent follows another: the same build, another build, another layout; under load, after a crash anywhere in between, and after
//! what somebody else did to the pins.

use crate::bpf;
use crate::pins::{dir, pinned, refused};
use crate::sandbox::{Agent, Caller, accept, all, connect, listen_exempt, real};
use azure_proxy_agent_core::identity::{Destination, LISTENER, Route, TargetMode};
use redirect_ebpf::{EbpfRedirector, LoadOptions, Redirector, detach};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpListener};
use std::os::fd::AsFd;
use std::path::PathBuf;

const IMDS: SocketAddrV4 = Destination::Imds.addr();

/// The embedded object with a byte more at its end: another build that does the same.
struct OtherBuild(PathBuf);

impl OtherBuild {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("redirect-ebpf-build-{}.o", std::process::id()));
        let mut object = fs::read(concat!(env!("OUT_DIR"), "/redirect.bpf.o")).unwrap();
        object.push(0);
        fs::write(&path, object).unwrap();
        Self(path)
    }

    fn of(&self, options: &LoadOptions) -> LoadOptions {
        LoadOptions { object: Some(self.0.clone()), ..options.clone() }
    }
}

impl Drop for OtherBuild {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn with_layout(layout: u32, options: &LoadOptions) -> LoadOptions {
    LoadOptions { layout: Some(layout), ..options.clone() }
}

/// What there is: the names of pins, the hooks with their number of programs, nothing detached.
fn shape(options: &LoadOptions) -> (Vec<PathBuf>, Vec<(u32, u32)>) {
    let names = pinned(options).into_iter().map(|(path, _)| path).collect();
    let cgroup = options.cgroup_root.as_ref().unwrap();
    (names, bpf::hooks_in_use(cgroup).into_iter().map(|hook| (hook, bpf::attached(cgroup, hook))).collect())
}

/// Numbers by name: of map, of link with the number of its program.
fn numbers(options: &LoadOptions) -> BTreeMap<String, [u32; 3]> {
    let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    pinned(options).into_iter().map(|(path, numbers)| (name(path), numbers)).collect()
}

sandboxed! {
    /// 20 times kill and restart: programs, links and maps are not only as many as before, they are the same.
    fn sec_g4_restarts_of_the_same_build_change_nothing_s03(sandbox) {
        let options = sandbox.pinning();
        drop(Agent::start(&options, TargetMode::Enforce));
        let before = (pinned(&options), shape(&options));
        assert_eq!((before.0.len(), before.1.1.len()), (19, 9));
        for _ in 0..20 {
            let mut agent = Caller::start(|stage| {
                let agent = Agent::start(&options, TargetMode::Enforce);
                assert!(agent.redirector.describe().contains("taken over as it was"), "{}", agent.redirector.describe());
                connect(IMDS).unwrap();
                agent.record();
                stage.pause();
            });
            agent.paused();
            agent.kill();
            assert_eq!((pinned(&options), shape(&options)), before);
        }
    }
}

sandboxed! {
    /// Other programs behind the same links, with the same maps.
    fn another_build_takes_maps_and_links_over_s03(sandbox) {
        let options = sandbox.pinning();
        let other = OtherBuild::new();
        let redirector = EbpfRedirector::load(&options).unwrap();
        let listener = listen_exempt(&redirector, LISTENER);
        redirector.set_targets(all(TargetMode::Enforce)).unwrap();
        let before = numbers(&options);
        let _waiting = connect(IMDS).unwrap();
        drop(redirector);

        let redirector = EbpfRedirector::load(&other.of(&options)).unwrap();
        assert!(redirector.describe().contains("taken over with other programs"), "{}", redirector.describe());
        let after = numbers(&options);
        assert!(before.keys().eq(after.keys()));
        for (name, [kind, id, third]) in &before {
            let [kind_now, id_now, third_now] = after[name];
            assert_eq!((*kind, *id), (kind_now, id_now), "{name}: the same map or link");
            assert_eq!(name.starts_with("link_"), *third != third_now, "{name}: another program");
        }
        // The connection that waited through the change has its identity, and the next one too.
        let record = redirector.identify(accept(&listener).as_fd()).unwrap().unwrap();
        assert_eq!((record.tgid, record.original), (std::process::id(), IMDS));
        connect(IMDS).unwrap();
        assert!(redirector.identify(accept(&listener).as_fd()).unwrap().is_some());
    }
}

sandboxed! {
    /// The links stay, the maps are new, and enforce is not interrupted. There and back: a downgrade is the same.
    fn another_layout_takes_the_links_and_the_targets_over_s03(sandbox) {
        let options = sandbox.pinning();
        drop(Agent::start(&options, TargetMode::Enforce));
        for (from, to) in [(1, 2), (2, 1)] {
            let before = numbers(&options);
            let redirector = EbpfRedirector::load(&with_layout(to, &options)).unwrap();
            assert!(!dir(&options, from).exists());
            let after = numbers(&options);
            assert!(before.keys().eq(after.keys()));
            for (name, [_, id, _]) in &before {
                assert_eq!(name.starts_with("link_"), *id == after[name][1], "{name}");
            }
            assert!(refused(IMDS), "still enforced, without a word from the agent");
            redirector.check().unwrap();
            let listener = listen_exempt(&redirector, LISTENER);
            connect(IMDS).unwrap();
            assert_eq!(redirector.identify(accept(&listener).as_fd()).unwrap().unwrap().tgid, std::process::id());
            assert_eq!(bpf::attached(&sandbox.cgroup, bpf::CONNECT4), 1);
        }
    }
}

/// A client that connects again and again and says who it is. Started before there is a redirector: a fork has the lock too.
fn client() -> Caller {
    Caller::start(|stage| {
        stage.pause();
        let me = std::process::id().to_le_bytes();
        // Until it is killed.
        for _ in 0..100_000 {
            if let Ok(mut connection) = connect(IMDS) {
                let _ = connection.write_all(&me);
                let _ = connection.read(&mut [0]);
            }
        }
    })
}

/// Accepts `count` connections. Returns how many had no identity; a wrong one fails the test.
fn serve(redirector: &EbpfRedirector, listener: &TcpListener, count: usize) -> usize {
    let mut unknown = 0;
    for _ in 0..count {
        let mut accepted = accept(listener);
        let record = redirector.identify(accepted.as_fd()).unwrap();
        let mut sender = [0; 4];
        accepted.read_exact(&mut sender).unwrap();
        match record {
            Some(record) => {
                assert_eq!((record.tgid, record.route), (u32::from_le_bytes(sender), Route::Redirected), "misattributed");
            }
            None => unknown += 1,
        }
    }
    unknown
}

sandboxed! {
    /// Clients connect all the time. None reaches the host, none is refused, and nobody is taken for somebody else.
    fn under_load_nobody_passes_and_nobody_is_mistaken_s03(sandbox) {
        let options = sandbox.pinning();
        let other = OtherBuild::new();
        let imds = real(Destination::Imds);
        let mut clients = [client(), client(), client()];
        let mut redirector = EbpfRedirector::load(&options).unwrap();
        let listener = listen_exempt(&redirector, LISTENER);
        redirector.set_targets(all(TargetMode::Enforce)).unwrap();
        for client in &mut clients {
            client.paused();
            client.go();
        }
        serve(&redirector, &listener, 50);
        let variants = [
            (options.clone(), true),
            (other.of(&options), true),
            (other.of(&options), true),
            (with_layout(2, &options), false),
            (with_layout(2, &other.of(&options)), true),
            (options.clone(), false),
        ];
        let mut unknown = 0;
        for _ in 0..2 {
            for (variant, same_layout) in &variants {
                drop(redirector);
                redirector = EbpfRedirector::load(variant).unwrap();
                let n = serve(&redirector, &listener, 50);
                assert!(!same_layout || n == 0, "{n} connections lost their identity in a take-over with the same maps");
                unknown += n;
            }
        }
        println!("report: connections without identity after 4 changes of layout: {unknown}");
        clients.into_iter().for_each(Caller::kill);
        imds.set_nonblocking(true).unwrap();
        assert!(imds.accept().is_err(), "a connection went around the agent");
    }
}

/// Lets a successor crash before each change that it makes, and the next one put it right. `prepare` makes what it finds.
fn crash_everywhere(successor: &LoadOptions, prepare: impl Fn(), enforced: bool) {
    let root = successor.pins.as_ref().unwrap();
    let cgroup = successor.cgroup_root.as_ref().unwrap();
    prepare();
    drop(EbpfRedirector::load(successor).unwrap());
    let expected = shape(successor);
    let mut crashes = 0;
    loop {
        detach(root).unwrap();
        prepare();
        let crashing = LoadOptions { crash_at: Some(crashes), ..successor.clone() };
        // (The standard output of the child is the harness's.)
        let status = Caller::start(|_| drop(EbpfRedirector::load(&crashing).unwrap())).end();
        if status == 0 {
            break;
        }
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGABRT, "{status:x}");
        assert!(!enforced || refused(IMDS), "after a crash before change {crashes} the way is open");
        let redirector = EbpfRedirector::load(successor).unwrap();
        assert_eq!(shape(successor), expected, "after a crash before change {crashes}");
        redirector.check().unwrap();
        assert!(!enforced || refused(IMDS), "after the repair of a crash before change {crashes}");
        drop(redirector);
        crashes += 1;
    }
    detach(root).unwrap();
    assert!(bpf::hooks_in_use(cgroup).is_empty());
    println!("report: {crashes} crashes");
    assert!(crashes > 10);
}

sandboxed! {
    fn sec_g4_a_crash_anywhere_in_the_first_start(sandbox) {
        crash_everywhere(&sandbox.pinning(), || (), false);
    }
}

sandboxed! {
    fn sec_g4_a_crash_anywhere_while_another_build_takes_over(sandbox) {
        let options = sandbox.pinning();
        let other = OtherBuild::new();
        let prepare = || drop(Agent::start(&options, TargetMode::Enforce));
        crash_everywhere(&other.of(&options), prepare, true);
    }
}

sandboxed! {
    fn sec_g4_a_crash_anywhere_while_another_layout_takes_over(sandbox) {
        let options = sandbox.pinning();
        // The backstop goes at the same time: its link is left over.
        let backstop = LoadOptions { egress_backstop: true, ..options.clone() };
        let prepare = || drop(Agent::start(&backstop, TargetMode::Enforce));
        crash_everywhere(&with_layout(2, &options), prepare, true);
    }
}

sandboxed! {
    /// The directory that `cgroupRoot` names was changed: attached there, and no longer here.
    fn another_cgroup_is_attached_to_and_the_old_one_left(sandbox) {
        let options = sandbox.pinning();
        let inner = sandbox.cgroup.join("inner");
        fs::create_dir(&inner).unwrap();
        drop(Agent::start(&LoadOptions { cgroup_root: Some(inner.clone()), ..options.clone() }, TargetMode::Enforce));
        assert_eq!(bpf::hooks_in_use(&inner).len(), 9);
        let redirector = EbpfRedirector::load(&options).unwrap();
        assert!(bpf::hooks_in_use(&inner).is_empty());
        assert_eq!(shape(&options).1, bpf::HOOKS[1..].iter().map(|hook| (*hook, 1)).collect::<Vec<_>>());
        assert!(refused(IMDS), "with the maps as they were");
        redirector.check().unwrap();
        fs::remove_dir(&inner).unwrap();
    }
}

sandboxed! {
    /// While no agent runs: whatever is missing, detached or foreign is put right at the start.
    fn what_others_did_to_the_pins_is_put_right_at_the_start_s13(sandbox) {
        let options = sandbox.pinning();
        drop(Agent::start(&options, TargetMode::Enforce));
        let good = shape(&options);
        let pins = dir(&options, 1);
        let stranger = bpf::bystander(bpf::CONNECT4);
        let link = |name: &str| bpf::open_pin(&pins.join(name));
        let damages: [(&str, &dyn Fn()); 9] = [
            ("link unpinned", &|| fs::remove_file(pins.join("link_connect4")).unwrap()),
            ("link detached", &|| bpf::detach(std::os::fd::AsRawFd::as_raw_fd(&link("link_sock_ops")))),
            ("link to another program", &|| bpf::update(&link("link_connect4"), &stranger)),
            ("map unpinned", &|| fs::remove_file(pins.join("peer_who")).unwrap()),
            ("something else in the place of a link", &|| {
                fs::remove_file(pins.join("link_bind4")).unwrap();
                bpf::pin(&stranger, &pins.join("link_bind4"));
            }),
            ("something else in the place of a map", &|| {
                fs::remove_file(pins.join("flows")).unwrap();
                bpf::pin(&link("counters"), &pins.join("flows"));
            }),
            ("something that is none of ours", &|| bpf::pin(&stranger, &pins.join("stranger"))),
            ("directories", &|| fs::create_dir_all(pins.join("sub/sub")).unwrap()),
            ("a directory in the place of a link", &|| {
                fs::remove_file(pins.join("link_bind4")).unwrap();
                fs::create_dir(pins.join("link_bind4")).unwrap();
            }),
        ];
        for (what, damage) in damages {
            damage();
            let agent = Agent::start(&options, TargetMode::Enforce);
            assert_eq!(shape(&options), good, "{what}");
            connect(IMDS).unwrap();
            assert_eq!(agent.record().tgid, std::process::id(), "{what}");
        }
    }
}

sandboxed! {
    /// While an agent runs, whether it loaded the programs itself or found them: at the next check.
    fn what_others_did_to_the_pins_is_put_right_by_check_s13(sandbox) {
        let options = sandbox.pinning();
        for _ in 0..2 {
            let agent = Agent::start(&options, TargetMode::Enforce);
            let good = shape(&options);
            let pins = dir(&options, 1);
            for name in ["link_connect4", "link_bind6", "targets", "build", "sk_who"] {
                fs::remove_file(pins.join(name)).unwrap();
                agent.redirector.check().unwrap();
                assert_eq!(shape(&options), good, "{name}");
            }
            bpf::detach(std::os::fd::AsRawFd::as_raw_fd(&bpf::open_pin(&pins.join("link_connect6"))));
            bpf::update(&bpf::open_pin(&pins.join("link_connect4")), &bpf::bystander(bpf::CONNECT4));
            agent.redirector.check().unwrap();
            assert_eq!(shape(&options), good);
            connect(IMDS).unwrap();
            agent.record();
            // All of it, with the directories.
            for (path, _) in pinned(&options) {
                fs::remove_file(path).unwrap();
            }
            fs::remove_dir(&pins).unwrap();
            fs::remove_dir(options.pins.as_ref().unwrap()).unwrap();
            agent.redirector.check().unwrap();
            assert_eq!(shape(&options), good);
            assert!(matches!(detach(options.pins.as_ref().unwrap()), Err(redirect_ebpf::RedirectError::Busy { .. })), "locked again");
            // A successor finds it in order.
            drop(agent);
            let redirector = EbpfRedirector::load(&options).unwrap();
            assert!(redirector.describe().contains("taken over as it was"), "{}", redirector.describe());
        }
    }
}
