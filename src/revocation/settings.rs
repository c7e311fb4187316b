//! What revocations are learnt from, already checked.
//!
//! Must not read anything: plain values only.

use std::time::Duration;

use crate::identity::{ProjectId, Secret};

/// Where revocations come from and how long they matter.
#[derive(Debug, Clone)]
pub struct RevocationSettings {
    /// Signing secrets of the webhook; several while one replaces another. None: there is no webhook.
    pub webhook_secrets: Vec<Secret>,
    pub project_id: ProjectId,
    /// The oldest evidence a revocation could still have to outrank.
    pub horizon: Duration,
}
