//! A warm connection allocates nothing per request: head, decision by twenty rules, signature, forwarding, answer, record, trace.

#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the report")]

use azure_proxy_agent_core::authz::{Request, Scratch, explain};
use azure_proxy_agent_core::conn::{IOV, ProxyConn};
use azure_proxy_agent_core::effect::{ConnAnswer, ConnEffect, Cx, RecordKind, Recv, RequestCounter, Side};
use azure_proxy_agent_core::identity::{Destination, Peer};
use azure_proxy_agent_core::limits::Limits;
use azure_proxy_agent_core::policy::Policy;
use azure_proxy_agent_core::replay::{ClaimsSpec, PolicySpec};
use azure_proxy_agent_core::report;
use azure_proxy_agent_core::time::{Mono, Now, Wall};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{IoSlice, Write as _};
use std::sync::Arc;

/// The system's allocator, which counts how often this thread asks it for memory.
struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has no counter any more, and nobody reads it.
    let _ = COUNT.try_with(|c| c.set(c.get() + 1));
}

// SAFETY: every call goes to `System` unchanged, which keeps the contract of `GlobalAlloc`; counting touches a thread-local integer that
// needs no allocation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `realloc`; `ptr` came from `System`.
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`; `ptr` came from `System`.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Twenty privileges, the last of which is the caller's.
fn policy() -> Arc<Policy> {
    let list = |f: &dyn Fn(usize) -> String| (0..20).map(f).collect::<Vec<_>>().join(",");
    let privileges = list(&|n| {
        let path = if n == 19 { "/metadata".to_owned() } else { format!("/other/{n}") };
        format!(r#"{{"name":"p{n}","path":"{path}","queryParameters":{{"api-version":"2021-02-01"}}}}"#)
    });
    let roles = list(&|n| format!(r#"{{"name":"r{n}","privileges":["p{n}"]}}"#));
    let identities = list(&|n| format!(r#"{{"name":"i{n}","userName":"alice","exePath":"/usr/bin/curl"}}"#));
    let assignments = list(&|n| format!(r#"{{"role":"r{n}","identities":["i{n}"]}}"#));
    let json = format!(
        r#"{{"signer":"k1","rules":{{"imds":{{"defaultAccess":"deny","mode":"enforce","id":"x","rules":{{"privileges":[{privileges}],
        "roles":[{roles}],"identities":[{identities}],"roleAssignments":[{assignments}]}}}}}}}}"#
    );
    PolicySpec::parse("alloc", &json, 1).unwrap().policy
}

/// What the audit line says of it.
const RULE: &str = r#""rule":{"set":"x","mode":"enforce","privilege":"p19","role":"r19","assignment":19,"identity":"i19"}}"#;

/// One request and its answer, with nothing of its own that allocates. Returns how many bytes went to the host and to the caller.
fn exchange(
    conn: &mut ProxyConn,
    cx: Cx<'_>,
    (request, answer): (&[u8], &[u8]),
    peer: &Peer,
    trace: &mut Vec<u8>,
) -> (usize, usize) {
    let (mut to_host, mut to_client, mut answered, mut reported) = (0, 0, false, false);
    let mut left = request;
    loop {
        let mut moved = false;
        while let Some(effect) = conn.poll_effect(cx) {
            moved = true;
            match effect {
                ConnEffect::Identify => conn.handle_answer(cx, ConnAnswer::Identified(peer.clone())),
                ConnEffect::Connect { .. } => conn.handle_answer(cx, ConnAnswer::Connected),
                ConnEffect::Intend => assert!(conn.summary(RecordKind::Normal).forwarded),
                ConnEffect::Report(kind) => {
                    assert_eq!(conn.summary(kind).status.0, 200);
                    trace.clear();
                    report::write_audit(trace, &conn.summary(kind), cx.now.wall);
                    let line = std::str::from_utf8(trace).unwrap();
                    assert!(line.ends_with(RULE), "{line}");
                    trace.clear();
                    report::write_trace(trace, &conn.summary(kind), cx.now.wall);
                    report::write_trace_text(trace, &conn.summary(kind));
                    report::write_system_trace(trace, &conn.summary(kind), cx.now.wall);
                    reported = true;
                }
                other => panic!("{other:?}"),
            }
        }
        for side in [Side::Client, Side::Upstream] {
            let mut iov = [IoSlice::new(&[]); IOV];
            let count = conn.transmit(side, &mut iov);
            let n: usize = iov[..count].iter().map(|s| s.len()).sum();
            if n > 0 {
                moved = true;
                conn.transmitted(cx, side, n);
                *(if side == Side::Client { &mut to_client } else { &mut to_host }) += n;
            }
        }
        if !left.is_empty() {
            let space = conn.recv_space(Side::Client);
            let n = left.len().min(space.len());
            space[..n].copy_from_slice(&left[..n]);
            left = &left[n..];
            conn.handle_recv(cx, Side::Client, Recv::Data(n));
            moved = true;
        } else if to_host > 0 && !answered {
            answered = true;
            conn.recv_space(Side::Upstream)[..answer.len()].copy_from_slice(answer);
            conn.handle_recv(cx, Side::Upstream, Recv::Data(answer.len()));
            moved = true;
        }
        if !moved {
            assert!(reported, "the request has not ended");
            return (to_host, to_client);
        }
    }
}

fn allocations_of_warm_requests(request: &[u8]) {
    let policy = policy();
    let requests = RequestCounter::default();
    let mut now = Now { mono: Mono(0), wall: Wall(1_767_687_330_000_000_000) };
    let peer = Peer::Redirected { to: Destination::Imds.addr(), claims: ClaimsSpec::builtin("alice").unwrap() };
    let answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    let client = "127.0.0.1:40112".parse().unwrap();
    let mut conn = ProxyConn::new(Cx { now, policy: &policy, requests: &requests }, 1, client, Limits::DEFAULT);
    let mut trace = Vec::new();
    for warm in 0..100 {
        let before = COUNT.get();
        // A second each, so that both dates change.
        now.mono.0 += 1_000_000_000;
        now.wall.0 += 1_000_000_000;
        let cx = Cx { now, policy: &policy, requests: &requests };
        let (to_host, to_client) = exchange(&mut conn, cx, (request, answer), &peer, &mut trace);
        let allocations = COUNT.get() - before;
        // PX-111
        let trace = std::str::from_utf8(&trace).unwrap();
        assert_eq!(trace.contains(" 0[1] - Accepted a connection from 127.0.0.1:40112\n"), warm == 0, "{trace}");
        assert!(trace.contains(&format!(" {}[1] - Forwarded to the host\n", warm + 1)), "{trace}");
        assert!(to_host > request.len() && to_client > answer.len());
        assert!(warm > 0 || allocations > 0, "the counter counts nothing");
        assert!(warm < 2 || allocations == 0, "request {warm} allocated {allocations} times");
    }
}

#[test]
fn a_warm_get_allocates_nothing() {
    allocations_of_warm_requests(
        b"GET /metadata/instance/compute?api-version=2021-02-01&format=json HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\
          User-Agent: curl/8.5.0\r\nAccept: */*\r\nx-ms-azure-host-claims: forged\r\n\r\n",
    );
}

#[test]
fn a_warm_post_of_1_kb_allocates_nothing() {
    let mut request =
        b"POST /metadata/x?api-version=2021-02-01 HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\nContent-Length: 1024\r\n\r\n".to_vec();
    request.resize(request.len() + 1024, b'x');
    allocations_of_warm_requests(&request);
}

#[test]
fn a_warm_chunked_post_of_1_kb_allocates_nothing() {
    let mut request =
        b"POST /metadata/x?api-version=2021-02-01 HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n"
            .to_vec();
    request.resize(request.len() + 1024, b'x');
    request.extend_from_slice(b"\r\n0\r\n\r\n");
    allocations_of_warm_requests(&request);
}

/// Decisions by a thousand privileges and by all kinds of selectors, and what is said of them in a line that has room.
#[test]
fn a_warm_decision_and_its_explanation_allocate_nothing_r34() {
    let list = |n: usize, f: &dyn Fn(usize) -> String| (0..n).map(f).collect::<Vec<_>>().join(",");
    let privileges = list(1_000, &|n| format!(r#"{{"name":"p{n}","path":"/a/b{n}","queryParameters":{{"x":"{n}"}}}}"#));
    let names = list(1_000, &|n| format!("\"p{n}\""));
    let hash = "ab".repeat(32);
    let identity = |n: usize| match n % 8 {
        0 => format!(r#"{{"name":"i{n}","userName":"u{n}"}}"#),
        1 => format!(r#"{{"name":"i{n}","groupName":"g{n}"}}"#),
        2 => format!(r#"{{"name":"i{n}","exePath":"/bin/{n}"}}"#),
        3 => format!(r#"{{"name":"i{n}","processName":"x{n}"}}"#),
        4 => format!(r#"{{"name":"i{n}","uid":{n}}}"#),
        5 => format!(r#"{{"name":"i{n}","gid":{n}}}"#),
        6 => format!(r#"{{"name":"i{n}","cgroupPath":"/s{n}/*"}}"#),
        _ => format!(r#"{{"name":"i{n}","exeSha256":"{hash}","cgroupPath":"/a.slice/*"}}"#),
    };
    let (identities, whose) = (list(100, &identity), list(100, &|n| format!("\"i{n}\"")));
    let document = format!(
        r#"{{"rules":{{"imds":{{"defaultAccess":"deny","mode":"enforce","id":"x","rules":{{"privileges":[{privileges}],
        "roles":[{{"name":"r","privileges":[{names}]}}],"identities":[{identities}],
        "roleAssignments":[{{"role":"r","identities":[{whose}]}}]}}}}}}}}"#
    );
    let policy = PolicySpec::parse("alloc", &document, 1).unwrap().policy;
    let claims = |more: &str| {
        let json = format!(r#"{{"userId":100000,"groupId":100000,"userName":"alice","processFullPath":"/usr/bin/curl"{more}}}"#);
        ClaimsSpec::parse("c", &json).unwrap().claims
    };
    let member = claims(&format!(r#","exeSha256":"{hash}","cgroupPath":"/a.slice/b.service""#));
    let stranger = claims(r#","cgroupPath":"/a.slice/b.service""#);
    let (mut scratch, mut line) = (Scratch::new(), Vec::with_capacity(4096));
    for round in 0..3 {
        for n in 0..1_000 {
            let target = format!("/A/%62{n}/c?x={n}&y=%20");
            for (claims, forwards) in [(&member, true), (&stranger, false)] {
                let request = Request { method: b"GET", target: target.as_bytes() };
                let before = COUNT.get();
                let told = explain(&policy.rules, policy.epoch, Destination::Imds.addr(), claims, request, &mut scratch);
                line.clear();
                serde_json::to_writer(&mut line, &told).unwrap();
                write!(line, "{told}").unwrap();
                let allocations = COUNT.get() - before;
                assert_eq!(told.decision().forwards(), forwards, "{told}");
                assert!(round == 0 || allocations == 0, "{allocations} allocations: {told}");
            }
        }
    }
}
