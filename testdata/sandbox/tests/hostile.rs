//! What hostile clients and a hostile host can do to the agent, and to each other through it: nothing. Real sockets, real eBPF.
//! security.md sections A and G, PX-14, PX-14a. These tests need root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is the report")]

mod support;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use sandbox::{HostOptions, User};
use support::process::{Usage, listeners, usage};
use support::wire::{Caller, End, HOSTGA, IMDS, LISTENER, WIRESERVER, Wire};
use support::{PATIENCE, Runtime, World, corpus, on_both_runtimes, until};

on_both_runtimes!(
    smuggled_requests,
    smuggled_responses,
    exactly_one_listener,
    odd_first_bytes,
    oversized_and_endless_messages,
    slow_heads_are_cut_off,
    resets_at_every_state,
    as_many_connections_as_there_are_places,
    connections_in_a_row_and_at_once,
    a_client_that_never_reads,
    processes_that_vanish,
);

/// How soon an ordinary request is answered whatever else goes on (SEC-G1).
const SERVED_WITHIN: Duration = Duration::from_secs(5);

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\nMetadata: true\r\n\r\n")
}

fn user(uid: u32) -> User {
    User::new(uid, uid, &[])
}

/// A world, and how much its agent uses when nothing happens.
struct Calm {
    world: World,
    pid: u32,
    usage: Usage,
}

impl Calm {
    fn start(runtime: Runtime) -> Self {
        let world = World::start(runtime);
        let nobody = Caller::nobody(&world.sandbox);
        ordinary(&nobody);
        drop(nobody);
        world.host.host().records.clear();
        let pid = world.agent.id();
        Self { usage: usage(pid), world, pid }
    }

    /// After the storm: the same process, serving, with no more descriptors and hardly more memory than before; and the host saw
    /// nothing that it had to refuse.
    fn again(mut self) {
        assert!(self.world.agent.is_running().unwrap() && self.world.agent.id() == self.pid, "the same process");
        ordinary(&Caller::nobody(&self.world.sandbox));
        let before = self.usage;
        let mut now = before;
        let calm = until(PATIENCE, || {
            now = usage(self.pid);
            let calm = now.descriptors <= before.descriptors + A_FEW && now.resident <= before.resident + ALLOWANCE;
            calm.then_some(())
        });
        assert!(calm.is_some(), "{}: before {before:?}, after {now:?}", self.world.runtime);
        let refused: Vec<_> = self.world.seen().into_iter().filter(|r| r.verified.starts_with("refused")).collect();
        assert!(refused.is_empty(), "{refused:#?}");
    }
}

/// Descriptors of connections that just end, and of the agent's own.
const A_FEW: usize = 6;
/// What an allocator may keep after a storm, in KiB.
const ALLOWANCE: u64 = 12 * 1024;

/// An ordinary request is answered, and soon.
fn ordinary(caller: &Caller) {
    let started = Instant::now();
    let answer = caller.ask(IMDS, get("/test/bytes?n=100"));
    assert!(answer.status == 200 && answer.is_marked() && answer.body.len() == 100, "{answer:?}");
    assert!(started.elapsed() < SERVED_WITHIN, "it took {:?}", started.elapsed());
}

/// SEC-A3, PX-15 to PX-18, PX-40 to PX-44: the same bytes get the same verdict over sockets as in core's own tests, whole and in
/// pieces, and nothing behind them is taken for a request.
fn smuggled_requests(runtime: Runtime) {
    let calm = Calm::start(runtime);
    let nobody = Caller::nobody(&calm.world.sandbox);
    let records = &calm.world.host.host().records;
    for entry in corpus::requests() {
        let (name, forwarded) = (&entry.name, entry.expect == "forwarded");
        let mut bytes = entry.bytes.clone();
        if !forwarded {
            bytes.extend_from_slice(get("/behind").as_bytes());
        }
        let middle = bytes.len() / 2;
        for pieces in [vec![&bytes[..]], vec![&bytes[..middle], &bytes[middle..]]] {
            let mut wire = nobody.connect(IMDS);
            for piece in pieces {
                // It may have been refused by now.
                let _ = wire.try_send(piece);
            }
            let _ = wire.stream().shutdown(Shutdown::Write);
            if entry.expect != "close" {
                let answer = wire.try_answer(false).unwrap_or_else(|e| panic!("{name}: {e}"));
                assert_eq!(answer.is_marked(), forwarded, "{name}: {answer:?}");
                assert!(forwarded || answer.status.to_string() == entry.expect, "{name}: {}, not {answer:?}", entry.expect);
            }
            // Who gets no answer is not waited for: what he sends after the end meets a closed socket.
            let end = wire.end();
            assert!(end == End::Closed || entry.expect == "close" && end == End::Reset, "{name}: {end:?}");
            let seen = calm.world.seen();
            assert_eq!(seen.len(), usize::from(forwarded), "{name}: {seen:#?}");
            assert!(seen.iter().all(|r| r.verified == "signed"), "{name}: {seen:#?}");
            records.clear();
        }
    }
    calm.again();
}

/// PX-32, PX-80: what a host says behind, before or beside its answer reaches nobody.
fn smuggled_responses(runtime: Runtime) {
    let elsewhere = HostOptions { imds: "127.0.0.1:1080".parse().unwrap(), ..HostOptions::default() };
    let world = World::with(runtime, elsewhere, |options| options);
    let nobody = Caller::nobody(&world.sandbox);
    let host = HostileHost::start(&world);
    for entry in corpus::responses() {
        let name = &entry.name;
        host.next(entry.bytes);
        let mut wire = nobody.connect(IMDS);
        wire.send(get("/first"));
        let first = wire.try_answer(false);
        let text = |answer: &support::wire::Answer| format!("{answer:?} {}", String::from_utf8_lossy(&answer.body));
        match (entry.expect.as_str(), first) {
            ("503", Ok(answer)) => {
                assert!(answer.status == 503 && !answer.is_marked(), "{name}: {answer:?}");
                assert_eq!(wire.end(), End::Closed, "{name}");
                assert_eq!(host.connections(), 1, "{name}");
            }
            ("abort", first) => {
                let error = first.expect_err(name);
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{name}: {error}");
            }
            (expect @ ("once" | "kept"), Ok(answer)) => {
                assert!(answer.is_marked() && !text(&answer).contains("evil"), "{name}: {}", text(&answer));
                wire.send(get("/second"));
                let answer = wire.answer();
                assert!(answer.is_marked() && answer.body == b"fine", "{name}: {}", text(&answer));
                assert_eq!(host.connections(), if expect == "once" { 2 } else { 1 }, "{name}: {expect}");
            }
            (expect, first) => panic!("{name}: {expect}, but {first:?}"),
        }
    }
}

/// Sits at IMDS' address and answers the first request with whatever it was told, all others well.
struct HostileHost {
    answer: Arc<Mutex<Vec<u8>>>,
    connections: Arc<AtomicUsize>,
}

impl HostileHost {
    fn start(world: &World) -> Self {
        let listener = world.sandbox.in_network(|| TcpListener::bind(IMDS)).unwrap().unwrap();
        let host = Self { answer: Arc::default(), connections: Arc::default() };
        let (answer, connections) = (Arc::clone(&host.answer), Arc::clone(&host.connections));
        // Ends with the process: nobody can make accept(2) return from here.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                connections.fetch_add(1, Ordering::SeqCst);
                let answer = Arc::clone(&answer);
                std::thread::spawn(move || Self::serve(&stream, &answer));
            }
        });
        host
    }

    fn serve(stream: &TcpStream, answer: &Mutex<Vec<u8>>) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            if line == b"\r\n" {
                let mut bytes = std::mem::take(&mut *answer.lock().unwrap());
                if bytes.is_empty() {
                    bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine".to_vec();
                }
                (&*stream).write_all(&bytes)?;
            }
            line.clear();
        }
        Ok(())
    }

    fn next(&self, answer: Vec<u8>) {
        *self.answer.lock().unwrap() = answer;
        self.connections.store(0, Ordering::SeqCst);
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// SEC-A1, PX-01
/// W-04
fn exactly_one_listener(runtime: Runtime) {
    let world = World::start(runtime);
    assert_eq!(listeners(world.agent.id()), ["0100007F:0C08"], "127.0.0.1:3080 and nothing else");
    let nobody = Caller::nobody(&world.sandbox);
    for elsewhere in ["127.0.0.2:3080", "169.254.169.254:3080", "168.63.129.16:3080", "[::1]:3080"] {
        let error = nobody.try_connect(elsewhere).expect_err(elsewhere);
        assert!(matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::AddrNotAvailable), "{elsewhere}: {error}");
    }
    nobody.connect(LISTENER);
}

/// SEC-A3, SEC-A4, PX-05, PX-19: there is no tunnel, no upgrade, no other protocol.
fn odd_first_bytes(runtime: Runtime) {
    let calm = Calm::start(runtime);
    let nobody = Caller::nobody(&calm.world.sandbox);
    let root = Caller::root(&calm.world.sandbox);
    let mut noise = vec![0_u8; 5000];
    let mut state = 0x9E37_79B9_u32;
    for byte in &mut noise {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        *byte = (state >> 24) as u8;
    }
    let hello = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03abcdefghijklmnopqrstuvwxyz\n\r\n".to_vec();
    for (caller, to) in [(&nobody, IMDS), (&root, WIRESERVER), (&nobody, LISTENER)] {
        let statuses = |bytes: &[u8]| {
            let mut wire = caller.connect(to);
            let _ = wire.try_send(bytes);
            let _ = wire.stream().shutdown(Shutdown::Write);
            let mut statuses: Vec<u16> = Vec::new();
            while let Ok(answer) = wire.try_answer(false) {
                assert!(!answer.is_marked(), "{answer:?}");
                statuses.push(answer.status);
            }
            assert!(wire.rest().is_empty(), "{}", wire.rest());
            statuses
        };
        assert!(matches!(statuses(&noise)[..], [] | [400]), "noise");
        assert_eq!(statuses(&hello), [400], "a TLS hello");
        assert_eq!(statuses(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), [0; 0], "PX-05");
        assert_eq!(statuses(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n"), [405]);
        assert_eq!(statuses(b"TRACE / HTTP/1.1\r\nHost: h\r\n\r\n"), [405]);
        assert_eq!(statuses(b"FROBNICATE / HTTP/1.1\r\nHost: h\r\n\r\n"), [405]);
        assert_eq!(statuses(b"\r\n\r\n"), [0; 0], "empty lines are skipped");
        assert_eq!(statuses(b"GET /\r\n\r\n"), [400], "HTTP/0.9");
        assert_eq!(statuses(b""), [0; 0]);
    }
    assert!(calm.world.seen().is_empty(), "{:?}", calm.world.seen());
    // An upgrade that is offered is an ordinary request; the connection goes on in HTTP/1.1.
    let mut wire = nobody.connect(IMDS);
    wire.send("GET /test/echo HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n");
    assert_eq!(wire.answer().status, 200);
    wire.send(get("/test/echo"));
    assert_eq!(wire.answer().status, 200);
    drop(wire);
    calm.again();
}

/// SEC-A3, SEC-G2
fn oversized_and_endless_messages(runtime: Runtime) {
    let calm = Calm::start(runtime);
    let nobody = Caller::nobody(&calm.world.sandbox);
    let root = Caller::root(&calm.world.sandbox);
    let head = "PUT /test/echo HTTP/1.1\r\nHost: h\r\n";
    // Without end, until the agent has enough; what it says and that it closes.
    for (start, filler, status) in [
        ("GET / HTTP/1.1\r\n", "X-Field: and another one\r\n", 431),
        ("GET / HTTP/1.1\r\nX: ", "one endless value ", 431),
        ("GET / HTTP/1.1\r\n", "an-endless-name", 431),
        ("GET /", "endless", 414),
        ("GET ", "/endless", 414),
        ("", "NOLINEEND", 400),
        ("", "\r\n", 0),
    ] {
        let mut wire = nobody.connect(IMDS);
        let _ = wire.try_send(start);
        let block = filler.repeat(65_536 / filler.len());
        let mut sent = 0;
        while sent < 4 << 20 && wire.try_send(&block).is_ok() {
            sent += block.len();
        }
        if status == 0 {
            // Empty lines before a request are skipped one by one (RFC 9112 section 2.2); PX-14 ends it.
            wire.send(get("/test/bytes?n=1"));
            assert_eq!(wire.answer().status, 200);
            continue;
        }
        let answer = wire.try_answer(false);
        // A client that goes on sending after the answer may lose it to the reset; it must not get anything else.
        if let Ok(answer) = &answer {
            assert_eq!(answer.status, status, "{start:?} {filler:?}");
        }
        // One that stops in time gets it.
        let mut wire = nobody.connect(IMDS);
        wire.send(start);
        wire.send(filler.repeat(80_000 / filler.len()));
        let answer = wire.answer();
        assert_eq!((answer.status, answer.is_marked()), (status, false), "{start:?} {filler:?}");
    }
    // Announced: a target of 100 KB, bodies of 100 MB (the exempt limit is 100 MiB).
    for (caller, to, request, status) in [
        (&nobody, IMDS, format!("GET /{} HTTP/1.1\r\n\r\n", "t".repeat(100_000)), 414),
        (&nobody, IMDS, format!("{head}Content-Length: 100000000\r\n\r\n"), 413),
        (&root, HOSTGA, "PUT /vmAgentLog HTTP/1.1\r\nContent-Length: 104857601\r\n\r\n".to_owned(), 413),
        (&nobody, IMDS, format!("{head}Transfer-Encoding: chunked\r\n\r\n5f5e100\r\n"), 413),
        (&nobody, IMDS, format!("{head}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"), 413),
        (&nobody, IMDS, format!("{head}Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n"), 400),
    ] {
        let mut wire = caller.connect(to);
        wire.send(&request);
        let answer = wire.answer();
        assert_eq!((answer.status, answer.is_marked()), (status, false), "{request:.80}");
        wire.half_close();
        assert_eq!(wire.end(), End::Closed, "{request:.80}");
    }
    // Endless chunks, endless chunk lines, endless trailers.
    for (filler, statuses) in
        [("1\r\nx\r\n", &[413][..]), ("0", &[400]), ("5;extension", &[400]), ("0\r\nTrailer: x\r\n", &[400])]
    {
        let mut wire = nobody.connect(IMDS);
        wire.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n{}", if filler.starts_with("0\r") { filler } else { "" }));
        let filler = filler.strip_prefix("0\r\n").unwrap_or(filler);
        let block = filler.repeat(65_536 / filler.len());
        let mut sent = 0;
        while sent < 1 << 20 && wire.try_send(&block).is_ok() {
            sent += block.len();
        }
        if let Ok(answer) = wire.try_answer(false) {
            assert!(statuses.contains(&answer.status), "{filler}: {answer:?}");
        }
    }
    assert!(calm.world.seen().iter().all(|r| r.target == "/test/bytes?n=1"), "{:?}", calm.world.seen());
    // SEC-G2: 10,000 parameters are just a long query.
    let parameters: String = (0..10_000).map(|n| format!("&p{}", n % 97)).collect();
    let answer = nobody.ask(IMDS, get(&format!("/test/bytes?n=5{parameters}")));
    assert!(answer.is_marked() && answer.status == 200, "{answer:?}");
    calm.again();
}

/// PX-14: 10 s for a head, from accept or from its first byte; a hundred such clients disturb nobody.
fn slow_heads_are_cut_off(runtime: Runtime) {
    const COUNT: usize = 120;
    let calm = Calm::start(runtime);
    let slow = Caller::new(&calm.world.sandbox, &user(1001));
    let others = Caller::nobody(&calm.world.sandbox);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let served = scope.spawn(|| {
            let mut count = 0;
            while !over.load(Ordering::Relaxed) {
                ordinary(&others);
                count += 1;
            }
            count
        });
        let started = Instant::now();
        let mut open: VecDeque<(usize, Wire, Instant)> = (0..COUNT)
            .map(|n| {
                let mut wire = slow.connect(IMDS);
                let mut since = Instant::now();
                if n % 3 == 2 {
                    // Not the first request of the connection: then the first byte counts.
                    wire.send(get("/test/bytes?n=1"));
                    assert_eq!(wire.answer().status, 200);
                    since = Instant::now();
                    wire.send("G");
                }
                (n, wire, since)
            })
            .collect();
        let made = Instant::now();
        assert!(made - started < Duration::from_secs(5), "making the connections took {:?}", made - started);
        let head = get(&format!("/{}", "slow".repeat(20)));
        let mut next = 1;
        while !open.is_empty() {
            // One byte each, for two thirds of them; the others say nothing at all, or nothing more.
            for (n, wire, _) in &mut open {
                if *n % 2 == 0 {
                    let _ = wire.try_send(&head[next..=next]);
                }
            }
            next += 1;
            let pause = Instant::now() + Duration::from_millis(400);
            while let Some(left) = pause.checked_duration_since(Instant::now()).filter(|_| !open.is_empty()) {
                let mut fds: Vec<PollFd<'_>> = open.iter().map(|(_, w, _)| PollFd::new(w.stream(), PollFlags::IN)).collect();
                poll(&mut fds, Some(&left.try_into().unwrap())).unwrap();
                let ended: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
                for ended in ended {
                    let (n, mut wire, since) = open.pop_front().unwrap();
                    if !ended {
                        open.push_back((n, wire, since));
                        continue;
                    }
                    // Without a response; with a reset if a byte came after.
                    wire.end();
                    let took = since.elapsed();
                    assert!(took > Duration::from_millis(9_900) && took < Duration::from_secs(12), "{n}: cut off after {took:?}");
                }
            }
            assert!(started.elapsed() < Duration::from_secs(20), "{} are still open", open.len());
        }
        over.store(true, Ordering::Relaxed);
        assert!(served.join().unwrap() > 20);
    });
    assert!(calm.world.seen().iter().all(|r| r.target.starts_with("/test/bytes")));
    calm.again();
}

/// A client that resets wherever it is; the host's delays hold the agent in each state meanwhile.
fn resets_at_every_state(runtime: Runtime) {
    const COUNT: usize = 40;
    let calm = Calm::start(runtime);
    let nobody = Caller::nobody(&calm.world.sandbox);
    let root = Caller::root(&calm.world.sandbox);
    let upload = "PUT /vmAgentLog HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\nbeginning";
    for (caller, to, bytes) in [
        (&nobody, IMDS, String::new()),
        (&nobody, IMDS, "GET /test/by".to_owned()),
        (&nobody, IMDS, "PUT /test/echo HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf".to_owned()),
        (&nobody, IMDS, "PUT /test/echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhalf".to_owned()),
        (&nobody, IMDS, get("/test/slow?ms=200")),
        (&nobody, IMDS, get("/test/slow?ms=200&part=body&n=100000")),
        (&nobody, IMDS, get("/test/bytes?n=3000000")),
        (&nobody, IMDS, get("/test/chunked?n=3000000")),
        (&nobody, IMDS, get("/test/bytes?n=10") + "GET /next"),
        (&nobody, IMDS, get("/provision")),
        (&nobody, WIRESERVER, get("/machine")),
        (&nobody, LISTENER, get("/")),
        (&root, HOSTGA, upload.to_owned()),
    ] {
        for n in 0..COUNT {
            let mut wire = caller.connect(to);
            wire.send(&bytes);
            // At once, and when the answer has begun.
            if n % 2 == 1 && bytes.ends_with("\r\n\r\n") {
                wire.take(1).unwrap();
            }
            wire.reset();
        }
        ordinary(&nobody);
    }
    calm.again();
}

/// PX-14a, SEC-G1
/// S-54, S-55
fn as_many_connections_as_there_are_places(runtime: Runtime) {
    const PLACES: usize = 512;
    // Of 1024, 64 are for root alone.
    const REST: usize = 1024 - 64 - PLACES;
    let calm = Calm::start(runtime);
    let sandbox = &calm.world.sandbox;
    let (ann, bob, eve) =
        (Caller::new(sandbox, &user(1001)), Caller::new(sandbox, &user(1002)), Caller::new(sandbox, &user(1003)));
    let is_served = |wire: &mut Wire| {
        wire.send(get("/provision"));
        let answer = wire.answer();
        assert_eq!(answer.status, 200);
    };
    // An idle connection keeps its place; one more than there are places for is closed right after accept.
    let fill = |caller: &Caller, to: &str, count: usize, places: usize| {
        let mut all = caller.connect_many(to, count);
        let mut held: Vec<Wire> = all.drain(..places).collect();
        held.iter_mut().for_each(is_served);
        for mut beyond in all {
            beyond.end();
        }
        held
    };
    let mut anns = fill(&ann, IMDS, 1024, PLACES);
    ordinary(&bob);
    ordinary(&eve);
    ann.connect(WIRESERVER).end();
    let bobs = fill(&bob, WIRESERVER, PLACES + 10, REST);
    // All places are taken: nobody else gets one but root, and those who have one are served.
    eve.connect(IMDS).end();
    ordinary(&Caller::root(sandbox));
    is_served(&mut anns[PLACES - 1]);
    drop(bobs);
    // Direct connections count as one user.
    calm.world.wait("places are free again", || {
        let mut wire = eve.connect(IMDS);
        wire.try_send(get("/provision")).ok()?;
        wire.try_answer(false).ok()
    });
    ordinary(&eve);
    drop(anns);
    calm.world.wait("the agent has noticed", || (usage(calm.pid).descriptors < 100).then_some(()));
    let direct = fill(&ann, LISTENER, PLACES + 10, PLACES);
    bob.connect(LISTENER).end();
    let mut root = Caller::root(sandbox).connect(LISTENER);
    is_served(&mut root);
    drop(root);
    ordinary(&bob);
    // And each as one of its user's, too: nobody gets more than half of the places by going both ways.
    ann.connect(IMDS).end();
    drop(direct);
    drop((ann, bob, eve));
    let log = calm.world.agent.output() + &calm.world.sandbox.log("ProxyAgent.log").unwrap_or_default();
    let lines = log.lines().filter(|l| l.contains("Too many connections")).count();
    assert!(lines < 30, "at most one line per second, but there are {lines}");
    calm.again();
}

/// SEC-G1
fn connections_in_a_row_and_at_once(runtime: Runtime) {
    let calm = Calm::start(runtime);
    let (ann, bob) = (Caller::new(&calm.world.sandbox, &user(1001)), Caller::new(&calm.world.sandbox, &user(1002)));
    for _ in 0..2000 {
        assert_eq!(ann.ask(IMDS, get("/test/bytes?n=10")).status, 200);
    }
    let mut many = ann.connect_many(IMDS, 200);
    many.iter_mut().for_each(|wire| wire.send(get("/test/slow?ms=100&n=1000")));
    ordinary(&bob);
    assert!(many.iter_mut().all(|wire| wire.answer().body.len() == 1000));
    let seen = calm.world.seen();
    assert!(seen.len() == 2201 && seen.iter().all(|r| r.verified == "signed"), "{}", seen.len());
    drop(many);
    calm.again();
}

/// Back-pressure: what a client does not read stays with the host, and with nobody's memory.
fn a_client_that_never_reads(runtime: Runtime) {
    const COUNT: u64 = 60;
    let calm = Calm::start(runtime);
    let (ann, bob) = (Caller::new(&calm.world.sandbox, &user(1001)), Caller::new(&calm.world.sandbox, &user(1002)));
    let mut deaf = Vec::new();
    for target in ["/test/bytes?n=10485760", "/test/chunked?n=10485760&chunk=100", "/test/close?n=10485760"] {
        for _ in 0..COUNT / 3 {
            let mut wire = ann.connect(IMDS);
            // Also its requests pile up.
            wire.send(get(target).repeat(20));
            deaf.push(wire);
        }
    }
    calm.world.wait("the host has begun all answers", || (calm.world.seen().len() >= deaf.len()).then_some(()));
    for _ in 0..50 {
        ordinary(&bob);
    }
    let now = usage(calm.pid);
    // Both directions and a thread's stack.
    assert!(now.resident < calm.usage.resident + COUNT * 256, "{:?} {now:?}", calm.usage);
    // Nothing was lost meanwhile.
    let mut wire = deaf.pop().unwrap();
    assert_eq!(wire.answer().body.len(), 10_485_760);
    let mut wire = deaf.remove(0);
    for _ in 0..2 {
        assert_eq!(wire.answer().body.len(), 10_485_760);
    }
    drop((deaf, wire));
    calm.again();
}

/// Processes that connect and are gone, with and without a request, one after the other with recycled ports and process ids.
const VANISHING: &str = r#"
import os, socket, sys
for n in range(400):
    pid = os.fork()
    if pid == 0:
        if n % 4 == 1: os.setuid(30000 + n)
        s = socket.create_connection(("169.254.169.254", 80))
        if n % 2: s.sendall(b"GET /test/gone HTTP/1.1\r\nHost: h\r\n\r\n")
        if n % 8 == 7: s.recv(1)
        os._exit(0)
    if n % 10 == 9:
        try:
            while True: os.waitpid(-1, 0)
        except ChildProcessError: pass
print("done")
"#;

/// SEC-G3, SEC-10
fn processes_that_vanish(runtime: Runtime) {
    let calm = Calm::start(runtime);
    let mut command = calm.world.sandbox.command("/usr/bin/python3");
    let mut vanishing = command.args(["-c", VANISHING]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let ann = Caller::new(&calm.world.sandbox, &user(1001));
    let root = Caller::root(&calm.world.sandbox);
    let mut rounds = 0;
    while vanishing.try_wait().unwrap().is_none() || rounds < 20 {
        rounds += 1;
        let target = format!("/test/bytes?n={rounds}&ann");
        assert_eq!(ann.ask(IMDS, get(&target)).status, 200, "never 421");
        assert_eq!(calm.world.seen_for(&target).unwrap().claims.as_deref(), Some("{ \"isRoot\": \"false\"}"), "never another's");
        let target = format!("/test/bytes?n={rounds}&root");
        assert_eq!(root.ask(WIRESERVER, get(&target)).status, 200, "never 403");
        assert_eq!(calm.world.seen_for(&target).unwrap().claims.as_deref(), Some("{ \"isRoot\": \"true\"}"), "never another's");
    }
    assert!(vanishing.wait_with_output().unwrap().status.success());
    let audit = calm
        .world
        .audit_lines(2 * rounds, |l| l["url"].as_str().is_some_and(|u| u.starts_with("/test/bytes?n=") && u.contains('&')));
    for line in audit {
        let ann = line["url"].as_str().unwrap().ends_with("ann");
        assert_eq!((&line["userId"], &line["runAsElevated"]), (&(if ann { 1001 } else { 0 }).into(), &(!ann).into()), "{line}");
    }
    drop((ann, root));
    calm.again();
}
