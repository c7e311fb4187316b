//! The table that finds a route: host, then path, then as written; methods never rank (section 4.1 of the design).
//!
//! Must not fall back to a weaker route when the best one refuses the method.

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;

use super::{CanonicalPath, HostName, HostPattern, PathPattern, Route};

/// All routes, in the order they are tried, and where to look for those that a request could be for.
#[derive(Debug, Default)]
pub struct RouteTable {
    entries: Vec<Arc<Entry>>,
    /// By host, or by suffix with its leading dot.
    named: HashMap<String, Places>,
    everywhere: Places,
    /// Some route names a host, and none says `*`.
    hosts_are_closed: bool,
}

#[derive(Debug)]
struct Entry {
    /// Which is tried first.
    order: usize,
    host: HostPattern,
    path: PathPattern,
    route: Arc<Route>,
}

/// The places of one host pattern by the segment their paths begin with, each list in the order it is tried.
#[derive(Debug, Default)]
struct Places {
    by_first_segment: HashMap<String, Vec<Arc<Entry>>>,
    /// Those that could begin with any segment.
    others: Vec<Arc<Entry>>,
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
                    entries.push(Entry { order: 0, host, path, route: Arc::clone(&route) });
                }
            }
        }
        entries.sort_by_key(|entry| (entry.host.rank(), entry.path.rank()));
        let named = entries.iter().any(|entry| entry.host.is_named());
        let open = entries.iter().any(|entry| entry.host == HostPattern::Any);
        let mut table = Self { hosts_are_closed: named && !open, ..Self::default() };
        for (order, entry) in entries.into_iter().enumerate() {
            let entry = Arc::new(Entry { order, ..entry });
            table.places_of(&entry.host).add(&entry);
            table.entries.push(entry);
        }
        table
    }

    fn places_of(&mut self, host: &HostPattern) -> &mut Places {
        match host {
            HostPattern::Exact(host) => self.named.entry(host.as_str().to_owned()).or_default(),
            HostPattern::Below(suffix) => self.named.entry(suffix.clone()).or_default(),
            HostPattern::Any | HostPattern::Unnamed => &mut self.everywhere,
        }
    }

    /// The route for a request, or why there is none.
    pub fn find(
        &self,
        host: &HostName,
        path: &CanonicalPath,
        method: &Method,
    ) -> Result<&Arc<Route>, RouteMiss> {
        let host = host.as_str();
        // The host itself, then its suffixes, the longest first.
        let suffixes = host.match_indices('.').filter_map(|(at, _)| host.get(at..));
        let mut named = [host].into_iter().chain(suffixes).filter_map(|name| self.named.get(name)).peekable();
        if self.hosts_are_closed && named.peek().is_none() {
            return Err(RouteMiss::Misdirected);
        }
        let (places, best) = named
            .chain([&self.everywhere])
            .find_map(|places| Some((places, places.best(path)?)))
            .ok_or(RouteMiss::NotFound)?;
        if best.route.matches.takes(method) {
            return Ok(&best.route);
        }
        // Of two routes of one pattern only one may cover the path, where the other minds case.
        let same_place = || {
            let of_pattern =
                places.for_path(path).filter(|entry| entry.host == best.host && entry.path == best.path);
            of_pattern.filter(|entry| entry.covers(path))
        };
        let takes = same_place().filter(|entry| entry.route.matches.takes(method));
        match takes.min_by_key(|entry| entry.order) {
            Some(entry) => Ok(&entry.route),
            None => Err(RouteMiss::MethodNotAllowed {
                route: Arc::clone(&best.route.name),
                allowed: same_place().flat_map(|entry| entry.route.matches.methods.iter().cloned()).collect(),
            }),
        }
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

impl Places {
    fn add(&mut self, entry: &Arc<Entry>) {
        let first = entry.path.first_segment().filter(|_| !entry.route.case_insensitive);
        let list = match first {
            Some(first) => self.by_first_segment.entry(first.to_owned()).or_default(),
            None => &mut self.others,
        };
        list.push(Arc::clone(entry));
    }

    /// Every place that could cover the path: two lists, each in its order.
    fn for_path(&self, path: &CanonicalPath) -> impl Iterator<Item = &Entry> {
        self.lists(path).into_iter().flatten().map(|entry| &**entry)
    }

    fn lists(&self, path: &CanonicalPath) -> [&[Arc<Entry>]; 2] {
        let first = path.segments().next().and_then(|first| self.by_first_segment.get(first));
        [first.map_or(&[][..], Vec::as_slice), &self.others]
    }

    /// The first that covers the path.
    fn best(&self, path: &CanonicalPath) -> Option<&Entry> {
        let firsts =
            self.lists(path).into_iter().filter_map(|list| list.iter().find(|entry| entry.covers(path)));
        firsts.min_by_key(|entry| entry.order).map(|entry| &**entry)
    }
}

impl Entry {
    fn matches(&self, host: &HostName, path: &CanonicalPath) -> bool {
        self.host.matches(host) && self.covers(path)
    }

    fn covers(&self, path: &CanonicalPath) -> bool {
        self.path.matches(path, self.route.case_insensitive)
    }
}

#[cfg(test)]
mod tests;
