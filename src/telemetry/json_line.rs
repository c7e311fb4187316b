//! One line of JSON, written field by field into bytes that are there already.
//!
//! Must not leave a character unescaped that could end a string or the line (RFC 8259 section 7).

use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::Offset;

/// What comes between the value before and the value of a field of this name.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}
pub(super) use key;

/// Writes lines one after the other. Every request writes two, so none goes by way of a serializer, and no second is
/// written out twice.
pub(super) struct JsonLines {
    bytes: Vec<u8>,
    second: i64,
    /// The second as RFC 3339 has it, up to the fraction.
    written: [u8; 20],
}

impl JsonLines {
    pub(super) const fn new() -> Self {
        Self { bytes: Vec::new(), second: i64::MIN, written: [b' '; 20] }
    }

    /// Begins a line in place of the one before. `opening` is all of it up to the time.
    pub(super) fn begin(&mut self, opening: &'static str, at: Timestamp) -> &mut Self {
        self.bytes.clear();
        self.push(opening);
        self.push_time(at);
        self.bytes.push(b'"');
        self
    }

    /// Whatever text it is.
    pub(super) fn text(&mut self, key: &'static str, value: &str) -> &mut Self {
        self.push(key);
        self.bytes.push(b'"');
        self.push_escaped(value);
        self.bytes.push(b'"');
        self
    }

    /// A word of ours, or text of a kind that has nothing to escape.
    pub(super) fn word(&mut self, key: &'static str, value: &str) -> &mut Self {
        debug_assert!(!must_escape(value), "{value:?}");
        self.push(key);
        self.bytes.push(b'"');
        self.push(value);
        self.bytes.push(b'"');
        self
    }

    /// `null` for nothing.
    pub(super) fn optional_text(&mut self, key: &'static str, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.text(key, value),
            None => self.null(key),
        }
    }

    /// `null` for nothing.
    pub(super) fn optional_word(&mut self, key: &'static str, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.word(key, value),
            None => self.null(key),
        }
    }

    /// `null` for none.
    pub(super) fn address(&mut self, key: &'static str, value: Option<IpAddr>) -> &mut Self {
        let Some(value) = value else { return self.null(key) };
        self.push(key);
        self.bytes.push(b'"');
        match value {
            IpAddr::V4(address) => {
                let [first, others @ ..] = address.octets();
                self.push_number(first.into());
                for octet in others {
                    self.bytes.push(b'.');
                    self.push_number(octet.into());
                }
            }
            IpAddr::V6(address) => drop(write!(self.bytes, "{address}")),
        }
        self.bytes.push(b'"');
        self
    }

    pub(super) fn number(&mut self, key: &'static str, value: u64) -> &mut Self {
        self.push(key);
        self.push_number(value);
        self
    }

    /// In milliseconds, to the microsecond; `null` for nothing.
    pub(super) fn milliseconds(&mut self, key: &'static str, value: Option<Duration>) -> &mut Self {
        match value {
            Some(value) => self.thousandths(key, value.saturating_add(Duration::from_nanos(500)).as_micros()),
            None => self.null(key),
        }
    }

    /// In microseconds, to the nanosecond.
    pub(super) fn microseconds(&mut self, key: &'static str, value: Duration) -> &mut Self {
        self.thousandths(key, value.as_nanos())
    }

    pub(super) fn truth(&mut self, key: &'static str, value: bool) -> &mut Self {
        self.push(key);
        self.push(if value { "true" } else { "false" });
        self
    }

    /// The line that was begun, whole.
    pub(super) fn end(&mut self) -> &[u8] {
        self.push("}\n");
        &self.bytes
    }

    fn null(&mut self, key: &'static str) -> &mut Self {
        self.push(key);
        self.push("null");
        self
    }

    fn thousandths(&mut self, key: &'static str, value: u128) -> &mut Self {
        let value = u64::try_from(value).unwrap_or(u64::MAX);
        self.push(key);
        self.push_number(value / 1000);
        self.bytes.push(b'.');
        self.bytes.extend_from_slice(&digits::<3>(value % 1000));
        self
    }

    fn push(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn push_number(&mut self, value: u64) {
        match value {
            0..10 => self.bytes.extend_from_slice(&digits::<1>(value)),
            10..100 => self.bytes.extend_from_slice(&digits::<2>(value)),
            100..1000 => self.bytes.extend_from_slice(&digits::<3>(value)),
            1000..10_000 => self.bytes.extend_from_slice(&digits::<4>(value)),
            _ => drop(write!(self.bytes, "{value}")),
        }
    }

    /// RFC 3339, to the microsecond.
    fn push_time(&mut self, at: Timestamp) {
        // Before 1970 the fraction would count backwards; no clock that runs says that.
        let (second, fraction) = (at.as_second(), u64::try_from(at.subsec_microsecond()).unwrap_or_default());
        if self.second != second {
            self.second = second;
            self.written = written(at);
        }
        self.bytes.extend_from_slice(&self.written);
        self.bytes.extend_from_slice(&digits::<6>(fraction));
        self.bytes.push(b'Z');
    }

    fn push_escaped(&mut self, value: &str) {
        if !must_escape(value) {
            self.push(value);
            return;
        }
        for letter in value.chars() {
            match letter {
                '"' | '\\' => self.bytes.push(b'\\'),
                '\0'..='\u{1f}' => {
                    drop(write!(self.bytes, "\\u{:04x}", u32::from(letter)));
                    continue;
                }
                _ => {}
            }
            self.push(letter.encode_utf8(&mut [0; 4]));
        }
    }
}

/// Whole vectors at a time, as long as nothing in the loop can stop it.
fn must_escape(value: &str) -> bool {
    value.bytes().fold(false, |odd, byte| odd | (byte < 0x20) | (byte == b'"') | (byte == b'\\'))
}

fn digits<const DIGITS: usize>(mut value: u64) -> [u8; DIGITS] {
    let mut digits = [b'0'; DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or_default();
        value /= 10;
    }
    digits
}

/// `2026-03-09T04:05:06.`
fn written(at: Timestamp) -> [u8; 20] {
    let time = Offset::UTC.to_datetime(at);
    let part = |value: i8| digits::<2>(u64::try_from(value).unwrap_or_default());
    let [y, e, a, r] = digits::<4>(u64::try_from(time.year()).unwrap_or_default());
    let ([m, o], [d, ay]) = (part(time.month()), part(time.day()));
    let ([h, hh], [n, nn], [s, ss]) = (part(time.hour()), part(time.minute()), part(time.second()));
    [y, e, a, r, b'-', m, o, b'-', d, ay, b'T', h, hh, b':', n, nn, b':', s, ss, b'.']
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const OPENING: &str = "{\"log\":\"access\",\"ts\":\"";

    #[test]
    fn a_line_is_one_line_of_json_whatever_is_in_it() {
        let at: Timestamp = "2026-03-09T04:05:06.070809Z".parse().unwrap();
        let odd = "a\"b\\c\n\r\t\u{0}\u{1f}\u{7f}\u{2028}é";
        let mut lines = JsonLines::new();
        let line = lines
            .begin(OPENING, at)
            .text(key!("odd"), odd)
            .optional_text(key!("none"), None)
            .optional_word(key!("some"), Some("x"))
            .number(key!("small"), 7)
            .number(key!("large"), u64::MAX)
            .milliseconds(key!("duration_ms"), Some(Duration::from_nanos(1_002_600)))
            .milliseconds(key!("none_ms"), None)
            .microseconds(key!("duration_us"), Duration::from_nanos(12_034))
            .truth(key!("complete"), true)
            .address(key!("v4"), Some([127, 0, 10, 255].into()))
            .address(key!("v6"), "2001:db8::1".parse().ok())
            .address(key!("unknown"), None)
            .end();
        let (end, line) = line.split_last().unwrap();
        assert!(*end == b'\n' && !line.iter().any(|byte| *byte < 0x20), "{}", line.escape_ascii());
        let read: Value = serde_json::from_slice(line).unwrap();
        let expected = json!({
            "log": "access", "ts": "2026-03-09T04:05:06.070809Z", "odd": odd, "none": null, "some": "x", "small": 7,
            "large": u64::MAX, "duration_ms": 1.003, "none_ms": null, "duration_us": 12.034, "complete": true,
            "v4": "127.0.10.255", "v6": "2001:db8::1", "unknown": null,
        });
        assert_eq!(read, expected);
    }

    #[test]
    fn every_line_has_its_own_time() {
        let mut lines = JsonLines::new();
        for time in [
            "2026-03-09T04:05:06.000001Z",
            "2026-03-09T04:05:06.999999Z",
            "2026-12-31T23:59:59.500000Z",
            "2027-01-01T00:00:00.000000Z",
            "2026-03-09T04:05:06.000000Z",
        ] {
            let line = lines.begin(OPENING, time.parse().unwrap()).end();
            assert_eq!(line, format!("{OPENING}{time}\"}}\n").as_bytes());
        }
    }

    #[test]
    fn numbers_of_every_length_are_written_whole() {
        let mut lines = JsonLines::new();
        for value in [0, 9, 10, 99, 100, 999, 1000, 9999, 10_000, 123_456] {
            let line = lines.begin(OPENING, Timestamp::UNIX_EPOCH).number(key!("value"), value).end();
            assert!(line.ends_with(format!("\"value\":{value}}}\n").as_bytes()), "{}", line.escape_ascii());
        }
    }
}
