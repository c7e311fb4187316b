//! Fields that concern one connection only (RFC 9110 section 7.6.1): taken out before anything else is done to the headers.
//!
//! Must not run after identity is injected, or `Connection` could name it away.

use std::collections::HashSet;

use http::{HeaderMap, HeaderName, HeaderValue, header};

pub(super) fn is_hop_by_hop(name: &HeaderName) -> bool {
    // By the length first: nearly every name is told by that.
    let name = name.as_str();
    match name.len() {
        2 => name == "te",
        7 => name == "upgrade",
        10 => matches!(name, "connection" | "keep-alive"),
        14 => name == "http2-settings",
        16 => name == "proxy-connection",
        17 => name == "transfer-encoding",
        18 => name == "proxy-authenticate",
        19 => name == "proxy-authorization",
        _ => false,
    }
}

/// The hop-by-hop fields of one message.
pub(super) struct HopByHop {
    /// Those named in `Connection`; somebody may name thousands.
    named: HashSet<HeaderName>,
    /// `TE: trailers`, the one thing that is kept.
    pub(super) takes_trailers: bool,
}

impl HopByHop {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let tokens = |name| {
            let fields = headers.get_all(name).iter();
            fields.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
        };
        let named = tokens(header::CONNECTION)
            // Nearly all there ever is: one is removed anyway, and the other names no field there is.
            .filter(|token| {
                !token.eq_ignore_ascii_case(b"keep-alive") && !token.eq_ignore_ascii_case(b"close")
            })
            .filter_map(|token| HeaderName::from_bytes(token).ok())
            // Naming these away would change what the message is; they are checked and rebuilt on their own.
            .filter(|name| !matches!(*name, header::HOST | header::CONTENT_LENGTH | header::TE));
        Self {
            named: named.collect(),
            takes_trailers: tokens(header::TE).any(|token| token.eq_ignore_ascii_case(b"trailers")),
        }
    }

    pub(super) fn covers(&self, name: &HeaderName) -> bool {
        is_hop_by_hop(name) || self.named.contains(name)
    }
}

/// Removes every hop-by-hop field, those named in `Connection` included. `TE: trailers` is the one thing kept.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Looked at one by one, since most messages have none of these: each look-up and removal hashes its name.
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    let hops = HopByHop::of(headers);
    let covered: Vec<HeaderName> = headers.keys().filter(|name| hops.covers(name)).cloned().collect();
    for name in covered {
        headers.remove(name);
    }
    if hops.takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Whether the request asks for a WebSocket (RFC 6455 section 4.1), and nothing else.
pub(super) fn asks_for_websocket(headers: &HeaderMap) -> bool {
    let lists = |name, token: &[u8]| {
        headers.get_all(name).iter().any(|value| {
            value
                .as_bytes()
                .split(|byte| *byte == b',')
                .any(|part| part.trim_ascii().eq_ignore_ascii_case(token))
        })
    };
    let mut upgrades = headers.get_all(header::UPGRADE).iter();
    let only_websocket =
        upgrades.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
            && upgrades.next().is_none();
    only_websocket && lists(header::CONNECTION, b"upgrade")
}

/// Marks a message as switching to WebSocket, after its hop-by-hop fields were removed.
pub(super) fn mark_websocket(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn what_connection_names_goes_in_any_case() {
        let mut headers = headers(&[
            ("connection", "close, X-Auth-Member-Id"),
            ("connection", "x-secret"),
            ("x-auth-member-id", "m"),
            ("x-secret", "s"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip, trailers"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("accept", "*/*"),
        ]);
        remove_hop_by_hop(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "te"]);
        assert_eq!(headers["te"], "trailers");
    }

    #[test]
    fn host_and_length_cannot_be_named_away() {
        let mut headers =
            headers(&[("connection", "host, content-length"), ("host", "a"), ("content-length", "1")]);
        remove_hop_by_hop(&mut headers);
        assert!(headers.contains_key("host") && headers.contains_key("content-length"));
    }

    #[test]
    fn only_a_websocket_is_an_upgrade() {
        assert!(asks_for_websocket(&headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket")
        ])));
        assert!(!asks_for_websocket(&headers(&[("upgrade", "websocket")])));
        assert!(!asks_for_websocket(&headers(&[("connection", "upgrade"), ("upgrade", "h2c")])));
        assert!(!asks_for_websocket(&headers(&[
            ("connection", "upgrade"),
            ("upgrade", "h2c"),
            ("upgrade", "websocket")
        ])));
    }
}
