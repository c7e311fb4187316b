//! Spans of what is done for one request, for traces that are sampled.
//!
//! Must not hold what a client sent, save its method: no address, no path, no name, no credential.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::recording::{Recorder, Recording, SpanKind, SpanRecord, SpanValue};
use super::trace::TraceContext;
use super::trace_ids::RequestId;

/// Which traces are recorded, and where. Cheap to clone; the default records none.
#[derive(Debug, Clone, Default)]
pub struct Tracer {
    recorder: Option<Recorder>,
    /// The share that is sampled of what is decided here.
    ratio: f64,
    /// Whether a trace that somebody began is sampled exactly if they say so.
    follows_parent: bool,
}

impl Tracer {
    pub(super) fn new(recorder: Recorder, ratio: f64, follows_parent: bool) -> Self {
        Self { recorder: Some(recorder), ratio, follows_parent }
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
        let Some(recorder) = &self.recorder else { return trace };
        let sampled = if trace.parent().is_some() && self.follows_parent {
            trace.is_sampled()
        } else {
            // Drawn, and not told from the id: ids come from elsewhere, and many have bits that never change.
            fastrand::f64() < self.ratio
        };
        trace.recorded_by(sampled.then(|| Arc::new(Recording::begin(recorder))))
    }

    /// Waits until everything so far was exported, or could not be; at most `patience`. False if that was too short.
    pub async fn flush(&self, patience: Duration) -> bool {
        let Some(recorder) = &self.recorder else { return true };
        tokio::time::timeout(patience, recorder.flush()).await.is_ok()
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
        self.recording()?;
        let context = self.child();
        let began = Instant::now();
        Some(Span { context, kind, name: name.into(), began, attributes: Vec::new(), failure: None })
    }

    /// The whole of what was done for somebody who asked at `began`. Nothing where the trace is not recorded.
    pub fn served(&self, name: impl FnOnce() -> String, began: Instant) -> Option<Span> {
        self.recording()?;
        let context = self.clone();
        let name = name().into();
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

    /// Nothing came of it: it never was.
    pub fn discard(mut self) {
        self.context = self.context.clone().recorded_by(None);
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(recording) = self.context.recording() else { return };
        recording.recorder.record(SpanRecord {
            trace_id: self.context.number(),
            span_id: self.context.span_id(),
            parent: self.context.parent(),
            kind: self.kind,
            name: std::mem::take(&mut self.name),
            began: recording.time_of(self.began),
            ended: recording.time_of(Instant::now()),
            attributes: std::mem::take(&mut self.attributes),
            failure: self.failure,
        });
    }
}

#[cfg(test)]
mod tests {
    use prometheus::IntCounter;
    use tokio::sync::mpsc;

    use super::*;

    fn tracer(ratio: f64, follows_parent: bool) -> Tracer {
        let (spans, _) = mpsc::channel(1);
        let dropped = IntCounter::new("dropped", "dropped").unwrap();
        Tracer::new(Recorder::new(spans, dropped), ratio, follows_parent)
    }

    #[test]
    fn a_share_is_recorded_whatever_the_ids_look_like() {
        let uuid = RequestId::parse("4bf92f35-77b3-4da6-a3ce-929d0e0e4736").unwrap();
        let joined = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for (ratio, least, most) in [(0.0, 0, 0), (0.1, 700, 1300), (0.9, 8700, 9300), (1.0, 10_000, 10_000)]
        {
            let tracer = tracer(ratio, false);
            let begun = (0..10_000).filter(|_| tracer.begin(&uuid).recording().is_some()).count();
            assert!((least..=most).contains(&begun), "{begun} of 10,000 at {ratio}");
            let taken = (0..10_000).filter(|_| tracer.join(joined).unwrap().recording().is_some()).count();
            assert!((least..=most).contains(&taken), "{taken} of 10,000 joined at {ratio}");
        }
        assert!(tracer(0.0, true).join(joined).unwrap().recording().is_some());
    }

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        let (spans, _waiting) = mpsc::channel(1);
        let dropped = IntCounter::new("dropped", "dropped").unwrap();
        let tracer = Tracer::new(Recorder::new(spans, dropped.clone()), 1.0, true);
        let trace = tracer.begin(&RequestId::new());
        for _ in 0..3 {
            drop(trace.start("origin", SpanKind::Client));
        }
        assert_eq!(dropped.get(), 2);
    }
}
