//! Whether a status document is as `docs/status.schema.json` says.

use std::sync::OnceLock;

use serde_json::Value;

/// Fails with all that is wrong with a status document (files.md section 6).
pub(crate) fn check(document: &Value) {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    let schema = SCHEMA
        .get_or_init(|| serde_json::from_str(include_str!("../../../../docs/status.schema.json")).expect("the schema is JSON"));
    let wrong = schema_check::wrong(schema, document);
    assert!(wrong.is_empty(), "not as docs/status.schema.json says: {wrong:#?}\n{document:#}");
}
