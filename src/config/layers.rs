//! The layers, weakest first: OpenTelemetry's variables, file, environment, command line. Defaults live where each value is checked.
//!
//! Must not turn text into numbers: `0012` in a secret stays what it is until the shape says otherwise.

use std::collections::BTreeMap;

use figment::value::{Dict, Map, Value};
use figment::{Error, Figment, Metadata, Profile, Provider};

use super::otel::otel_layer;

/// What every environment variable of the configuration begins with.
const PREFIX: &str = "PORTCULLIS_";
/// Keys of the top level that hold a single value.
const TOP_LEVEL: [&str; 3] = ["drain_delay", "drain_timeout", "start_patience"];
/// And what of it comes from variables of OpenTelemetry.
const OTEL_PREFIX: &str = "OTEL_";
const OTEL: &str = "variables of OpenTelemetry";
/// Keys whose parts are named by whoever writes them.
const OPEN: [&str; 2] = ["tracing.attributes", "tracing.headers"];
const ENVIRONMENT: &str = "environment";
const COMMAND_LINE: &str = "command line";

/// A tree that comes from somewhere.
struct Layer {
    name: &'static str,
    tree: serde_json::Value,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        match Value::serialize(&self.tree)? {
            Value::Dict(_, fields) => Ok(Map::from([(Profile::Default, fields)])),
            _ => Ok(Map::new()),
        }
    }
}

/// The ways to give a secret.
const SECRET_FORMS: [&str; 3] = ["value", "env", "file"];

/// The merged tree, able to tell where a value came from.
pub(super) struct Layers {
    merged: Figment,
    /// The merged tree, in which each value is tagged with its layer. Built once.
    tree: Option<Value>,
    /// The variables that set something, and what.
    variables: Vec<(String, String)>,
}

impl Layers {
    pub(super) fn new(
        mut file: serde_json::Value,
        environment: impl Iterator<Item = (String, String)>,
        overrides: &[(String, String)],
    ) -> Self {
        let mut variables = Vec::new();
        let mut settings = Vec::new();
        let mut otel = BTreeMap::new();
        for (variable, value) in environment {
            if variable.starts_with(OTEL_PREFIX) {
                otel.insert(variable, value);
                continue;
            }
            let Some(name) = variable.strip_prefix(PREFIX).map(str::to_ascii_lowercase) else { continue };
            // Other single names are no keys (`PORTCULLIS_CONFIG` names the file).
            if name.contains("__") || TOP_LEVEL.contains(&name.as_str()) {
                let path = name.replace("__", ".");
                variables.push((variable, path.clone()));
                settings.push((path, value));
            }
        }
        let said = |path: &str| {
            let paths = settings.iter().chain(overrides).filter_map(|(set, _)| set.strip_prefix(path));
            paths.map(str::to_ascii_lowercase).collect::<Vec<_>>()
        };
        let is_wanted = file.get("tracing").is_some() || !said("tracing.").is_empty();
        let in_file = file.pointer("/tracing/headers").and_then(|headers| headers.as_object());
        let in_file =
            in_file.into_iter().flat_map(|headers| headers.keys().map(|name| name.to_ascii_lowercase()));
        // Each is said whole by whoever says it: a value beside the name of a variable would be two.
        let elsewhere =
            said("tracing.headers.").into_iter().filter_map(|path| Some(path.split('.').next()?.to_owned()));
        let otel = otel_layer(&otel, is_wanted, &in_file.chain(elsewhere).collect::<Vec<_>>());
        variables.extend(otel.variables);
        let mut environment = nest(settings.into_iter());
        let options = nest(overrides.iter().cloned());
        give_way(&mut file, &environment);
        give_way(&mut file, &options);
        give_way(&mut environment, &options);
        let merged = Figment::new()
            .merge(Layer { name: OTEL, tree: otel.tree })
            .merge(Layer { name: "file", tree: file })
            .merge(Layer { name: ENVIRONMENT, tree: environment })
            .merge(Layer { name: COMMAND_LINE, tree: options });
        let tree = merged.find_value("").ok();
        Self { merged, tree, variables }
    }

    pub(super) fn merged(&self) -> Result<serde_json::Value, String> {
        self.merged.extract().map_err(|error| error.to_string())
    }

    /// The variable or option that set a value, if the file did not.
    pub(super) fn elsewhere(&self, path: &str) -> Option<String> {
        // A name in there may hold a dot, which is then no step: whoever set the whole set it.
        let whole = || OPEN.iter().find(|open| path.starts_with(**open)).copied();
        let tree = self.tree.as_ref()?;
        let found = tree.find_ref(path).or_else(|| tree.find_ref(whole()?))?;
        match self.merged.get_metadata(found.tag())?.name.as_ref() {
            ENVIRONMENT | OTEL => {
                let set_it =
                    self.variables.iter().find(|(_, set)| set.starts_with(path) || path.starts_with(set));
                Some(format!("environment variable `{}`", set_it.map_or(path, |(variable, _)| variable)))
            }
            COMMAND_LINE => Some(format!("option `--set {path}`")),
            _ => None,
        }
    }
}

/// Takes out of a layer each secret that the one above gives in another form: two forms together would be a mistake.
fn give_way(below: &mut serde_json::Value, above: &serde_json::Value) {
    let (Some(below), Some(above)) = (below.as_object_mut(), above.as_object()) else { return };
    let is_secret = |fields: &serde_json::Map<String, serde_json::Value>| {
        fields.keys().all(|key| SECRET_FORMS.contains(&key.as_str()))
    };
    if is_secret(below) && is_secret(above) && !above.is_empty() {
        below.clear();
        return;
    }
    for (key, above) in above {
        if let Some(below) = below.get_mut(key) {
            give_way(below, above);
        }
    }
}

/// Dotted names into a tree of text.
fn nest(pairs: impl Iterator<Item = (String, String)>) -> serde_json::Value {
    let mut tree = serde_json::Map::new();
    for (name, text) in pairs {
        let keys: Vec<&str> = name.split('.').collect();
        put(&mut tree, &keys, text);
    }
    serde_json::Value::Object(tree)
}

fn put(tree: &mut serde_json::Map<String, serde_json::Value>, keys: &[&str], text: String) {
    match keys {
        [] => {}
        [last] => {
            tree.insert((*last).to_owned(), serde_json::Value::String(text));
        }
        [first, rest @ ..] => {
            let below = tree.entry(*first).or_insert_with(|| serde_json::json!({}));
            if !below.is_object() {
                *below = serde_json::json!({});
            }
            if let serde_json::Value::Object(below) = below {
                put(below, rest, text);
            }
        }
    }
}
