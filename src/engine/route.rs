//! Which route answers for a request, whatever reading of its path an origin might make.
//!
//! Must not ask who is calling.

use std::sync::Arc;

use http::Method;

use super::snapshot::Snapshot;
use crate::policy::{CanonicalPath, HostName, LetterCase, PathReading, Reason, Refusal, Route, RouteMiss};

/// No route takes the request; one that would have taken another reading of its path is told.
pub(super) struct Missed {
    pub(super) route: Option<Arc<Route>>,
    pub(super) refusal: Refusal,
}

impl From<Missed> for Refusal {
    fn from(missed: Missed) -> Self {
        missed.refusal
    }
}

/// The one route that answers for every reading an origin could make of the path.
pub(super) fn find_route<'a>(
    snapshot: &'a Snapshot,
    host: &HostName,
    path: &CanonicalPath,
    method: &Method,
) -> Result<&'a Arc<Route>, Missed> {
    let routes = &snapshot.routes;
    let route = routes
        .find(host, path.text(), method)
        .map_err(|miss| Missed { route: None, refusal: missed(miss) })?;
    let ambiguous =
        || Missed { route: Some(Arc::clone(route)), refusal: Refusal::from(Reason::PathAmbiguous) };
    path.check_allowed(route.keep_encoded_slash, route.keep_path_parameters).map_err(|_| ambiguous())?;
    let readings = path.other_readings().map_err(|_| ambiguous())?;
    let same = |reading: &PathReading| {
        routes.find(host, reading.text(), method).is_ok_and(|same| Arc::ptr_eq(same, route))
    };
    if !readings.iter().all(same) {
        return Err(ambiguous());
    }
    // An origin that ignores letter case would serve another route's page: it must be this route's in any case.
    if route.letter_case != LetterCase::Sensitive && routes.minds_case_of(path) {
        let mut texts = std::iter::once(path.text()).chain(readings.iter().map(PathReading::text));
        if !texts.all(|text| routes.answers_ignoring_case(route, host, text, method)) {
            return Err(ambiguous());
        }
    }
    Ok(route)
}

fn missed(miss: RouteMiss) -> Refusal {
    match miss {
        RouteMiss::Misdirected => Reason::Misdirected.into(),
        RouteMiss::NotFound => Reason::RouteNotFound.into(),
        RouteMiss::MethodNotAllowed { allowed, .. } => {
            Refusal { allowed_methods: allowed, ..Refusal::from(Reason::MethodNotAllowed) }
        }
    }
}
