//! Any text as a fixture: refused, or printed in the one form that reads back as the same fixture.

use azure_proxy_agent_core::replay::Fixture;

/// The input is a fixture's text.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(fixture) = text.parse::<Fixture>() else { return };
    let printed = fixture.to_string();
    match printed.parse::<Fixture>() {
        Ok(again) => assert_eq!(again.to_string(), printed, "printed twice"),
        Err(e) => panic!("what was printed cannot be read: {e}\n{printed}"),
    }
}
