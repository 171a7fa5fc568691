//! The string to sign (W-52 to W-57), streamed piece by piece into a sink and never built.

use super::AUTHORIZATION;
use super::target::Target;
use core::cmp::Ordering;
use ring::hmac;

/// Takes the string to sign as it comes.
pub(super) trait Sink {
    /// The next bytes.
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for hmac::Context {
    fn put(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }
}

#[cfg(any(test, feature = "replay"))]
impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Fields that are sorted on the stack: 100 of the client (PX-17) and ours.
const FIELDS: usize = 104;
/// Query parameters that are sorted on the stack.
const PARAMETERS: usize = 64;

/// Writes the whole string to sign.
pub(super) fn write<'a>(
    sink: &mut impl Sink,
    method: &[u8],
    target: &[u8],
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    body: &[u8],
) {
    let target = Target::split(target);
    sink.put(method);
    sink.put(b"\n");
    sink.put(body);
    sink.put(b"\n");
    write_fields(sink, fields);
    sink.put(target.path_or_root());
    sink.put(b"\n");
    write_parameters(sink, target.query.unwrap_or_default());
}

/// W-53: one line per distinct name, the last value of each.
fn write_fields<'a>(sink: &mut impl Sink, fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) {
    let mut lines = Lines::<FIELDS>::new();
    for (name, value) in fields {
        if !name.eq_ignore_ascii_case(AUTHORIZATION) {
            lines.push(name, trim(value));
        }
    }
    let lines = lines.sorted(|a, b| lower(a.name).cmp(lower(b.name)));
    let mut last: Option<&[u8]> = None;
    for line in lines {
        if last.is_some_and(|name| name.eq_ignore_ascii_case(line.name)) {
            continue;
        }
        last = Some(line.name);
        put_lower(sink, line.name);
        sink.put(b":");
        sink.put(line.value);
        sink.put(b"\n");
    }
}

/// W-55, with the collision of step 4 on purpose (W-56).
fn write_parameters(sink: &mut impl Sink, query: &[u8]) {
    let mut lines = Lines::<PARAMETERS>::new();
    for piece in query.split(|b| *b == b'&') {
        let end = piece.iter().position(|b| *b == b'=').unwrap_or(piece.len());
        let (name, value) = piece.split_at(end);
        if !name.is_empty() {
            lines.push(name, value.get(1..).unwrap_or_default());
        }
    }
    let key = |line: &Line<'_>, other: &Line<'_>| {
        lower(line.name).chain(line.value.iter().copied()).cmp(lower(other.name).chain(other.value.iter().copied()))
    };
    let lines = lines.sorted(key);
    let mut last: Option<&Line<'_>> = None;
    for line in lines {
        if let Some(last) = last {
            if key(last, line) == Ordering::Equal {
                continue;
            }
            sink.put(b"&");
        }
        last = Some(line);
        put_lower(sink, line.name);
        if !line.value.is_empty() {
            sink.put(b"=");
            sink.put(line.value);
        }
    }
}

/// Name, value and position of a field or parameter.
#[derive(Clone, Copy)]
struct Line<'a> {
    name: &'a [u8],
    value: &'a [u8],
    position: usize,
}

/// Up to `N` lines on the stack; more than that on the heap.
struct Lines<'a, const N: usize> {
    near: [Line<'a>; N],
    len: usize,
    far: Vec<Line<'a>>,
}

impl<'a, const N: usize> Lines<'a, N> {
    const fn new() -> Self {
        Self { near: [Line { name: &[], value: &[], position: 0 }; N], len: 0, far: Vec::new() }
    }

    fn push(&mut self, name: &'a [u8], value: &'a [u8]) {
        let line = Line { name, value, position: self.len };
        match self.near.get_mut(self.len) {
            Some(slot) => *slot = line,
            None => {
                if self.far.is_empty() {
                    self.far.extend_from_slice(&self.near);
                }
                self.far.push(line);
            }
        }
        self.len += 1;
    }

    /// The lines by ascending key; of equal keys the one that came last is first.
    fn sorted(&mut self, key: impl Fn(&Line<'a>, &Line<'a>) -> Ordering) -> &[Line<'a>] {
        let lines = if self.far.is_empty() { self.near.get_mut(..self.len).unwrap_or_default() } else { self.far.as_mut_slice() };
        // Positions differ, so no two lines are equal: an unstable sort, which needs no memory, has one result.
        lines.sort_unstable_by(|a, b| key(a, b).then(b.position.cmp(&a.position)));
        lines
    }
}

/// Without the blanks and tabs around it (W-53.3).
const fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn lower(name: &[u8]) -> impl Iterator<Item = u8> {
    name.iter().map(u8::to_ascii_lowercase)
}

fn put_lower(sink: &mut impl Sink, name: &[u8]) {
    let mut chunk = [0u8; 64];
    for part in name.chunks(chunk.len()) {
        for (to, from) in chunk.iter_mut().zip(part) {
            *to = from.to_ascii_lowercase();
        }
        sink.put(chunk.get(..part.len()).unwrap_or_default());
    }
}
