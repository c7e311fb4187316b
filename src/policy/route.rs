//! Routes and the table that finds one: host, then path, then as written; methods never rank (section 4.1 of the design).
//!
//! Must not fall back to a weaker route when the best one refuses the method.

use std::sync::Arc;
use std::time::Duration;

use http::Method;

use super::{CanonicalPath, HostName, HostPattern, PathPattern, Requirement};

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

/// All routes, in the order they are tried.
#[derive(Debug, Default)]
pub struct RouteTable {
    entries: Vec<Entry>,
    /// Some route names a host, and none says `*`.
    hosts_are_closed: bool,
}

#[derive(Debug)]
struct Entry {
    host: HostPattern,
    path: PathPattern,
    route: Arc<Route>,
}

/// Why no route answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteMiss {
    /// Routes name hosts, and this is none of them.
    Misdirected,
    NotFound,
    /// The best match does not take the method; these it takes.
    MethodNotAllowed {
        route: Arc<str>,
        allowed: Vec<Method>,
    },
}

/// How a request stands to one place of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Answers,
    OtherHost,
    OtherPath,
    /// The place is the request's, and the route does not take its method.
    OtherMethod,
    /// It matches, and another that is tried earlier does too.
    Outranked,
}

impl RouteTable {
    /// Ranks the routes; among equals the order given decides.
    pub fn new(routes: impl IntoIterator<Item = Route>) -> Self {
        let mut entries: Vec<Entry> = Vec::new();
        for route in routes.into_iter().map(Arc::new) {
            for host in &route.matches.hosts {
                for path in &route.matches.paths {
                    let (host, path) = (host.clone(), path.clone());
                    entries.push(Entry { host, path, route: Arc::clone(&route) });
                }
            }
        }
        entries.sort_by_key(|entry| (entry.host.rank(), entry.path.rank()));
        let named = entries.iter().any(|entry| entry.host.is_named());
        let open = entries.iter().any(|entry| entry.host == HostPattern::Any);
        Self { entries, hosts_are_closed: named && !open }
    }

    /// The route for a request, or why there is none.
    pub fn find(
        &self,
        host: &HostName,
        path: &CanonicalPath,
        method: &Method,
    ) -> Result<&Arc<Route>, RouteMiss> {
        if self.hosts_are_closed
            && !self.entries.iter().any(|entry| entry.host.is_named() && entry.host.matches(host))
        {
            return Err(RouteMiss::Misdirected);
        }
        let best = self.entries.iter().find(|entry| entry.matches(host, path)).ok_or(RouteMiss::NotFound)?;
        let mut allowed = Vec::new();
        for entry in self.entries.iter().filter(|entry| entry.host == best.host && entry.path == best.path) {
            if entry.route.matches.takes(method) {
                return Ok(&entry.route);
            }
            allowed.extend(entry.route.matches.methods.iter().cloned());
        }
        Err(RouteMiss::MethodNotAllowed { route: Arc::clone(&best.route.name), allowed })
    }

    /// Every place in the order it is tried, with how the request stands to it: for explaining.
    pub fn standings<'a>(
        &'a self,
        host: &'a HostName,
        path: &'a CanonicalPath,
        method: &'a Method,
    ) -> impl Iterator<Item = (Standing, &'a HostPattern, &'a PathPattern, &'a Arc<Route>)> {
        let best = self.entries.iter().find(|entry| entry.matches(host, path));
        let mut taken = false;
        self.entries.iter().map(move |entry| {
            let same_place = best.is_some_and(|best| entry.host == best.host && entry.path == best.path);
            let standing = if !entry.host.matches(host) {
                Standing::OtherHost
            } else if !entry.path.matches(path, entry.route.case_insensitive) {
                Standing::OtherPath
            } else if !same_place || taken {
                Standing::Outranked
            } else if !entry.route.matches.takes(method) {
                Standing::OtherMethod
            } else {
                taken = true;
                Standing::Answers
            };
            (standing, &entry.host, &entry.path, &entry.route)
        })
    }

    /// Host pattern, path pattern and route in the order they are tried.
    pub fn iter(&self) -> impl Iterator<Item = (&HostPattern, &PathPattern, &Arc<Route>)> {
        self.entries.iter().map(|entry| (&entry.host, &entry.path, &entry.route))
    }
}

impl Entry {
    fn matches(&self, host: &HostName, path: &CanonicalPath) -> bool {
        self.host.matches(host) && self.path.matches(path, self.route.case_insensitive)
    }
}

impl RouteMatch {
    pub(super) fn takes(&self, method: &Method) -> bool {
        let follows_get = *method == Method::HEAD && self.methods.contains(&Method::GET);
        self.methods.is_empty() || self.methods.contains(method) || follows_get
    }
}

#[cfg(test)]
mod tests;
