//! One HTTP exchange with the API: send, read at most so much, say what went wrong.
//!
//! Must not follow a redirect, honour a proxy variable, or retry.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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
use tokio::sync::Notify;

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
    /// What an answer that is neither good nor a clear "no such" means (section 4.4 of the design). A refusal counts only in
    /// the API's own shape: anything else came from something between us and the API, and is bridged as its failure is.
    pub(super) fn fault(&self, is_the_apis: bool, now: Timestamp) -> DirectoryError {
        let status = self.status.as_u16();
        let retry_after = retry_after(&self.headers, now);
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => DirectoryError::RateLimited { retry_after },
            error if error.is_server_error() => DirectoryError::Failed { status, retry_after },
            refused if refused.is_client_error() && is_the_apis => DirectoryError::Refused { status },
            _ => DirectoryError::Malformed(format!("status {status} without the shape of the API's errors")),
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
        let mut timing = Timing::start(self, operation, &method);
        let result = self.send(operation, method, path, body).await;
        timing.outcome = match &result {
            Ok(answer) if answer.status.is_success() => "ok",
            Ok(answer) if answer.status.is_redirection() => "malformed",
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
        let mut request = request;
        let too_many = Arc::new(Notify::new());
        let stop = AtomicUsize::new(0);
        let noticed = Arc::clone(&too_many);
        hyper::ext::on_informational(&mut request, move |_| {
            if stop.fetch_add(1, Ordering::Relaxed) >= MAX_INTERIM {
                noticed.notify_one();
            }
        });
        let response = tokio::select! {
            response = self.client.request(request) => response,
            () = too_many.notified() => {
                let what = format!("more than {MAX_INTERIM} interim answers came");
                return Err(DirectoryError::Malformed(what));
            }
        };
        let response = response.map_err(|error| {
            self.note_unreachable(operation, &cause_of(&error));
            DirectoryError::Unreachable
        })?;
        self.metrics.conditions.clear(UNREACHABLE);
        let (parts, mut body) = response.into_parts();
        // Two readers would end such an answer at different places (RFC 9112 section 6.3).
        if parts.headers.contains_key(header::TRANSFER_ENCODING)
            && parts.headers.contains_key(header::CONTENT_LENGTH)
        {
            return Err(DirectoryError::Malformed("it has two lengths".to_owned()));
        }
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

impl Exchange {
    /// Where the API is, for people.
    pub(super) fn address(&self) -> String {
        self.base_url.authority().map(ToString::to_string).unwrap_or_default()
    }

    fn note_unreachable(&self, operation: Operation, cause: &str) {
        note_unreachable(&self.metrics, &self.base_url, operation, cause);
    }
}

/// The fault that the API cannot be reached, among those that go on.
const UNREACHABLE: &str = "session_api";
/// Interim answers (1xx) that one call waits through.
const MAX_INTERIM: usize = 32;

fn note_unreachable(metrics: &Metrics, base_url: &Uri, operation: Operation, cause: &str) {
    let address = base_url.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let what = format!("the session API at `{address}` cannot be reached (`{}`)", operation.label());
    metrics.conditions.raise(UNREACHABLE, &what, cause);
}

/// Why no answer came, in words an operator can act on: the name, the connection, or TLS with what is wrong about it.
fn cause_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut source = Some(error);
    while let Some(cause) = source {
        let mut io = cause.downcast_ref::<std::io::Error>();
        while let Some(error) = io {
            if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                return format!("TLS: {tls}");
            }
            match error.kind() {
                std::io::ErrorKind::ConnectionRefused => return "the connection is refused".to_owned(),
                std::io::ErrorKind::TimedOut => return "no connection in time".to_owned(),
                _ => {}
            }
            // An error within another of its kind is skipped by `source`.
            io = error.get_ref().and_then(|inner| inner.downcast_ref());
        }
        source = cause.source();
    }
    let text = chain(error);
    if text.contains("dns error") {
        let why = text.rsplit(": ").next().unwrap_or_default();
        return format!("DNS: {why}");
    }
    text
}

/// Counts a call however it ends; one that is given up counts as a timeout.
struct Timing {
    metrics: Metrics,
    operation: Operation,
    started: Instant,
    outcome: &'static str,
    status: Option<u64>,
    base_url: Uri,
    /// Of whoever it is done for. They are not told of: nothing of ours goes to the API.
    span: Option<Span>,
}

impl Timing {
    fn start(exchange: &Exchange, operation: Operation, method: &Method) -> Self {
        let mut span = cause().and_then(|cause| cause.start("directory", SpanKind::Client));
        if let Some(span) = &mut span {
            span.note("http.request.method", method_label(method));
            span.note("portcullis.operation", operation.label());
        }
        Self {
            metrics: exchange.metrics.clone(),
            operation,
            started: Instant::now(),
            outcome: "timeout",
            status: None,
            base_url: exchange.base_url.clone(),
            span,
        }
    }
}

impl Drop for Timing {
    fn drop(&mut self) {
        let operation = self.operation.label();
        self.metrics.directory_requests.with_label_values(&[operation, self.outcome]).inc();
        let seconds = self.started.elapsed().as_secs_f64();
        self.metrics.directory_request_duration.with_label_values(&[operation]).observe(seconds);
        if self.outcome == "timeout" {
            note_unreachable(&self.metrics, &self.base_url, self.operation, "no answer in time");
        }
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::stytch::RbacSettings;

    /// What a call comes to where the API answers with these bytes.
    async fn answered(bytes: String) -> Result<StatusCode, DirectoryError> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            drop(stream.read(&mut [0; 4096]).await);
            drop(stream.write_all(bytes.as_bytes()).await);
            drop(stream.read(&mut [0; 4096]).await);
        });
        exchange(&format!("http://{address}"))
            .call(Operation::List, Method::GET, "/", None)
            .await
            .map(|answer| answer.status)
    }

    fn exchange(base_url: &str) -> Exchange {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let settings = StytchSettings {
            project_id: ProjectId::parse("project-test-1").unwrap(),
            secret: Secret::new("secret".to_owned()),
            base_url: base_url.parse().unwrap(),
            deadline: Duration::from_secs(5),
            refresh_keys_every: Duration::from_secs(300),
            seed_keys: None,
            rbac: RbacSettings {
                refresh_every: Duration::from_secs(300),
                keep_for: Duration::from_secs(300),
                deadline: Duration::from_secs(5),
            },
            apps: Arc::from([]),
            claim_pointers: Arc::from([]),
        };
        let roots = rustls::RootCertStore::empty();
        let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Exchange::new(&settings, &Arc::new(tls), Metrics::new().unwrap())
    }

    #[tokio::test]
    async fn so_many_interim_answers_are_waited_through_and_no_more() {
        let interim = "HTTP/1.1 103 Early Hints\r\n\r\n";
        let last = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(answered(interim.repeat(MAX_INTERIM) + last).await, Ok(StatusCode::OK));
        let more = answered(interim.repeat(MAX_INTERIM + 1)).await;
        assert!(matches!(more, Err(DirectoryError::Malformed(_))), "{more:?}");
    }

    #[tokio::test]
    async fn an_answer_with_two_lengths_is_none() {
        let both =
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
        let answer = answered(both.to_owned()).await;
        assert!(matches!(answer, Err(DirectoryError::Malformed(_))), "{answer:?}");
    }

    #[tokio::test]
    async fn a_peer_that_cannot_be_reached_is_told_of_with_its_address_and_the_cause() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![certified.cert.der().clone()], key).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            drop(acceptor.accept(stream).await);
        });
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for (base_url, cause) in [
            (format!("https://localhost:{}", address.port()), "TLS: invalid peer certificate: UnknownIssuer"),
            (format!("http://{gone}"), "the connection is refused"),
            ("http://no-such-host.invalid".to_owned(), "DNS: "),
        ] {
            let exchange = exchange(&base_url);
            let failed = exchange.call(Operation::List, Method::GET, "/", None).await;
            assert!(matches!(failed, Err(DirectoryError::Unreachable)));
            let (_, condition) = exchange.metrics.conditions.list().remove(0);
            assert!(condition.cause.starts_with(cause), "{base_url}: {}", condition.cause);
            let authority = base_url.split("//").nth(1).unwrap();
            assert!(
                condition.what.contains(authority) && condition.what.contains("`list`"),
                "{}",
                condition.what
            );
        }
    }

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
