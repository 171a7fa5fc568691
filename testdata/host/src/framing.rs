//! `/test/…`: answers whose only point is their framing. No real host has them; the agent must relay them all the same.

use std::time::Duration;

use serde_json::json;

use crate::documents::Target;
use crate::http::Head;
use crate::reply::{After, Body, Reply};

/// The list for `--help` and `/test/`.
pub const HELP: &str = "\
/test/echo                              JSON: method, target, headers in order, bodyLength, bodySha256
/test/bytes?n=N                         N bytes with Content-Length
/test/chunked?n=N&chunk=C[&ext=1][&trailers=1]   N bytes in chunks of C
/test/close?n=N                         N bytes ended by the end of the connection
/test/204, /test/304                    no body
/test/head                              GET has 12345 bytes, HEAD only says so
/test/slow?ms=M[&part=body]             waits before the head, or between head and body
/test/reset?after=N                     N bytes of a body twice as long, then a reset; 0: a reset and nothing else
/test/truncated?n=N&says=M              N of M announced bytes, then the end of the connection
/test/informational                     100, 102, 103, then 200
/test/garbage                           bytes that are not HTTP
/test/hugehead?n=N                      a response header of N bytes
/test/close-after                       closes after the answer without having said so
/test/status?code=NNN                   that status, with a short body
";

/// The body of a request, as far as it was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodySeen {
    /// Length after removal of any transfer coding.
    pub length: u64,
    /// SHA-256 in hex; only computed for `/test/echo`.
    pub sha256: Option<String>,
}

/// Answers a request below `/test/`.
pub fn answer(head: &Head, target: &Target, body: &BodySeen) -> Reply {
    let n = target.number("n", 1024);
    match target.path.as_str() {
        "/test/echo" => echo(head, body),
        "/test/bytes" => Reply::with(200, Body::Pattern(n)),
        "/test/chunked" => Reply::with(
            200,
            Body::Chunked {
                total: n,
                chunk: target.number("chunk", 1000),
                extensions: target.number("ext", 0) != 0,
                trailers: target.number("trailers", 0) != 0,
            },
        ),
        "/test/close" => Reply::with(200, Body::UntilClose(n)).then(After::Close),
        "/test/204" => Reply::with(204, Body::Absent),
        "/test/304" => Reply::with(304, Body::Absent).header("ETag", "\"1\""),
        "/test/head" => Reply::with(200, Body::Pattern(12_345)),
        "/test/slow" => {
            let pause = Duration::from_millis(target.number("ms", 100));
            let mut reply = Reply::with(200, Body::Pattern(n));
            reply.pause = if target.get("part") == Some("body") { (Duration::ZERO, pause) } else { (pause, Duration::ZERO) };
            reply
        }
        "/test/reset" => match target.number("after", 0) {
            0 => Reply::with(200, Body::Absent).then(After::Reset),
            after => Reply::with(200, Body::Truncated { says: after * 2, sent: after }).then(After::Reset),
        },
        "/test/truncated" => {
            let body = Body::Truncated { says: target.number("says", n * 2), sent: n };
            Reply::with(200, body).then(After::CloseSilently)
        }
        "/test/informational" => {
            let mut reply = Reply::with(200, Body::Pattern(n));
            reply.interim = &[100, 102, 103];
            reply
        }
        "/test/garbage" => Reply::with(200, Body::Raw(b"\0\x01\x02 this is not HTTP \xff\xfe\r\n\r\n".to_vec())),
        "/test/hugehead" => {
            let length = usize::try_from(target.number("n", 100_000)).unwrap_or(0);
            Reply::with(200, Body::Pattern(10)).header("X-Huge", "h".repeat(length))
        }
        "/test/close-after" => Reply::with(200, Body::Pattern(n)).then(After::CloseSilently),
        "/test/status" => {
            let code = u16::try_from(target.number("code", 200)).ok().filter(|c| (200..=599).contains(c)).unwrap_or(400);
            match code {
                204 | 304 => Reply::with(code, Body::Absent),
                _ => Reply::new(code, "text/plain", format!("status {code}\n").into_bytes()),
            }
        }
        "/test/" => Reply::new(200, "text/plain", HELP.as_bytes()),
        _ => Reply::new(404, "text/plain", &b"no such test"[..]),
    }
}

fn echo(head: &Head, body: &BodySeen) -> Reply {
    let headers: Vec<[String; 2]> = head
        .fields()
        .map(|(name, value)| [String::from_utf8_lossy(name).into_owned(), String::from_utf8_lossy(value).into_owned()])
        .collect();
    Reply::json(
        200,
        &json!({
            "method": head.method(), "target": String::from_utf8_lossy(head.target()), "version": if head.http10 { "1.0" } else { "1.1" },
            "headers": headers, "bodyLength": body.length, "bodySha256": body.sha256,
        }),
    )
}
