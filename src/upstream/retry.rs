//! Sending a request again: which may be, and how often.
//!
//! Must not repeat what may have changed something, nor a request with a body.

use std::sync::atomic::{AtomicU32, Ordering};

use http::{HeaderMap, Method, Request, Uri, Version};

use super::request::{OriginRequest, RequestHead};
use super::settings::RetrySettings;

/// What one retry takes out of the budget, where each request puts in the configured percentage of it.
const ONE_RETRY: u32 = 100;
/// So that the first requests of a quiet application can be repeated as well.
const AT_FIRST: u32 = 10 * ONE_RETRY;
/// So that a long good time does not pay for a long bad one.
const AT_MOST: u32 = 100 * ONE_RETRY;

/// How many retries are left for all requests to one application together: when everything fails, trying everything
/// again would only double what it must bear.
#[derive(Debug)]
pub(super) struct Budget {
    left: AtomicU32,
    percent: u32,
}

impl Budget {
    pub(super) fn new(settings: &RetrySettings) -> Self {
        let left = if settings.budget_percent == 0 { 0 } else { AT_FIRST };
        Self { left: AtomicU32::new(left), percent: settings.budget_percent }
    }

    /// A request was made that could be repeated.
    pub(super) fn earn(&self) {
        if self.left.load(Ordering::Relaxed) < AT_MOST {
            self.left.fetch_add(self.percent, Ordering::Relaxed);
        }
    }

    /// Whether there is a retry left; it is taken.
    pub(super) fn spend(&self) -> bool {
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(ONE_RETRY))
            .is_ok()
    }
}

/// A request that can be sent again: it has no body, and asking twice is as good as asking once
/// (RFC 9110 section 9.2.1).
pub(super) enum Repeatable {
    Head(Box<RequestHead>),
    Parts(Box<(Method, Uri, Version, HeaderMap)>),
}

impl Repeatable {
    /// What is needed to send `request` once more, if that may be.
    pub(super) fn of<B: http_body::Body>(request: &OriginRequest<B>) -> Option<Self> {
        match request {
            OriginRequest::Head(head) => is_safe(head.method()).then(|| Self::Head(head.clone())),
            OriginRequest::Request(request) => {
                let upgrades = request.headers().contains_key(http::header::UPGRADE);
                let repeatable = is_safe(request.method()) && !upgrades && request.body().is_end_stream();
                repeatable.then(|| {
                    let method = request.method().clone();
                    let uri = request.uri().clone();
                    Self::Parts(Box::new((method, uri, request.version(), request.headers().clone())))
                })
            }
        }
    }

    pub(super) fn request<B>(&self, nothing: B) -> OriginRequest<B> {
        match self {
            Self::Head(head) => OriginRequest::Head(head.clone()),
            Self::Parts(parts) => {
                let (method, uri, version, headers) = &**parts;
                let mut request = Request::new(nothing);
                *request.method_mut() = method.clone();
                *request.uri_mut() = uri.clone();
                *request.version_mut() = *version;
                *request.headers_mut() = headers.clone();
                OriginRequest::Request(Box::new(request))
            }
        }
    }
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

#[cfg(test)]
mod tests {
    use http::uri::PathAndQuery;
    use http_body_util::{Empty, Full};

    use super::*;

    #[test]
    fn only_what_changes_nothing_and_has_no_body_is_repeatable() {
        let whole = |request: Request<Empty<bytes::Bytes>>| {
            Repeatable::of(&OriginRequest::Request(Box::new(request))).is_some()
        };
        let empty = |method: &str| {
            let head = RequestHead::new(&method.parse().unwrap(), &PathAndQuery::from_static("/"));
            let head = OriginRequest::<Empty<bytes::Bytes>>::Head(Box::new(head));
            let request = Request::builder().method(method).body(Empty::new()).unwrap();
            let repeatable = whole(request);
            assert_eq!(Repeatable::of(&head).is_some(), repeatable);
            repeatable
        };
        assert!(["GET", "HEAD", "OPTIONS", "TRACE"].into_iter().all(empty));
        assert!(!["POST", "PUT", "PATCH", "DELETE", "PROPFIND", "get"].into_iter().any(empty));
        let with_body = Request::new(Full::new(bytes::Bytes::from_static(b"x")));
        assert!(Repeatable::of(&OriginRequest::Request(Box::new(with_body))).is_none());
        assert!(!whole(Request::builder().header("upgrade", "websocket").body(Empty::new()).unwrap()));
    }

    #[test]
    fn the_budget_follows_the_requests() {
        let settings = RetrySettings { attempts: 1, budget_percent: 20, per_try_timeout: None };
        let budget = Budget::new(&settings);
        let spent = (0..100).filter(|_| budget.spend()).count();
        assert_eq!(spent, 10);
        for _ in 0..50 {
            budget.earn();
        }
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 10);
        for _ in 0..100_000 {
            budget.earn();
        }
        assert_eq!((0..1000).filter(|_| budget.spend()).count(), 100);
        let none = Budget::new(&RetrySettings { budget_percent: 0, ..settings });
        none.earn();
        assert!(!none.spend());
    }
}
