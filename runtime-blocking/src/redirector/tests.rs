use super::client::{Client, Remote};
use super::server::{End, HANGING, LINES, Looks, Server, serve};
use super::wire::{self, Reply, Request};
use crate::host::exe_hash::ExeHashes;
use crate::host::scratch::Scratch;
use crate::host::tests::record;
use azure_proxy_agent_core::identity::{ExeFact, ExeHash, ExeId, KernelRecord, PerDestination, ProcessFacts, Route, TargetMode};
use redirect_ebpf::verify::Examined;
use redirect_ebpf::{MemoryRedirector, RedirectError, Redirector, verify};
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, shutdown, socket_with,
};
use std::fs;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::fs::MetadataExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Every member differs from the others and from nothing.
fn full_record(route: Route) -> KernelRecord {
    KernelRecord {
        route,
        original: "168.63.129.16:32526".parse().expect("an address"),
        tgid: 1,
        tid: 2,
        ppid: 3,
        uid: 4,
        gid: u32::MAX,
        start_boottime: u64::MAX,
        exec_id: 7,
        exe: Some(ExeId { inode: 8, ctime_s: -9, ctime_ns: 10, dev: 11, generation: 12 }),
        pid_ns: 13,
        ns_tgid: 14,
        task_cgroup: 15,
        socket_cgroup: 16,
        netns: 17,
        socket_cookie: 18,
        connected_at: 19,
        mapped_v6: true,
        comm: *b"sixteen bytes ok",
    }
}

fn facts(exe: ExeFact, cmdline: Option<&[u8]>) -> Reply {
    Reply::Facts(ProcessFacts { exe, cmdline: cmdline.map(<[u8]>::to_vec) })
}

#[test]
fn what_is_sent_is_what_is_received_and_nothing_else_is() {
    let modes = PerDestination { imds: TargetMode::Off, wireserver: TargetMode::Enforce, hostga: TargetMode::Audit };
    let requests = [
        Request::Succeeds,
        Request::Load,
        Request::Describe,
        Request::Identify,
        Request::Exempt,
        Request::SetTargets(modes),
        Request::Check,
        Request::Heartbeat,
        Request::NextForeign,
        Request::Examine(full_record(Route::Passed)),
        Request::Examine(KernelRecord { exe: None, mapped_v6: false, ..full_record(Route::Refused) }),
        Request::CgroupPath(u64::MAX),
        Request::Hash,
        Request::IsOurs,
        Request::Said,
    ];
    for request in requests {
        let mut bytes = request.encode();
        assert_eq!(Request::decode(&bytes).as_ref(), Some(&request));
        for short in 0..bytes.len() {
            assert_eq!(Request::decode(&bytes[..short]), None, "{request:?}, {short} bytes");
        }
        bytes.push(0);
        assert_eq!(Request::decode(&bytes), None, "{request:?} and more");
    }
    let path = || b"/usr/bin/\xFF odd"[..].into();
    let replies = [
        Reply::Done,
        Reply::None,
        Reply::NotLoaded,
        Reply::Record(full_record(Route::Redirected)),
        Reply::Record(full_record(Route::Direct)),
        facts(ExeFact::Verified(path()), Some(b"a\0b\0")),
        facts(ExeFact::OtherMount(path()), Some(b"")),
        facts(ExeFact::Gone, None),
        Reply::Path(b"/a/b".to_vec()),
        Reply::Hash(ExeHash([7; 32])),
    ];
    for reply in replies {
        let mut bytes = reply.encode();
        assert_eq!(Reply::decode(&bytes).as_ref(), Some(&reply));
        for short in 0..bytes.len() {
            assert_eq!(Reply::decode(&bytes[..short]), None, "{reply:?}, {short} bytes");
        }
        bytes.push(0);
        assert_eq!(Reply::decode(&bytes), None, "{reply:?} and more");
    }
    let hello = Request::Hello("0.1.0".into());
    assert_eq!(Request::decode(&hello.encode()), Some(hello));
    for text in [Reply::Text("all that is left".into()), Reply::Failed(String::new()), Reply::Line(log::Level::Warn, "x".into())]
    {
        assert_eq!(Reply::decode(&text.encode()), Some(text));
    }
    for bytes in [&[][..], &[15], &[255], &[5, 0, 0, 3], &[5, 9, 0, 0]] {
        assert_eq!(Request::decode(bytes), None, "{bytes:?}");
    }
}

/// A redirector's socket, and who asks.
struct Place {
    listener: OwnedFd,
    client: Arc<Client>,
    folder: Scratch,
}

impl Place {
    fn new() -> Self {
        let folder = Scratch::new("redirector");
        let path = folder.path().join("socket");
        let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket");
        bind(&listener, &SocketAddrUnix::new(&path).expect("short")).expect("bound");
        listen(&listener, 16).expect("listens");
        let client = Client::new(Some(path.as_os_str())).expect("an address").expect("a client");
        Self { listener, client, folder }
    }

    /// Another client, one without patience.
    fn hasty(&self) -> Arc<Client> {
        let path = self.folder.path().join("socket");
        Arc::new(Client::with_patience(path.as_os_str(), Duration::from_millis(200)).expect("an address"))
    }

    /// Accepts one line and answers on it.
    fn line(&self, server: &Arc<Server>) -> impl FnOnce() + use<> {
        let line = accept_with(&self.listener, SocketFlags::CLOEXEC).expect("a line");
        let (server, end) = (Arc::clone(server), line.try_clone().expect("another descriptor"));
        let attending = thread::spawn(move || assert_eq!(server.attend(line.as_fd()), End::Gone));
        move || {
            shutdown(&end, Shutdown::Both).expect("shut");
            attending.join().expect("it ended");
        }
    }
}

/// A server that loads `memory`, and how often it did.
fn server(memory: &Arc<MemoryRedirector>) -> (Arc<Server>, Arc<AtomicUsize>) {
    let (memory, loads) = (Arc::clone(memory), Arc::<AtomicUsize>::default());
    let counted = Arc::clone(&loads);
    let load = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        memory.check().map(|()| Arc::clone(&memory) as Arc<dyn Redirector>)
    };
    (Arc::new(Server::new(Box::new(load), None, Arc::default())), loads)
}

/// A client with a redirector that goes on for as long as the test.
fn served(memory: &Arc<MemoryRedirector>) -> Place {
    let place = Place::new();
    let (listener, (server, _)) = (place.listener.try_clone().expect("another descriptor"), server(memory));
    thread::spawn(move || serve(&listener, &server, || ()));
    place
}

/// S-05, S-10, S-13: what the daemon asks is what is done, and what fails is told in the words of who failed.
#[test]
fn s05_s10_s13_the_redirect_is_that_of_the_other_process() {
    let memory = Arc::<MemoryRedirector>::default();
    let place = served(&memory);
    let client = &place.client;
    assert!(!client.succeeds().expect("answered"), "nothing is pinned");
    memory.set_broken(Some("no cgroup2 file system is mounted"));
    assert_eq!(client.load().map(drop).expect_err("broken").to_string(), "no cgroup2 file system is mounted");
    memory.set_broken(None);
    let remote: Remote = client.load().expect("loaded");
    assert_eq!(remote.describe(), "in memory, 0 records");

    let modes = PerDestination { wireserver: TargetMode::Enforce, ..PerDestination::default() };
    remote.set_targets(modes).expect("set");
    assert_eq!(memory.targets(), modes);
    remote.heartbeat().expect("said");
    assert_eq!(memory.heartbeats(), 1);
    remote.exempt(UdpSocket::bind("127.0.0.1:0").expect("a socket").as_fd()).expect("exempted");
    assert_eq!(memory.exempted(), 1);

    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let _caller = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
    let (accepted, peer) = listener.accept().expect("accepted");
    assert_eq!(remote.identify(accepted.as_fd()).expect("answered"), None);
    memory.insert(peer, full_record(Route::Redirected));
    assert_eq!(remote.identify(accepted.as_fd()).expect("answered"), Some(full_record(Route::Redirected)));

    memory.note_foreign(full_record(Route::Passed));
    assert_eq!(remote.next_foreign().expect("answered"), Some(full_record(Route::Passed)));
    assert_eq!(remote.next_foreign().expect("answered"), None);

    remote.check().expect("in order");
    memory.set_broken(Some("program connect4 was detached"));
    assert_eq!(remote.check().expect_err("broken").to_string(), "program connect4 was detached");
    assert!(remote.identify(accepted.as_fd()).is_err());
}

/// S-03: a redirector that ended is started again by the next question, and takes over first. Not again and again.
#[test]
fn s03_a_redirector_that_was_started_anew_takes_over_what_is_pinned() {
    let memory = Arc::<MemoryRedirector>::default();
    let place = Place::new();
    let client = Arc::clone(&place.client);
    let asking = thread::spawn(move || client.load().expect("loaded"));
    let (first, _) = server(&memory);
    let end = place.line(&first);
    let remote = Arc::new(asking.join().expect("loaded"));
    remote.check().expect("in order");
    end();

    let (second, loads) = server(&memory);
    let its = Arc::clone(&remote);
    let asking = thread::spawn(move || its.check());
    let end = place.line(&second);
    asking.join().expect("no panic").expect("in order again");
    assert_eq!(loads.load(Ordering::Relaxed), 1);
    end();

    // It cannot load: a caller gets no identity, and does not cause another attempt with each connection.
    memory.set_broken(Some("another agent is running"));
    let (third, loads) = server(&memory);
    let its = Arc::clone(&remote);
    let asking = thread::spawn(move || {
        let mut failures = (0..20).map(|_| its.heartbeat().expect_err("not loaded").to_string());
        failures.find(|text| text.contains("not loaded"))
    });
    let end = place.line(&third);
    let told = asking.join().expect("no panic");
    assert!(told.is_some() && loads.load(Ordering::Relaxed) < 20, "{told:?}, {loads:?} attempts");
    end();
}

/// I-27, I-28: who a caller is, is what this process would have found, and the hash is that of the file that was found.
#[test]
fn i27_i28_a_process_is_examined_by_the_other_process_with_the_same_result() {
    let place = served(&Arc::default());
    let client = &place.client;
    let own = std::process::id();
    let exe = fs::metadata("/proc/self/exe").expect("our own");
    let exe = ExeId {
        inode: exe.st_ino(),
        ctime_s: exe.st_ctime(),
        ctime_ns: u32::try_from(exe.st_ctime_nsec()).expect("nanoseconds"),
        dev: 0,
        generation: 0,
    };
    let start_boottime = verify::start_time(own).expect("our own").expect("known");
    let asked = KernelRecord { tgid: own, start_boottime, exe: Some(exe), ..record(Route::Redirected, 0) };
    let (there, here) = (client.examine(&asked), verify::examine(&asked));
    assert_eq!(there.facts, here.facts);
    assert!(matches!(there.facts.exe, ExeFact::Verified(_)), "{:?}", there.facts);
    let (there, here) = (there.exe.expect("a file"), here.exe.expect("a file"));
    let hash = client.exe_hash(there.as_fd()).expect("hashed");
    assert_eq!(Some(hash), ExeHashes::default().get(here.as_fd()));
    assert_eq!(client.exe_hash(fs::File::open("/dev/null").expect("opened").as_fd()), None);

    let gone = KernelRecord { tgid: u32::MAX >> 1, ..asked };
    let gone = client.examine(&gone);
    assert_eq!((gone.facts, gone.exe.is_some()), (ProcessFacts { exe: ExeFact::Gone, cmdline: None }, false));
    assert_eq!(client.cgroup_path(0), None);
}

/// PX-23, I-16: nobody there: no identity, and no exemption that the daemon would only think it has.
#[test]
fn px23_i16_without_a_redirector_nobody_is_anybody() {
    let place = Place::new();
    let Place { listener, client, folder: _folder } = place;
    drop(listener);
    assert!(client.succeeds().is_err());
    assert!(client.exempt(UdpSocket::bind("127.0.0.1:0").expect("a socket").as_fd()).is_err());
    assert!(client.load().is_err());
    let facts = client.examine(&full_record(Route::Redirected)).facts;
    assert_eq!(facts, ProcessFacts { exe: ExeFact::Gone, cmdline: None });
    assert_eq!(client.cgroup_path(1), None);
}

/// PX-23: a redirector that hangs keeps nobody waiting for ever: the thread that serves everybody asks once, and denies the others at once.
#[test]
fn px23_a_redirector_that_hangs_is_not_waited_for_by_each_caller() {
    let place = Place::new();
    let client = place.hasty();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    for _ in 0..20 {
        let refused = client.exempt(socket.as_fd()).expect_err("nobody answers").to_string();
        assert_eq!(refused, "the redirector does not answer");
    }
    rustix::io::ioctl_fionbio(&place.listener, true).expect("set");
    let mut lines = 0;
    while accept_with(&place.listener, SocketFlags::CLOEXEC).is_ok() {
        lines += 1;
    }
    assert!((1..20).contains(&lines), "{lines} times");
}

/// S-03, PX-23: taking over may take longer than a caller can be kept waiting. It goes on, once, and callers are nobody until then.
#[test]
fn s03_px23_nobody_waits_for_a_redirector_that_loads_for_long() {
    let memory = Arc::<MemoryRedirector>::default();
    let place = Place::new();
    let client = place.hasty();
    let asking = thread::spawn(move || client.load().expect("loaded"));
    let (first, _) = server(&memory);
    let end = place.line(&first);
    let remote = asking.join().expect("loaded");
    end();

    let (go, wait) = channel::<()>();
    let (wait, loads) = (Mutex::new(wait), Arc::<AtomicUsize>::default());
    let (its, counted) = (Arc::clone(&memory), Arc::clone(&loads));
    let load = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let _ = wait.lock().map(|wait| wait.recv());
        Ok(Arc::clone(&its) as Arc<dyn Redirector>)
    };
    let second = Arc::new(Server::new(Box::new(load), None, Arc::default()));
    let listener = place.listener.try_clone().expect("another descriptor");
    thread::spawn(move || serve(&listener, &second, || ()));
    let caller = TcpListener::bind("127.0.0.1:0").expect("a port");
    for _ in 0..5 {
        assert!(remote.identify(caller.as_fd()).is_err(), "still loading");
    }
    assert_eq!(memory.heartbeats(), 0);
    go.send(()).expect("it waits");
    while remote.heartbeat().is_err() {
        thread::yield_now();
    }
    assert_eq!((loads.load(Ordering::Relaxed), memory.heartbeats()), (1, 1));
}

/// I-31: who makes looking at his processes hang is not looked at any more. Others are.
#[test]
fn i31_looks_that_hang_are_the_trouble_of_their_user() {
    let looks = Looks::default();
    let gone = || Examined { facts: ProcessFacts { exe: ExeFact::Gone, cmdline: None }, exe: None };
    let seen = || Examined { facts: ProcessFacts { exe: ExeFact::Gone, cmdline: Some(b"seen".to_vec()) }, exe: None };
    let looked = |user, overdue| looks.look(user, overdue, seen).facts.cmdline.is_some();
    thread::scope(|scope| {
        let (hangs, hanging) = channel();
        let mut ends = Vec::new();
        for _ in 0..HANGING {
            let (end, wait) = channel::<()>();
            let (looks, hangs) = (&looks, hangs.clone());
            scope.spawn(move || {
                looks.look(1000, Duration::ZERO, || {
                    hangs.send(()).expect("somebody listens");
                    let _ = wait.recv();
                    gone()
                })
            });
            hanging.recv().expect("it hangs");
            ends.push(end);
        }
        assert!(!looked(1000, Duration::ZERO), "too many hang");
        assert!(looked(1001, Duration::ZERO), "another user");
        assert!(looked(1000, Duration::from_secs(3600)), "they may still answer in time");
    });
    assert!(looked(1000, Duration::ZERO), "none hangs any more");
}

/// S-03: when all lines hang nobody could ask any more; who is started instead can be asked.
#[test]
fn s03_a_redirector_without_a_free_line_ends() {
    let place = Place::new();
    let (listener, (server, _)) = (place.listener.try_clone().expect("another descriptor"), server(&Arc::default()));
    let (sender, over) = channel();
    let sender = Arc::new(Mutex::new(sender));
    thread::spawn(move || {
        serve(&listener, &server, move || {
            let _ = sender.lock().map(|sender| sender.send(()));
        })
    });
    let address = SocketAddrUnix::new(place.folder.path().join("socket")).expect("short");
    let line = || {
        let line = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket");
        connect(&line, &address).expect("connected");
        line
    };
    let mut lines = Vec::new();
    for _ in 0..LINES {
        let line = line();
        wire::send(line.as_fd(), &Request::Succeeds.encode(), None).expect("sent");
        assert!(wire::receive(line.as_fd(), 64).expect("answered").is_some());
        lines.push(line);
    }
    assert!(over.try_recv().is_err(), "so many are served");
    let _one_more = line();
    over.recv().expect("it is over");
}

/// S-03: the lock goes with the redirector, so it must not stay longer than its daemon.
#[test]
fn s03_it_ends_with_the_last_line() {
    let place = Place::new();
    let (listener, (server, _)) = (place.listener.try_clone().expect("another descriptor"), server(&Arc::default()));
    let (sender, over) = channel();
    let sender = Mutex::new(sender);
    let sender = Arc::new(sender);
    thread::spawn(move || {
        serve(&listener, &server, move || {
            let _ = sender.lock().map(|sender| sender.send(()));
        })
    });
    let Place { client, .. } = place;
    let remote = client.load().expect("loaded");
    remote.check().expect("in order");
    assert!(over.try_recv().is_err(), "a line is kept between questions");
    drop((remote, client));
    over.recv().expect("it is over");
}

/// During an upgrade: the redirector that is still there is of the version before.
#[test]
fn a_redirector_of_another_version_ends_instead_of_answering() {
    let (server, loads) = server(&Arc::default());
    let (daemon, line) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a pair");
    wire::send(daemon.as_fd(), &Request::Hello("0.0.9".into()).encode(), None).expect("sent");
    wire::send(daemon.as_fd(), &Request::Load.encode(), None).expect("sent");
    assert_eq!(server.attend(line.as_fd()), End::Outdated);
    drop(line);
    assert!(wire::receive(daemon.as_fd(), 64).expect("nothing is wrong").is_none());
    assert_eq!(loads.load(Ordering::Relaxed), 0);
}

#[test]
fn a_question_without_its_descriptor_is_refused() {
    let memory = Arc::<MemoryRedirector>::default();
    let (server, _) = server(&memory);
    let place = Place::new();
    let asking = thread::spawn({
        let client = Arc::clone(&place.client);
        move || client.load().map(drop)
    });
    let end = place.line(&server);
    asking.join().expect("no panic").expect("loaded");
    for request in [Request::Identify, Request::Exempt, Request::Hash, Request::IsOurs] {
        let (reply, descriptor) = server.answer(&request, None);
        assert!(matches!(reply, Reply::Failed(_)) && descriptor.is_none(), "{request:?}: {reply:?}");
    }
    end();
}

#[test]
fn no_variable_no_redirector() {
    assert!(Client::new(None).expect("fine").is_none());
    assert!(Client::new(Some("".as_ref())).expect("fine").is_none());
    assert!(Client::new(Some("x".repeat(200).as_ref())).is_err(), "no such socket address");
}

#[test]
fn a_failure_is_not_cut_within_a_character() {
    let long = "ä".repeat(10_000);
    let Some(Reply::Failed(text)) = Reply::decode(&Reply::Failed(long).encode()) else { panic!("a text") };
    assert!(text.chars().all(|c| c == 'ä') && text.len() > 8000, "{}", text.len());
    let _: RedirectError = RedirectError::Elsewhere(text);
}
