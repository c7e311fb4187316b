//! What is needed to talk to the API, already checked.
//!
//! Must not read anything: plain values only.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;

use crate::identity::{ClientId, ProjectId, Secret};
use crate::policy::Freshness;

/// The largest answer read, in bytes.
pub const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// How the API is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StytchSettings {
    pub project_id: ProjectId,
    pub secret: Secret,
    /// Scheme and authority; `http` only to loopback.
    pub base_url: Uri,
    /// For fetching keys and checking credentials; lookups have the directory's own deadline.
    pub deadline: Duration,
    /// How often keys are fetched ahead of need.
    pub refresh_keys_every: Duration,
    /// A key set to begin with, for starting while the API cannot be reached.
    pub seed_keys: Option<Arc<[u8]>>,
    /// How RBAC policies and organizations are kept.
    pub rbac: RbacSettings,
    /// Connected apps whose tokens can only be asked about with a secret.
    pub apps: Arc<[AppCredentials]>,
    /// The custom claims that any requirement asks about (RFC 6901); no other is kept.
    pub claim_pointers: Arc<[Arc<str>]>,
}

/// How what is looked up about the project and its organizations is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RbacSettings {
    /// How often it is fetched anew; twice that it is served without.
    pub refresh_every: Duration,
    /// Added to that while the API fails.
    pub keep_for: Duration,
    /// For one lookup.
    pub deadline: Duration,
}

impl RbacSettings {
    /// The ages of a policy where a route allows more.
    pub fn ages(&self) -> Freshness {
        Freshness {
            fresh_for: self.refresh_every,
            max_staleness: self.refresh_every * 2,
            stale_if_error: self.keep_for,
        }
    }
}

/// A connected app and its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppCredentials {
    pub client_id: ClientId,
    pub secret: Secret,
}
