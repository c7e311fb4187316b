//! The numbers the tiers are built with, already checked.
//!
//! Must not read anything: plain values only.

use std::time::Duration;

use crate::identity::Secret;

/// How the memory tier keeps what it learns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemorySettings {
    /// Members whose list is kept.
    pub max_entries: u64,
    /// What all lists together may take, in bytes.
    pub max_bytes: u64,
    /// Lookups under way in the background at once: more would keep those waiting that somebody waits for.
    pub max_refreshes: usize,
    /// How long "no such member" and "no such token" are believed.
    pub negative_for: Duration,
    /// How long an opaque token's session is remembered.
    pub token_binding_for: Duration,
    /// The oldest evidence any route could still be served: longest `max_staleness` plus `stale_if_error`.
    pub horizon: Duration,
}

/// How calls to the directory are held back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardSettings {
    /// For one lookup, waiting and a second try included.
    pub deadline: Duration,
    /// Calls of one operation under way at once.
    pub max_in_flight: usize,
    /// Calls of one operation that may wait for a place.
    pub max_waiting: usize,
}

/// How many unknown opaque tokens the directory is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownTokenSettings {
    /// A second, from one address.
    pub per_peer: u32,
    /// A second, from all addresses together.
    pub in_total: u32,
}

/// How the shared tier is reached and how what is kept there is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedSettings {
    pub host: String,
    pub port: u16,
    pub tls: bool,
    /// Certificates to trust in place of the system's, in PEM.
    pub ca_pem: Option<Vec<u8>>,
    pub database: i64,
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// What values and messages are sealed with; every replica of the deployment has the same.
    pub key: Secret,
    /// A key that is still accepted while the replicas change to another.
    pub previous_key: Option<Secret>,
    /// What every name of ours in Redis begins with.
    pub prefix: String,
    /// For one exchange with Redis.
    pub timeout: Duration,
    /// Whose sessions these are: project and API base, so that two deployments never share an answer.
    pub scope: String,
    /// The pointers of the custom claims that records hold; records with others are not ours.
    pub claim_pointers: Vec<String>,
}
