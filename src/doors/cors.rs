//! Cross-origin resource sharing: preflights are answered here, and listed origins may read what comes back
//! (Fetch standard, section 3.2).
//!
//! Must not let a page read anything that the configuration does not list its origin for.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};

use super::CorsSettings;

/// What of a refusal a page may read besides its body.
const EXPOSED: [HeaderName; 5] = [
    header::WWW_AUTHENTICATE,
    header::RETRY_AFTER,
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
];
/// Headers and methods a preflight may ask for in one line; nobody's page needs more.
const MAX_ASKED: usize = 2048;

/// The answer to a preflight of a listed origin; nothing for any other request, which goes its usual way: an application on a
/// public route may have an answer of its own.
pub(super) fn preflight(
    settings: &CorsSettings,
    method: &Method,
    headers: &HeaderMap,
) -> Option<Response<Bytes>> {
    let asked = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    let origin = headers.get(header::ORIGIN)?;
    if *method != Method::OPTIONS || !allows(settings, origin) {
        return None;
    }
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let answer = response.headers_mut();
    let methods = match &settings.methods {
        None => Method::from_bytes(asked.as_bytes())
            .ok()
            .and_then(|method| HeaderValue::try_from(method.as_str()).ok()),
        Some(methods) => listed(methods.iter().map(Method::as_str)),
    };
    let fields = match &settings.headers {
        None => headers
            .get(header::ACCESS_CONTROL_REQUEST_HEADERS)
            .filter(|asked| is_list_of_names(asked))
            .cloned(),
        Some(names) => listed(names.iter().map(HeaderName::as_str)),
    };
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, methods),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, fields),
        (header::ACCESS_CONTROL_MAX_AGE, HeaderValue::try_from(settings.max_age.as_secs().to_string()).ok()),
    ] {
        if let Some(value) = value {
            answer.insert(name, value);
        }
    }
    answer.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer.append(
        header::VARY,
        HeaderValue::from_static("origin, access-control-request-method, access-control-request-headers"),
    );
    admit(settings, origin, answer);
    Some(response)
}

/// Lets the page of a listed origin read the response. Where the application said anything of its own, that stands whole.
pub(super) fn share(settings: &CorsSettings, origin: Option<&HeaderValue>, response: &mut HeaderMap) {
    if response.keys().any(|name| name.as_str().starts_with("access-control-")) {
        return;
    }
    // Whoever stores it must not show it to a page of another origin.
    response.append(header::VARY, HeaderValue::from_static("origin"));
    let Some(origin) = origin.filter(|origin| allows(settings, origin)) else { return };
    admit(settings, origin, response);
    if let Some(exposed) = listed(EXPOSED.iter().chain(&settings.expose).map(HeaderName::as_str)) {
        response.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

fn admit(settings: &CorsSettings, origin: &HeaderValue, response: &mut HeaderMap) {
    response.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    if settings.credentials {
        response.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

fn allows(settings: &CorsSettings, origin: &HeaderValue) -> bool {
    settings.origins.iter().any(|listed| listed.as_bytes() == origin.as_bytes())
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> Option<HeaderValue> {
    HeaderValue::try_from(names.collect::<Vec<_>>().join(", ")).ok()
}

fn is_list_of_names(value: &HeaderValue) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~, ".contains(byte);
    value.len() <= MAX_ASKED && value.as_bytes().iter().all(plain)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn settings() -> CorsSettings {
        CorsSettings {
            origins: vec!["https://app.example.com".to_owned()],
            credentials: true,
            methods: None,
            headers: None,
            expose: vec![HeaderName::from_static("etag")],
            applications: true,
            max_age: Duration::from_secs(600),
        }
    }

    fn ask(origin: &'static str) -> HeaderMap {
        HeaderMap::from_iter([
            (header::ORIGIN, HeaderValue::from_static(origin)),
            (header::ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("PUT")),
            (header::ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_static("content-type,x-a")),
        ])
    }

    #[test]
    fn a_preflight_of_a_listed_origin_is_answered_and_no_other() {
        let answer = preflight(&settings(), &Method::OPTIONS, &ask("https://app.example.com")).unwrap();
        assert_eq!(answer.status(), 204);
        assert_eq!(answer.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://app.example.com");
        assert_eq!(answer.headers()[header::ACCESS_CONTROL_ALLOW_METHODS], "PUT");
        assert_eq!(answer.headers()[header::ACCESS_CONTROL_ALLOW_HEADERS], "content-type,x-a");
        for stranger in ["https://app.example.com.evil.net", "http://app.example.com", "null", ""] {
            assert!(preflight(&settings(), &Method::OPTIONS, &ask(stranger)).is_none(), "{stranger}");
        }
        assert!(preflight(&settings(), &Method::PUT, &ask("https://app.example.com")).is_none());
        let mut plain = ask("https://app.example.com");
        plain.remove(header::ACCESS_CONTROL_REQUEST_METHOD);
        assert!(preflight(&settings(), &Method::OPTIONS, &plain).is_none());
    }

    #[test]
    fn only_a_listed_origin_may_read_and_the_applications_own_word_stands() {
        let shared = |origin: &'static str, before: &[(HeaderName, &'static str)]| {
            let before = before.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
            let mut response: HeaderMap = before.collect();
            share(&settings(), Some(&HeaderValue::from_static(origin)), &mut response);
            response
        };
        let ours = shared("https://app.example.com", &[]);
        assert_eq!(ours[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://app.example.com");
        assert_eq!(ours[header::ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        assert_eq!(
            ours[header::ACCESS_CONTROL_EXPOSE_HEADERS],
            "www-authenticate, retry-after, x-request-id, grpc-status, grpc-message, etag"
        );
        let strange = shared("https://evil.example", &[]);
        assert!(!strange.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
        assert_eq!(strange[header::VARY], "origin");
        let own = shared("https://app.example.com", &[(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")]);
        assert_eq!(own[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert!(!own.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
    }
}
