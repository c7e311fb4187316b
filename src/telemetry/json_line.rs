//! One line of JSON, written field by field into one piece of text.
//!
//! Must not leave a character unescaped that could end a string or the line (RFC 8259 section 7).

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::Offset;

/// Room enough for nearly every line.
const USUAL_BYTES: usize = 768;

/// A line that is being written. Every request writes two, so none goes by way of a serializer.
pub(super) struct JsonLine(String);

impl JsonLine {
    pub(super) fn begin(log: &'static str, at: Timestamp) -> Self {
        let mut line = Self(String::with_capacity(USUAL_BYTES));
        line.0.push_str("{\"log\":\"");
        line.0.push_str(log);
        line.0.push_str("\",\"ts\":\"");
        line.push_time(at);
        line.0.push('"');
        line
    }

    pub(super) fn text(mut self, key: &'static str, value: &str) -> Self {
        self.push_key(key);
        self.0.push('"');
        self.push_escaped(value);
        self.0.push('"');
        self
    }

    /// `null` for nothing.
    pub(super) fn optional(mut self, key: &'static str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(key, value),
            None => {
                self.push_key(key);
                self.0.push_str("null");
                self
            }
        }
    }

    pub(super) fn number(mut self, key: &'static str, value: u64) -> Self {
        self.push_key(key);
        self.push_number(value);
        self
    }

    /// In milliseconds, to the microsecond; `null` for nothing.
    pub(super) fn milliseconds(self, key: &'static str, value: Option<Duration>) -> Self {
        let micros = value.map(|value| value.saturating_add(Duration::from_nanos(500)).as_micros());
        self.thousandths(key, micros)
    }

    /// In microseconds, to the nanosecond.
    pub(super) fn microseconds(self, key: &'static str, value: Duration) -> Self {
        self.thousandths(key, Some(value.as_nanos()))
    }

    pub(super) fn truth(mut self, key: &'static str, value: bool) -> Self {
        self.push_key(key);
        self.0.push_str(if value { "true" } else { "false" });
        self
    }

    pub(super) fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }

    fn thousandths(mut self, key: &'static str, value: Option<u128>) -> Self {
        self.push_key(key);
        match value {
            Some(value) => {
                let value = u64::try_from(value).unwrap_or(u64::MAX);
                self.push_number(value / 1000);
                self.0.push('.');
                self.push_digits::<3>(value % 1000);
            }
            None => self.0.push_str("null"),
        }
        self
    }

    fn push_key(&mut self, key: &'static str) {
        self.0.push_str(",\"");
        self.0.push_str(key);
        self.0.push_str("\":");
    }

    fn push_number(&mut self, value: u64) {
        match value {
            0..10 => self.push_digits::<1>(value),
            10..100 => self.push_digits::<2>(value),
            100..1000 => self.push_digits::<3>(value),
            1000..10_000 => self.push_digits::<4>(value),
            _ => drop(write!(self.0, "{value}")),
        }
    }

    fn push_digits<const DIGITS: usize>(&mut self, mut value: u64) {
        let mut digits = [b'0'; DIGITS];
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + u8::try_from(value % 10).unwrap_or_default();
            value /= 10;
        }
        self.0.push_str(std::str::from_utf8(&digits).unwrap_or_default());
    }

    /// RFC 3339, to the microsecond.
    fn push_time(&mut self, at: Timestamp) {
        let time = Offset::UTC.to_datetime(at);
        let part = |value: i8| u64::try_from(value).unwrap_or_default();
        self.push_digits::<4>(u64::try_from(time.year()).unwrap_or_default());
        self.0.push('-');
        self.push_digits::<2>(part(time.month()));
        self.0.push('-');
        self.push_digits::<2>(part(time.day()));
        self.0.push('T');
        self.push_digits::<2>(part(time.hour()));
        self.0.push(':');
        self.push_digits::<2>(part(time.minute()));
        self.0.push(':');
        self.push_digits::<2>(part(time.second()));
        self.0.push('.');
        self.push_digits::<6>(u64::try_from(time.subsec_nanosecond() / 1000).unwrap_or_default());
        self.0.push('Z');
    }

    fn push_escaped(&mut self, value: &str) {
        if !value.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
            self.0.push_str(value);
            return;
        }
        for letter in value.chars() {
            match letter {
                '"' | '\\' => {
                    self.0.push('\\');
                    self.0.push(letter);
                }
                '\0'..='\u{1f}' => drop(write!(self.0, "\\u{:04x}", u32::from(letter))),
                letter => self.0.push(letter),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_line_is_one_line_of_json_whatever_is_in_it() {
        let at: Timestamp = "2026-03-09T04:05:06.070809Z".parse().unwrap();
        let odd = "a\"b\\c\n\r\t\u{0}\u{1f}\u{7f}\u{2028}é";
        let line = JsonLine::begin("access", at)
            .text("odd", odd)
            .optional("none", None)
            .optional("some", Some("x"))
            .number("small", 7)
            .number("large", u64::MAX)
            .milliseconds("duration_ms", Some(Duration::from_nanos(1_002_600)))
            .milliseconds("none_ms", None)
            .microseconds("duration_us", Duration::from_nanos(12_034))
            .truth("complete", true)
            .end();
        assert!(!line.bytes().any(|byte| byte < 0x20), "{line}");
        let read: Value = serde_json::from_str(&line).unwrap();
        let expected = json!({
            "log": "access", "ts": "2026-03-09T04:05:06.070809Z", "odd": odd, "none": null, "some": "x", "small": 7,
            "large": u64::MAX, "duration_ms": 1.003, "none_ms": null, "duration_us": 12.034, "complete": true,
        });
        assert_eq!(read, expected);
    }

    #[test]
    fn numbers_of_every_length_are_written_whole() {
        for value in [0, 9, 10, 99, 100, 999, 1000, 9999, 10_000, 123_456] {
            let line = JsonLine::begin("access", Timestamp::UNIX_EPOCH).number("value", value).end();
            assert!(line.ends_with(&format!("\"value\":{value}}}")), "{line}");
        }
    }
}
