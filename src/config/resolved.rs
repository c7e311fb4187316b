//! The configuration as it is in force: every value with where it is from, secrets hidden.
//!
//! Must not show a secret, nor say of a value that it is set where it is not.

use serde::Serialize;
use serde_json::Value;

use super::checked::Config;
use super::docs::defaults;
use super::layers::Layers;
use super::locate::Places;
use super::mask::without_credentials;
use super::tree::Path;
use crate::identity::CredentialSource;
use crate::server::ListenerSettings;

/// One value and where it is from.
#[derive(Debug, Clone, Serialize)]
pub struct ResolvedValue {
    /// As in `sessions.fresh_for` or `routes[0].name`.
    pub path: String,
    pub value: Value,
    /// A file and line, an environment variable, an option, or `default`.
    pub origin: String,
}

/// Origin of a value that is not set.
const DEFAULT: &str = "default";
/// What stands in the place of a secret.
const HIDDEN: &str = "[redacted]";

/// Parts that do nothing where they are not written.
const OPTIONAL: [&str; 7] =
    ["admin", "cors", "identity.assertion", "log.audit", "sessions.shared", "sign_in", "tracing"];

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

/// Defaults that follow from other values, or are lists: where they are not set, what `config` has in their place.
pub(super) fn derived_defaults(config: &Config) -> Vec<ResolvedValue> {
    let listeners = config.listeners.iter().enumerate();
    let listeners = listeners
        .map(|(at, listener)| (format!("listeners[{at}].address"), listener.address.to_string().into()));
    let credentials = config.credentials.iter().enumerate().filter_map(|(at, source)| match source {
        CredentialSource::Cookie(name) => Some((format!("credentials[{at}].cookie"), name.clone().into())),
        CredentialSource::Bearer => Some((format!("credentials[{at}].bearer"), true.into())),
        // Never looked for unless it is asked for.
        CredentialSource::BasicPassword | CredentialSource::TrustedIdentity(_) => None,
    });
    let limits = [
        ("limits.max_open_streams", config.proxy.open_streams()),
        ("limits.max_connections_per_peer", config.listeners.first().map_or(0, per_peer)),
    ];
    let limits = limits.into_iter().map(|(path, limit)| (path.to_owned(), limit.into()));
    // A URI without a path has a slash of its own.
    let base_url = config.stytch.base_url.to_string().trim_end_matches('/').to_owned();
    let base_url = [("stytch.base_url".to_owned(), base_url.into())];
    let all = listeners.chain(credentials).chain(limits).chain(base_url);
    all.map(|(path, value)| ResolvedValue { path, value, origin: DEFAULT.to_owned() }).collect()
}

fn per_peer(listener: &ListenerSettings) -> usize {
    listener.limits.max_connections_per_peer
}

/// The same, and what holds where nothing is set: the documented defaults, and those `derived` from other values. Made of
/// the whole reference: for whoever asks, not for every start.
pub fn with_defaults(set: &[ResolvedValue], derived: &[ResolvedValue]) -> Vec<ResolvedValue> {
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
    let unset = unset.map(|(path, value)| ResolvedValue {
        path,
        value: Value::String(value),
        origin: DEFAULT.to_owned(),
    });
    // A list is set as a whole.
    let list_of = |path: &str| path.split('[').next().unwrap_or_default().to_owned();
    let derived = derived.iter().filter(|value| !is_set(&list_of(&value.path)));
    let mut unset: Vec<ResolvedValue> = unset.chain(derived.cloned()).collect();
    unset.sort_by(|one, other| one.path.cmp(&other.path));
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
