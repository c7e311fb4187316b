//! W3C trace context (Trace Context, section 3.2).
//!
//! Must not be taken from a peer that is not trusted; the caller decides whose is offered here.

use std::sync::Arc;

use http::HeaderValue;

use super::recording::Recording;
use super::trace_ids::{RequestId, SpanId, digits_of};

/// The trace a request belongs to, with a span id of our own.
#[derive(Debug, Clone)]
pub struct TraceContext {
    trace_id: RequestId,
    span_id: SpanId,
    /// Whoever asked us in this trace, or the span of ours that this one is part of.
    parent: Option<SpanId>,
    /// Whether whoever began it records it.
    sampled: bool,
    /// Where our spans of it go, if they are recorded.
    recording: Option<Arc<Recording>>,
}

impl TraceContext {
    /// A new trace, named like the request, that nobody records.
    pub fn begin(request_id: &RequestId) -> Self {
        Self { trace_id: *request_id, span_id: SpanId::new(), parent: None, sampled: false, recording: None }
    }

    /// Joins the trace of a `traceparent`: version 00, or what a later one has in common with it.
    pub fn join(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let version = parts.next()?;
        let trace = parts.next()?;
        let parent = parts.next()?;
        let flags = parts.next()?;
        let version: [u8; 2] = digits_of(version.as_bytes())?;
        if &version == b"ff" || (&version == b"00" && parts.next().is_some()) {
            return None;
        }
        let trace_id = RequestId::of_trace(trace)?;
        let parent = SpanId::parse(parent)?;
        let [_, low]: [u8; 2] = digits_of(flags.as_bytes())?;
        let nothing = trace_id.number() == 0 || parent.number() == 0;
        let sampled = char::from(low).to_digit(16)? & 1 == 1;
        let begun = Self::begin(&trace_id);
        (!nothing).then_some(Self { parent: Some(parent), sampled, ..begun })
    }

    /// The same, recorded or not.
    pub(super) fn recorded_by(self, recording: Option<Arc<Recording>>) -> Self {
        // Whoever began it is believed about the whole of it, also where it is not recorded here.
        Self { sampled: recording.is_some() || self.parent.is_some() && self.sampled, recording, ..self }
    }

    pub(super) fn is_sampled(&self) -> bool {
        self.sampled
    }

    pub(super) fn number(&self) -> u128 {
        self.trace_id.number()
    }

    pub(super) fn span_id(&self) -> SpanId {
        self.span_id
    }

    pub(super) fn parent(&self) -> Option<SpanId> {
        self.parent
    }

    pub(super) fn recording(&self) -> Option<&Recording> {
        self.recording.as_deref()
    }

    /// For a part of what it is about.
    pub(super) fn child(&self) -> Self {
        Self { span_id: SpanId::new(), parent: Some(self.span_id), ..self.clone() }
    }

    pub fn trace_id(&self) -> &str {
        self.trace_id.as_str()
    }

    /// The `traceparent` sent to the origin: version 00, sampled only if the trace is.
    ///
    /// Where our spans are not recorded, whoever asked us stays the parent: there would be none of that name.
    pub fn header(&self) -> HeaderValue {
        let parent = self.parent.filter(|_| self.recording.is_none()).unwrap_or(self.span_id);
        let text: [&[u8]; 5] = [
            b"00-",
            self.trace_id.as_str().as_bytes(),
            b"-",
            parent.as_bytes(),
            if self.sampled { b"-01" } else { b"-00" },
        ];
        HeaderValue::from_bytes(&text.concat()).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_joined_only_as_the_standard_writes_it() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let parent = "00f067aa0ba902b7";
        for (flags, sampled) in [("01", "01"), ("00", "00"), ("03", "01")] {
            let joined = TraceContext::join(&format!("00-{trace}-{parent}-{flags}")).unwrap();
            assert_eq!(joined.trace_id(), trace);
            let header = joined.header();
            let sent = header.to_str().unwrap();
            assert!(sent.starts_with(&format!("00-{trace}-")) && sent.ends_with(sampled), "{sent}");
            assert!(sent.contains(parent), "nobody records a span of ours");
        }
        assert!(TraceContext::join(&format!("cc-{trace}-{parent}-01-what-comes")).is_some());
        let zeros = "0".repeat(32);
        let half = "0".repeat(16);
        for broken in [
            String::new(),
            format!("ff-{trace}-{parent}-01"),
            format!("00-{trace}-{parent}-01-more"),
            format!("00-{zeros}-{parent}-01"),
            format!("00-{trace}-{half}-01"),
            format!("00-{}-{parent}-01", trace.to_uppercase()),
            format!("00-{trace}-{parent}"),
            format!("00-{trace}-{parent}-0g"),
        ] {
            assert!(TraceContext::join(&broken).is_none(), "{broken}");
        }
    }

    #[test]
    fn a_traceparent_has_the_four_parts_of_the_standard() {
        let id = RequestId::new();
        let header = TraceContext::begin(&id).header();
        let parts: Vec<&str> = header.to_str().unwrap().split('-').collect();
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [2, 32, 16, 2]);
        assert_eq!(parts[1], id.as_str());
        assert_ne!(parts[2], "0000000000000000");
    }
}
