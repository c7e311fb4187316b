//! Fields that concern one connection only (RFC 9110 section 7.6.1): taken out before anything else is done to the headers.
//!
//! Must not run after identity is injected, or `Connection` could name it away.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::engine::ManagedNames;

fn is_hop_by_hop(name: &HeaderName) -> bool {
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

/// Removes every hop-by-hop field, those named in `Connection` included. `TE: trailers` is the one thing kept.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Looked at one by one, since most messages have none of these: each look-up and removal hashes its name.
    let present: Vec<HeaderName> = headers.keys().filter(|name| is_hop_by_hop(name)).cloned().collect();
    if present.is_empty() {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        // Naming these away would change what the message is; they are checked and rebuilt on their own.
        .filter(|name| !matches!(*name, header::HOST | header::CONTENT_LENGTH | header::TE))
        .collect();
    let takes_trailers = headers.get_all(header::TE).iter().any(|value| {
        let mut tokens = value.as_bytes().split(|byte| *byte == b',');
        tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    });
    for name in named {
        headers.remove(name);
    }
    for name in present {
        headers.remove(name);
    }
    if takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Takes managed names out of the announcement of trailers, since hyper sends only what is announced.
pub(super) fn filter_announced_trailers(headers: &mut HeaderMap, managed: &ManagedNames) {
    if !headers.contains_key(header::TRAILER) {
        return;
    }
    let kept: Vec<String> = headers
        .get_all(header::TRAILER)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty() && !managed.covers(name) && !name.contains('_'))
        .map(str::to_owned)
        .collect();
    headers.remove(header::TRAILER);
    if let Ok(value) = HeaderValue::try_from(kept.join(", "))
        && !kept.is_empty()
    {
        headers.insert(header::TRAILER, value);
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
    use crate::engine::HeaderSettings;

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
    fn managed_names_cannot_ride_in_trailers() {
        let mut announced = headers(&[("trailer", "X-Checksum, X-Auth-Roles, x_y")]);
        filter_announced_trailers(&mut announced, &ManagedNames::new(&HeaderSettings::usual("x-auth-")));
        assert_eq!(announced["trailer"], "X-Checksum");
        let mut announced = headers(&[("trailer", "x-auth-roles")]);
        filter_announced_trailers(&mut announced, &ManagedNames::new(&HeaderSettings::usual("x-auth-")));
        assert!(!announced.contains_key("trailer"));
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
