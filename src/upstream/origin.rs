//! One application: choose a server, send a request, wait for the head of its answer, hand on the body.
//!
//! Must not wait without a bound, and must not send a body twice.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use prometheus::{Histogram, IntCounter};
use rustls::RootCertStore;

use super::OriginSettings;
use super::answer_body::AnswerBody;
use super::balance::{Balance, Chosen, Server};
use super::body::{After, OriginBody};
use super::error::{BoxError, OriginError, OriginFailure};
use super::pool::{Lease, Unanswered};
use super::progress::{UploadFailure, UploadProgress};
use super::request::{OriginRequest, RequestHead, binds_connection, is_event_stream};
use super::retry::{Budget, Repeatable};
use super::slots::Caller;
use super::timer::ReusableTimer;
use super::tls::OriginTlsError;
use crate::telemetry::Metrics;

/// Servers a request is offered to that could not be connected to, before it is given up.
const MOST_CONNECTS: usize = 4;

/// The outcome of a request that was answered, as the metrics have it.
const ANSWERED: &str = "ok";

/// Shared connections in a row that turn out closed.
const MOST_CLOSED: usize = 8;

/// The head of an answer, and its body still to be read.
pub type OriginResponse<B> = Response<OriginBody<B>>;

/// An application with its servers. Cheap to clone.
pub struct Origin<B>(Arc<Inner<B>>);

struct Inner<B> {
    balance: Arc<Balance<B>>,
    budget: Budget,
    settings: OriginSettings,
    metrics: Metrics,
    /// What nearly every request counts up.
    answered: IntCounter,
    durations: Histogram,
}

impl<B> Clone for Origin<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B> Origin<B>
where
    B: Body<Data = Bytes> + Default + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Must be called inside a runtime: names are looked up, servers checked and idle connections swept now and then.
    /// `roots` are believed where the settings name no authority.
    pub fn new(
        settings: OriginSettings,
        roots: &Arc<RootCertStore>,
        metrics: Metrics,
    ) -> Result<Self, OriginTlsError> {
        let balance = Balance::start(settings.clone(), roots, metrics.clone())?;
        let budget = Budget::new(&settings.retries);
        let answered = metrics.upstream_requests.with_label_values(&[&*settings.name, ANSWERED]);
        let durations = metrics.upstream_request_duration.with_label_values(&[&*settings.name]);
        Ok(Self(Arc::new(Inner { balance, budget, settings, metrics, answered, durations })))
    }

    pub fn may_set(&self) -> super::MaySet {
        self.0.settings.may_set
    }

    pub fn name(&self) -> &Arc<str> {
        &self.0.settings.name
    }

    /// Whether HTTP/2 is spoken to it.
    pub fn speaks_http2(&self) -> bool {
        self.0.settings.http2
    }

    /// Whether it is spoken to under TLS.
    pub fn is_secure(&self) -> bool {
        self.0.settings.servers.iter().any(super::OriginAddress::is_secure)
    }

    /// Tells of a server that could not be reached, until one of the application's answers.
    pub fn note_unreachable(&self, error: &OriginError, server: Option<&str>) {
        let name = &self.0.settings.name;
        let what = format!("upstream `{name}` cannot be reached at `{}`", server.unwrap_or("no address"));
        self.0.metrics.conditions.raise(format!("upstream {name}"), &what, &error.to_string());
    }

    /// Counts a request, and what was wrong with its answer or how it failed to get one.
    pub fn count(&self, failure: Option<&'static str>, took: Duration) {
        let inner = &self.0;
        if failure.is_none() && inner.metrics.conditions.any() {
            inner.metrics.conditions.clear(&format!("upstream {}", inner.settings.name));
        }
        match failure {
            None => inner.answered.inc(),
            Some(failure) => {
                inner.metrics.upstream_requests.with_label_values(&[&*inner.settings.name, failure]).inc();
            }
        }
        inner.durations.observe(took.as_secs_f64());
    }

    /// Asks one of its servers for `path` in our own name, and tells the status of the answer; nothing if there is none in
    /// time. For whoever must know how the application is and cannot reach it.
    pub async fn probe(&self, path: &PathAndQuery, patience: Duration) -> Option<StatusCode> {
        let host = HeaderValue::from_static("localhost");
        let agent = HeaderValue::from_static(concat!("portcullis/", env!("CARGO_PKG_VERSION")));
        let request = if self.speaks_http2() {
            let scheme = if self.is_secure() { "https" } else { "http" };
            let uri = format!("{scheme}://localhost{path}");
            let request = Request::get(uri).header(header::USER_AGENT, agent).body(B::default()).ok()?;
            OriginRequest::Request(Box::new(request))
        } else {
            let mut head = RequestHead::new(&Method::GET, path);
            head.field(&header::HOST, &host);
            head.field(&header::USER_AGENT, &agent);
            OriginRequest::Head(Box::new(head))
        };
        let progress = Arc::new(UploadProgress::new(Instant::now(), patience));
        let answer = tokio::time::timeout(patience, self.send(request, None, &progress)).await;
        Some(answer.ok()?.ok()?.status())
    }

    /// Puts how many servers stand which way into the metrics.
    pub fn report(&self) {
        self.0.balance.report();
    }

    /// Sends `request` and waits for the head of the answer.
    ///
    /// A request nothing of which was sent is offered to further servers; one that may have arrived is repeated only if it is
    /// safe and has no body, within the budget.
    pub fn send(
        &self,
        request: OriginRequest<B>,
        caller: Option<Caller>,
        progress: &Arc<UploadProgress>,
    ) -> impl Future<Output = Result<OriginResponse<B>, OriginFailure>> + Send {
        let until = self.0.settings.deadline.map(|deadline| Instant::now() + deadline);
        self.0.try_servers(request, caller, progress, until)
    }
}

impl<B> Inner<B>
where
    B: Body<Data = Bytes> + Default + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    async fn try_servers(
        &self,
        mut request: OriginRequest<B>,
        caller: Option<Caller>,
        progress: &Arc<UploadProgress>,
        until: Option<Instant>,
    ) -> Result<OriginResponse<B>, OriginFailure> {
        let mut retries = self.settings.retries.attempts;
        let repeatable = if retries > 0 { Repeatable::of(&request) } else { None };
        if repeatable.is_some() {
            self.budget.earn();
        }
        let mut tried = Vec::new();
        loop {
            let chosen = self.balance.choose(&tried).await;
            let Chosen { server, was_available } =
                chosen.map_err(|error| OriginFailure { error, server: None })?;
            let patience = match (&repeatable, self.settings.retries.per_try_timeout) {
                (Some(_), Some(per_try)) if retries > 0 => per_try.min(self.settings.response_timeout),
                _ => self.settings.response_timeout,
            };
            let (error, unsent) = match self.ask(&server, request, caller, progress, patience, until).await {
                Ok(response) => {
                    server.standing.succeed();
                    return Ok(response);
                }
                Err(unanswered) => unanswered,
            };
            // What ended because the client stopped sending says nothing about the server.
            if error.is_failure() && progress.failure().is_none() {
                self.balance.note_failure(&server, &error);
            }
            let name = server.pool.endpoint().place.to_string();
            tried.push(server);
            // Where all are out, all are worth a try; otherwise only those that are well.
            let others = self.balance.has_other(&tried, was_available);
            let late = until.is_some_and(|until| Instant::now() >= until);
            let next = match (unsent, &repeatable) {
                (Some(unsent), _)
                    if others
                        && (matches!(error, OriginError::NoStream(_))
                            || error.is_failure() && tried.len() < MOST_CONNECTS) =>
                {
                    Some(unsent)
                }
                (None, Some(again)) if error.may_pass() && retries > 0 && self.budget.spend() => {
                    retries -= 1;
                    if !others {
                        tried.clear();
                    }
                    Some(again.request(B::default()))
                }
                _ => None,
            };
            let Some(next) = next.filter(|_| !late) else {
                return Err(OriginFailure { error, server: Some(name) });
            };
            self.metrics.upstream_retries.with_label_values(&[&*self.settings.name]).inc();
            tracing::debug!(upstream = %self.settings.name, server = name, %error, "the request is tried once more");
            request = next;
        }
    }

    /// Sends the request to one server.
    async fn ask(
        &self,
        server: &Arc<Server<B>>,
        request: OriginRequest<B>,
        caller: Option<Caller>,
        progress: &Arc<UploadProgress>,
        patience: Duration,
        until: Option<Instant>,
    ) -> Result<OriginResponse<B>, Unanswered<B>> {
        // A shared connection is nobody's: those schemes are of HTTP/1.1 alone.
        let may_bind = !self.settings.http2;
        let bound = may_bind && request.binds_connection();
        let mut lease = match server.pool.take(request.needs(), caller, until).await {
            Ok(lease) => lease,
            Err(error) => return Err((error, Some(request))),
        };
        progress.note_at(lease.taken_at);
        let mut sent = exchange(&mut lease, request, progress, patience, until).await;
        // Handed back unsent: the kept connection had closed meanwhile. A shared one may be followed by another such.
        for _ in 0..MOST_CLOSED {
            match sent {
                Err((_, Some(request))) if lease.used => {
                    if let Err(error) = server.pool.reconnect(&mut lease, until).await {
                        return Err((error, Some(request)));
                    }
                    sent = exchange(&mut lease, request, progress, patience, until).await;
                }
                _ => break,
            }
        }
        if matches!(sent, Err((OriginError::ResponseTimeout, _))) && progress.failure().is_none() {
            // A connection that leads nowhere any more must not take the next request as well.
            lease.close_to_others();
        }
        let response = sent?;
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if lasts(response.status(), response.headers())
            && let Err(error) = server.pool.note_lasting(&mut lease, caller)
        {
            return Err((error, None));
        }
        let bound = bound || may_bind && binds_connection(response.headers(), header::WWW_AUTHENTICATE);
        if bound {
            lease.close_to_others();
        }
        lease.kept_for = kept_for(response.headers());
        Ok(response.map(|body| {
            let after = match (upgraded, bound) {
                (true, _) => After::Tunnel,
                (false, true) => After::Close,
                (false, false) => After::Reuse,
            };
            OriginBody::new(body, lease, after, progress, Arc::clone(server))
        }))
    }
}

async fn exchange<B>(
    lease: &mut Lease<B>,
    request: OriginRequest<B>,
    progress: &UploadProgress,
    patience: Duration,
    until: Option<Instant>,
) -> Result<Response<AnswerBody>, Unanswered<B>>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let Lease { sender, timer, taken_at, .. } = lease;
    let mut sending = std::pin::pin!(sender.send(request));
    let next_look = |now: Instant| {
        let remaining = now + progress.remaining(patience, now);
        until.map_or(remaining, |until| until.min(remaining))
    };
    let first_look = next_look(*taken_at);
    let timer = match timer {
        Some(timer) => {
            timer.set_by(first_look);
            timer
        }
        none => none.insert(ReusableTimer::at(first_look)),
    };
    poll_fn(|cx| {
        if let Poll::Ready(sent) = sending.as_mut().poll(cx) {
            return Poll::Ready(sent);
        }
        while timer.poll(cx).is_ready() {
            let now = Instant::now();
            let late = until.is_some_and(|until| now >= until);
            // It is the client's turn, and was for as long as there was.
            if late && progress.awaits_client() {
                progress.fail(UploadFailure::Stalled);
            }
            if late || progress.remaining(patience, now).is_zero() {
                return Poll::Ready(Err((OriginError::ResponseTimeout, None)));
            }
            timer.set_by(next_look(now));
        }
        Poll::Pending
    })
    .await
}

/// Whether an answer goes on for as long as both sides like: a tunnel (RFC 9110 section 7.8), or server-sent events (HTML
/// Standard, section 9.2).
pub fn lasts(status: StatusCode, headers: &HeaderMap) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS
        || headers.get(header::CONTENT_TYPE).is_some_and(is_event_stream)
}

/// How long the server says it keeps a connection idle (`Keep-Alive: timeout=5`, RFC 2068 section 19.7.1.1).
fn kept_for(headers: &HeaderMap) -> Option<Duration> {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    let value = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    let mut parts = value.split(',').filter_map(|part| part.split_once('='));
    let (_, seconds) = parts.find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"))?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}
