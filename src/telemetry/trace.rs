//! Request ids and W3C trace context (Trace Context, section 3.2).
//!
//! Must not take either from a peer that is not trusted; the caller decides whose are offered here.

use std::fmt;

use http::HeaderValue;

/// Sixteen random bytes in hex, also the trace id of a request that brought none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    pub fn new() -> Self {
        Self(format!("{:032x}", fastrand::u128(1..)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The trace a request belongs to, with a span id of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: String,
    span_id: u64,
}

impl TraceContext {
    /// A new trace, named like the request.
    pub fn begin(request_id: &RequestId) -> Self {
        Self { trace_id: request_id.0.clone(), span_id: fastrand::u64(1..) }
    }

    pub fn trace_id(&self) -> &str {
        &self.trace_id
    }

    /// The `traceparent` sent to the origin: version 00, not sampled, since nothing records spans.
    pub fn header(&self) -> HeaderValue {
        let text = format!("00-{}-{:016x}-00", self.trace_id, self.span_id);
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
