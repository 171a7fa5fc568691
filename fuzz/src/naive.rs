//! What the rules say (rules.md sections 2, 3 and 6), written down a second time: word for word, in the order of the text, without
//! compile step, index, reused memory or any function of core's. Slow, and easy to check against the text.

use std::net::{Ipv4Addr, Ipv6Addr};

use azure_proxy_agent_core::authz::{Document, Identity, Privilege};
use azure_proxy_agent_core::identity::{Claims, Destination};

/// The canonical form of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    /// Segments after the root.
    pub segments: Vec<Vec<u8>>,
    ///
    pub trailing_slash: bool,
    /// Names and values in order of appearance.
    pub parameters: Vec<Pair>,
    ///
    pub destination: Option<Destination>,
}

/// A parameter's name and value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// What a decision comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Forwarded.
    Allow,
    /// Forwarded and recorded, for this reason.
    Audit(Reason),
    /// Refused for this reason.
    Deny(Reason),
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    ///
    Elevation,
    /// this code.
    Canonical(&'static str),
    ///
    Locked,
    ///
    Default,
}

/// PX-66 to PX-72 with one document for the destination that was asked for.
pub fn decide(document: &Document, to: Destination, claims: &Claims, method: &[u8], target: &[u8]) -> Outcome {
    let elevated = claims.user_id == 0;
    let exempt = match method {
        b"PUT" => target.eq_ignore_ascii_case(b"/vmagentlog"),
        b"POST" => target.eq_ignore_ascii_case(b"/machine/?comp=telemetrydata"),
        _ => false,
    };
    if elevated && exempt {
        return Outcome::Allow;
    }
    if !elevated && to != Destination::Imds {
        return Outcome::Deny(Reason::Elevation);
    }
    let mode = document.mode.to_ascii_lowercase();
    match (mode.as_str(), judge(document, claims, method, target)) {
        ("audit", Err(reason)) => Outcome::Audit(reason),
        ("enforce", Err(reason)) => Outcome::Deny(reason),
        // Disabled, or a word that nobody knows.
        _ => Outcome::Allow,
    }
}

///
fn judge(document: &Document, claims: &Claims, method: &[u8], target: &[u8]) -> Result<(), Reason> {
    let form = canonical(method, target).map_err(Reason::Canonical)?;
    if form.segments.iter().any(|s| s.contains(&b'%') || s.contains(&b'\\') || s.ends_with(b".") || s.ends_with(b" ")) {
        return Err(Reason::Canonical("CANON_AMBIGUOUS"));
    }
    let by_default = || if document.default_access.eq_ignore_ascii_case("allow") { Ok(()) } else { Err(Reason::Default) };
    let Some(lists) = &document.rules else { return by_default() };
    let (Some(privileges), Some(roles), Some(identities), Some(assignments)) =
        (&lists.privileges, &lists.roles, &lists.identities, &lists.role_assignments)
    else {
        return by_default();
    };

    // of elements with one name, the last counts.
    let last = |name: &str, names: Vec<&str>| names.iter().rposition(|n| *n == name);
    let privileges: Vec<&Privilege> = (privileges.iter().enumerate())
        .filter(|(i, p)| last(&p.name, privileges.iter().map(|p| p.name.as_str()).collect()) == Some(*i))
        .map(|(_, p)| p)
        .collect();
    let role = |name: &str| roles.iter().rfind(|r| r.name == name);
    let identity = |name: &str| identities.iter().rfind(|i| i.name == name);

    // one faulty privilege closes the document.
    let mut read = Vec::new();
    for privilege in &privileges {
        let Ok((segments, _)) = path(privilege.path.as_bytes()) else { return Err(Reason::Default) };
        let mut constraints = Vec::new();
        for (name, value) in privilege.query_parameters.iter().flat_map(|q| &q.0) {
            let (Ok(name), Ok(value)) = (component(name.as_bytes()), component(value.as_bytes())) else {
                return Err(Reason::Default);
            };
            if !name.is_empty() {
                constraints.push((name, value));
            }
        }
        read.push((privilege, segments, constraints));
    }

    let mut any_matched = false;
    for (privilege, segments, constraints) in read {
        let values = |name: &[u8]| form.parameters.iter().filter(|p| p.0 == name).map(|p| p.1.clone()).collect::<Vec<_>>();
        let matches = form.segments.starts_with(&segments) && constraints.iter().all(|(n, v)| values(n).contains(v));
        if !matches {
            continue;
        }
        any_matched = true;
        let grants = constraints.iter().all(|(n, v)| values(n).iter().all(|value| value == v));
        let assigned = assignments.iter().any(|assignment| {
            role(&assignment.role).is_some_and(|role| role.privileges.contains(&privilege.name))
                && assignment.identities.iter().any(|name| identity(name).is_some_and(|i| is_caller(i, claims)))
        });
        if grants && assigned {
            return Ok(());
        }
    }
    if any_matched { Err(Reason::Locked) } else { by_default() }
}

/// and the selectors that are additions of ours (docs/rules.md).
fn is_caller(identity: &Identity, claims: &Claims) -> bool {
    let components = |path: &[u8]| {
        let pieces: Vec<Vec<u8>> = path.split(|b| *b == b'/').filter(|c| *c != b"" && *c != b".").map(<[u8]>::to_vec).collect();
        (path.starts_with(b"/"), pieces)
    };
    let user = |u: &String| claims.user_name.as_bytes() == u.as_bytes();
    let group = |g: &String| claims.user_groups.iter().any(|of| of.as_bytes() == g.as_bytes());
    let exe = |e: &String| claims.exe_path().is_some_and(|path| components(path) == components(e.as_bytes()));
    let process = |p: &String| {
        claims
            .exe_path()
            .is_some_and(|path| path[path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1)..] == *p.as_bytes())
    };
    let trusted = claims.exe_path().is_some();
    let hash = |wanted: &String| {
        let known = claims.on_demand.exe_hash.known().filter(|_| trusted);
        known.is_some_and(|hash| hash.0.map(|byte| format!("{byte:02x}")).concat() == wanted.to_ascii_lowercase())
    };
    let cgroup = |wanted: &String| {
        let Some(path) = claims.on_demand.cgroup_path.known() else { return false };
        let path = components(path.as_bytes()).1;
        match wanted.strip_suffix("/*") {
            _ if !wanted.starts_with('/') => false,
            Some(above) => path.starts_with(&components(above.as_bytes()).1),
            None => path == components(wanted.as_bytes()).1,
        }
    };
    identity.user_name.as_ref().is_none_or(user)
        && identity.group_name.as_ref().is_none_or(group)
        && identity.exe_path.as_ref().is_none_or(exe)
        && identity.process_name.as_ref().is_none_or(process)
        && identity.uid.is_none_or(|uid| uid == claims.user_id)
        && identity.gid.is_none_or(|gid| gid == claims.group_id)
        && identity.exe_sha256.as_ref().is_none_or(hash)
        && identity.cgroup_path.as_ref().is_none_or(cgroup)
}

/// Section 6.
pub fn canonical(method: &[u8], target: &[u8]) -> Result<Form, &'static str> {
    let target = &target[..find(target, b'#').unwrap_or(target.len())];
    let (authority, rest) = if target.starts_with(b"/") || target == b"*" {
        (None, target)
    } else {
        let (authority, rest) = absolute(target).ok_or("CANON_SCHEME")?;
        (Some(authority), rest)
    };
    if ![&b"GET"[..], b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH"].contains(&method) {
        return Err("CANON_METHOD");
    }
    let destination = authority.map(classify).transpose()?.flatten();
    let (raw_path, raw_query) = match find(rest, b'?') {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => (rest, &b""[..]),
    };
    let (segments, trailing_slash) = path(raw_path)?;
    Ok(Form { segments, trailing_slash, parameters: query(raw_query)?, destination })
}

/// Authority, and path with query, of `http://…`.
fn absolute(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = target.get(..7).filter(|start| start.eq_ignore_ascii_case(b"http://")).map(|_| &target[7..])?;
    let end = rest.iter().position(|b| *b == b'/' || *b == b'?').unwrap_or(rest.len());
    Some((&rest[..end], &rest[end..]))
}

///
fn classify(authority: &[u8]) -> Result<Option<Destination>, &'static str> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| "CANON_HOST");
    if authority.contains(&b'@') {
        return Err("CANON_USERINFO");
    }
    let (address, port) = if authority.starts_with(b"[") {
        let close = find(authority, b']').ok_or("CANON_HOST")?;
        let address: Ipv6Addr = text(&authority[1..close])?.parse().map_err(|_| "CANON_HOST")?;
        match &authority[close + 1..] {
            b"" => (address.to_ipv4_mapped(), None),
            [b':', port @ ..] => (address.to_ipv4_mapped(), Some(port)),
            _ => return Err("CANON_HOST"),
        }
    } else {
        let colon = find(authority, b':');
        let mut host = text(&authority[..colon.unwrap_or(authority.len())])?;
        host.truncate(host.trim_end_matches('.').len());
        (address(&host)?, colon.map(|at| &authority[at + 1..]))
    };
    let port = match port {
        None => 80,
        Some(port) if port.iter().all(u8::is_ascii_digit) => {
            text(port)?.parse::<u64>().ok().filter(|n| *n <= 65_535).ok_or("CANON_PORT")?
        }
        Some(_) => return Err("CANON_PORT"),
    };
    let Some(address) = address else { return Ok(None) };
    Ok([
        (Destination::Imds, [169, 254, 169, 254], 80),
        (Destination::WireServer, [168, 63, 129, 16], 80),
        (Destination::HostGaPlugin, [168, 63, 129, 16], 32_526),
    ]
    .into_iter()
    .find(|(_, octets, p)| address.octets() == *octets && port == *p)
    .map(|(destination, ..)| destination))
}

///
fn address(host: &str) -> Result<Option<Ipv4Addr>, &'static str> {
    if host.is_empty() || !host.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.') {
        return Err("CANON_HOST");
    }
    if host.chars().any(|c| !c.is_ascii_hexdigit() && !matches!(c, 'x' | 'X' | '.')) {
        return Ok(None);
    }
    let mut numbers = Vec::new();
    for part in host.split('.') {
        let (digits, radix) = match part.strip_prefix("0x").or(part.strip_prefix("0X")) {
            Some(hex) if hex.len() <= 8 => (hex, 16),
            Some(_) => return Err("CANON_HOST"),
            None if part.len() > 1 && part.starts_with('0') => (&part[1..], 8),
            None => (part, 10),
        };
        numbers.push(u64::from_str_radix(digits, radix).map_err(|_| "CANON_HOST")?);
    }
    let (last, bytes) = numbers.split_last().ok_or("CANON_HOST")?;
    if bytes.len() > 3 || bytes.iter().any(|n| *n > 255) || *last >= 1 << (8 * (4 - bytes.len())) {
        return Err("CANON_HOST");
    }
    let high = bytes.iter().enumerate().map(|(i, n)| n << (24 - 8 * i)).sum::<u64>();
    Ok(Some(Ipv4Addr::from(u32::try_from(high + last).expect("both are in range"))))
}

///
pub fn path(raw: &[u8]) -> Result<(Vec<Vec<u8>>, bool), &'static str> {
    let raw: &[u8] = if raw.is_empty() { b"/" } else { raw };
    let mut trailing_slash = raw.len() > 1 && raw.ends_with(b"/");
    let decoded = decode(raw)?;
    let Ok(text) = std::str::from_utf8(&decoded) else {
        let overlong = (0..decoded.len()).any(|at| match decoded[at] {
            0xC0 | 0xC1 => true,
            0xE0 => decoded.get(at + 1).is_some_and(|b| (0x80..=0x9F).contains(b)),
            0xF0 => decoded.get(at + 1).is_some_and(|b| (0x80..=0x8F).contains(b)),
            _ => false,
        });
        return Err(if overlong { "CANON_OVERLONG" } else { "CANON_UTF8" });
    };
    if text.bytes().any(|b| b < 0x20 || b == 0x7F) {
        return Err("CANON_CTRL");
    }
    if !text.is_ascii() {
        return Err("CANON_NON_ASCII");
    }
    if text.contains('?') {
        return Err("CANON_EMBQ");
    }
    let mut segments: Vec<Vec<u8>> = vec![Vec::new()];
    for piece in text.to_ascii_lowercase().split('/') {
        match piece.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." if segments.len() == 1 => return Err("CANON_UNDERFLOW"),
            ".." => drop(segments.pop()),
            segment => segments.push(segment.as_bytes().to_vec()),
        }
    }
    segments.remove(0);
    trailing_slash &= !segments.is_empty();
    Ok((segments, trailing_slash))
}

///
fn query(raw: &[u8]) -> Result<Vec<Pair>, &'static str> {
    let mut pairs = Vec::new();
    for piece in raw.split(|b| *b == b'&').filter(|piece| !piece.is_empty()) {
        let (name, value) = match find(piece, b'=') {
            Some(at) => (&piece[..at], &piece[at + 1..]),
            None => (piece, &b""[..]),
        };
        pairs.push((component(name)?, component(value)?));
    }
    pairs.retain(|(name, _)| !name.is_empty());
    Ok(pairs)
}

///
fn component(raw: &[u8]) -> Result<Vec<u8>, &'static str> {
    // A plus that was written as an escape stays one.
    let spaced: Vec<u8> = raw.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect();
    let decoded = decode(&spaced)?;
    let Ok(text) = std::str::from_utf8(&decoded) else { return Err("CANON_UTF8") };
    if text.bytes().any(|b| b < 0x20 || b == 0x7F) {
        return Err("CANON_CTRL");
    }
    Ok(text.to_ascii_lowercase().into_bytes())
}

///
fn decode(raw: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < raw.len() {
        if raw[at] != b'%' {
            decoded.push(raw[at]);
            at += 1;
            continue;
        }
        let digits = raw.get(at + 1..at + 3).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit)).ok_or("CANON_PCT")?;
        let digits = std::str::from_utf8(digits).expect("hex digits");
        decoded.push(u8::from_str_radix(digits, 16).expect("hex digits"));
        at += 3;
    }
    Ok(decoded)
}

fn find(bytes: &[u8], byte: u8) -> Option<usize> {
    bytes.iter().position(|b| *b == byte)
}
