//! One HTTP exchange with the API: send, read at most so much, say what went wrong.
//!
//! Must not follow a redirect, honour a proxy variable, or retry.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use jiff::Timestamp;

use super::settings::{MAX_ANSWER_BYTES, StytchSettings};
use crate::directory::DirectoryError;
use crate::identity::{ProjectId, Secret};
use crate::telemetry::{Metrics, Span, SpanKind, cause, method_label};

/// The calls made, each with its own label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    List,
    Authenticate,
    Revoke,
    Whoami,
    Keys,
    Policy,
    OrganizationPolicy,
    Organization,
    Introspect,
}

impl Operation {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Authenticate => "authenticate",
            Self::Revoke => "revoke",
            Self::Whoami => "whoami",
            Self::Keys => "keys",
            Self::Policy => "policy",
            Self::OrganizationPolicy => "organization_policy",
            Self::Organization => "organization",
            Self::Introspect => "introspect",
        }
    }
}

/// An answer read to its end.
pub(super) struct ApiAnswer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// The pooled client and what goes into every request.
#[derive(Clone)]
pub(super) struct Exchange {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base_url: Uri,
    /// Swapped when the secret is.
    authorization: Arc<ArcSwap<HeaderValue>>,
    metrics: Metrics,
}

impl ApiAnswer {
    /// What an answer that is neither good nor a clear "no such" means.
    pub(super) fn fault(&self, now: Timestamp) -> DirectoryError {
        let status = self.status.as_u16();
        let retry_after = retry_after(&self.headers, now);
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => DirectoryError::RateLimited { retry_after },
            error if error.is_server_error() => DirectoryError::Failed { status, retry_after },
            _ => DirectoryError::Refused { status },
        }
    }
}

impl Exchange {
    pub(super) fn new(settings: &StytchSettings, tls: &Arc<rustls::ClientConfig>, metrics: Metrics) -> Self {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(5)));
        let https = HttpsConnectorBuilder::new().with_tls_config((**tls).clone());
        // Plain http got past the configuration only for loopback.
        let https = if settings.base_url.scheme() == Some(&http::uri::Scheme::HTTP) {
            https.https_or_http()
        } else {
            https.https_only()
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(50))
            .pool_max_idle_per_host(32)
            .build(https.enable_http1().wrap_connector(connector));
        let authorization = basic(&settings.project_id, &settings.secret);
        let authorization = Arc::new(ArcSwap::from_pointee(authorization));
        Self { client, base_url: settings.base_url.clone(), authorization, metrics }
    }

    /// Shows `secret` from now on. True if it is another.
    pub(super) fn use_secret(&self, project_id: &ProjectId, secret: &Secret) -> bool {
        let value = basic(project_id, secret);
        let is_other = **self.authorization.load() != value;
        if is_other {
            self.authorization.store(Arc::new(value));
        }
        is_other
    }

    /// Sends one request and reads the answer, whatever its status.
    ///
    /// `path` begins with a slash and carries its query.
    pub(super) async fn call(
        &self,
        operation: Operation,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<ApiAnswer, DirectoryError> {
        let mut timing = Timing::start(self.metrics.clone(), operation, &method);
        let result = self.send(operation, method, path, body).await;
        timing.outcome = match &result {
            Ok(answer) if answer.status.is_success() => "ok",
            Ok(answer) if answer.status == StatusCode::TOO_MANY_REQUESTS => "rate_limited",
            Ok(answer) if answer.status == StatusCode::UNAUTHORIZED => "unauthorized",
            Ok(answer) if answer.status == StatusCode::NOT_FOUND => "not_found",
            Ok(answer) if answer.status.is_server_error() => "failed",
            Ok(_) => "refused",
            Err(error) => error.label(),
        };
        timing.status = result.as_ref().ok().map(|answer| u64::from(answer.status.as_u16()));
        result
    }

    async fn send(
        &self,
        operation: Operation,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<ApiAnswer, DirectoryError> {
        let base = self.base_url.to_string();
        let uri = format!("{}{path}", base.trim_end_matches('/'));
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("portcullis/", env!("CARGO_PKG_VERSION")));
        // Keys are public; what needs no secret is not sent one.
        if operation != Operation::Keys {
            request = request.header(header::AUTHORIZATION, HeaderValue::clone(&self.authorization.load()));
        }
        if body.is_some() {
            // The API refuses a charset after the type.
            let kind = match operation {
                Operation::Introspect => "application/x-www-form-urlencoded",
                _ => "application/json",
            };
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let request = request
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|_| DirectoryError::Malformed("the request could not be built".to_owned()))?;
        let response = self.client.request(request).await.map_err(|error| {
            tracing::debug!(operation = operation.label(), error = %chain(&error), "call failed");
            DirectoryError::Unreachable
        })?;
        let (parts, mut body) = response.into_parts();
        let mut read = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else {
                return Err(DirectoryError::Malformed("it ends in the middle".to_owned()));
            };
            if let Some(piece) = frame.data_ref() {
                if read.len() + piece.len() > MAX_ANSWER_BYTES {
                    return Err(DirectoryError::Oversized { limit: MAX_ANSWER_BYTES });
                }
                read.extend_from_slice(piece);
            }
        }
        Ok(ApiAnswer { status: parts.status, headers: parts.headers, body: read.freeze() })
    }
}

/// Counts a call however it ends; one that is given up counts as a timeout.
struct Timing {
    metrics: Metrics,
    operation: Operation,
    started: Instant,
    outcome: &'static str,
    status: Option<u64>,
    /// Of whoever it is done for. They are not told of: nothing of ours goes to the API.
    span: Option<Span>,
}

impl Timing {
    fn start(metrics: Metrics, operation: Operation, method: &Method) -> Self {
        let mut span = cause().and_then(|cause| cause.start("directory", SpanKind::Client));
        if let Some(span) = &mut span {
            span.note("http.request.method", method_label(method));
            span.note("portcullis.operation", operation.label());
        }
        Self { metrics, operation, started: Instant::now(), outcome: "timeout", status: None, span }
    }
}

impl Drop for Timing {
    fn drop(&mut self) {
        let operation = self.operation.label();
        self.metrics.directory_requests.with_label_values(&[operation, self.outcome]).inc();
        let seconds = self.started.elapsed().as_secs_f64();
        self.metrics.directory_request_duration.with_label_values(&[operation]).observe(seconds);
        let Some(span) = &mut self.span else { return };
        span.note_some("http.response.status_code", self.status);
        span.note("portcullis.outcome", self.outcome);
        // That there is no such session is an answer.
        if !matches!(self.outcome, "ok" | "not_found") {
            span.fail(self.outcome);
        }
    }
}

fn basic(project_id: &ProjectId, secret: &Secret) -> HeaderValue {
    let pair = zeroize::Zeroizing::new(format!("{project_id}:{}", secret.expose()));
    let encoded = zeroize::Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
    let mut value = HeaderValue::from_str(&encoded).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// An error with its causes, which hyper's own message leaves out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Seconds or a date (RFC 9110 section 10.2.3), at most a minute.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = Timestamp::try_from(httpdate::parse_http_date(text).ok()?).ok()?;
            Duration::try_from(date.duration_since(now)).unwrap_or_default()
        }
    };
    Some(wait.min(Duration::from_secs(60)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms_and_capped() {
        let now = Timestamp::from_second(784_111_777).unwrap();
        let wait = |text: &'static str| {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static(text))]);
            retry_after(&headers, now)
        };
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("86400"), Some(Duration::from_secs(60)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:47 GMT"), Some(Duration::from_secs(10)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:27 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("soon"), None);
    }
}
