//! The table that finds a route: host, then path, then as written; methods never rank (section 4.1 of the design).
//!
//! Must not fall back to a weaker route when the best one refuses the method.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use http::Method;

use super::path::Segments;
use super::{
    Access, CanonicalPath, HostName, HostPattern, LetterCase, PathPattern, PathReading, PathText, Route,
};

/// All routes, in the order they are tried, and where to look for those that a request could be for.
#[derive(Debug, Default)]
pub struct RouteTable {
    entries: Vec<Arc<Entry>>,
    /// By host, or by suffix with its leading dot.
    named: HashMap<String, Places>,
    everywhere: Places,
    /// Some route names a host, and none says `*`.
    hosts_are_closed: bool,
    /// Some pattern has letters that are others with case folded.
    has_case: bool,
}

#[derive(Debug)]
struct Entry {
    /// Which is tried first.
    order: usize,
    host: HostPattern,
    path: PathPattern,
    /// The pattern with one last slash added or removed, where the route takes that spelling too.
    other_slash: Option<PathPattern>,
    route: Arc<Route>,
}

/// The places of one host pattern by the segment their paths begin with, each list in the order it is tried.
#[derive(Debug, Default)]
struct Places {
    by_first_segment: HashMap<String, Vec<Arc<Entry>>>,
    /// The same by the segment with letter case folded.
    by_folded_segment: HashMap<String, Vec<Arc<Entry>>>,
    /// Those that could begin with any segment.
    others: Vec<Arc<Entry>>,
    /// Some place ignores letter case.
    ignores_case: bool,
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
                    let host = host.clone();
                    let path = path.clone();
                    entries.push(Entry {
                        order: 0,
                        host,
                        path,
                        other_slash: None,
                        route: Arc::clone(&route),
                    });
                }
            }
        }
        entries.sort_by_key(|entry| (entry.host.rank(), entry.path.rank()));
        let named = entries.iter().any(|entry| entry.host.is_named());
        let open = entries.iter().any(|entry| entry.host == HostPattern::Any);
        let has_case = entries.iter().any(|entry| entry.path.has_case());
        let other_slashes = other_slashes(&entries);
        let mut table = Self { hosts_are_closed: named && !open, has_case, ..Self::default() };
        for (order, (entry, other_slash)) in entries.into_iter().zip(other_slashes).enumerate() {
            let entry = Arc::new(Entry { order, other_slash, ..entry });
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

    /// The route for a request, or why there is none. Letter case is ignored in the patterns of routes whose origin does.
    pub fn find(
        &self,
        host: &HostName,
        path: PathText<'_>,
        method: &Method,
    ) -> Result<&Arc<Route>, RouteMiss> {
        let best = self.best(host, path, false)?;
        let candidates = || best.places.for_path(path, false);
        // Of two routes of one pattern only one may cover the path, where the other minds case.
        let same_place = || {
            let of_pattern =
                candidates().filter(|entry| entry.host == best.entry.host && entry.path == best.entry.path);
            of_pattern.filter(|entry| entry.covers(path))
        };
        if best.entry.route.matches.takes(method) {
            return Ok(&best.entry.route);
        }
        let takes = same_place().filter(|entry| entry.route.matches.takes(method));
        match takes.min_by_key(|entry| entry.order) {
            Some(entry) => Ok(&entry.route),
            None => Err(RouteMiss::MethodNotAllowed {
                route: Arc::clone(&best.entry.route.name),
                allowed: same_place().flat_map(|entry| entry.route.matches.methods.iter().cloned()).collect(),
            }),
        }
    }

    /// Whether `route` is the one that answers even if letter case is ignored in the path and in every pattern.
    ///
    /// Two patterns that differ in case alone are of two routes, and an origin that ignores case cannot tell them apart.
    pub fn answers_ignoring_case(
        &self,
        route: &Arc<Route>,
        host: &HostName,
        path: PathText<'_>,
        method: &Method,
    ) -> bool {
        let Ok(best) = self.best(host, path, true) else { return false };
        let same_place = || {
            best.places.for_path(path, true).filter(|entry| {
                entry.host == best.entry.host
                    && entry.path.is_same_ignoring_case(&best.entry.path)
                    && entry.covers_ignoring_case(path)
                    && entry.route.matches.takes(method)
            })
        };
        let is_own = |entry: &Entry| Arc::ptr_eq(&entry.route, route);
        let own = same_place().find(|entry| is_own(entry));
        own.is_some_and(|own| same_place().all(|entry| is_own(entry) || entry.path == own.path))
    }

    /// Whether ignoring letter case can lead to another route for `path`.
    pub fn minds_case_of(&self, path: &CanonicalPath) -> bool {
        let of_readings =
            || path.other_readings().is_ok_and(|readings| readings.iter().any(PathReading::has_case));
        self.has_case || path.has_case() || of_readings()
    }

    /// The first place of the first host pattern that covers the path.
    fn best(&self, host: &HostName, path: PathText<'_>, ignore_case: bool) -> Result<Best<'_>, RouteMiss> {
        let host = host.as_str();
        // The host itself, then its suffixes, the longest first.
        let suffixes = host.match_indices('.').filter_map(|(at, _)| host.get(at..));
        let mut named = [host].into_iter().chain(suffixes).filter_map(|name| self.named.get(name)).peekable();
        if self.hosts_are_closed && named.peek().is_none() {
            return Err(RouteMiss::Misdirected);
        }
        named
            .chain([&self.everywhere])
            .find_map(|places| Some(Best { places, entry: places.best(path, ignore_case)? }))
            .ok_or(RouteMiss::NotFound)
    }

    /// Every place in the order it is tried, with how the request stands to it: for explaining.
    pub fn standings<'a>(
        &'a self,
        host: &'a HostName,
        path: &'a CanonicalPath,
        method: &'a Method,
    ) -> impl Iterator<Item = (Standing, &'a HostPattern, &'a PathPattern, &'a Arc<Route>)> {
        let best = self.entries.iter().find(|entry| entry.host.matches(host) && entry.covers(path.text()));
        let mut taken = false;
        self.entries.iter().map(move |entry| {
            let same_place = best.is_some_and(|best| entry.host == best.host && entry.path == best.path);
            let standing = if !entry.host.matches(host) {
                Standing::OtherHost
            } else if !entry.covers(path.text()) {
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

/// The place that answers for a path, and those of the same host pattern.
struct Best<'a> {
    places: &'a Places,
    entry: &'a Entry,
}

/// For each entry the pattern of the other spelling of its last slash, if its route takes that: not where a pattern of the
/// same host names the spelling, in whatever case where its route ignores that, and never on a public route.
fn other_slashes(entries: &[Entry]) -> Vec<Option<PathPattern>> {
    let mut named = HashSet::new();
    let mut folded_ones = HashSet::new();
    let mut named_in_any_case = HashSet::new();
    for entry in entries {
        let folded = (entry.host.to_string(), entry.path.skeleton(true));
        if entry.ignores_case() {
            named_in_any_case.insert(folded.clone());
        }
        folded_ones.insert(folded);
        named.insert((entry.host.to_string(), entry.path.skeleton(false)));
    }
    let other_slash = |entry: &Entry| {
        let other =
            entry.path.with_other_slash().filter(|_| !matches!(entry.route.access, Access::Public))?;
        let host = entry.host.to_string();
        let exact = other.skeleton(false);
        let folded = other.skeleton(true);
        // `/wide/**` names `/wide/` as well.
        let below = |text: &String| text.ends_with('/').then(|| format!("{text}**"));
        let is_named = |patterns: &HashSet<(String, String)>, text: String| {
            let below = below(&text);
            [Some(text), below].into_iter().flatten().any(|text| patterns.contains(&(host.clone(), text)))
        };
        let is_named = match entry.ignores_case() {
            true => is_named(&folded_ones, folded),
            false => is_named(&named, exact) || is_named(&named_in_any_case, folded),
        };
        (!is_named).then_some(other)
    };
    entries.iter().map(other_slash).collect()
}

impl Places {
    fn add(&mut self, entry: &Arc<Entry>) {
        let first = entry.path.first_segment();
        let folded = entry.path.first_folded_segment();
        let (Some(first), Some(folded)) = (first, folded) else {
            self.others.push(Arc::clone(entry));
            return;
        };
        self.by_folded_segment.entry(folded.to_owned()).or_default().push(Arc::clone(entry));
        if !entry.ignores_case() {
            self.by_first_segment.entry(first.to_owned()).or_default().push(Arc::clone(entry));
        } else {
            self.ignores_case = true;
        }
    }

    /// Every place that could cover the path: lists that are each in their order.
    fn lists(&self, path: PathText<'_>, ignore_case: bool) -> [&[Arc<Entry>]; 3] {
        fn list<'a>(by_segment: &'a HashMap<String, Vec<Arc<Entry>>>, path: &str) -> &'a [Arc<Entry>] {
            let first = Segments::of(path).next();
            first.and_then(|first| by_segment.get(first)).map_or(&[], Vec::as_slice)
        }
        let exact = if ignore_case { &[] } else { list(&self.by_first_segment, path.exact) };
        let wants_folded = ignore_case || self.ignores_case;
        let folded = if wants_folded { list(&self.by_folded_segment, path.folded) } else { &[] };
        [exact, folded, &self.others]
    }

    fn for_path(&self, path: PathText<'_>, ignore_case: bool) -> impl Iterator<Item = &Entry> {
        let [exact, folded, others] = self.lists(path, ignore_case);
        // A place that minds case is in both.
        let folded = folded.iter().filter(move |entry| ignore_case || entry.ignores_case());
        exact.iter().chain(folded).chain(others).map(|entry| &**entry)
    }

    /// The first that covers the path.
    fn best(&self, path: PathText<'_>, ignore_case: bool) -> Option<&Entry> {
        let covers = |entry: &&Arc<Entry>| match ignore_case {
            true => entry.covers_ignoring_case(path),
            false => entry.covers(path),
        };
        let firsts = self.lists(path, ignore_case).into_iter().filter_map(|list| list.iter().find(covers));
        firsts.min_by_key(|entry| entry.order).map(|entry| &**entry)
    }
}

impl Entry {
    fn ignores_case(&self) -> bool {
        self.route.letter_case == LetterCase::Insensitive
    }

    fn covers(&self, path: PathText<'_>) -> bool {
        self.covers_with(path, self.ignores_case())
    }

    fn covers_ignoring_case(&self, path: PathText<'_>) -> bool {
        self.covers_with(path, true)
    }

    fn covers_with(&self, path: PathText<'_>, ignore_case: bool) -> bool {
        self.path.matches(path, ignore_case)
            || self.other_slash.as_ref().is_some_and(|pattern| pattern.matches(path, ignore_case))
    }
}

#[cfg(test)]
mod tests;
