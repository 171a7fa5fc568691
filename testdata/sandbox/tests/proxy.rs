//! The proxy as its clients meet it: real sockets, real eBPF, and a host in enforce mode that verifies every signature with
//! code of its own. proxy.md sections 3, 4 and 6; wire.md section 4. These tests need root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is the report")]

mod support;

use std::fmt::Write as _;
use std::io::Write as _;

use sandbox::{Record, User};
use serde_json::Value;
use support::process::{forget_peak, usage};
use support::wire::{Answer, Caller, End, HOSTGA, IMDS, LISTENER, WIRESERVER, Wire};
use support::{Runtime, World, on_both_runtimes};

on_both_runtimes!(
    every_method,
    every_signature_vector_that_can_be_sent,
    chunked_request_bodies,
    expect_100_continue,
    a_thousand_requests_on_one_connection,
    pipelined_requests_are_answered_in_order,
    large_answers,
    answers_without_a_body,
    interim_responses_are_swallowed,
    a_host_that_closes_between_requests,
    a_host_that_fails,
    a_log_upload_streams_in_bounded_memory,
    telemetry_is_exempt,
    forged_headers_never_reach_the_host,
    the_marker_is_on_host_responses_only,
    body_limits,
    http_1_0,
    refusals,
    local_endpoints,
    a_direct_connection_gets_nowhere,
);

const MIB: usize = 1 << 20;
/// Limit of a signed body (W-67).
const SIGNED: usize = 102_400;

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\nMetadata: true\r\n\r\n")
}

fn put(target: &str, body: &str) -> String {
    format!("PUT {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// The only request that the host saw since the last look.
fn only(world: &World) -> Record {
    let mut seen = world.seen();
    world.host.host().records.clear();
    assert_eq!(seen.len(), 1, "{seen:#?}");
    seen.remove(0)
}

fn is_ours(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(!answer.is_marked(), "W-69: {answer:?}");
    assert_eq!(answer.values("date").len(), 1, "PX-37: {answer:?}");
    assert_eq!(answer.values("content-length").len(), 1, "PX-37: {answer:?}");
}

fn is_the_hosts(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(answer.is_marked(), "W-69: {answer:?}");
}

/// What [`azure-host-sim`'s generated bodies](sandbox::Server) look like: printable, with a period of 95.
fn is_pattern(body: &[u8], length: usize) {
    assert_eq!(body.len(), length);
    let wrong = body.iter().enumerate().position(|(at, byte)| *byte != b' ' + (at % 95) as u8);
    assert_eq!(wrong, None, "first wrong byte of {length}");
}

/// The values of a header as `/test/echo` saw them.
fn echoed<'a>(echo: &'a Value, name: &str) -> Vec<&'a str> {
    let fields = echo["headers"].as_array().unwrap();
    let wanted = fields.iter().filter(|f| f[0].as_str().is_some_and(|n| n.eq_ignore_ascii_case(name)));
    wanted.map(|f| f[1].as_str().unwrap()).collect()
}

/// W-01 to W-03, W-42, SEC-B1
fn every_method(runtime: Runtime) {
    let world = World::start(runtime);
    let root = Caller::root(&world.sandbox);
    let nobody = Caller::nobody(&world.sandbox);
    for (caller, to) in [(&nobody, IMDS), (&root, IMDS), (&root, WIRESERVER), (&root, HOSTGA)] {
        let mut wire = caller.connect(to);
        for method in ["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH"] {
            let body = if matches!(method, "POST" | "PUT" | "PATCH") { "some=body&\n" } else { "" };
            let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
            wire.send(format!("{method} /test/echo HTTP/1.1\r\nHost: h\r\n{length}\r\n{body}"));
            let answer = if method == "HEAD" { wire.answer_to_head() } else { wire.answer() };
            is_the_hosts(&answer, 200);
            if method != "HEAD" {
                assert_eq!((&answer.json()["method"], &answer.json()["bodyLength"]), (&method.into(), &body.len().into()));
            }
            let record = only(&world);
            assert_eq!((record.method.as_str(), record.verified.as_str(), record.status), (method, "signed", 200), "{to}");
        }
    }
}

/// The rows of signature.json as requests. Each arrives as it was sent, and the host's own canonicalization agrees with the
/// agent's about what was signed (W-52 to W-59).
/// SEC-05
fn every_signature_vector_that_can_be_sent(runtime: Runtime) {
    let world = World::start(runtime);
    let root = Caller::root(&world.sandbox);
    let vectors: Value = serde_json::from_str(include_str!("../../vectors/signature.json")).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut sent = 0;
    for vector in vectors["vectors"].as_array().unwrap() {
        let (id, method, target) = (text(&vector["id"]), text(&vector["method"]), text(&vector["target"]));
        // SIG-22 is the agent's own attestation: a host takes it from nobody else. (The agent was provisioned with one.)
        let target = match (text(&vector["kind"]).as_str(), id.as_str()) {
            ("request", "SIG-22") => continue,
            ("request" | "target", _) => target,
            _ => continue,
        };
        let method = if method.is_empty() { "GET".to_owned() } else { method };
        let body = base64(&text(&vector["body_base64"]));
        let fields: Vec<(String, String)> =
            vector["headers"].as_array().into_iter().flatten().map(|f| (text(&f[0]), text(&f[1]))).collect();
        let has = |name: &str| fields.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        let (_, query) = target.split_once('?').map_or((&target[..], ""), |(p, _)| (p, &target[p.len()..]));
        for target in [target.clone(), format!("/test/echo{query}")] {
            let mut request = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
            for (name, value) in &fields {
                write!(request, "{name}:{}{value}\r\n", if value.starts_with('\t') { "" } else { " " }).unwrap();
            }
            request.extend_from_slice(b"\r\n");
            if has("transfer-encoding") {
                for piece in body.chunks(5) {
                    write!(request, "{:x}\r\n", piece.len()).unwrap();
                    request.extend_from_slice(piece);
                    request.extend_from_slice(b"\r\n");
                }
                request.extend_from_slice(b"0\r\n\r\n");
            } else {
                request.extend_from_slice(&body);
            }
            let mut wire = root.connect(WIRESERVER);
            wire.send(&request);
            let mut answer = wire.answer();
            if has("expect") {
                assert_eq!(answer.status, 100, "{id}: PX-78");
                answer = wire.answer();
            }
            assert!(answer.is_marked(), "{id} {target}: {answer:?}");
            let record = only(&world);
            assert_eq!((record.verified.as_str(), &record.target), ("signed", &target), "{id}");
            assert_eq!((record.body, record.method.as_str()), (body.len() as u64, method.as_str()), "{id}");
            if target.starts_with("/test/echo") {
                let echo = answer.json();
                assert_eq!(echo["target"], target.as_str(), "{id}");
                let ours = |name: &str| name.to_ascii_lowercase().starts_with("x-ms-azure-host-");
                let kept = |name: &str, value: &str| (!ours(name)).then(|| (name.to_owned(), value.to_owned()));
                let arrived: Vec<_> =
                    echo["headers"].as_array().unwrap().iter().filter_map(|f| kept(f[0].as_str()?, f[1].as_str()?)).collect();
                let left: Vec<_> = fields.iter().filter_map(|(n, v)| kept(n, v.trim())).collect();
                assert_eq!(arrived, left, "{id}: nothing else is touched (PX-74, PX-77)");
            }
            sent += 1;
        }
    }
    assert_eq!(sent, 2 * 23, "every row but those without a request");
}

fn base64(text: &str) -> Vec<u8> {
    let sextets = text.bytes().filter(|b| *b != b'=').map(|b| match b {
        b'A'..=b'Z' => b - b'A',
        b'a'..=b'z' => b - b'a' + 26,
        b'0'..=b'9' => b - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => panic!("{text} is not base64"),
    });
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for sextet in sextets {
        (bits, held) = ((bits << 6) | u32::from(sextet), held + 6);
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}

/// PX-76, W-57: bodies in chunks are signed decoded, and sent with the transfer-encoding that was signed, also when empty.
fn chunked_request_bodies(runtime: Runtime) {
    let world = World::start(runtime);
    let nobody = Caller::nobody(&world.sandbox);
    let mut wire = nobody.connect(IMDS);
    let head = "POST /test/echo HTTP/1.1\r\nHost: h\r\ntransfer-encoding:  Chunked \r\n\r\n";
    for (body, length, sha) in [
        ("0\r\n\r\n", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("5\r\nhello\r\n0\r\n\r\n", 5, "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"),
        (
            "1\r\nh\r\n004;x=\"a;b\"\r\nello\r\n00\r\nX-T: 1\r\n\r\n",
            5,
            "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
        ),
    ] {
        wire.send(format!("{head}{body}"));
        let answer = wire.answer();
        is_the_hosts(&answer, 200);
        let echo = answer.json();
        assert_eq!((&echo["bodyLength"], &echo["bodySha256"]), (&length.into(), &sha.into()), "{body:?}");
        assert_eq!(echoed(&echo, "transfer-encoding"), ["Chunked"], "W-57");
        assert_eq!(only(&world).verified, "signed");
    }
    // The same, a byte at a time.
    for byte in format!("{head}3\r\nabc\r\n0\r\n\r\n").bytes() {
        wire.send([byte]);
    }
    assert_eq!(wire.answer().json()["bodyLength"], 3);
    assert_eq!(only(&world).verified, "signed");
}

/// PX-78
fn expect_100_continue(runtime: Runtime) {
    let world = World::start(runtime);
    let mut wire = Caller::nobody(&world.sandbox).connect(IMDS);
    for round in 0..3 {
        wire.send("PUT /test/echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        let interim = wire.answer();
        assert_eq!((interim.status, interim.is_marked()), (100, false), "round {round}");
        assert!(world.seen().is_empty(), "nothing is sent before the body is complete (PX-76)");
        wire.send("hello");
        let answer = wire.answer();
        is_the_hosts(&answer, 200);
        assert_eq!(answer.json()["bodyLength"], 5);
        assert_eq!(echoed(&answer.json(), "expect"), ["100-continue"], "still forwarded");
        assert_eq!(only(&world).verified, "signed");
    }
}

/// PX-11, PX-13
fn a_thousand_requests_on_one_connection(runtime: Runtime) {
    let world = World::start(runtime);
    let mut wire = Caller::nobody(&world.sandbox).connect(IMDS);
    for n in 0..1000 {
        wire.send(get(&format!("/test/bytes?n={n}")));
        let answer = wire.answer();
        is_the_hosts(&answer, 200);
        assert_eq!(answer.body.len(), n);
    }
    let seen = world.seen();
    assert_eq!(seen.len(), 1000);
    assert!(seen.iter().all(|r| r.verified == "signed" && r.connection == seen[0].connection), "one connection, all signed");
}

fn pipelined_requests_are_answered_in_order(runtime: Runtime) {
    let world = World::start(runtime);
    let mut wire = Caller::nobody(&world.sandbox).connect(IMDS);
    let mut all = String::new();
    for n in 0..60 {
        // Of different sizes and durations, with and without bodies, and one that the agent answers itself.
        all += &match n % 4 {
            0 => get(&format!("/test/bytes?n={}", n * 1000)),
            1 => put("/test/echo", &"x".repeat(n)),
            2 => get(&format!("/test/slow?ms=3&n={n}")),
            _ => get("/provision"),
        };
    }
    wire.send(all + &get("/test/close?n=77"));
    for n in 0..60 {
        let answer = wire.answer();
        assert_eq!(answer.status, 200, "{n}");
        match n % 4 {
            0 => is_pattern(&answer.body, n * 1000),
            1 => assert_eq!(answer.json()["bodyLength"], n),
            2 => is_pattern(&answer.body, n),
            _ => assert_eq!(answer.json()["finished"], true),
        }
        assert_eq!(answer.is_marked(), n % 4 != 3, "{n}");
    }
    is_pattern(&wire.answer().body, 77);
    assert_eq!(wire.end(), End::Closed);
    assert!(world.seen().iter().all(|r| r.verified == "signed"));
}

/// PX-79: bodies of 10 MB in all three framings arrive unchanged.
fn large_answers(runtime: Runtime) {
    let world = World::start(runtime);
    let nobody = Caller::nobody(&world.sandbox);
    let n = 10 * MIB;
    let mut wire = nobody.connect(IMDS);
    wire.send(get(&format!("/test/bytes?n={n}")));
    let answer = wire.answer();
    is_the_hosts(&answer, 200);
    is_pattern(&answer.body, n);
    for (chunk, extras) in [(1000, ""), (100_000, "&ext=1&trailers=1"), (1 << 24, "&trailers=1")] {
        wire.send(get(&format!("/test/chunked?n={n}&chunk={chunk}{extras}")));
        let answer = wire.answer();
        is_the_hosts(&answer, 200);
        is_pattern(&answer.body, n);
        // The framing is ours, so trailers end here (RFC 9112 section 7.1.2 allows that).
        assert!(answer.trailers.is_empty(), "{chunk}");
    }
    wire.send(get(&format!("/test/close?n={n}")));
    let answer = wire.answer();
    is_the_hosts(&answer, 200);
    assert!(answer.closes());
    is_pattern(&answer.body, n);
    assert_eq!(wire.end(), End::Closed);
    let seen = world.seen();
    assert!(seen.len() == 5 && seen.iter().all(|r| r.verified == "signed"), "{seen:?}");
}

fn answers_without_a_body(runtime: Runtime) {
    let world = World::start(runtime);
    let mut wire = Caller::nobody(&world.sandbox).connect(IMDS);
    for _ in 0..3 {
        wire.send(get("/test/204"));
        is_the_hosts(&wire.answer(), 204);
        wire.send(get("/test/304"));
        let answer = wire.answer();
        is_the_hosts(&answer, 304);
        assert_eq!(answer.values("etag"), ["\"1\""]);
        wire.send("HEAD /test/head HTTP/1.1\r\nHost: h\r\n\r\n");
        let answer = wire.answer_to_head();
        is_the_hosts(&answer, 200);
        assert_eq!(answer.values("content-length"), ["12345"]);
        wire.send("HEAD /test/chunked?n=5 HTTP/1.1\r\nHost: h\r\n\r\n");
        is_the_hosts(&wire.answer_to_head(), 200);
        wire.send(get("/test/bytes?n=0"));
        is_the_hosts(&wire.answer(), 200);
    }
    assert!(wire.rest().is_empty());
}

/// PX-79
fn interim_responses_are_swallowed(runtime: Runtime) {
    let world = World::start(runtime);
    let mut wire = Caller::nobody(&world.sandbox).connect(IMDS);
    for _ in 0..3 {
        wire.send(get("/test/informational?n=10"));
        let answer = wire.answer();
        is_the_hosts(&answer, 200);
        assert!(answer.values("x-interim").is_empty());
        is_pattern(&answer.body, 10);
    }
}

/// PX-12: a keep-alive client does not notice.
fn a_host_that_closes_between_requests(runtime: Runtime) {
    let world = World::start(runtime);
    let mut wire = Caller::nobody(&world.sandbox).connect(IMDS);
    for n in 0..20 {
        wire.send(get(&format!("/test/close-after?n={n}")));
        let answer = wire.answer();
        is_the_hosts(&answer, 200);
        is_pattern(&answer.body, n);
        // It closes without having said so, as hosts do with idle connections; the agent has noticed when the host is done.
        world.wait("the host has closed", || (world.host.open_connections() == 0).then_some(()));
        wire.send(put("/test/echo", "body"));
        is_the_hosts(&wire.answer(), 200);
    }
    assert!(world.seen().len() == 40 && world.seen().iter().all(|r| r.verified == "signed"));
}

/// PX-31, PX-32, PX-80
fn a_host_that_fails(runtime: Runtime) {
    let mut world = World::start(runtime);
    let nobody = Caller::nobody(&world.sandbox);
    for target in ["/test/reset", "/test/garbage", "/test/hugehead?n=70000"] {
        let mut wire = nobody.connect(IMDS);
        wire.send(get(target));
        let answer = wire.answer();
        is_ours(&answer, 503);
        assert!(answer.closes(), "{target}");
        assert_eq!(wire.end(), End::Closed, "{target}");
        assert_eq!(world.audit_for(target)["responseStatus"], "503 Service Unavailable");
    }
    for target in ["/test/reset?after=5000", "/test/truncated?n=5000"] {
        let mut wire = nobody.connect(IMDS);
        wire.send(get(target));
        let error = wire.try_answer(false).expect_err(target);
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{target}: what came must not look complete");
    }
    let mut wire = nobody.connect(IMDS);
    wire.send(get("/test/bytes?n=1"));
    is_the_hosts(&wire.answer(), 200);
    assert!(world.agent.is_running().unwrap());
    // Nobody listens there any more.
    let options = sandbox::HostOptions { imds: "127.0.0.1:1080".parse().unwrap(), ..Default::default() };
    replace_host(&mut world, options);
    wire.send(get("/test/bytes?n=2"));
    let answer = wire.answer();
    is_ours(&answer, 502);
    assert!(answer.closes());
    assert_eq!(wire.end(), End::Closed);
}

/// Another host instead of the one that is there; the addresses are free before it starts.
fn replace_host(world: &mut World, options: sandbox::HostOptions) {
    let elsewhere = world.sandbox.start_host(sandbox::HostOptions::loopback()).unwrap();
    drop(std::mem::replace(&mut world.host, elsewhere));
    world.host = world.sandbox.start_host(options).unwrap();
}

/// W-67, PX-76: an exempt body is streamed. 50 MB go through an agent whose memory does not show it.
fn a_log_upload_streams_in_bounded_memory(runtime: Runtime) {
    const SIZE: usize = 50 * MIB;
    let world = World::start(runtime);
    let mut wire = Caller::root(&world.sandbox).connect(HOSTGA);
    wire.send(put("/vmAgentLog", "warm"));
    is_the_hosts(&wire.answer(), 200);
    let block = vec![b'z'; MIB];
    let chunk = [format!("{MIB:x}\r\n").as_bytes(), &block, b"\r\n"].concat();
    for chunked in [false, true] {
        let before = usage(world.agent.id());
        forget_peak(world.agent.id());
        let framing = if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {SIZE}") };
        wire.send(format!("PUT /vmAgentLog HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n"));
        for _ in 0..SIZE / MIB {
            wire.send(if chunked { &chunk } else { &block });
        }
        if chunked {
            wire.send("0\r\n\r\n");
        }
        is_the_hosts(&wire.answer(), 200);
        let after = usage(world.agent.id());
        assert!(after.peak < before.resident + 4096, "{before:?} {after:?}");
        let record = world.seen().pop().unwrap();
        assert_eq!((record.verified.as_str(), record.body), ("exempt", SIZE as u64), "chunked: {chunked}");
    }
}

/// W-65, W-66
fn telemetry_is_exempt(runtime: Runtime) {
    let world = World::start(runtime);
    let root = Caller::root(&world.sandbox);
    let body = "t".repeat(SIGNED + 1);
    let post = |target: &str| format!("POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for (to, request) in [
        (WIRESERVER, post("/machine/?comp=telemetrydata")),
        (WIRESERVER, post("/MACHINE/?Comp=TelemetryData")),
        (HOSTGA, put("/vmAgentLog", &body)),
        (HOSTGA, put("/VMAGENTLOG", &body)),
    ] {
        let answer = root.ask(to, &request);
        assert!(answer.is_marked(), "{answer:?}");
        let record = only(&world);
        assert_eq!((record.verified.as_str(), record.body), ("exempt", body.len() as u64), "{}", record.target);
        assert_eq!(record.claims.as_deref(), Some("{ \"isRoot\": \"true\"}"), "W-66");
        assert!(!record.headers.iter().any(|n| n.eq_ignore_ascii_case("x-ms-azure-host-authorization")));
    }
    // Anything else is signed, and bounded as such.
    for (to, request) in [
        (WIRESERVER, post("/machine?comp=telemetrydata")),
        (WIRESERVER, post("/machine/?comp=telemetrydata&")),
        (WIRESERVER, post("http://168.63.129.16/machine/?comp=telemetrydata")),
        (WIRESERVER, put("/machine/?comp=telemetrydata", &body)),
        (HOSTGA, post("/vmAgentLog")),
    ] {
        is_ours(&root.ask(to, &request), 413);
        assert!(world.seen().is_empty());
    }
    root.ask(WIRESERVER, "POST /machine?comp=telemetrydata HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx");
    assert_eq!(only(&world).verified, "signed");
    // An exempt request needs an authorized caller like any other (W-66, PX-67).
    let nobody = Caller::nobody(&world.sandbox);
    is_ours(&nobody.ask(HOSTGA, put("/vmAgentLog", "x")), 403);
    assert!(world.seen().is_empty());
}

/// SEC-B4, PX-74, PX-75
/// S-28
fn forged_headers_never_reach_the_host(runtime: Runtime) {
    const NAMES: [&str; 5] = [
        "x-ms-azure-host-authorization",
        "x-ms-azure-host-claims",
        "x-ms-azure-host-date",
        "x-ms-azure-signature",
        "x-ms-azure-time-tick",
    ];
    let world = World::start(runtime);
    let nobody = Caller::nobody(&world.sandbox);
    let root = Caller::root(&world.sandbox);
    let cases: [fn(&str) -> String; 3] = [str::to_owned, str::to_uppercase, |name| {
        name.char_indices().map(|(at, c)| if at % 2 == 0 { c.to_ascii_uppercase() } else { c }).collect()
    }];
    for repetitions in 1..=3 {
        let mut forged = String::new();
        for (n, in_case) in cases.iter().take(repetitions).enumerate() {
            for name in NAMES {
                let name = in_case(name);
                write!(forged, "{name}: {{ \"isRoot\": \"true\"}}\r\n{name}:\r\nX-Between: {n}\r\n").unwrap();
            }
        }
        let head = |line: &str| format!("{line} HTTP/1.1\r\n{forged}Host: h\r\n{forged}Content-Length: 1\r\n\r\nx");
        let answer = nobody.ask(IMDS, head("POST /test/echo"));
        is_the_hosts(&answer, 200);
        let echo = answer.json();
        assert_eq!(echoed(&echo, "x-ms-azure-host-claims"), ["{ \"isRoot\": \"false\"}"]);
        let dates = echoed(&echo, "x-ms-azure-host-date");
        assert!(dates.len() == 1 && dates[0].ends_with(" GMT"), "{dates:?}");
        let authorization = echoed(&echo, "x-ms-azure-host-authorization");
        assert!(authorization.len() == 1 && authorization[0].starts_with("Azure-HMAC-SHA256 "), "{authorization:?}");
        assert!(echoed(&echo, "x-ms-azure-signature").is_empty() && echoed(&echo, "x-ms-azure-time-tick").is_empty());
        assert_eq!(echoed(&echo, "x-between").len(), 2 * repetitions * NAMES.len(), "the others are kept");
        assert_eq!(only(&world).verified, "signed");
        // The same on an exempt one; the host's record has the names.
        is_the_hosts(&root.ask(HOSTGA, head("PUT /vmAgentLog")), 200);
        let record = only(&world);
        let count = |name: &str| record.headers.iter().filter(|n| n.eq_ignore_ascii_case(name)).count();
        assert_eq!(NAMES.map(count), [0, 1, 1, 0, 0], "{:?}", record.headers);
        assert_eq!((record.verified.as_str(), record.claims.as_deref()), ("exempt", Some("{ \"isRoot\": \"true\"}")));
    }
}

/// W-69
/// CLI-37, SEC-B1
fn the_marker_is_on_host_responses_only(runtime: Runtime) {
    let world = World::start(runtime);
    let nobody = Caller::nobody(&world.sandbox);
    for code in [200, 201, 204, 301, 304, 400, 401, 403, 404, 405, 410, 429, 500, 502, 503] {
        let answer = nobody.ask(IMDS, get(&format!("/test/status?code={code}")));
        is_the_hosts(&answer, code);
    }
    is_ours(&nobody.ask(WIRESERVER, get("/machine?comp=goalstate")), 403);
    is_ours(&nobody.ask(IMDS, get("/a/../b")), 403);
    is_ours(&nobody.ask(IMDS, get("/provision")), 200);
    is_ours(&nobody.ask(IMDS, get("/metadata/instance").replace("GET", "TRACE")), 405);
    is_ours(&nobody.ask(IMDS, "GET /\x01 HTTP/1.1\r\n\r\n"), 400);
    is_ours(&nobody.ask(LISTENER, get("/")), 421);
    assert_eq!(world.seen().len(), 15);
}

/// W-67, PX-18, PX-35
fn body_limits(runtime: Runtime) {
    let world = World::start(runtime);
    let nobody = Caller::nobody(&world.sandbox);
    let chunked = |size: usize| {
        let body = "c".repeat(size);
        format!("POST /test/echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n{body}\r\n0\r\n\r\n")
    };
    for request in [put("/test/echo", &"b".repeat(SIGNED)), chunked(SIGNED)] {
        let answer = nobody.ask(IMDS, request);
        is_the_hosts(&answer, 200);
        assert_eq!(answer.json()["bodyLength"], SIGNED);
        assert_eq!(only(&world).verified, "signed");
    }
    for request in [put("/test/echo", &"b".repeat(SIGNED + 1)), chunked(SIGNED + 1)] {
        let mut wire = nobody.connect(IMDS);
        wire.send(request);
        let answer = wire.answer();
        is_ours(&answer, 413);
        assert_eq!(answer.body, b"length limit exceeded");
        assert_eq!(answer.values("content-type"), ["text/plain; charset=utf-8"]);
        assert_eq!(wire.end(), End::Closed);
        assert!(world.seen().is_empty());
    }
    // It is the announcement that is refused, not the bytes (PX-18).
    let mut wire = nobody.connect(IMDS);
    wire.send(format!("PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", SIGNED + 1));
    is_ours(&wire.answer(), 413);
}

/// PX-05, PX-13, PX-37
fn http_1_0(runtime: Runtime) {
    let world = World::start(runtime);
    let nobody = Caller::nobody(&world.sandbox);
    let ends = |wire: &mut Wire, answer: &Answer| {
        assert!(answer.status_line.starts_with("HTTP/1.0 "), "{answer:?}");
        assert_eq!(wire.end(), End::Closed);
    };
    for target in ["/test/bytes?n=5000", "/test/chunked?n=5000&chunk=7", "/test/close?n=5000", "/test/informational?n=5000"] {
        let mut wire = nobody.connect(IMDS);
        wire.send(format!("GET {target} HTTP/1.0\r\n\r\n"));
        let answer = wire.answer();
        is_the_hosts(&answer, 200);
        assert!(answer.values("transfer-encoding").is_empty());
        is_pattern(&answer.body, 5000);
        ends(&mut wire, &answer);
    }
    let mut wire = nobody.connect(IMDS);
    for _ in 0..3 {
        wire.send("GET /test/bytes?n=9 HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
        let answer = wire.answer();
        is_the_hosts(&answer, 200);
        assert_eq!(answer.values("connection"), ["keep-alive"]);
    }
    wire.send("GET /provision HTTP/1.0\r\nMetadata: x\r\n\r\n");
    let answer = wire.answer();
    is_ours(&answer, 200);
    ends(&mut wire, &answer);
    let mut wire = nobody.connect(WIRESERVER);
    wire.send("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
    let answer = wire.answer();
    is_ours(&answer, 403);
    ends(&mut wire, &answer);
    // HTTP/1.1: the client says that this is the last one.
    let mut wire = nobody.connect(IMDS);
    wire.send("GET /test/bytes?n=3 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    is_the_hosts(&wire.answer(), 200);
    assert_eq!(wire.end(), End::Closed);
    // A client that has said everything still gets its answers.
    let mut wire = nobody.connect(IMDS);
    wire.send(get("/test/slow?ms=20&n=1") + &get("/test/bytes?n=2"));
    wire.half_close();
    is_pattern(&wire.answer().body, 1);
    is_pattern(&wire.answer().body, 2);
    assert_eq!(wire.end(), End::Closed);
}

/// proxy.md section 3, in the order of its rows.
fn refusals(runtime: Runtime) {
    let world = World::start(runtime);
    let nobody = Caller::nobody(&world.sandbox);
    let field = |count: usize| "a: b\r\n".repeat(count);
    let long = |length: usize| format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(length - 1));
    for (request, status, says_close) in [
        ("GET  / HTTP/1.1\r\n\r\n".to_owned(), 400, false),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(), 400, false),
        ("GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_owned(), 400, false),
        ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n".to_owned(), 400, false),
        ("GET /<x> HTTP/1.1\r\n\r\n".to_owned(), 400, false),
        (long(65_535), 414, false),
        (format!("GET / HTTP/1.1\r\n{}\r\n", field(101)), 431, false),
        (format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(65_536)), 431, false),
        ("BREW / HTTP/1.1\r\n\r\n".to_owned(), 405, true),
        ("get / HTTP/1.1\r\n\r\n".to_owned(), 405, true),
        (get("//"), 403, true),
        (get("/a..b"), 403, true),
        (get("/%2e%2E/x"), 403, true),
        (get("/metadata/%2e./x?y"), 403, true),
    ] {
        let mut wire = nobody.connect(IMDS);
        wire.send(&request);
        let answer = wire.answer();
        is_ours(&answer, status);
        assert_eq!(answer.closes(), says_close, "{:.60}", request);
        if status == 405 {
            assert_eq!(answer.values("allow"), ["GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH"], "PX-19");
            assert_eq!(answer.body, b"Method Not Allowed");
        } else {
            assert!(answer.body.is_empty(), "{:.60}", request);
        }
        assert_eq!(wire.end(), End::Closed, "{:.60}", request);
    }
    assert!(world.seen().is_empty(), "{:?}", world.seen());
    // What is just allowed, and what only looks like a traversal (PX-44).
    for request in [
        long(65_534),
        format!("GET / HTTP/1.1\r\n{}\r\n", field(100)),
        get("/metadata/./instance?x=..//.."),
        get("/a%2fb;c=.%20"),
        get("/metadata/instance?%252e"),
    ] {
        let answer = nobody.ask(IMDS, &request);
        assert!(answer.is_marked(), "{:.60}: {answer:?}", request);
        assert_eq!(only(&world).verified, "signed");
    }
}

/// proxy.md section 4
fn local_endpoints(runtime: Runtime) {
    let world = World::start(runtime);
    let nobody = Caller::nobody(&world.sandbox);
    let root = Caller::root(&world.sandbox);
    let agree = |answer: &Answer| {
        is_ours(answer, 200);
        assert_eq!(answer.values("content-type"), ["application/json; charset=utf-8"]);
        assert!(!answer.closes());
    };
    // Anyone, from anywhere, with any method (PX-47, PX-48, PX-49).
    for (caller, to) in [(&nobody, LISTENER), (&nobody, IMDS), (&nobody, WIRESERVER), (&root, HOSTGA)] {
        let mut wire = caller.connect(to);
        for request in [
            get("/provision"),
            get("/provision?"),
            get("/provision").replace("GET", "DELETE"),
            put("/provision", "ignored").replace("Host: h", "Metadata: 1"),
        ] {
            wire.send(&request);
            let answer = wire.answer();
            agree(&answer);
            assert_eq!(answer.body, b"{\"finished\":true,\"errorMessage\":\"\"}", "PX-54");
        }
        wire.send(get("/provision").replace("GET", "HEAD"));
        agree(&wire.answer_to_head());
        wire.send("GET /provision HTTP/1.1\r\nHost: h\r\n\r\n");
        let answer = wire.answer();
        is_ours(&answer, 400);
        assert!(answer.closes(), "PX-50");
    }
    // PX-46: the comparison is exact.
    for target in ["/provision?a", "/provision/", "/Provision", "http://127.0.0.1:3080/provision"] {
        is_ours(&nobody.ask(LISTENER, get(target)), 421);
    }
    // PX-60 to PX-63
    for to in [WIRESERVER, HOSTGA, IMDS] {
        let answer = root.ask(to, get("/gpa-aggregated-status"));
        agree(&answer);
        assert_eq!(
            answer.json()["proxyAgentStatus"]["keyLatchStatus"]["states"]["secureChannelState"],
            "WireServer Enforce -  IMDS Enforce - HostGA Enforce"
        );
        is_ours(&nobody.ask(to, get("/gpa-aggregated-status")), 403);
        is_ours(&root.ask(to, "GET /gpa-aggregated-status HTTP/1.1\r\nHost: h\r\n\r\n"), 400);
        // Root's group alone does not make root (S-09).
        let rootish = Caller::new(&world.sandbox, &User::new(4242, 0, &[0]));
        is_ours(&rootish.ask(to, get("/gpa-aggregated-status")), 403);
    }
    is_ours(&nobody.ask(LISTENER, get("/gpa-aggregated-status")), 403);
    agree(&root.ask(LISTENER, get("/gpa-aggregated-status")));
    assert!(world.seen().is_empty(), "{:?}", world.seen());
}

/// PX-23, PX-39, SEC-A5: not a proxy for those who come to it by themselves, whatever they name.
fn a_direct_connection_gets_nowhere(runtime: Runtime) {
    let world = World::start(runtime);
    for caller in [Caller::root(&world.sandbox), Caller::nobody(&world.sandbox)] {
        for (target, host) in [
            ("http://example.com/", "example.com"),
            ("http://169.254.169.254/metadata/instance", "169.254.169.254"),
            ("http://168.63.129.16/machine?comp=goalstate", "168.63.129.16"),
            ("/machine?comp=goalstate", "168.63.129.16"),
            ("/metadata/instance", "169.254.169.254"),
            ("*", "h"),
        ] {
            let mut wire = caller.connect(LISTENER);
            wire.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nMetadata: true\r\n\r\n"));
            let answer = wire.answer();
            is_ours(&answer, 421);
            assert!(answer.closes() && answer.body.is_empty());
            assert_eq!(wire.end(), End::Closed);
        }
        is_ours(&caller.ask(LISTENER, put("/vmAgentLog", "x")), 421);
    }
    assert!(world.seen().is_empty(), "{:?}", world.seen());
}
