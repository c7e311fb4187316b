//! Everything of the configuration that a decision depends on, swapped whole.
//!
//! Must not be changed in place: a request sees one snapshot from beginning to end.

use std::sync::Arc;
use std::time::Duration;

use super::ManagedNames;
use crate::identity::{CredentialSource, JwtRules};
use crate::policy::RouteTable;

/// One version of the rules.
#[derive(Debug)]
pub struct Snapshot {
    pub routes: RouteTable,
    pub credentials: Arc<[CredentialSource]>,
    pub jwt_rules: JwtRules,
    pub managed_names: Arc<ManagedNames>,
    /// Evidence older than this is confirmed before it refuses anybody.
    pub negative_for: Duration,
}
