//! One line of JSON, written field by field into bytes that are there already.
//!
//! Must not leave a character unescaped that could end a string or the line (RFC 8259 section 7).

use std::net::IpAddr;

use jiff::Timestamp;

use super::line::{Fields, Key, LineBuffer};
use super::record::Record;

/// Writes lines one after the other.
pub(super) struct JsonLines(LineBuffer);

impl JsonLines {
    pub(super) const fn new() -> Self {
        Self(LineBuffer::new())
    }

    pub(super) fn line(&mut self, record: &impl Record) -> &[u8] {
        record.write(self);
        self.end()
    }

    /// The line that was begun, whole.
    fn end(&mut self) -> &[u8] {
        self.0.push("}\n");
        self.0.bytes()
    }

    fn push_escaped(&mut self, value: &str) {
        if !must_escape(value) {
            self.0.push(value);
            return;
        }
        for letter in value.chars() {
            match letter {
                '"' | '\\' => self.0.push_byte(b'\\'),
                '\0'..='\u{1f}' => {
                    self.0.push_formatted(format_args!("\\u{:04x}", u32::from(letter)));
                    continue;
                }
                _ => {}
            }
            self.0.push(letter.encode_utf8(&mut [0; 4]));
        }
    }
}

impl Fields for JsonLines {
    fn buffer(&mut self) -> &mut LineBuffer {
        &mut self.0
    }

    fn begin(&mut self, opening: Key, at: Timestamp) -> &mut Self {
        self.0.clear();
        self.0.push(opening.json);
        self.0.push_time(at);
        self.0.push_byte(b'"');
        self
    }

    fn key(&mut self, key: Key) {
        self.0.push(key.json);
    }

    fn text(&mut self, key: Key, value: &str) -> &mut Self {
        self.0.push(key.json);
        self.0.push_byte(b'"');
        self.push_escaped(value);
        self.0.push_byte(b'"');
        self
    }

    fn word(&mut self, key: Key, value: &str) -> &mut Self {
        debug_assert!(!must_escape(value), "{value:?}");
        self.0.push(key.json);
        self.0.push_byte(b'"');
        self.0.push(value);
        self.0.push_byte(b'"');
        self
    }

    fn nothing(&mut self, key: Key) -> &mut Self {
        self.0.push(key.json);
        self.0.push("null");
        self
    }

    fn address(&mut self, key: Key, value: Option<IpAddr>) -> &mut Self {
        let Some(value) = value else { return self.nothing(key) };
        self.0.push(key.json);
        self.0.push_byte(b'"');
        self.0.push_address(value);
        self.0.push_byte(b'"');
        self
    }
}

/// Whole vectors at a time, as long as nothing in the loop can stop it.
fn must_escape(value: &str) -> bool {
    value.bytes().fold(false, |odd, byte| odd | (byte < 0x20) | (byte == b'"') | (byte == b'\\'))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::line::{key, opening};
    use super::*;
    use serde_json::{Value, json};

    const OPENING: Key = opening!("access");

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
            assert_eq!(line, format!("{}{time}\"}}\n", OPENING.json).as_bytes());
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
