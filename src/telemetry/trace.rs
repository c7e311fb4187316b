//! Request ids and W3C trace context (Trace Context, section 3.2).
//!
//! Must not take either from a peer that is not trusted; the caller decides whose are offered here.

use std::fmt;

use http::HeaderValue;

/// Sixteen random bytes in hex, also the trace id of a request that brought none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId([u8; 32]);

impl RequestId {
    pub fn new() -> Self {
        Self(hex(fastrand::u128(1..).to_be_bytes()))
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    pub fn header(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.0).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The trace a request belongs to, with a span id of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: RequestId,
    span_id: [u8; 16],
}

impl TraceContext {
    /// A new trace, named like the request.
    pub fn begin(request_id: &RequestId) -> Self {
        Self { trace_id: *request_id, span_id: hex(fastrand::u64(1..).to_be_bytes()) }
    }

    pub fn trace_id(&self) -> &str {
        self.trace_id.as_str()
    }

    /// The `traceparent` sent to the origin: version 00, not sampled, since nothing records spans.
    pub fn header(&self) -> HeaderValue {
        let text: [&[u8]; 5] = [b"00-", &self.trace_id.0, b"-", &self.span_id, b"-00"];
        HeaderValue::from_bytes(&text.concat()).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

/// The bytes as lower-case hexadecimal digits.
fn hex<const BYTES: usize, const DIGITS: usize>(bytes: [u8; BYTES]) -> [u8; DIGITS] {
    const { assert!(DIGITS == 2 * BYTES) };
    let digit = |half: u8| if half < 10 { b'0' + half } else { b'a' + half - 10 };
    let mut digits = [0; DIGITS];
    for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = [digit(byte >> 4), digit(byte & 0xf)];
    }
    digits
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
