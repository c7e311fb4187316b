//! Trailers in both directions: which fields may come in one, and what is announced of them (RFC 9110 section 6.5).
//!
//! Must not pass a field that a recipient may merge into the head: that is where framing, routing and credentials are read.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::hop_by_hop::is_hop_by_hop;
use crate::engine::{ManagedNames, is_odd};

/// Fields that never come in a trailer (RFC 9110 section 6.5.1): message framing, routing, request modifiers, authentication,
/// control data of responses, and what says how content is to be processed.
fn is_forbidden(name: &str) -> bool {
    matches!(
        name,
        "age"
            | "alt-svc"
            | "authorization"
            | "cache-control"
            | "content-encoding"
            | "content-length"
            | "content-location"
            | "content-range"
            | "content-type"
            | "cookie"
            | "date"
            | "expect"
            | "expires"
            | "host"
            | "location"
            | "max-forwards"
            | "origin"
            | "pragma"
            | "range"
            | "retry-after"
            | "set-cookie"
            | "trailer"
            | "vary"
            | "warning"
            | "www-authenticate"
            | "strict-transport-security"
            | "content-security-policy"
            | "clear-site-data"
            | "depth"
            | "destination"
            | "if"
            | "link"
            | "overwrite"
            | "refresh"
            | "set-cookie2"
    ) || name.starts_with("if-")
        || name.starts_with("sec-")
        || name.starts_with("access-control-")
        || name.starts_with("proxy-")
}

/// Whether a trailer field does not go on, in either direction.
fn is_dropped(name: &str, managed: &ManagedNames) -> bool {
    let is_connections = HeaderName::from_bytes(name.as_bytes()).is_ok_and(|name| is_hop_by_hop(&name));
    is_connections || is_forbidden(name) || is_odd(name) || managed.covers(name)
}

/// Takes out of a message's trailers what does not go on.
pub(super) fn clean_trailers(trailers: &mut HeaderMap, managed: &ManagedNames) {
    let dropped: Vec<HeaderName> =
        trailers.keys().filter(|name| is_dropped(name.as_str(), managed)).cloned().collect();
    for name in dropped {
        trailers.remove(name);
    }
}

/// The announcement of the trailers that go on, since hyper sends only what is announced.
pub(super) fn announced_trailers(headers: &HeaderMap, managed: &ManagedNames) -> Option<HeaderValue> {
    let names = headers.get_all(header::TRAILER).iter().filter_map(|value| value.to_str().ok());
    let kept: Vec<&str> = names
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty() && !is_dropped(&name.to_ascii_lowercase(), managed))
        .collect();
    if kept.is_empty() { None } else { HeaderValue::try_from(kept.join(", ")).ok() }
}

/// The same in place.
pub(super) fn filter_announced_trailers(headers: &mut HeaderMap, managed: &ManagedNames) {
    if !headers.contains_key(header::TRAILER) {
        return;
    }
    match announced_trailers(headers, managed) {
        Some(kept) => headers.insert(header::TRAILER, kept),
        None => headers.remove(header::TRAILER),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::HeaderSettings;

    #[test]
    fn what_is_dropped_from_trailers_is_not_announced_either() {
        let managed = ManagedNames::new(&HeaderSettings::usual("x-auth-"));
        let dropped = [
            "x-auth-roles",
            "x_y",
            "authorization",
            "cookie",
            "set-cookie",
            "host",
            "content-length",
            "transfer-encoding",
            "connection",
            "te",
            "trailer",
            "content-type",
            "cache-control",
            "if-match",
            "www-authenticate",
            "x-forwarded-for",
            "cf-connecting-ip",
            "'transfer-encoding",
        ];
        let kept = ["grpc-status", "grpc-message", "x-checksum", "digest", "server-timing", "etag"];
        let all = || dropped.iter().chain(&kept);
        let fields = all().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1")));
        let mut trailers = HeaderMap::from_iter(fields);
        clean_trailers(&mut trailers, &managed);
        let left: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left.len(), kept.len(), "{left:?}");
        assert!(kept.iter().all(|name| left.contains(name)), "{left:?}");

        let list = all().map(|name| name.to_ascii_uppercase()).collect::<Vec<_>>().join(" , ");
        let mut announcing = HeaderMap::from_iter([(header::TRAILER, HeaderValue::try_from(list).unwrap())]);
        filter_announced_trailers(&mut announcing, &managed);
        assert_eq!(announcing[header::TRAILER], kept.join(", ").to_ascii_uppercase());
        let alone = HeaderValue::from_static("x-auth-roles");
        let mut announcing = HeaderMap::from_iter([(header::TRAILER, alone)]);
        filter_announced_trailers(&mut announcing, &managed);
        assert!(!announcing.contains_key(header::TRAILER));
    }
}
