//! Who is asking, as far as the shape of an answer depends on it: a browser that goes somewhere, a script, a gRPC client.
//!
//! Must not change what is decided, only how a refusal is told.

use http::{HeaderMap, HeaderName, Method, Version, header};

use crate::identity::OWN_COOKIE;

const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// How a refusal is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Form {
    /// `application/problem+json` (RFC 9457).
    #[default]
    Problem,
    /// A page, for a person in front of a browser.
    Page,
    /// Trailers alone, with a gRPC status.
    Grpc,
    /// The same for a page that speaks gRPC.
    GrpcWeb,
}

/// What of a request a refusal's answer depends on.
#[derive(Debug, Clone, Default)]
pub(super) struct Asking {
    pub(super) form: Form,
    /// It came with a bearer token, so that a challenge to another is understood.
    pub(super) shows_bearer: bool,
    /// A browser's request, a page's or a script's.
    pub(super) is_browser: bool,
    /// The browser may be sent elsewhere, and back to here: only for a page that somebody opens by a safe method.
    pub(super) return_to: Option<String>,
    /// Where it was sent before, a moment ago.
    pub(super) trail: Option<String>,
}

impl Asking {
    /// Reads the shape of the request alone.
    pub(super) fn of(method: &Method, headers: &HeaderMap, version: Version) -> Self {
        let form = form(method, headers, version);
        // Older browsers send no `Sec-Fetch-*`; all of them say `Mozilla`, as PowerShell does, but name a language too.
        let agent = headers.get(header::USER_AGENT).map(|value| value.as_bytes());
        let is_browser = form == Form::Page
            || headers.contains_key(SEC_FETCH_MODE)
            || headers.contains_key(header::ORIGIN)
            || agent.is_some_and(|agent| agent.starts_with(b"Mozilla/"))
                && headers.contains_key(header::ACCEPT_LANGUAGE);
        let authorization = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
        let scheme = authorization.and_then(|value| value.get(..6));
        let shows_bearer = scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer"));
        Self { form, is_browser, shows_bearer, ..Self::default() }
    }

    /// The same for a request that came to `authority` and asked for `path` and `query`.
    pub(super) fn coming_back(
        self,
        method: &Method,
        headers: &HeaderMap,
        https: bool,
        authority: &str,
        target: (&str, Option<&str>),
    ) -> Self {
        if self.form != Form::Page || *method != Method::GET || !opens_a_document(headers) {
            return self;
        }
        let (path, query) = target;
        let scheme = if https { "https" } else { "http" };
        let query = query.map_or_else(String::new, |query| format!("?{query}"));
        Self {
            return_to: Some(format!("{scheme}://{authority}{path}{query}")),
            trail: trail(headers),
            ..self
        }
    }
}

fn form(method: &Method, headers: &HeaderMap, version: Version) -> Form {
    // A refusal of gRPC is a 200, and that would open a tunnel (RFC 9110 section 9.3.6).
    if *method == Method::CONNECT {
        return Form::Problem;
    }
    let text =
        |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let content_type = text(&header::CONTENT_TYPE);
    let of_kind = |kind: &str| {
        content_type.strip_prefix(kind).is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
    };
    if of_kind("application/grpc-web") || of_kind("application/grpc-web-text") {
        return Form::GrpcWeb;
    }
    if version == Version::HTTP_2 && of_kind("application/grpc") {
        return Form::Grpc;
    }
    let wants_page = match text(&SEC_FETCH_MODE) {
        "navigate" => true,
        // An old browser, or none: only whoever names HTML wants it, and scripts of old named themselves.
        "" => {
            (*method == Method::GET || *method == Method::HEAD)
                && accepts_html(text(&header::ACCEPT))
                && !headers.contains_key("x-requested-with")
        }
        _ => false,
    };
    if wants_page { Form::Page } else { Form::Problem }
}

/// Whether HTML is liked at least as much as anything else that is named (RFC 9110 section 12.5.1): package managers name it
/// behind what they want.
fn accepts_html(accept: &str) -> bool {
    let liked = |kind: &str| {
        let mut parameters =
            kind.split(';').skip(1).filter_map(|parameter| parameter.trim().strip_prefix("q="));
        parameters.next().map_or(1.0, |q| q.trim().parse::<f32>().unwrap_or(0.0))
    };
    let named =
        || accept.split(',').map(|kind| (kind.split(';').next().unwrap_or_default().trim(), liked(kind)));
    let html = named().filter(|(kind, _)| *kind == "text/html").map(|(_, q)| q).fold(0.0, f32::max);
    html > 0.0 && named().all(|(_, q)| q <= html)
}

/// A window of its own that somebody looks at: not a frame within another page, which would show a sign-in page nobody
/// could trust, nor a page fetched ahead.
fn opens_a_document(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-dest").is_none_or(|place| place == "document")
        && !headers.contains_key("sec-purpose")
}

/// The trail cookie's value.
fn trail(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == OWN_COOKIE).map(|(_, value)| value.to_owned())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn only_a_browser_that_goes_somewhere_gets_a_page() {
        const HTML: &str = "text/html,application/xhtml+xml,*/*;q=0.8";
        for (method, fields, form) in [
            (Method::GET, &[("sec-fetch-mode", "navigate")][..], Form::Page),
            (Method::POST, &[("sec-fetch-mode", "navigate")], Form::Page),
            (Method::GET, &[("accept", HTML)], Form::Page),
            (Method::GET, &[("accept", HTML), ("sec-fetch-mode", "cors")], Form::Problem),
            (Method::GET, &[("accept", HTML), ("x-requested-with", "XMLHttpRequest")], Form::Problem),
            (Method::POST, &[("accept", HTML)], Form::Problem),
            (Method::GET, &[("accept", "*/*")], Form::Problem),
            (Method::GET, &[], Form::Problem),
            (Method::POST, &[("content-type", "application/grpc+proto")], Form::Problem),
            (Method::POST, &[("content-type", "application/grpc-web+proto")], Form::GrpcWeb),
        ] {
            let found = super::form(&method, &headers(fields), Version::HTTP_11);
            assert_eq!(found, form, "{method} {fields:?}");
        }
    }

    #[test]
    fn a_browser_is_told_from_a_program_that_borrows_its_name() {
        const SAFARI: (&str, &str) = ("user-agent", "Mozilla/5.0 (Macintosh) Version/15.6 Safari/605.1.15");
        const POWERSHELL: (&str, &str) =
            ("user-agent", "Mozilla/5.0 (Windows NT; en-US) WindowsPowerShell/5.1.22621.963");
        for (fields, expected) in [
            (&[SAFARI, ("accept-language", "en-GB")][..], true),
            (&[("sec-fetch-mode", "cors")], true),
            (&[("origin", "https://app.example.com")], true),
            (&[("accept", "text/html")], true),
            (&[POWERSHELL], false),
            (&[("user-agent", "git/2.39.2"), ("accept-language", "de")], false),
            (&[("accept", "*/*")], false),
        ] {
            let asking = Asking::of(&Method::GET, &headers(fields), Version::HTTP_11);
            assert_eq!(asking.is_browser, expected, "{fields:?}");
        }
    }

    #[test]
    fn grpc_is_told_by_its_type_and_its_protocol() {
        for (kind, form) in [
            ("application/grpc", Form::Grpc),
            ("application/grpc+proto", Form::Grpc),
            ("application/grpc;x", Form::Grpc),
            ("application/grpcxyz", Form::Problem),
        ] {
            assert_eq!(
                super::form(&Method::POST, &headers(&[("content-type", kind)]), Version::HTTP_2),
                form,
                "{kind}"
            );
        }
    }

    #[test]
    fn the_way_back_is_the_whole_link_and_only_for_a_document_opened_by_get() {
        let navigate = [("sec-fetch-mode", "navigate"), ("cookie", "a=b; portcullis_sign_in=x~y")];
        let back = |method: Method, extra: &[(&'static str, &'static str)]| {
            let headers = headers(&[&navigate[..], extra].concat());
            let asking = Asking::of(&method, &headers, Version::HTTP_11);
            asking.coming_back(&method, &headers, true, "app.example.com:8443", ("/a/b", Some("x=%2F&y")))
        };
        let asking = back(Method::GET, &[]);
        assert_eq!(asking.return_to.as_deref(), Some("https://app.example.com:8443/a/b?x=%2F&y"));
        assert_eq!(asking.trail.as_deref(), Some("x~y"));
        assert_eq!(back(Method::POST, &[]).return_to, None);
        assert_eq!(back(Method::GET, &[("sec-fetch-dest", "iframe")]).return_to, None);
        assert_eq!(back(Method::GET, &[("sec-purpose", "prefetch;prerender")]).return_to, None);
    }
}
