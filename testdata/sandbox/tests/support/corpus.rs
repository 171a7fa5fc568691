//! The messages of `testdata/smuggling/`, as bytes.

use azure_proxy_agent_core::replay::{Fixture, Input};

/// One message.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// What must happen; the words are explained in the files.
    pub(crate) expect: String,
    pub(crate) bytes: Vec<u8>,
}

/// Hostile requests.
pub(crate) fn requests() -> Vec<Entry> {
    read(include_str!("../../../smuggling/requests.txt"))
}

/// Hostile responses to `GET /first`.
pub(crate) fn responses() -> Vec<Entry> {
    read(include_str!("../../../smuggling/responses.txt"))
}

fn read(text: &str) -> Vec<Entry> {
    let mut lines = text.lines().filter(|l| !l.starts_with('#'));
    let mut entries = Vec::new();
    while let Some(name) = lines.find(|l| !l.is_empty()) {
        let expect = lines.next().and_then(|l| l.strip_prefix("expect ")).unwrap_or_else(|| panic!("{name}: expect"));
        let source = lines.next().and_then(|l| l.strip_prefix("source ")).unwrap_or_else(|| panic!("{name}: source"));
        assert!(!source.is_empty(), "{name}");
        let mut heredoc = String::new();
        for line in lines.by_ref() {
            heredoc += line;
            heredoc.push('\n');
            if line == "    ." {
                break;
            }
        }
        entries.push(Entry { name: name.to_owned(), expect: expect.to_owned(), bytes: decode(name, &heredoc) });
    }
    entries
}

/// The notation is that of fixtures, so their reader reads it.
fn decode(name: &str, heredoc: &str) -> Vec<u8> {
    let text = format!("replay 1\n0s < accept 127.0.0.1:1\n0s < client\n{heredoc}");
    let mut fixture: Fixture = text.parse().unwrap_or_else(|e| panic!("{name}: {e}"));
    match fixture.steps.pop().map(|s| s.input) {
        Some(Input::Bytes(_, bytes)) => bytes,
        other => panic!("{name}: {other:?}"),
    }
}
