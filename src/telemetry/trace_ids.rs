//! Ids of requests, traces and spans, as hexadecimal digits (Trace Context, section 3.2).
//!
//! Must not take an id from a peer that is not trusted; the caller decides whose are offered here.

use std::fmt;

use http::HeaderValue;

/// Sixteen random bytes in hex, also the trace id of a request that brought none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId([u8; 32]);

impl RequestId {
    pub fn new() -> Self {
        Self(hex(fastrand::u128(1..).to_be_bytes()))
    }

    /// Reads 32 hexadecimal digits, or the same as a UUID is written; the dashes are dropped.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: Vec<u8> = match text.len() {
            32 => text.bytes().collect(),
            36 => {
                let dashes = text.bytes().enumerate().filter(|(_, byte)| *byte == b'-').map(|(at, _)| at);
                dashes.eq([8, 13, 18, 23]).then(|| text.bytes().filter(|byte| *byte != b'-').collect())?
            }
            _ => return None,
        };
        // Nobody may be called by zeros alone (Trace Context, section 3.2.2.3).
        digits_of(&digits).filter(|digits| digits.iter().any(|digit| *digit != b'0')).map(Self)
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    pub(super) fn number(&self) -> u128 {
        u128::from_str_radix(self.as_str(), 16).unwrap_or(0)
    }

    /// The trace id of a `traceparent`, which may be zeros alone.
    pub(super) fn of_trace(digits: &str) -> Option<Self> {
        digits_of(digits.as_bytes()).map(Self)
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

/// Sixteen hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SpanId([u8; 16]);

impl SpanId {
    pub(super) fn new() -> Self {
        Self(hex(fastrand::u64(1..).to_be_bytes()))
    }

    /// The span id of a `traceparent`, which may be zeros alone.
    pub(super) fn parse(digits: &str) -> Option<Self> {
        digits_of(digits.as_bytes()).map(Self)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The number the digits say.
    pub(super) fn number(self) -> u64 {
        std::str::from_utf8(&self.0).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0)
    }
}

/// Lower-case hexadecimal digits, and exactly as many.
pub(super) fn digits_of<const DIGITS: usize>(text: &[u8]) -> Option<[u8; DIGITS]> {
    let digits = <[u8; DIGITS]>::try_from(text).ok()?;
    digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')).then_some(digits)
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
    fn a_request_id_is_one_of_two_spellings() {
        let plain = "4bf92f3577b34da6a3ce929d0e0e4736";
        let uuid = "4bf92f35-77b3-4da6-a3ce-929d0e0e4736";
        for text in [plain, uuid] {
            assert_eq!(RequestId::parse(text).map(|id| id.to_string()).as_deref(), Some(plain));
        }
        let broken = [
            "",
            "x",
            // No trace may be called that (Trace Context, section 3.2.2.3).
            "00000000000000000000000000000000",
            &plain.to_uppercase(),
            &format!("{plain}0"),
            "4bf92f3-577b3-4da6-a3ce-929d0e0e47360",
            "4bf92f35-77b3-4da6-a3ce-929d0e0e473\n",
        ];
        assert!(broken.into_iter().all(|text| RequestId::parse(text).is_none()));
    }
}
