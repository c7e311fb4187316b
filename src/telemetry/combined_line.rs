//! One access line in the combined format of web servers.
//!
//! Must not let a client end a quoted part or the line: what is not visible ASCII, a quote and a backslash are written as
//! `\xHH`, as nginx does.

use jiff::tz::Offset;

use super::line::LineBuffer;
use super::record::AccessRecord;

/// Writes lines one after the other.
pub(super) struct CombinedLines(LineBuffer);

impl CombinedLines {
    pub(super) const fn new() -> Self {
        Self(LineBuffer::new())
    }

    /// `client - - [time] "method path protocol" status bytes "referrer" "user agent"`. The member is in no access line, the
    /// path is without its query, and of the referrer there is the origin.
    pub(super) fn line(&mut self, record: &AccessRecord<'_>) -> &[u8] {
        self.0.clear();
        self.0.push(if record.client_ip.is_empty() { "-" } else { record.client_ip });
        let time = Offset::UTC.to_datetime(record.at);
        self.0.push_formatted(format_args!(" - - [{} +0000] \"", time.strftime("%d/%b/%Y:%H:%M:%S")));
        self.0.push(record.method);
        self.0.push_byte(b' ');
        self.push_escaped(record.path.as_bytes());
        self.0.push_byte(b' ');
        self.0.push(record.protocol);
        self.0.push("\" ");
        self.0.push_number(record.status.into());
        self.0.push_byte(b' ');
        self.0.push_number(record.response_bytes);
        self.quoted(record.referrer.map(origin));
        self.quoted(record.user_agent);
        self.0.push_byte(b'\n');
        self.0.bytes()
    }

    fn quoted(&mut self, value: Option<&[u8]>) {
        self.0.push(" \"");
        self.push_escaped(value.filter(|value| !value.is_empty()).unwrap_or(b"-"));
        self.0.push_byte(b'"');
    }

    fn push_escaped(&mut self, value: &[u8]) {
        for byte in value {
            match byte {
                b' '..=b'~' if !matches!(byte, b'"' | b'\\') => self.0.push_byte(*byte),
                _ => self.0.push_formatted(format_args!("\\x{byte:02X}")),
            }
        }
    }
}

/// `https://app.example.com`: a path may hold what signs somebody in as well as a query, and so may a name before the host.
fn origin(referrer: &[u8]) -> &[u8] {
    let length = referrer.iter().position(|byte| !byte.is_ascii_alphanumeric()).unwrap_or_default();
    let Some(host) = referrer.get(length..).and_then(|rest| rest.strip_prefix(b"://")) else { return b"" };
    // One without an end was cut short, or is long beyond anything that is a host.
    let end = host.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#' | b'\\'));
    let host = host.get(..end.unwrap_or(host.len())).unwrap_or_default();
    if host.contains(&b'@') || host.len() > 255 {
        return b"";
    }
    referrer.get(..length + 3 + host.len()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn record() -> AccessRecord<'static> {
        AccessRecord {
            at: "2026-03-09T04:05:06.070809Z".parse().unwrap(),
            request_id: "",
            trace_id: "",
            listener: "traffic",
            client_ip: "203.0.113.7",
            protocol: "HTTP/1.1",
            method: "GET",
            host: "app.example.com",
            path: "/a",
            route: "everything",
            status: 200,
            reason: None,
            upstream: None,
            request_bytes: 0,
            response_bytes: 512,
            took: Duration::ZERO,
            upstream_took: None,
            complete: true,
            referrer: None,
            user_agent: None,
        }
    }

    #[test]
    fn a_line_reads_as_web_servers_write_it() {
        let mut lines = CombinedLines::new();
        let referrer: &[u8] = b"https://app.example.com/start?token=secret#part";
        let line = lines.line(&AccessRecord {
            referrer: Some(referrer),
            user_agent: Some(b"Mozilla/5.0 (X11)"),
            ..record()
        });
        let expected = "203.0.113.7 - - [09/Mar/2026:04:05:06 +0000] \"GET /a HTTP/1.1\" 200 512 \
             \"https://app.example.com\" \"Mozilla/5.0 (X11)\"\n";
        assert_eq!(std::str::from_utf8(line).unwrap(), expected);
    }

    #[test]
    fn of_a_referrer_there_is_the_origin_and_nothing_else() {
        let long = [b"https://".to_vec(), vec![b'a'; 500]].concat();
        for (referrer, expected) in [
            (&b"https://app.example.com:8443/reset/token"[..], &b"https://app.example.com:8443"[..]),
            (b"https://app.example.com", b"https://app.example.com"),
            (b"/reset?token=secret&next=https://x/", b""),
            (b"https://name:password@example.com/", b""),
            (&long, b""),
            (b"", b""),
        ] {
            assert_eq!(origin(referrer), expected, "{}", referrer.escape_ascii());
        }
    }

    #[test]
    fn no_client_ends_a_quoted_part_or_the_line() {
        let mut lines = CombinedLines::new();
        let agent: &[u8] = b"x\" 200 1 \"-\" \"\\\n\xff";
        let line = lines.line(&AccessRecord {
            path: "/a\"b",
            user_agent: Some(agent),
            referrer: Some(b"https://name:password@example.com/"),
            ..record()
        });
        let expected =
            "\"GET /a\\x22b HTTP/1.1\" 200 512 \"-\" \"x\\x22 200 1 \\x22-\\x22 \\x22\\x5C\\x0A\\xFF\"\n";
        assert!(std::str::from_utf8(line).unwrap().ends_with(expected), "{}", line.escape_ascii());
    }
}
