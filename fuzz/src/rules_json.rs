//! Any bytes as a rule document: refused, or compiled to rules that decide about every request without a panic; a document that
//! was read says the same when it is written and read again.

use std::sync::Arc;

use azure_proxy_agent_core::authz::{Document, Request, Rules, Scratch, decide};
use azure_proxy_agent_core::identity::{Destination, PerDestination};
use azure_proxy_agent_core::replay::ClaimsSpec;

const TARGETS: [&[u8]; 4] =
    [b"/metadata/instance?api-version=2021-02-01", b"/machine/?comp=goalstate", b"/a%2f..;x?b&b=1&B=2", b"http://x@y:z/\xFF"];

/// The input is a JSON document.
pub fn run(data: &[u8]) {
    let Ok(document) = serde_json::from_slice::<Document>(data) else { return };
    let written = serde_json::to_vec(&document).expect("what was read can be written");
    assert_eq!(serde_json::from_slice::<Document>(&written).ok().as_ref(), Some(&document));

    let (rules, findings) = Rules::compile(&document);
    for finding in &findings {
        assert!(!finding.to_string().is_empty());
    }
    let rules = Some(Arc::new(rules));
    let rules = PerDestination { wireserver: rules.clone(), hostga: rules.clone(), imds: rules };
    let mut scratch = Scratch::new();
    for name in ["root", "alice"] {
        let Some(claims) = ClaimsSpec::builtin(name) else { continue };
        for to in [Destination::Imds, Destination::WireServer, Destination::HostGaPlugin] {
            for target in TARGETS {
                let request = Request { method: b"GET", target };
                let first = decide(&rules, to.addr(), &claims, request, &mut scratch);
                assert_eq!(decide(&rules, to.addr(), &claims, request, &mut scratch), first, "a decision is a function");
            }
        }
    }
}
