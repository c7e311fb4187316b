//! The reference, made from the doc comments of the raw configuration: JSON Schema and Markdown.
//!
//! Must not be edited by hand anywhere; a test compares what is committed.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::raw::RawConfig;

/// The schema editors read, JSON Schema draft 7.
pub fn json_schema() -> String {
    let mut schema = schema();
    if let Value::Object(fields) = &mut schema {
        fields.insert("title".to_owned(), Value::String("Portcullis".to_owned()));
    }
    serde_json::to_string_pretty(&schema).unwrap_or_default() + "\n"
}

fn schema() -> Value {
    SchemaSettings::draft07().into_generator().into_root_schema_for::<RawConfig>().to_value()
}

/// Every key with its meaning, as Markdown.
pub fn markdown_reference() -> String {
    let schema = schema();
    let mut text = String::from(
        "# Configuration reference\n\n\
         Made from the program by `portcullis schema --markdown`; a test compares the two.\n\n\
         The file is YAML, TOML or JSON by its ending. Environment variables override it: `PORTCULLIS_` and the\n\
         path, `__` between levels, as in `PORTCULLIS_SESSIONS__FRESH_FOR=5s`; `--set sessions.fresh_for=5s` on the\n\
         command line overrides both. Lengths of time carry a unit: `500ms`, `10s`, `5m`, `1h 30m`.\n",
    );
    section(&schema, &schema, "", &mut text);
    text
}

fn section(root: &Value, shape: &Value, path: &str, text: &mut String) {
    let Some(fields) = shape.get("properties").and_then(Value::as_object) else {
        return;
    };
    if path.is_empty() {
        text.push_str("\n## Top level\n\n");
    } else {
        text.push_str(&format!("\n## `{path}`\n\n"));
        if let Some(about) = shape.get("description").and_then(Value::as_str) {
            text.push_str(&format!("{}\n\n", about.replace('\n', " ")));
        }
    }
    text.push_str("| key | meaning |\n|---|---|\n");
    let mut below = Vec::new();
    for (name, field) in fields {
        let about = field.get("description").and_then(Value::as_str).unwrap_or_default().replace('\n', " ");
        text.push_str(&format!("| `{name}` | {about} |\n"));
        if let Some((shape, suffix)) = resolve(root, field) {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            below.push((shape, format!("{path}{suffix}")));
        }
    }
    for (shape, path) in below {
        section(root, shape, &path, text);
    }
}

/// The values that hold where nothing is set, by path; what stands in lists and maps has none of its own.
pub(super) fn defaults() -> Vec<(String, String)> {
    let schema = schema();
    let mut found = Vec::new();
    collect_defaults(&schema, &schema, "", &mut found);
    found
}

fn collect_defaults(root: &Value, shape: &Value, path: &str, found: &mut Vec<(String, String)>) {
    for (name, field) in shape.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let about = field.get("description").and_then(Value::as_str).unwrap_or_default();
        let default = about.split_once("Default: `").and_then(|(_, rest)| rest.split_once('`'));
        match (default, resolve(root, field)) {
            (Some((default, _)), _) => found.push((path, default.to_owned())),
            (None, Some((below, ""))) => collect_defaults(root, below, &path, found),
            _ => {}
        }
    }
}

/// The mapping a field leads to: itself, the items of a list, or the values of a map.
fn resolve<'a>(root: &'a Value, field: &'a Value) -> Option<(&'a Value, &'static str)> {
    let follow = |value: &'a Value| -> Option<&'a Value> {
        let name = value.get("$ref")?.as_str()?.strip_prefix("#/definitions/")?;
        root.get("definitions")?.get(name)
    };
    let alternatives = field.get("anyOf").and_then(Value::as_array).into_iter().flatten();
    let direct = alternatives.chain([field]).find_map(follow);
    let items = || Some((follow(field.get("items")?)?, "[]"));
    let values = || Some((follow(field.get("additionalProperties")?)?, ".NAME"));
    direct.map(|shape| (shape, "")).or_else(items).or_else(values)
}
