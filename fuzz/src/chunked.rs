//! The chunked coding: the same output however the input was cut, never longer than the input, and its normal form decodes to
//! the same data.

use azure_proxy_agent_core::http::chunked::{ChunkError, Decoder, Emit};

const LIMIT: u64 = 4096;

/// The first byte is the step in which the rest arrives.
pub fn run(data: &[u8]) {
    let Some((step, raw)) = data.split_first() else { return };
    let step = usize::from(*step).max(1);
    let content = decode(raw, raw.len().max(1), Emit::Data);
    assert_eq!(decode(raw, step, Emit::Data), content, "cut every {step} bytes");
    let framed = decode(raw, raw.len().max(1), Emit::Framed);
    assert_eq!(decode(raw, step, Emit::Framed), framed, "cut every {step} bytes");

    if let (Ok(content), Ok(framed)) = (content, framed) {
        assert!(content.bytes.len() as u64 <= LIMIT && framed.bytes.len() <= raw.len());
        assert_eq!((content.consumed, content.done), (framed.consumed, framed.done));
        if framed.done {
            let again = decode(&framed.bytes, step, Emit::Data).expect("the normal form is well formed");
            assert!(again.done && again.consumed == framed.bytes.len() && again.bytes == content.bytes);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Output {
    bytes: Vec<u8>,
    consumed: usize,
    done: bool,
}

fn decode(raw: &[u8], step: usize, emit: Emit) -> Result<Output, ChunkError> {
    let mut decoder = Decoder::new(LIMIT);
    let mut output = Output { bytes: Vec::new(), consumed: 0, done: false };
    let mut pending = Vec::new();
    for piece in raw.chunks(step) {
        pending.extend_from_slice(piece);
        let decoded = decoder.decode(&mut pending, emit)?;
        assert!(decoded.kept <= decoded.consumed && decoded.consumed <= pending.len());
        output.bytes.extend_from_slice(&pending[..decoded.kept]);
        output.consumed += decoded.consumed;
        pending.drain(..decoded.consumed);
        if decoded.done {
            output.done = true;
            break;
        }
    }
    Ok(output)
}
