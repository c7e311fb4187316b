//! Spans that are over, on their way to the exporter.
//!
//! Must not wait for a collector, nor hold what a client sent, save its method: no address, no path, no name, no credential.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use prometheus::IntCounter;
use tokio::sync::{mpsc, oneshot};

use super::trace_ids::SpanId;

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

    /// Asks the exporter to say once everything so far was exported, or could not be; nothing where it is gone.
    pub(super) async fn flush(&self) -> Option<()> {
        let (done, exported) = oneshot::channel();
        self.0.spans.send(Message::Flush(done)).await.ok()?;
        exported.await.ok()
    }

    pub(super) fn record(&self, span: SpanRecord) {
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

/// One trace that is recorded: where it goes, and one reading of both clocks, so that its spans agree on when they were.
#[derive(Debug)]
pub(super) struct Recording {
    pub(super) recorder: Recorder,
    wall: SystemTime,
    monotonic: Instant,
}

impl Recording {
    pub(super) fn begin(recorder: &Recorder) -> Self {
        Self { recorder: recorder.clone(), wall: SystemTime::now(), monotonic: Instant::now() }
    }

    pub(super) fn time_of(&self, instant: Instant) -> SystemTime {
        let time = match instant.checked_duration_since(self.monotonic) {
            Some(after) => self.wall.checked_add(after),
            None => self.wall.checked_sub(self.monotonic.saturating_duration_since(instant)),
        };
        time.unwrap_or(self.wall)
    }
}
