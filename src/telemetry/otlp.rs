//! Spans to a collector over OTLP, in batches: protobuf over HTTP.
//!
//! Must not hold up a request, nor grow while the collector is away: what there is no room for is dropped and counted.

use std::pin::Pin;
use std::time::Duration;

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry::trace::{SpanContext, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, SpanId, TraceId, Value};
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use prometheus::IntCounterVec;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::metrics::Metrics;
use super::recording::{Message, Recorder, SpanKind, SpanRecord, SpanValue};
use super::settings::TraceSettings;
use super::span::Tracer;

/// Spans that may wait.
const MOST_WAITING: usize = 8192;
/// Spans sent at once.
const MOST_AT_ONCE: usize = 512;
/// How long a span may wait for others to be sent with.
const GATHER_FOR: Duration = Duration::from_secs(1);

/// Why spans cannot be sent anywhere.
#[derive(Debug, thiserror::Error)]
#[error("traces cannot be exported: {0}")]
pub struct TracerError(String);

impl Tracer {
    /// Begins to export to the collector of `settings`; ends when the last clone and the last open span are gone.
    ///
    /// Must be called inside a runtime.
    pub fn start(
        settings: &TraceSettings,
        tls: &rustls::ClientConfig,
        metrics: &Metrics,
    ) -> Result<Self, TracerError> {
        let exporter = exporter(settings, tls)?;
        let (sender, spans) = mpsc::channel(MOST_WAITING);
        let recorder = Recorder::new(sender, metrics.spans.with_label_values(&["dropped"]));
        let export = Export {
            exporter,
            scope: InstrumentationScope::builder("portcullis")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
            patience: settings.timeout.saturating_add(GATHER_FOR),
            counts: metrics.spans.clone(),
            fails: false,
        };
        tokio::spawn(export.run(spans));
        Ok(Self::new(recorder, settings.sample_ratio, settings.follow_parent))
    }
}

fn exporter(
    settings: &TraceSettings,
    tls: &rustls::ClientConfig,
) -> Result<opentelemetry_otlp::SpanExporter, TracerError> {
    let mut plain = HttpConnector::new();
    plain.enforce_http(false);
    plain.set_connect_timeout(Some(settings.timeout));
    let secure = HttpsConnectorBuilder::new().with_tls_config(tls.clone()).https_or_http().enable_http1();
    let client = HyperClient::new(secure.wrap_connector(plain), settings.timeout, None);
    let client = Posting { client, headers: settings.headers.clone() };
    let mut exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(&settings.endpoint)
        .with_timeout(settings.timeout)
        .build()
        .map_err(|error| TracerError(error.to_string()))?;
    let attributes = settings.attributes.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    let resource = Resource::builder_empty()
        .with_attributes(attributes)
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_service_name(settings.service_name.clone())
        .build();
    exporter.set_resource(&resource);
    Ok(exporter)
}

type Posted<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

/// Posts batches with the fields that are configured. The library puts in what it finds in the environment by itself, which
/// counts for less here, or for nothing.
#[derive(Debug)]
struct Posting {
    client: HyperClient<HttpsConnector<HttpConnector>>,
    headers: HeaderMap,
}

impl HttpClient for Posting {
    fn send_bytes<'a, 'b>(&'a self, mut request: Request<Bytes>) -> Posted<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        let found = std::mem::replace(request.headers_mut(), self.headers.clone());
        for name in [CONTENT_TYPE, CONTENT_ENCODING] {
            if let Some(value) = found.get(&name) {
                request.headers_mut().insert(name, value.clone());
            }
        }
        self.client.send_bytes(request)
    }
}

struct Export {
    exporter: opentelemetry_otlp::SpanExporter,
    scope: InstrumentationScope,
    patience: Duration,
    counts: IntCounterVec,
    /// The last batch did not arrive.
    fails: bool,
}

impl Export {
    async fn run(mut self, mut spans: mpsc::Receiver<Message>) {
        let mut batch = Vec::new();
        let mut flushes = Vec::new();
        while let Some(first) = spans.recv().await {
            self.take(first, &mut batch, &mut flushes);
            let until = Instant::now() + GATHER_FOR;
            while batch.len() < MOST_AT_ONCE && flushes.is_empty() {
                match tokio::time::timeout_at(until, spans.recv()).await {
                    Ok(Some(message)) => self.take(message, &mut batch, &mut flushes),
                    Ok(None) | Err(_) => break,
                }
            }
            self.send(std::mem::take(&mut batch)).await;
            for done in flushes.drain(..) {
                done.send(()).unwrap_or_default();
            }
        }
    }

    fn take(&self, message: Message, batch: &mut Vec<SpanData>, flushes: &mut Vec<oneshot::Sender<()>>) {
        match message {
            Message::Span(span) => batch.push(data(*span, &self.scope)),
            Message::Flush(done) => flushes.push(done),
        }
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        if batch.is_empty() {
            return;
        }
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let sent = tokio::time::timeout(self.patience, self.exporter.export(batch)).await;
        let error = match sent {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("it took too long".to_owned()),
        };
        let result = if error.is_none() { "exported" } else { "failed" };
        self.counts.with_label_values(&[result]).inc_by(count);
        match (&error, self.fails) {
            (Some(error), false) => {
                tracing::warn!(%error, "spans could not be exported; further ones are tried");
            }
            (None, true) => tracing::info!("spans are exported again"),
            _ => {}
        }
        self.fails = error.is_some();
    }
}

/// A span as the library has it.
fn data(span: SpanRecord, scope: &InstrumentationScope) -> SpanData {
    let id = |id: super::trace_ids::SpanId| SpanId::from(id.number());
    let value = |value: SpanValue| match value {
        SpanValue::Text(text) => Value::from(text),
        SpanValue::Number(number) => Value::from(i64::try_from(number).unwrap_or(i64::MAX)),
        SpanValue::Seconds(seconds) => Value::from(seconds),
    };
    let mut attributes: Vec<KeyValue> =
        span.attributes.into_iter().map(|(key, said)| KeyValue::new(key, value(said))).collect();
    if let Some(failure) = span.failure {
        attributes.push(KeyValue::new("error.type", failure));
    }
    SpanData {
        span_context: SpanContext::new(
            TraceId::from(span.trace_id),
            id(span.span_id),
            TraceFlags::SAMPLED,
            false,
            TraceState::NONE,
        ),
        parent_span_id: span.parent.map_or(SpanId::INVALID, id),
        parent_span_is_remote: span.kind == SpanKind::Server && span.parent.is_some(),
        span_kind: match span.kind {
            SpanKind::Server => opentelemetry::trace::SpanKind::Server,
            SpanKind::Internal => opentelemetry::trace::SpanKind::Internal,
            SpanKind::Client => opentelemetry::trace::SpanKind::Client,
        },
        name: span.name,
        start_time: span.began,
        end_time: span.ended,
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: if span.failure.is_some() { Status::error("") } else { Status::Unset },
        instrumentation_scope: scope.clone(),
    }
}
