//! Everything of the configuration that a decision depends on, swapped whole.
//!
//! Must not be changed in place: a request sees one snapshot from beginning to end.

use std::sync::Arc;
use std::time::Duration;

use super::{Assertions, ManagedNames};
use crate::identity::{CredentialSource, JwtRules};
use crate::policy::{Route, RouteTable};

/// The rules one request is decided by from beginning to end, and when they were taken.
#[derive(Clone)]
pub struct Rules {
    pub snapshot: Arc<Snapshot>,
    /// Events after it reach the stream that the request becomes.
    pub(super) ticket: u64,
}

/// A moment between events, taken before rules are.
#[derive(Debug, Clone, Copy)]
pub struct Ticket(pub(super) u64);

impl Rules {
    /// `snapshot` as it was found after `ticket` was taken.
    pub fn new(ticket: Ticket, snapshot: Arc<Snapshot>) -> Self {
        Self { snapshot, ticket: ticket.0 }
    }
}

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
}
