//! One route: what it answers for, who may pass, and how old the evidence may be.
//!
//! Must not know the other routes; which of them answers is the table's to say.

use std::sync::Arc;
use std::time::Duration;

use http::Method;

use super::{HostPattern, PathPattern, Requirement};

/// One route, complete: nothing about it is looked up again while a request runs.
#[derive(Debug, Clone)]
pub struct Route {
    pub name: Arc<str>,
    pub matches: RouteMatch,
    pub access: Access,
    /// Evaluated beside `access` for whoever it is evaluated for, and never enforced.
    pub shadow: Option<Requirement>,
    /// For whom the signed assertion is made on this route; none is made without it.
    pub audience: Option<Arc<str>>,
    pub freshness: Freshness,
    pub upstream: Arc<str>,
    pub letter_case: LetterCase,
    pub keep_encoded_slash: bool,
    pub keep_path_parameters: bool,
    /// Nothing: no WebSocket is opened on it.
    pub websocket: Option<WebSocketRule>,
    pub forwards: ForwardedCredentials,
}

/// Whose pages may open a WebSocket on a route with a credential that the browser attaches by itself: those of the host they
/// call, and these.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WebSocketRule {
    /// Origins as browsers write them (RFC 6454 section 6.1), such as `https://app.example.com`.
    pub origins: Vec<Arc<str>>,
}

/// Which credentials of configured sources the application receives: none, unless its upstream says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ForwardedCredentials {
    pub authorization: bool,
    /// The session cookies.
    pub cookies: bool,
}

/// What the origin of a route makes of letter case in paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LetterCase {
    /// It is not known: a path that is another route's with letter case ignored is refused.
    #[default]
    Refuse,
    /// It tells cases apart.
    Sensitive,
    /// It ignores case, so the route's patterns do too.
    Insensitive,
}

/// What a request must look like for a route to answer it.
#[derive(Debug, Clone)]
pub struct RouteMatch {
    pub hosts: Vec<HostPattern>,
    pub paths: Vec<PathPattern>,
    /// Empty: any method.
    pub methods: Vec<Method>,
}

/// Who may pass.
#[derive(Debug, Clone)]
pub enum Access {
    /// Anybody; no credential is looked at and no identity is injected.
    Public,
    Require(Requirement),
}

impl Access {
    pub fn requirement(&self) -> Option<&Requirement> {
        match self {
            Self::Public => None,
            Self::Require(requirement) => Some(requirement),
        }
    }
}

/// How old the evidence of a decision may be on this route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// Served without asking.
    pub fresh_for: Duration,
    /// Never served past this while the directory answers.
    pub max_staleness: Duration,
    /// Added to `max_staleness` while the directory fails.
    pub stale_if_error: Duration,
}

impl Freshness {
    /// How old a fact with these ages of its own may be on a route with the ages `route` (section 4.3 of the design).
    ///
    /// Both bounds are the smaller of the two. `fresh_for` becomes the age from which a fact is served while it is looked up
    /// again: its own, or four fifths of the bound, so that a request seldom waits for a fact.
    #[must_use]
    pub fn within(self, route: Self) -> Self {
        let max_staleness = self.max_staleness.min(route.max_staleness);
        Self {
            fresh_for: self.fresh_for.min(max_staleness / 5 * 4),
            max_staleness,
            stale_if_error: self.stale_if_error.min(route.stale_if_error),
        }
    }
}

impl RouteMatch {
    pub(super) fn takes(&self, method: &Method) -> bool {
        let follows_get = *method == Method::HEAD && self.methods.contains(&Method::GET);
        self.methods.is_empty() || self.methods.contains(method) || follows_get
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_is_held_to_the_stricter_of_its_own_ages_and_the_routes() {
        let ages = |fresh_for, max_staleness, stale_if_error| Freshness {
            fresh_for: Duration::from_millis(fresh_for),
            max_staleness: Duration::from_millis(max_staleness),
            stale_if_error: Duration::from_millis(stale_if_error),
        };
        let own = ages(300_000, 600_000, 86_400_000);
        for (route, expected) in [
            // A route with the usual ages: a call each 24 s at most.
            (ages(10_000, 30_000, 300_000), ages(24_000, 30_000, 300_000)),
            (ages(10_000, 5_000, 0), ages(4_000, 5_000, 0)),
            (ages(10_000, 1_000, 0), ages(800, 1_000, 0)),
            (ages(0, 3_600_000, 172_800_000), ages(300_000, 600_000, 86_400_000)),
            (ages(10_000, 600_000, 0), ages(300_000, 600_000, 0)),
        ] {
            assert_eq!(own.within(route), expected);
        }
    }
}
