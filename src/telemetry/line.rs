//! What lines of every form are made of: bytes that are there already, numbers, times; and the fields a record has.
//!
//! Must not know what a record holds, nor allocate for a line once its bytes are there.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

/// The name of a field, as each form has it between the value before and its own.
#[derive(Clone, Copy)]
pub(super) struct Key {
    pub(super) json: &'static str,
    pub(super) logfmt: &'static str,
}

macro_rules! key {
    ($name:literal) => {
        Key { json: concat!(",\"", $name, "\":"), logfmt: concat!(" ", $name, "=") }
    };
}
pub(super) use key;

/// All of a line up to its time.
macro_rules! opening {
    ($log:literal) => {
        Key { json: concat!("{\"log\":\"", $log, "\",\"ts\":\""), logfmt: concat!("log=", $log, " ts=") }
    };
}
pub(super) use opening;

/// A form that lines are written in, field by field.
pub(super) trait Fields {
    fn buffer(&mut self) -> &mut LineBuffer;

    /// Begins a line in place of the one before.
    fn begin(&mut self, opening: Key, at: Timestamp) -> &mut Self;

    /// Writes what comes before a value that needs no quotes.
    fn key(&mut self, key: Key);

    /// Whatever text it is.
    fn text(&mut self, key: Key, value: &str) -> &mut Self;

    /// A word of ours, or text of a kind that has nothing to escape.
    fn word(&mut self, key: Key, value: &str) -> &mut Self;

    /// A field that has no value here.
    fn nothing(&mut self, key: Key) -> &mut Self;

    /// `None` for no address.
    fn address(&mut self, key: Key, value: Option<IpAddr>) -> &mut Self;

    fn optional_text(&mut self, key: Key, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.text(key, value),
            None => self.nothing(key),
        }
    }

    fn optional_word(&mut self, key: Key, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.word(key, value),
            None => self.nothing(key),
        }
    }

    fn number(&mut self, key: Key, value: u64) -> &mut Self {
        self.key(key);
        self.buffer().push_number(value);
        self
    }

    /// In milliseconds, to the microsecond.
    fn milliseconds(&mut self, key: Key, value: Option<Duration>) -> &mut Self {
        let Some(value) = value else { return self.nothing(key) };
        self.key(key);
        self.buffer().push_thousandths(value.saturating_add(Duration::from_nanos(500)).as_micros());
        self
    }

    /// In microseconds, to the nanosecond.
    fn microseconds(&mut self, key: Key, value: Duration) -> &mut Self {
        self.key(key);
        self.buffer().push_thousandths(value.as_nanos());
        self
    }

    fn truth(&mut self, key: Key, value: bool) -> &mut Self {
        self.key(key);
        self.buffer().push(if value { "true" } else { "false" });
        self
    }
}

/// The bytes of one line. Every request writes two, so none goes by way of a serializer, and no second is written out
/// twice.
pub(super) struct LineBuffer {
    bytes: Vec<u8>,
    second: i64,
    /// The second as RFC 3339 has it, up to the fraction.
    written: [u8; 20],
}

impl LineBuffer {
    pub(super) const fn new() -> Self {
        Self { bytes: Vec::new(), second: i64::MIN, written: [b' '; 20] }
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn push(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    pub(super) fn push_byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    pub(super) fn push_formatted(&mut self, text: std::fmt::Arguments<'_>) {
        // Bytes in memory take whatever is written.
        drop(self.bytes.write_fmt(text));
    }

    pub(super) fn push_number(&mut self, value: u64) {
        match value {
            0..10 => self.bytes.extend_from_slice(&digits::<1>(value)),
            10..100 => self.bytes.extend_from_slice(&digits::<2>(value)),
            100..1000 => self.bytes.extend_from_slice(&digits::<3>(value)),
            1000..10_000 => self.bytes.extend_from_slice(&digits::<4>(value)),
            _ => self.push_formatted(format_args!("{value}")),
        }
    }

    fn push_thousandths(&mut self, value: u128) {
        let value = u64::try_from(value).unwrap_or(u64::MAX);
        self.push_number(value / 1000);
        self.bytes.push(b'.');
        self.bytes.extend_from_slice(&digits::<3>(value % 1000));
    }

    pub(super) fn push_address(&mut self, value: IpAddr) {
        match value {
            IpAddr::V4(address) => {
                let [first, others @ ..] = address.octets();
                self.push_number(first.into());
                for octet in others {
                    self.bytes.push(b'.');
                    self.push_number(octet.into());
                }
            }
            IpAddr::V6(address) => self.push_formatted(format_args!("{address}")),
        }
    }

    /// RFC 3339, to the microsecond.
    pub(super) fn push_time(&mut self, at: Timestamp) {
        // Before 1970 the fraction would count backwards; no clock that runs says that.
        let second = at.as_second();
        let fraction = u64::try_from(at.subsec_microsecond()).unwrap_or_default();
        if self.second != second {
            self.second = second;
            self.written = written(Offset::UTC.to_datetime(at));
        }
        self.bytes.extend_from_slice(&self.written);
        self.bytes.extend_from_slice(&digits::<6>(fraction));
        self.bytes.push(b'Z');
    }
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
fn written(time: DateTime) -> [u8; 20] {
    let part = |value: i8| digits::<2>(u64::try_from(value).unwrap_or_default());
    let [y, e, a, r] = digits::<4>(u64::try_from(time.year()).unwrap_or_default());
    let [m, o] = part(time.month());
    let [d, ay] = part(time.day());
    let [h, hh] = part(time.hour());
    let [n, nn] = part(time.minute());
    let [s, ss] = part(time.second());
    [y, e, a, r, b'-', m, o, b'-', d, ay, b'T', h, hh, b':', n, nn, b':', s, ss, b'.']
}
