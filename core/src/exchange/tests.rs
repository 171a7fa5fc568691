use super::*;
use crate::identity::Destination;
use crate::sign::{Key, KeyGuid, Signer};
use crate::time::{Mono, Wall};
use core::time::Duration;

const DATE: Wall = Wall(1_767_687_330_000_000_000);

fn request() -> HostRequest {
    let fields = &[("Metadata", "True "), ("Content-Type", "application/json")];
    let call = Call { to: Destination::WireServer, method: "POST", target: "/secure-channel/key", fields, body: b"{}" };
    HostRequest::new(&call, DATE, None)
}

fn now(secs: u64) -> Now {
    Now { mono: Mono(0) + Duration::from_secs(secs), wall: DATE }
}

/// Feeds `pieces`, then what ends the input.
fn run<'a>(pieces: impl Iterator<Item = &'a [u8]>, end: Recv) -> Option<Result<HostResponse, FetchError>> {
    let mut exchange = Exchange::new(now(0), request(), Limits::DEFAULT);
    for mut piece in pieces {
        while !piece.is_empty() && exchange.deadline().is_some() {
            let space = exchange.recv_space();
            let n = piece.len().min(space.len());
            space[..n].copy_from_slice(&piece[..n]);
            piece = &piece[n..];
            exchange.handle_recv(now(0), Recv::Data(n));
        }
    }
    exchange.poll().or_else(|| {
        exchange.handle_recv(now(0), end);
        exchange.poll()
    })
}

fn whole(bytes: &[u8]) -> Result<HostResponse, FetchError> {
    run(core::iter::once(bytes), Recv::Eof).expect("over at the end of input")
}

fn body(bytes: &[u8]) -> Result<Vec<u8>, FetchError> {
    whole(bytes).map(|r| r.body.to_vec())
}

#[test]
fn request_carries_the_fields_of_w08_to_w12() {
    let request = request();
    assert_eq!(
        request.head().escape_ascii().to_string(),
        "POST /secure-channel/key HTTP/1.1\\r\\n\
         x-ms-azure-host-date: Tue, 06 Jan 2026 08:15:30 GMT\\r\\n\
         host: 168.63.129.16\\r\\n\
         x-ms-azure-host-claims: { \\\"isRoot\\\": \\\"true\\\"}\\r\\n\
         content-length: 2\\r\\n\
         Metadata: True \\r\\n\
         Content-Type: application/json\\r\\n\\r\\n"
    );
    assert_eq!(request.body(), b"{}");
}

#[test]
fn request_goes_out_in_any_pieces() {
    let whole = [request().head(), request().body()].concat();
    for step in 1..whole.len() {
        let mut exchange = Exchange::new(now(0), request(), Limits::DEFAULT);
        let mut out = Vec::new();
        while exchange.interest().write {
            let n = exchange.transmit().len().min(step);
            out.extend_from_slice(&exchange.transmit()[..n]);
            exchange.transmitted(n);
        }
        assert_eq!(out, whole, "step {step}");
    }
}

#[test]
fn debug_shows_no_signature_sec08() {
    let signer = Signer::new(KeyGuid::parse("a1").unwrap(), &Key::from_hex("00ff").unwrap());
    let call = Call { to: Destination::WireServer, method: "GET", target: "/machine?comp=goalstate", fields: &[], body: b"" };
    let signed = HostRequest::new(&call, DATE, Some(&signer));
    let head = String::from_utf8_lossy(signed.head());
    assert!(head.contains("\r\nx-ms-azure-host-authorization: Azure-HMAC-SHA256 a1 "), "{head}");
    let exchange = Exchange::new(now(0), signed.clone(), Limits::DEFAULT);
    assert_eq!(format!("{signed:?}"), "HostRequest(WireServer GET /machine?comp=goalstate)");
    assert!(!format!("{exchange:?}").contains("HMAC"));
}

const RESPONSES: [&[u8]; 7] = [
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nx-ms-azure-host-date: Tue, 06 Jan 2026 08:15:30 GMT\r\nDate: Tue, 06 Jan 2026 08:15:31 GMT\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 500 never\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nT: 1\r\n\r\nrest",
    b"HTTP/1.0 404 Not Found\r\n\r\nuntil the end",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
];

#[test]
fn every_cut_gives_the_same_result() {
    for response in RESPONSES {
        let expected = whole(response);
        for cut in 0..=response.len() {
            let (a, b) = response.split_at(cut);
            assert_eq!(run([a, b].into_iter(), Recv::Eof), Some(expected.clone()), "cut at {cut}");
        }
        assert_eq!(run(response.chunks(1), Recv::Eof), Some(expected), "byte by byte");
    }
}

#[test]
fn framing() {
    let first = whole(RESPONSES[0]).unwrap();
    assert_eq!((first.status, first.body.as_slice()), (200, b"hello".as_slice()));
    assert_eq!(first.host_date.as_deref(), Some(b"Tue, 06 Jan 2026 08:15:30 GMT".as_slice()));
    assert_eq!(first.date.as_deref(), Some(b"Tue, 06 Jan 2026 08:15:31 GMT".as_slice()));
    assert_eq!(first.content_type.as_deref(), Some(b"application/json; charset=utf-8".as_slice()));
    assert_eq!(body(RESPONSES[1]).unwrap(), b"ok", "what follows the body is not read");
    let after_interim = whole(RESPONSES[2]).unwrap();
    assert_eq!((after_interim.status, after_interim.body.len()), (204, 0));
    assert_eq!(body(RESPONSES[3]).unwrap(), b"abc0123456789abcdef");
    assert_eq!(body(RESPONSES[4]).unwrap(), b"until the end");
}

/// S-63, W-23: a character in two chunks, in two reads, is one.
#[test]
fn a_character_is_not_split_by_chunks() {
    let response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n\xc3\r\n1\r\n\xa9\r\n0\r\n\r\n";
    let read = run(response.chunks(1), Recv::Eof).unwrap().unwrap();
    assert!(matches!(read.text(), Ok(Text::Json(text)) if text == "\u{e9}"));
}

#[test]
fn unclear_responses_are_refused() {
    for (bytes, error) in [
        (b"".as_slice(), FetchError::NoResponse),
        (b"HTTP/1.1 200 OK\r\nContent-Le", FetchError::Truncated),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", FetchError::Truncated),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", FetchError::Truncated),
        (b"HTTP/1.1 200 OK\nContent-Length: 1\n\na", FetchError::Malformed),
        (b"HTTP/2 200 OK\r\n\r\n", FetchError::Malformed),
        (b"SSH-2.0-x\r\n\r\n", FetchError::Malformed),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", FetchError::Malformed),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", FetchError::Malformed),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na", FetchError::Malformed),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", FetchError::Malformed),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", FetchError::Malformed),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n", FetchError::TooLarge),
    ] {
        assert_eq!(whole(bytes), Err(error), "{}", bytes.escape_ascii());
    }
    assert_eq!(run([b"HTTP/1.1 200 OK\r\n\r\nabc".as_slice()].into_iter(), Recv::Reset), Some(Err(FetchError::Reset)));
}

#[test]
fn body_is_bounded_in_every_framing_w07() {
    let limit = Limits::DEFAULT.exchange_body;
    let close = |n: usize| [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &vec![b'x'; n]].concat();
    assert_eq!(body(&close(limit)).map(|b| b.len()), Ok(limit));
    assert_eq!(body(&close(limit + 1)), Err(FetchError::TooLarge));
    let chunked = |n: usize| {
        let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{n:x}\r\n");
        [head.as_bytes(), &vec![b'x'; n], b"\r\n0\r\n\r\n"].concat()
    };
    assert_eq!(body(&chunked(limit)).map(|b| b.len()), Ok(limit));
    assert_eq!(body(&chunked(limit + 1)), Err(FetchError::TooLarge));
}

#[test]
fn head_is_bounded() {
    let endless = [b"HTTP/1.1 200 ".as_slice(), &vec![b'x'; 200_000]].concat();
    assert_eq!(whole(&endless), Err(FetchError::TooLarge));
    let fields = [b"HTTP/1.1 200 OK\r\n".as_slice(), &b"a: b\r\n".repeat(101), b"\r\n"].concat();
    assert_eq!(whole(&fields), Err(FetchError::TooLarge));
}

/// W-07: nothing that a host says goes on for ever.
#[test]
fn interim_responses_are_bounded_w07() {
    let interim = |n: usize| [b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(n).as_slice(), b"HTTP/1.1 204 X\r\n\r\n"].concat();
    let limit = Limits::DEFAULT.interim;
    assert_eq!(whole(&interim(limit)).map(|r| r.status), Ok(204));
    assert_eq!(whole(&interim(limit + 1)), Err(FetchError::TooLarge));
    // However they come, no call takes more of them.
    let mut exchange = Exchange::new(now(0), request(), Limits::DEFAULT);
    let endless = b"HTTP/1.1 100 \r\n\r\n";
    for n in 0.. {
        exchange.recv_space()[..endless.len()].copy_from_slice(endless);
        exchange.handle_recv(now(0), Recv::Data(endless.len()));
        if let Some(outcome) = exchange.poll() {
            assert_eq!((n, outcome), (limit, Err(FetchError::TooLarge)));
            break;
        }
    }
}

#[test]
fn a_silent_host_is_given_up_after_30_s_w07() {
    let mut exchange = Exchange::new(now(7), request(), Limits::DEFAULT);
    assert_eq!(exchange.deadline(), Some(now(37).mono));
    exchange.handle_timeout(now(36));
    assert_eq!(exchange.poll(), None);
    exchange.handle_timeout(now(37));
    assert_eq!(exchange.poll(), Some(Err(FetchError::TimedOut)));
    assert_eq!((exchange.poll(), exchange.deadline(), exchange.interest()), (None, None, Wants::default()));
}
