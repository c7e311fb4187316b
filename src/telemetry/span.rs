//! Spans of what is done for one request, for traces that are sampled.
//!
//! Must not hold what a client sent, save its method: no address, no path, no name, no credential.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use prometheus::IntCounter;
use tokio::sync::{mpsc, oneshot};

use super::trace::{RequestId, SpanId, TraceContext};

/// What of a trace id decides whether it is sampled, as every implementation of OpenTelemetry's ratio takes it.
const RATIO_BITS: u32 = 63;

/// On which side of us somebody else is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Somebody asked us.
    Server,
    /// Nobody else is part of it.
    Internal,
    /// We asked somebody.
    Client,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum SpanValue {
    Text(Cow<'static, str>),
    Number(u64),
    Seconds(f64),
}

impl From<&'static str> for SpanValue {
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for SpanValue {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl From<u64> for SpanValue {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<Duration> for SpanValue {
    fn from(duration: Duration) -> Self {
        Self::Seconds(duration.as_secs_f64())
    }
}

/// A span that is over.
#[derive(Debug)]
pub(super) struct SpanRecord {
    pub(super) trace_id: u128,
    pub(super) span_id: SpanId,
    pub(super) parent: Option<SpanId>,
    pub(super) kind: SpanKind,
    pub(super) name: Cow<'static, str>,
    pub(super) began: SystemTime,
    pub(super) ended: SystemTime,
    pub(super) attributes: Vec<(&'static str, SpanValue)>,
    /// What it failed for.
    pub(super) failure: Option<&'static str>,
}

/// What the exporter is told.
pub(super) enum Message {
    Span(Box<SpanRecord>),
    /// Told once everything before was exported, or could not be.
    Flush(oneshot::Sender<()>),
}

/// Where spans of sampled traces go: a bounded queue, so that nobody waits for a collector.
#[derive(Clone)]
pub(super) struct Recorder(Arc<Queue>);

struct Queue {
    spans: mpsc::Sender<Message>,
    dropped: IntCounter,
}

impl Recorder {
    pub(super) fn new(spans: mpsc::Sender<Message>, dropped: IntCounter) -> Self {
        Self(Arc::new(Queue { spans, dropped }))
    }

    fn record(&self, span: SpanRecord) {
        if self.0.spans.try_send(Message::Span(Box::new(span))).is_err() {
            self.0.dropped.inc();
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

/// Which traces are recorded, and where. Cheap to clone; the default records none.
#[derive(Debug, Clone, Default)]
pub struct Tracer {
    recorder: Option<Recorder>,
    /// Trace ids below it are sampled.
    below: u64,
    /// Whether a trace that somebody began is sampled exactly if they say so.
    follows_parent: bool,
}

impl Tracer {
    pub(super) fn new(recorder: Recorder, ratio: f64, follows_parent: bool) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of what there is, and casts saturate"
        )]
        let below = (ratio * (1_u64 << RATIO_BITS) as f64) as u64;
        Self { recorder: Some(recorder), below, follows_parent }
    }

    /// A new trace, named like the request.
    pub fn begin(&self, request_id: &RequestId) -> TraceContext {
        self.sample(TraceContext::begin(request_id))
    }

    /// The trace of a `traceparent`, if it is one.
    pub fn join(&self, text: &str) -> Option<TraceContext> {
        TraceContext::join(text).map(|trace| self.sample(trace))
    }

    fn sample(&self, trace: TraceContext) -> TraceContext {
        if self.recorder.is_none() {
            return trace;
        }
        let sampled = if trace.parent().is_some() && self.follows_parent {
            trace.is_sampled()
        } else {
            let low = u64::try_from(trace.number() & u128::from(u64::MAX)).unwrap_or(u64::MAX);
            low >> (u64::BITS - RATIO_BITS) < self.below
        };
        trace.recorded_by(self.recorder.clone().filter(|_| sampled))
    }

    /// Waits until everything so far was exported, or could not be; at most `patience`.
    pub async fn flush(&self, patience: Duration) {
        let Some(Recorder(queue)) = &self.recorder else { return };
        let (done, exported) = oneshot::channel();
        let flushing = async {
            if queue.spans.send(Message::Flush(done)).await.is_ok() {
                exported.await.unwrap_or_default();
            }
        };
        tokio::time::timeout(patience, flushing).await.unwrap_or_default();
    }
}

/// Something that is being done for a request. Dropping it ends it.
#[derive(Debug)]
pub struct Span {
    context: TraceContext,
    kind: SpanKind,
    name: Cow<'static, str>,
    began: Instant,
    attributes: Vec<(&'static str, SpanValue)>,
    failure: Option<&'static str>,
}

impl TraceContext {
    /// A part of what is done, that begins now. Nothing where the trace is not recorded.
    pub fn start(&self, name: &'static str, kind: SpanKind) -> Option<Span> {
        self.recorder()?;
        let (context, began) = (self.child(), Instant::now());
        Some(Span { context, kind, name: name.into(), began, attributes: Vec::new(), failure: None })
    }

    /// The whole of what was done for somebody who asked at `began`. Nothing where the trace is not recorded.
    pub fn served(&self, name: impl FnOnce() -> String, began: Instant) -> Option<Span> {
        self.recorder()?;
        let (context, name) = (self.clone(), name().into());
        Some(Span { context, kind: SpanKind::Server, name, began, attributes: Vec::new(), failure: None })
    }
}

impl Span {
    /// For those who are asked in it, and parts of it.
    pub fn context(&self) -> &TraceContext {
        &self.context
    }

    pub fn note(&mut self, key: &'static str, value: impl Into<SpanValue>) {
        self.attributes.push((key, value.into()));
    }

    /// As [`note`](Self::note), where there is something.
    pub fn note_some(&mut self, key: &'static str, value: Option<impl Into<SpanValue>>) {
        if let Some(value) = value {
            self.note(key, value);
        }
    }

    /// It failed, for a reason out of a small set.
    pub fn fail(&mut self, reason: &'static str) {
        self.failure = Some(reason);
    }

    /// It took until now, whatever of it goes on.
    pub fn end(self) {}
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(recorder) = self.context.recorder() else { return };
        let ended = SystemTime::now();
        recorder.record(SpanRecord {
            trace_id: self.context.number(),
            span_id: self.context.span_id(),
            parent: self.context.parent(),
            kind: self.kind,
            name: std::mem::take(&mut self.name),
            began: ended.checked_sub(self.began.elapsed()).unwrap_or(ended),
            ended,
            attributes: std::mem::take(&mut self.attributes),
            failure: self.failure,
        });
    }
}
