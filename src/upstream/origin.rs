//! One application: choose a server, send a request, wait for the head of its answer, hand on the body.
//!
//! Must not wait without a bound, and must not send a body twice.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body::Body;
use hyper::body::Incoming;
use rustls::RootCertStore;

use super::OriginSettings;
use super::balance::{Balance, Server};
use super::body::OriginBody;
use super::error::OriginError;
use super::pool::{Lease, Unanswered};
use super::progress::Progress;
use super::retry::{Budget, Repeatable};
use super::tls::OriginTlsError;
use crate::telemetry::Metrics;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Servers a request is offered to that could not be connected to, before it is given up.
const MOST_CONNECTS: usize = 4;

/// The head of an answer, and its body still to be read.
pub type OriginResponse<B> = Response<OriginBody<B>>;

/// An application with its servers. Cheap to clone.
pub struct Origin<B>(Arc<Inner<B>>);

struct Inner<B> {
    balance: Arc<Balance<B>>,
    budget: Budget,
    settings: OriginSettings,
    metrics: Metrics,
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
        Ok(Self(Arc::new(Inner { balance, budget, settings, metrics })))
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

    /// Puts how many servers stand which way into the metrics.
    pub fn report(&self) {
        self.0.balance.report();
    }

    /// Sends `request` and waits for the head of the answer.
    ///
    /// Its URI is in origin form, or absolute where HTTP/2 is spoken. A request nothing of which was sent is offered
    /// to further servers; one that may have arrived is repeated only if it is safe and has no body, within the budget.
    pub async fn send(
        &self,
        request: Request<B>,
        progress: &Arc<Progress>,
    ) -> Result<OriginResponse<B>, OriginError> {
        match self.0.settings.deadline {
            None => self.0.try_servers(request, progress).await,
            Some(deadline) => {
                let trying = Box::pin(self.0.try_servers(request, progress));
                tokio::time::timeout(deadline, trying).await.unwrap_or(Err(OriginError::ResponseTimeout))
            }
        }
    }
}

impl<B> Inner<B>
where
    B: Body<Data = Bytes> + Default + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    async fn try_servers(
        &self,
        request: Request<B>,
        progress: &Arc<Progress>,
    ) -> Result<OriginResponse<B>, OriginError> {
        let mut retries = self.settings.retries.attempts;
        let repeatable = if retries > 0 { Repeatable::of(&request) } else { None };
        if repeatable.is_some() {
            self.budget.earn();
        }
        let mut tried = Vec::new();
        let mut request = request;
        loop {
            let server = self.balance.choose(&tried).await?;
            let patience = match (&repeatable, self.settings.retries.per_try_timeout) {
                (Some(_), Some(per_try)) if retries > 0 => per_try.min(self.settings.response_timeout),
                _ => self.settings.response_timeout,
            };
            let (error, unsent) = match self.ask(&server, request, progress, patience).await {
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
            tried.push(server);
            let untried = self.balance.has_untried(&tried);
            let next = match (unsent, &repeatable) {
                (Some(unsent), _) if untried && tried.len() < MOST_CONNECTS => unsent,
                (None, Some(again)) if error.may_pass() && retries > 0 && self.budget.spend() => {
                    retries -= 1;
                    if !untried {
                        tried.clear();
                    }
                    again.request(B::default())
                }
                _ => return Err(error),
            };
            self.metrics.upstream_retries.with_label_values(&[&*self.settings.name]).inc();
            tracing::debug!(upstream = %self.settings.name, %error, "the request is tried once more");
            request = next;
        }
    }

    /// Sends the request to one server.
    async fn ask(
        &self,
        server: &Arc<Server<B>>,
        request: Request<B>,
        progress: &Arc<Progress>,
        patience: Duration,
    ) -> Result<OriginResponse<B>, Unanswered<B>> {
        let bound = is_bound_to_connection(request.headers(), header::AUTHORIZATION);
        let mut lease = match server.pool.take().await {
            Ok(lease) => lease,
            Err(error) => return Err((error, Some(request))),
        };
        progress.note();
        let mut sent = exchange(&mut lease, request, progress, patience).await;
        if let Err((error, Some(request))) = sent {
            // Handed back unsent: the kept connection had closed meanwhile.
            if !lease.used {
                return Err((error, Some(request)));
            }
            if let Err(error) = server.pool.reconnect(&mut lease).await {
                return Err((error, Some(request)));
            }
            sent = exchange(&mut lease, request, progress, patience).await;
        }
        let response = sent?;
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let bound = bound || is_bound_to_connection(response.headers(), header::WWW_AUTHENTICATE);
        lease.kept_for = kept_for(response.headers());
        Ok(response
            .map(|body| OriginBody::new(body, lease, !upgraded && !bound, progress, Arc::clone(server))))
    }
}

async fn exchange<B>(
    lease: &mut Lease<B>,
    request: Request<B>,
    progress: &Progress,
    patience: Duration,
) -> Result<Response<Incoming>, Unanswered<B>>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let mut sending = std::pin::pin!(lease.send(request));
    loop {
        let remaining = progress.remaining(patience);
        tokio::select! {
            biased;
            sent = sending.as_mut() => return sent,
            () = tokio::time::sleep(remaining) => {
                if progress.remaining(patience).is_zero() {
                    return Err((OriginError::ResponseTimeout, None));
                }
            }
        }
    }
}

/// How long the server says it keeps a connection idle (`Keep-Alive: timeout=5`, RFC 2068 section 19.7.1.1).
fn kept_for(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("keep-alive")?.to_str().ok()?;
    let mut parts = value.split(',').filter_map(|part| part.split_once('='));
    let (_, seconds) = parts.find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"))?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

/// NTLM and Negotiate authenticate the connection, not the request: its next user would be taken for this one.
fn is_bound_to_connection(headers: &HeaderMap, name: HeaderName) -> bool {
    headers.get_all(name).iter().any(|value| {
        let scheme = value.as_bytes().split(|byte| *byte == b' ').next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
    })
}
