//! One line of logfmt: `name=value` after `name=value`, quoted where it must be.
//!
//! Must not leave a character unescaped that could end a value or the line.

use std::net::IpAddr;

use jiff::Timestamp;

use super::line::{Fields, Key, LineBuffer};
use super::record::Record;

/// Writes lines one after the other. A field without a value is left out.
pub(super) struct LogfmtLines(LineBuffer);

impl LogfmtLines {
    pub(super) const fn new() -> Self {
        Self(LineBuffer::new())
    }

    pub(super) fn line(&mut self, record: &impl Record) -> &[u8] {
        record.write(self);
        self.end()
    }

    /// The line that was begun, whole.
    fn end(&mut self) -> &[u8] {
        self.0.push_byte(b'\n');
        self.0.bytes()
    }
}

impl Fields for LogfmtLines {
    fn buffer(&mut self) -> &mut LineBuffer {
        &mut self.0
    }

    fn begin(&mut self, opening: Key, at: Timestamp) -> &mut Self {
        self.0.clear();
        self.0.push(opening.logfmt);
        self.0.push_time(at);
        self
    }

    fn key(&mut self, key: Key) {
        self.0.push(key.logfmt);
    }

    fn text(&mut self, key: Key, value: &str) -> &mut Self {
        self.0.push(key.logfmt);
        if !must_quote(value) {
            self.0.push(value);
            return self;
        }
        self.0.push_byte(b'"');
        for letter in value.chars() {
            match letter {
                '"' | '\\' => {
                    self.0.push_byte(b'\\');
                    self.0.push(letter.encode_utf8(&mut [0; 4]));
                }
                letter if letter.is_control() || letter == '\u{2028}' || letter == '\u{2029}' => {
                    self.0.push_formatted(format_args!("\\u{:04x}", u32::from(letter)));
                }
                letter => self.0.push(letter.encode_utf8(&mut [0; 4])),
            }
        }
        self.0.push_byte(b'"');
        self
    }

    fn word(&mut self, key: Key, value: &str) -> &mut Self {
        self.text(key, value)
    }

    fn nothing(&mut self, _key: Key) -> &mut Self {
        self
    }

    fn address(&mut self, key: Key, value: Option<IpAddr>) -> &mut Self {
        if let Some(value) = value {
            self.0.push(key.logfmt);
            self.0.push_address(value);
        }
        self
    }
}

/// Anything but visible ASCII without the marks of the form itself; and nothing, which could not be told from a missing
/// value.
fn must_quote(value: &str) -> bool {
    value.is_empty()
        || value.bytes().any(|byte| !byte.is_ascii_graphic() || matches!(byte, b'"' | b'=' | b'\\'))
}

#[cfg(test)]
mod tests {
    use super::super::line::{key, opening};
    use super::*;

    #[test]
    fn a_value_is_quoted_where_it_could_be_taken_for_something_else() {
        let at: Timestamp = "2026-03-09T04:05:06.070809Z".parse().unwrap();
        let mut lines = LogfmtLines::new();
        let line = lines
            .begin(opening!("access"), at)
            .text(key!("plain"), "/a/b,c")
            .text(key!("spaced"), "a b")
            .text(key!("odd"), "a\"b\\c\n\u{0}\u{7f}\u{2028}é")
            .text(key!("forged"), "x status=200")
            .text(key!("assigned"), "a=b")
            .text(key!("empty"), "")
            .optional_text(key!("none"), None)
            .number(key!("status"), 403)
            .milliseconds(key!("duration_ms"), Some(std::time::Duration::from_nanos(1_002_600)))
            .truth(key!("complete"), true)
            .address(key!("v6"), "2001:db8::1".parse().ok())
            .address(key!("unknown"), None)
            .end();
        let expected = "log=access ts=2026-03-09T04:05:06.070809Z plain=/a/b,c spaced=\"a b\" \
             odd=\"a\\\"b\\\\c\\u000a\\u0000\\u007f\\u2028é\" forged=\"x status=200\" assigned=\"a=b\" empty=\"\" \
             status=403 duration_ms=1.003 complete=true v6=2001:db8::1\n";
        assert_eq!(std::str::from_utf8(line).unwrap(), expected);
    }
}
