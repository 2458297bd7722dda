//! The published JSON Schemas, to hold messages against.

use std::path::Path;

use serde_json::Value;

/// What the schema called `name` in docs/reference/schemas has against `payload`; empty if nothing.
///
/// # Panics
/// When there is no such schema.
#[must_use]
pub fn keeps_to_schema(name: &str, payload: &Value) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/reference/schemas/{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let schema: Value = serde_json::from_str(&text).expect("a schema in JSON");
    let validator = jsonschema::draft202012::new(&schema).expect("a schema");
    validator.iter_errors(payload).map(|e| e.to_string()).collect()
}
