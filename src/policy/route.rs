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
    /// Whether the origin ignores letter case in paths, so that matching must as well.
    pub case_insensitive: bool,
    pub keep_encoded_slash: bool,
    pub keep_path_parameters: bool,
    pub websocket: bool,
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

impl RouteMatch {
    pub(super) fn takes(&self, method: &Method) -> bool {
        let follows_get = *method == Method::HEAD && self.methods.contains(&Method::GET);
        self.methods.is_empty() || self.methods.contains(method) || follows_get
    }
}
