//! The chunked transfer coding (RFC 9112 section 7.1), decoded in place.
//!
//! Two uses: a body that is signed loses its framing; a body that is relayed keeps it in a normal form (chunk extensions and
//! trailer fields are dropped, PX-76). The normal form keeps the sender's chunk boundaries, so what goes out does not depend on
//! how the bytes came in. It is never longer than what came in, so it fits where it stood.

/// What is left of a chunk in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emit {
    /// Data only.
    Data,
    /// Size line in lower-case hex without extensions, data, CRLF; at the end the last chunk and an empty trailer section.
    Framed,
}

/// Why a chunked body is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkError {
    /// Not the transfer coding, or a form of it that parsers read differently.
    Malformed,
    /// The data would exceed the limit.
    TooLarge,
}

/// Result of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes taken from the input. Less than all of them if a line is not complete yet, or if the body has ended.
    pub consumed: usize,
    /// Bytes of output, standing at the beginning of the slice.
    pub kept: usize,
    /// The body has ended.
    pub done: bool,
}

/// Longest size line with extensions, and longest trailer line.
const MAX_LINE: usize = 4096;
/// Longest trailer section.
const MAX_TRAILERS: usize = 16 * 1024;

/// Decoder state between two pieces of input.
#[derive(Debug, Clone, Copy)]
pub struct Decoder {
    state: State,
    /// Data bytes that may still come.
    allowance: u64,
    trailers: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Done,
}

impl Decoder {
    /// For a body of at most `limit` data bytes.
    #[must_use]
    pub const fn new(limit: u64) -> Self {
        Self { state: State::Size, allowance: limit, trailers: 0 }
    }

    /// Decodes what is complete of `raw` and leaves the output at its beginning. Input that was not consumed must be offered
    /// again, with more behind it.
    ///
    /// # Errors
    /// [`ChunkError`]; the decoder must not be used afterwards.
    pub fn decode(&mut self, raw: &mut [u8], emit: Emit) -> Result<Decoded, ChunkError> {
        let (mut at, mut kept) = (0, 0);
        loop {
            match self.state {
                State::Size => {
                    let Some(line) = line_len(raw.get(at..).unwrap_or_default())? else { break };
                    let size = chunk_size(raw.get(at..at + line - 2).unwrap_or_default())?;
                    self.allowance = self.allowance.checked_sub(size).ok_or(ChunkError::TooLarge)?;
                    at += line;
                    if emit == Emit::Framed {
                        kept += put_size(raw.get_mut(kept..).unwrap_or_default(), size);
                    }
                    self.state = if size == 0 { State::Trailers } else { State::Data(size) };
                }
                State::Data(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(raw.len() - at);
                    if here == 0 {
                        break;
                    }
                    if kept != at {
                        raw.copy_within(at..at + here, kept);
                    }
                    at += here;
                    kept += here;
                    let left = left - here as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                }
                State::DataEnd => {
                    match raw.get(at..).unwrap_or_default() {
                        [] | [b'\r'] => break,
                        [b'\r', b'\n', ..] => {}
                        _ => return Err(ChunkError::Malformed),
                    }
                    at += 2;
                    if emit == Emit::Framed {
                        kept += put(raw.get_mut(kept..).unwrap_or_default(), b"\r\n");
                    }
                    self.state = State::Size;
                }
                State::Trailers => {
                    let Some(line) = line_len(raw.get(at..).unwrap_or_default())? else { break };
                    self.trailers += line;
                    if self.trailers > MAX_TRAILERS {
                        return Err(ChunkError::Malformed);
                    }
                    if line == 2 {
                        self.state = State::Done;
                        if emit == Emit::Framed {
                            kept += put(raw.get_mut(kept..).unwrap_or_default(), b"\r\n");
                        }
                    } else {
                        trailer_field(raw.get(at..at + line - 2).unwrap_or_default())?;
                    }
                    at += line;
                }
                State::Done => break,
            }
        }
        Ok(Decoded { consumed: at, kept, done: self.state == State::Done })
    }
}

/// Length of the first line with its CRLF, if it is complete.
fn line_len(raw: &[u8]) -> Result<Option<usize>, ChunkError> {
    let window = raw.get(..MAX_LINE).unwrap_or(raw);
    match window.iter().position(|b| *b == b'\n') {
        Some(at) if at > 0 && raw.get(at - 1) == Some(&b'\r') => Ok(Some(at + 1)),
        Some(_) => Err(ChunkError::Malformed),
        None if window.len() == MAX_LINE => Err(ChunkError::Malformed),
        None => Ok(None),
    }
}

/// `chunk-size [ chunk-ext ]`, without CRLF.
fn chunk_size(line: &[u8]) -> Result<u64, ChunkError> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    if digits == 0 || digits > 16 {
        return Err(ChunkError::Malformed);
    }
    let mut size = 0u64;
    for digit in line.get(..digits).unwrap_or_default() {
        size = size << 4 | (*digit as char).to_digit(16).map_or(0, u64::from);
    }
    let rest = line.get(digits..).unwrap_or_default();
    let extension = rest.trim_ascii_start();
    // Whitespace is allowed before a semicolon only (RFC 9112 section 7.1.1); no control characters anywhere.
    let fine =
        rest.is_empty() || (extension.first() == Some(&b';') && extension.iter().all(|b| *b == b'\t' || !b.is_ascii_control()));
    if fine { Ok(size) } else { Err(ChunkError::Malformed) }
}

/// A trailer field line is dropped, but it must be one.
fn trailer_field(line: &[u8]) -> Result<(), ChunkError> {
    let name = line.iter().take_while(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b)).count();
    let value = line.get(name + 1..).unwrap_or_default();
    if name > 0 && line.get(name) == Some(&b':') && value.iter().all(|b| *b == b'\t' || !b.is_ascii_control()) {
        Ok(())
    } else {
        Err(ChunkError::Malformed)
    }
}

fn put(out: &mut [u8], bytes: &[u8]) -> usize {
    if let Some(out) = out.get_mut(..bytes.len()) {
        out.copy_from_slice(bytes);
    }
    bytes.len()
}

fn put_size(out: &mut [u8], size: u64) -> usize {
    let (line, len) = size_line(size);
    put(out, line.get(..len).unwrap_or_default())
}

/// A size line in normal form: its bytes, and how many of them count.
#[must_use]
pub fn size_line(size: u64) -> ([u8; 18], usize) {
    let mut line = [0u8; 18];
    let digits = (16 - size.leading_zeros() as usize / 4).max(1);
    for (i, out) in line.iter_mut().take(digits).enumerate() {
        let nibble = (size >> (4 * (digits - 1 - i))) as u8 & 15;
        *out = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    }
    line[digits] = b'\r';
    line[digits + 1] = b'\n';
    (line, digits + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `input` in pieces of `step` bytes; returns the output and what is left behind the body.
    fn run(input: &[u8], step: usize, emit: Emit, limit: u64) -> Result<(Vec<u8>, usize), ChunkError> {
        let (mut decoder, mut out, mut pending) = (Decoder::new(limit), Vec::new(), Vec::new());
        let mut fed = 0;
        for piece in input.chunks(step) {
            pending.extend_from_slice(piece);
            fed += piece.len();
            let d = decoder.decode(&mut pending, emit)?;
            out.extend_from_slice(&pending[..d.kept]);
            pending.drain(..d.consumed);
            if d.done {
                return Ok((out, input.len() - fed + pending.len()));
            }
        }
        panic!("no end: {:?}", out.escape_ascii().to_string());
    }

    const BODY: &[u8] =
        b"0005;name=\"v\"\r\nhello\r\n1A ;x\r\nabcdefghijklmnopqrstuvwxyz\r\n0;last\r\nTrailer: 1\r\nX: y\r\n\r\nNEXT";

    #[test]
    fn any_cut_gives_the_same_bytes() {
        for step in 1..BODY.len() {
            assert_eq!(run(BODY, step, Emit::Data, 100), Ok((b"helloabcdefghijklmnopqrstuvwxyz".to_vec(), 4)));
            let framed = b"5\r\nhello\r\n1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n".to_vec();
            assert_eq!(run(BODY, step, Emit::Framed, 100), Ok((framed, 4)), "step {step}");
        }
    }

    #[test]
    fn ambiguous_forms_are_refused() {
        for bad in [
            "\r\n",
            "g\r\n",
            "0x5\r\nhello\r\n",
            "-1\r\n",
            "+5\r\n",
            " 5\r\n",
            "5 \r\nhello\r\n",
            "5\nhello\r\n",
            "5\r\nhello0\r\n",
            "5\r\nhello\n",
            "5\r\nhelloX\r\n",
            "11111111111111111\r\n",
            "5;a\x01\r\nhello\r\n",
            "0\r\nbad trailer\r\n\r\n",
            "0\r\n: x\r\n\r\n",
            "0\r\n folded: x\r\n\r\n",
            "5\rhello\r\n",
            "0\r\na: b\n\r\n",
            "5;\rx\r\n",
        ] {
            assert_eq!(run(bad.as_bytes(), 1, Emit::Data, 100), Err(ChunkError::Malformed), "{bad:?}");
            assert_eq!(run(bad.as_bytes(), 99, Emit::Framed, 100), Err(ChunkError::Malformed), "{bad:?}");
        }
        assert_eq!(run(&[b"5;".as_slice(), &[b'a'; 5000], b"\r\n"].concat(), 7, Emit::Data, 9), Err(ChunkError::Malformed));
    }

    #[test]
    fn limit_counts_data_w67() {
        assert!(run(b"5\r\nhello\r\n0\r\n\r\n", 3, Emit::Data, 5).is_ok());
        assert_eq!(run(b"5\r\nhello\r\n1\r\nx\r\n0\r\n\r\n", 3, Emit::Data, 5), Err(ChunkError::TooLarge));
        assert_eq!(run(b"ffffffffffffffff\r\n", 3, Emit::Data, 5), Err(ChunkError::TooLarge));
    }

    #[test]
    fn size_lines() {
        for (n, text) in [(0, "0\r\n"), (10, "a\r\n"), (255, "ff\r\n"), (256, "100\r\n"), (u64::MAX, "ffffffffffffffff\r\n")] {
            let (line, len) = size_line(n);
            assert_eq!(&line[..len], text.as_bytes());
        }
    }
}
