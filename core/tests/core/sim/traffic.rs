//! What caller and host of a simulation say, and how it is read.

use azure_proxy_agent_core::replay::XorShift;

/// A request of the caller.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) head: bool,
    /// Its content, if it is one that may be forwarded.
    pub(super) content: Vec<u8>,
    pub(super) bytes: Vec<u8>,
}

pub(super) fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let line = head.lines().skip(1).find(|l| l.split(':').next().is_some_and(|n| n.eq_ignore_ascii_case(name)))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

/// Content and length of a complete body.
pub(super) fn read_body(head: &str, rest: &[u8]) -> Option<(Vec<u8>, usize)> {
    if field(head, "transfer-encoding").is_none() {
        let len = field(head, "content-length").map_or(0, |n| n.parse().unwrap());
        return rest.get(..len).map(|body| (body.to_vec(), len));
    }
    let (mut content, mut at) = (Vec::new(), 0);
    loop {
        let line = rest[at..].windows(2).position(|w| w == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[at..at + line]).unwrap(), 16).expect("a chunk size");
        at += line + 2;
        let data = rest.get(at..at + size + 2)?;
        assert!(data.ends_with(b"\r\n"), "chunk without end");
        content.extend_from_slice(&data[..size]);
        at += size + 2;
        if size == 0 {
            return Some((content, at));
        }
    }
}

/// Content of a body that is not complete.
pub(super) fn partial(head: &str, rest: &[u8]) -> Vec<u8> {
    if field(head, "transfer-encoding").is_none() {
        return rest.to_vec();
    }
    let (mut content, mut at) = (Vec::new(), 0);
    while let Some(line) = rest[at..].windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[at..at + line]).unwrap(), 16).expect("a chunk size");
        at += line + 2;
        let end = (at + size).min(rest.len());
        content.extend_from_slice(&rest[at..end]);
        at = (end + 2).min(rest.len());
    }
    content
}

/// Bytes that say whose they are.
pub(super) fn pattern(tag: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| b'a' + ((i * 7 + tag * 3 + i / 251) % 26) as u8).collect()
}

pub(super) fn chunks(random: &mut XorShift, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = content;
    while !rest.is_empty() {
        let n = 1 + random.below(rest.len().min(5_000) as u64) as usize;
        let extension = if random.below(4) == 0 { ";a=\"b\"" } else { "" };
        out.extend_from_slice(format!("{n:X}{extension}\r\n").as_bytes());
        out.extend_from_slice(&rest[..n]);
        out.extend_from_slice(b"\r\n");
        rest = &rest[n..];
    }
    out.extend_from_slice(if random.below(4) == 0 { b"0\r\nX-Trailer: 1\r\n\r\n" } else { b"0\r\n\r\n" });
    out
}

/// A random request.
pub(super) fn ask(random: &mut XorShift, tag: usize) -> Asked {
    let len = [0, 1, 100, 5_000, 30_000][random.below(5) as usize];
    let len = random.below(len + 1) as usize;
    let (method, target, framing) = match random.below(24) {
        0..=6 => ("GET", format!("/r/{tag}?a=b"), 0),
        7 | 8 => ("POST", format!("/r/{tag}"), 1),
        9 | 10 => ("POST", format!("/r/{tag}"), 2),
        11 | 12 => ("PUT", "/vmAgentLog".into(), 1),
        13 | 14 => ("POST", "/machine/?comp=telemetrydata".into(), 2),
        15 => ("HEAD", format!("/r/{tag}"), 0),
        16 | 17 => ("GET", format!("/deny/{tag}"), 0),
        18 => ("POST", format!("/deny/{tag}"), 1),
        19 => ("TRACE", format!("/r/{tag}"), 0),
        20 => ("GET", format!("/r//{tag}"), 0),
        21 => ("GET", "/provision".into(), 0),
        22 => ("POST", "/provision".into(), 2),
        _ => ("GET", format!("/r/{tag}<"), 0),
    };
    let version = if framing != 2 && random.below(10) == 0 { "HTTP/1.0" } else { "HTTP/1.1" };
    let content = if framing == 0 { Vec::new() } else { pattern(tag + 1_000, len) };
    let mut head = format!("{method} {target} {version}\r\nHost: h\r\nMetadata: true\r\nX-Tag: {tag}\r\n");
    for (chance, line) in [
        (6, "x-ms-azure-host-claims: { \"isRoot\": \"true\"}\r\n"),
        (6, "X-Ms-Azure-Host-Authorization: Azure-HMAC-SHA256 a b\r\n"),
        (6, "x-ms-azure-signature: 1\r\n"),
        (6, "Expect: 100-continue\r\n"),
        (8, "Connection: keep-alive\r\n"),
        (25, "Connection: close\r\n"),
    ] {
        if random.below(chance) == 0 {
            head.push_str(line);
        }
    }
    let body = match framing {
        0 => Vec::new(),
        1 => {
            head.push_str(&format!("Content-Length: {}\r\n", content.len()));
            content.clone()
        }
        _ => {
            head.push_str("Transfer-Encoding: chunked\r\n");
            chunks(random, &content)
        }
    };
    let bytes = [head.as_bytes(), b"\r\n", &body].concat();
    Asked { head: method == "HEAD", content, bytes }
}

/// A random answer of the host.
pub(super) fn respond(random: &mut XorShift, tag: usize, head: bool, eof: &mut bool) -> Vec<u8> {
    let most = [0, 4, 300, 20_000, 200_000][random.below(5) as usize];
    let len = random.below(most + 1) as usize;
    let content = pattern(tag, len);
    let mut out = Vec::new();
    for _ in 0..random.below(3).saturating_sub(1) {
        out.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n");
    }
    let marks = format!("X-Tag: {tag}\r\nX-Len: {len}\r\n");
    let status = ["200 OK", "200 OK", "200 OK", "404 Not Found", "204 No Content", "304 Not Modified"][random.below(6) as usize];
    let forged = if random.below(5) == 0 { "X-MS-Azure-Host-Authorization: forged\r\n" } else { "" };
    let bodiless = head || status.starts_with("204") || status.starts_with("304");
    let (framing, body) = match random.below(8) {
        _ if bodiless => (String::new(), Vec::new()),
        0..=3 => (format!("Content-Length: {len}\r\n"), content),
        4 | 5 => ("Transfer-Encoding: chunked\r\n".into(), chunks(random, &content)),
        6 => {
            *eof = true;
            (String::new(), content)
        }
        _ => {
            *eof = true;
            (format!("Connection: close\r\nContent-Length: {len}\r\n"), content)
        }
    };
    out.extend_from_slice(format!("HTTP/1.1 {status}\r\n{marks}{forged}{framing}\r\n").as_bytes());
    out.extend_from_slice(&body);
    out
}
