//! What is needed to talk to the API, already checked.
//!
//! Must not read anything: plain values only.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;

use crate::identity::{ProjectId, Secret};

/// The largest answer read, in bytes.
pub const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// How the API is reached.
#[derive(Debug, Clone)]
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
    /// The custom claims that any requirement asks about (RFC 6901); no other is kept.
    pub claim_pointers: Arc<[Arc<str>]>,
}
