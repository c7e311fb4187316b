//! The `sessions` section as it is written.
//!
//! Must not hold a rule; `checked` does.

use schemars::JsonSchema;
use serde::Deserialize;

use super::RawSecret;

/// Ages of session lists and bounds of lookups.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawSessions {
    /// Served without asking. Default: `10s`.
    pub(in crate::config) fresh_for: Option<String>,
    /// Served after that while one refresh runs. Default: `20s`.
    pub(in crate::config) stale_while_revalidate: Option<String>,
    /// Served after that only while the directory fails. Default: `5m`.
    pub(in crate::config) stale_if_error: Option<String>,
    /// How long "no such member" and "no such token" are believed, and how old evidence may be to refuse anybody without asking again. Default: `2s`.
    pub(in crate::config) negative_for: Option<String>,
    /// How long an opaque token's session is remembered. Default: `15m`.
    pub(in crate::config) token_binding_for: Option<String>,
    /// `never`, or `outage`: while the directory fails, a valid session JWT counts by its own claims, no longer than a list would. Default: `never`.
    pub(in crate::config) jwt_evidence: Option<String>,
    /// Members whose sessions are kept. Default: `100000`.
    pub(in crate::config) max_entries: Option<u64>,
    /// What all kept sessions together may take, in bytes. Default: `134217728`.
    pub(in crate::config) max_bytes: Option<u64>,
    /// For one lookup, waiting and a second try included. Default: `2s`.
    pub(in crate::config) deadline: Option<String>,
    /// Lookups under way at once. Default: `64`.
    pub(in crate::config) max_in_flight: Option<u64>,
    /// Lookups that may wait for a place. Default: `1024`.
    pub(in crate::config) max_waiting: Option<u64>,
    /// How many unknown opaque tokens the directory is asked about.
    pub(in crate::config) unknown_tokens: Option<RawUnknownTokens>,
    /// A cache that replicas share.
    pub(in crate::config) shared: Option<RawShared>,
}

/// Bounds on unknown opaque tokens. Tokens that turn out to be good are not counted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawUnknownTokens {
    /// A second, from one address; twenty seconds' worth may come at once. Default: `2`.
    pub(in crate::config) per_peer: Option<u64>,
    /// A second, from all addresses; three eighths are kept for addresses that showed something genuine in the last hour, a quarter for those of which nothing is known, an eighth for tokens that come beside their member's own JWT, expired within a day. Default: `50`.
    pub(in crate::config) in_total: Option<u64>,
}

/// A cache in Redis that replicas share, and the bus over which they tell each other of revocations.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawShared {
    /// `redis://host:port/database`, or `rediss://` for TLS; without credentials in it.
    pub(in crate::config) redis: Option<String>,
    /// The ACL user.
    pub(in crate::config) username: Option<String>,
    /// Their password.
    pub(in crate::config) password: Option<RawSecret>,
    /// Certificates to trust in place of the system's, in a PEM file.
    pub(in crate::config) ca_file: Option<String>,
    /// What everything in Redis is sealed with: at least 32 characters, the same on every replica and nowhere else.
    pub(in crate::config) key: Option<RawSecret>,
    /// A key still accepted while replicas change to another.
    pub(in crate::config) previous_key: Option<RawSecret>,
    /// What every name in Redis begins with. Default: `portcullis`.
    pub(in crate::config) prefix: Option<String>,
    /// For one exchange with Redis. Default: `50ms`, at most `1s`.
    pub(in crate::config) timeout: Option<String>,
}
