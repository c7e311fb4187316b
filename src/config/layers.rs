//! The layers, weakest first: file, environment, command line. Defaults live where each value is checked.
//!
//! Must not turn text into numbers: `0012` in a secret stays what it is until the shape says otherwise.

use figment::value::{Dict, Map, Value};
use figment::{Error, Figment, Metadata, Profile, Provider};

/// What every environment variable of the configuration begins with.
const PREFIX: &str = "PORTCULLIS_";
/// Keys of the top level that hold a single value.
const TOP_LEVEL: [&str; 1] = ["drain_timeout"];
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

/// The merged tree, able to tell where a value came from.
pub(super) struct Layers(Figment);

impl Layers {
    pub(super) fn new(
        file: serde_json::Value,
        environment: impl Iterator<Item = (String, String)>,
        overrides: &[(String, String)],
    ) -> Self {
        let environment = environment.filter_map(|(name, value)| {
            let name = name.strip_prefix(PREFIX)?.to_ascii_lowercase();
            // Other single names are no keys (`PORTCULLIS_CONFIG` names the file).
            (name.contains("__") || TOP_LEVEL.contains(&name.as_str()))
                .then(|| (name.replace("__", "."), value))
        });
        let overrides = overrides.iter().cloned();
        Self(
            Figment::new()
                .merge(Layer { name: "file", tree: file })
                .merge(Layer { name: ENVIRONMENT, tree: nest(environment) })
                .merge(Layer { name: COMMAND_LINE, tree: nest(overrides) }),
        )
    }

    pub(super) fn merged(&self) -> Result<serde_json::Value, String> {
        self.0.extract().map_err(|error| error.to_string())
    }

    /// The variable or option that set a value, if the file did not.
    pub(super) fn elsewhere(&self, path: &str) -> Option<String> {
        match self.0.find_metadata(path)?.name.as_ref() {
            ENVIRONMENT => {
                let name = path.replace('.', "__").to_ascii_uppercase();
                Some(format!("environment variable `{PREFIX}{name}`"))
            }
            COMMAND_LINE => Some(format!("option `--set {path}`")),
            _ => None,
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
