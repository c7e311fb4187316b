//! The configuration as it is in force: every value with where it is from, secrets hidden.
//!
//! Must not show a secret, nor say of a value that it is set where it is not.

use serde::Serialize;
use serde_json::Value;

use super::docs::defaults;
use super::layers::Layers;
use super::locate::Places;
use super::mask::without_credentials;
use super::tree::Path;

/// One value and where it is from.
#[derive(Debug, Clone, Serialize)]
pub struct ResolvedValue {
    /// As in `sessions.fresh_for` or `routes[0].name`.
    pub path: String,
    pub value: Value,
    /// A file and line, an environment variable, an option, or `default`.
    pub origin: String,
}

/// What stands in the place of a secret.
const HIDDEN: &str = "[redacted]";

/// Parts that do nothing where they are not written.
const OPTIONAL: [&str; 5] = ["admin", "cors", "identity.assertion", "sessions.shared", "sign_in"];

/// Everything that is set.
pub(super) fn resolve(
    tree: &Value,
    layers: &Layers,
    name: &str,
    text: &str,
    places: &Places,
) -> Vec<ResolvedValue> {
    let mut values = Vec::new();
    let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
    walk(tree, &Path::default(), &mut |path, value| {
        let written = path.to_string();
        let in_file = || {
            let place = places.find(path);
            let line = place.map(|place| ends.partition_point(|end| *end < place.value.start) + 1);
            line.map_or_else(|| name.to_owned(), |line| format!("{name}:{line}"))
        };
        let origin = layers.elsewhere(&written).unwrap_or_else(in_file);
        let value = match value {
            _ if path.is_secret() => Value::String(HIDDEN.to_owned()),
            Value::String(text) => Value::String(without_credentials(text)),
            other => other.clone(),
        };
        values.push(ResolvedValue { path: written, value, origin });
    });
    values
}

/// The same, and what holds where nothing is set. Made of the whole reference: for whoever asks, not for every start.
pub fn with_defaults(set: &[ResolvedValue]) -> Vec<ResolvedValue> {
    let is_set = |path: &str| {
        set.iter().any(|set| {
            set.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    };
    let is_off = |path: &str| {
        OPTIONAL
            .iter()
            .any(|part| path.strip_prefix(part).is_some_and(|rest| rest.starts_with('.')) && !is_set(part))
    };
    let unset = defaults().into_iter().filter(|(path, _)| !is_set(path) && !is_off(path));
    let unset = unset.map(|(path, value)| {
        let value = Value::String(value);
        let origin = "default".to_owned();
        ResolvedValue { path, value, origin }
    });
    set.iter().cloned().chain(unset).collect()
}

fn walk(value: &Value, path: &Path, found: &mut impl FnMut(&Path, &Value)) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                walk(value, &path.key(key), found);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, value) in items.iter().enumerate() {
                walk(value, &path.index(index), found);
            }
        }
        leaf => found(path, leaf),
    }
}
