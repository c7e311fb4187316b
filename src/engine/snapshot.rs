//! Everything of the configuration that a decision depends on, swapped whole.
//!
//! Must not be changed in place: a request sees one snapshot from beginning to end.

use std::sync::Arc;
use std::time::Duration;

use super::{Assertions, ManagedNames};
use crate::identity::{CredentialSource, JwtRules};
use crate::policy::{Route, RouteTable};

/// One version of the rules.
pub struct Snapshot {
    pub routes: RouteTable,
    pub credentials: Arc<[CredentialSource]>,
    pub jwt_rules: Arc<JwtRules>,
    pub managed_names: Arc<ManagedNames>,
    /// Makes the signed assertion, where there is one.
    pub assertions: Option<Arc<Assertions>>,
    /// Evidence older than this is confirmed before it refuses anybody.
    pub negative_for: Duration,
    /// What the gateway's own pages require: a member session.
    pub own_route: Arc<Route>,
    /// Whether a verified JWT's own claims count while the directory fails (section 4.8).
    pub jwt_evidence: bool,
    /// The custom claims that any requirement asks about.
    pub claim_pointers: Arc<[Arc<str>]>,
    /// Whether the tokens of machines or apps are credentials of ours.
    pub takes_access_tokens: bool,
}
