//! Reading a request strictly: one host, one length, one canonical path, or a refusal.
//!
//! Must not repair anything: what hyper lets through and two readers could understand differently ends here.

use std::cell::RefCell;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header};
use hyper::ext::Protocol;

use crate::doors::settings::ProxySettings;
use crate::policy::{CanonicalPath, HostName, Reason};

/// What a well-formed request asks for.
#[derive(Debug)]
pub(super) struct Intake {
    /// What is asked, decided on and forwarded: `GET` where HTTP/2 asks for a WebSocket.
    pub(super) method: Method,
    /// The request asks for a WebSocket in the way of HTTP/2 (RFC 8441).
    pub(super) extended_connect: bool,
    pub(super) host: HostName,
    /// As it is forwarded: with its port.
    pub(super) authority: Arc<str>,
    /// The same as the value of a field.
    pub(super) authority_value: HeaderValue,
    pub(super) path: CanonicalPath,
    /// As sent; never matched.
    pub(super) query: Option<String>,
}

/// What to do with a request before anybody is asked about it.
pub(super) enum Taken {
    Request(Intake),
    /// `OPTIONS *` asks about the gateway itself and is answered by it.
    ServerOptions,
}

/// Takes a request in, or says why not. `host` is what a listed proxy says the client asked for, `server_name` what the
/// connection was made for.
pub(super) fn take_in<B>(
    request: &Request<B>,
    host: Option<&str>,
    server_name: Option<&str>,
    settings: &ProxySettings,
) -> Result<Taken, Reason> {
    let (method, uri, headers, version) =
        (request.method(), request.uri(), request.headers(), request.version());
    let protocol = request.extensions().get::<Protocol>();
    let extended_connect =
        *method == Method::CONNECT && protocol.is_some_and(|name| name.as_str() == "websocket");
    if *method == Method::CONNECT && !extended_connect {
        return Err(Reason::ConnectRefused);
    }
    // An answer to TRACE would show what is added to a request (RFC 9110 section 9.3.8).
    if *method == Method::TRACE {
        return Err(Reason::MethodNotAllowed);
    }
    let method = if extended_connect { &Method::GET } else { method };
    check_count(headers, settings.max_headers)?;
    check_framing(headers, version)?;
    // Which of two an application would believe is not known.
    if headers.get_all(header::AUTHORIZATION).iter().nth(1).is_some() {
        return Err(Reason::MalformedRequest);
    }
    let named = read_host(uri, headers)?;
    // Routes and certificates are chosen by name, and must be by the same one (RFC 9110 section 7.4).
    if server_name.is_some_and(|name| named.host.as_str() != name) {
        return Err(Reason::ServerNameMismatch);
    }
    let Named { host, authority, value } = match host {
        None => named,
        Some(told) => Named::known(told)?,
    };
    if uri.path() == "*" {
        return if *method == Method::OPTIONS {
            Ok(Taken::ServerOptions)
        } else {
            Err(Reason::MalformedRequest)
        };
    }
    if uri.scheme_str().is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
        return Err(Reason::MalformedRequest);
    }
    if uri.path().len() > settings.max_path_bytes {
        return Err(Reason::PathTooLong);
    }
    let path = CanonicalPath::parse(uri.path()).map_err(|_| Reason::PathAmbiguous)?;
    let query = uri.query().map(str::to_owned);
    if query
        .as_deref()
        .is_some_and(|query| !query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'))
    {
        return Err(Reason::MalformedRequest);
    }
    let method = method.clone();
    let authority_value = value;
    Ok(Taken::Request(Intake { method, extended_connect, host, authority, authority_value, path, query }))
}

/// A host as a request names it.
#[derive(Clone)]
struct Named {
    host: HostName,
    /// In lower case, with its port.
    authority: Arc<str>,
    value: HeaderValue,
}

thread_local! {
    /// The host named last, by the bytes that named it: hardly any service goes by many names at a time.
    static LAST_NAMED: RefCell<Option<(String, Named)>> = const { RefCell::new(None) };
}

impl Named {
    fn known(authority: &str) -> Result<Self, Reason> {
        LAST_NAMED.with_borrow_mut(|last| {
            if let Some((text, named)) = last
                && text == authority
            {
                return Ok(named.clone());
            }
            let host = HostName::parse(authority).map_err(|_| Reason::HostInvalid)?;
            // What is forwarded is what was matched: without a last dot, and without a colon that no port follows.
            let port = authority.rsplit_once(':').map(|(_, port)| port).unwrap_or_default();
            let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
            let authority_sent = if is_port { format!("{host}:{port}") } else { host.to_string() };
            let value = HeaderValue::from_str(&authority_sent).map_err(|_| Reason::HostInvalid)?;
            let named = Self { host, authority: authority_sent.into(), value };
            *last = Some((authority.to_owned(), named.clone()));
            Ok(named)
        })
    }
}

/// Bounds the number of fields. hyper does so over HTTP/1.1 alone; crumbs of one `Cookie` field count as that field
/// (RFC 9113 section 8.2.3).
fn check_count(headers: &HeaderMap, most: usize) -> Result<(), Reason> {
    if headers.len() <= most {
        return Ok(());
    }
    let crumbs = headers.get_all(header::COOKIE).iter().count();
    if headers.len() - crumbs.saturating_sub(1) <= most { Ok(()) } else { Err(Reason::HeadersTooMany) }
}

/// One length at most, and `chunked` alone and only in HTTP/1.1 (RFC 9112 section 6).
fn check_framing(headers: &HeaderMap, version: Version) -> Result<(), Reason> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let digits = length.as_bytes();
        let is_number = (1..=19).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
        if !is_number || lengths.next().is_some() {
            return Err(Reason::MalformedRequest);
        }
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        let chunked = coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
        let length_too = headers.contains_key(header::CONTENT_LENGTH);
        if version != Version::HTTP_11 || !chunked || length_too || codings.next().is_some() {
            return Err(Reason::MalformedRequest);
        }
    }
    Ok(())
}

/// The one host a request names: in its target, in `Host`, or in both alike (RFC 9112 section 3.2, RFC 9113 section 8.3.1).
fn read_host(uri: &Uri, headers: &HeaderMap) -> Result<Named, Reason> {
    let mut fields = headers.get_all(header::HOST).iter();
    let field = match (fields.next(), fields.next()) {
        (Some(_), Some(_)) => return Err(Reason::HostInvalid),
        (Some(field), None) => Some(field.to_str().map_err(|_| Reason::HostInvalid)?),
        (None, _) => None,
    };
    let target = uri.authority().map(http::uri::Authority::as_str);
    match (target, field) {
        (Some(target), Some(field)) if !target.eq_ignore_ascii_case(field) => {
            // They may still differ in a last dot or an empty port alone.
            let target = Named::known(target)?;
            let field = Named::known(field)?;
            if target.authority == field.authority { Ok(target) } else { Err(Reason::HostInvalid) }
        }
        (Some(authority), _) | (None, Some(authority)) => Named::known(authority),
        (None, None) => Err(Reason::HostInvalid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(uri: &str, version: Version, fields: &[(&str, &str)]) -> Result<Intake, Reason> {
        let mut request = Request::builder().uri(uri).version(version);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let settings = ProxySettings { max_path_bytes: 64, max_headers: 8, ..ProxySettings::default() };
        match take_in(&request.body(()).unwrap(), None, None, &settings)? {
            Taken::Request(intake) => Ok(intake),
            Taken::ServerOptions => panic!("not a request"),
        }
    }

    #[test]
    fn a_request_names_exactly_one_host() {
        let one = |uri, fields: &[(&str, &str)]| {
            take(uri, Version::HTTP_11, fields).map(|intake| intake.host.to_string())
        };
        assert_eq!(one("/", &[("host", "App.example.com:8080")]), Ok("app.example.com".into()));
        assert_eq!(
            one("http://app.example.com/", &[("host", "app.example.com")]),
            Ok("app.example.com".into())
        );
        for (uri, fields) in [
            ("/", &[][..]),
            ("/", &[("host", "")][..]),
            ("/", &[("host", "a"), ("host", "a")][..]),
            ("/", &[("host", "a"), ("host", "b")][..]),
            ("/", &[("host", "user@a")][..]),
            ("/", &[("host", "a/b")][..]),
            ("/", &[("host", "a, b")][..]),
            ("/", &[("host", "a:http")][..]),
            ("http://a/", &[("host", "b")][..]),
            ("http://user@a/", &[("host", "a")][..]),
        ] {
            assert_eq!(one(uri, fields), Err(Reason::HostInvalid), "{uri} {fields:?}");
        }
    }

    #[test]
    fn framing_that_two_readers_could_take_differently_is_refused() {
        let with = |version, fields: &[(&str, &str)]| {
            let fields = [&[("host", "a")], fields].concat();
            take("/", version, &fields).map(|_| ())
        };
        assert_eq!(with(Version::HTTP_11, &[("transfer-encoding", "Chunked")]), Ok(()));
        assert_eq!(with(Version::HTTP_11, &[("content-length", "0")]), Ok(()));
        for fields in [
            &[("transfer-encoding", "gzip, chunked")][..],
            &[("transfer-encoding", "chunked, chunked")][..],
            &[("transfer-encoding", ",chunked")][..],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")][..],
            &[("transfer-encoding", "chunked"), ("content-length", "1")][..],
            &[("content-length", "1"), ("content-length", "1")][..],
            &[("content-length", "1,1")][..],
            &[("content-length", "+1")][..],
            &[("content-length", "")][..],
            &[("content-length", "99999999999999999999")][..],
        ] {
            assert_eq!(with(Version::HTTP_11, fields), Err(Reason::MalformedRequest), "{fields:?}");
        }
        assert_eq!(
            with(Version::HTTP_10, &[("transfer-encoding", "chunked")]),
            Err(Reason::MalformedRequest)
        );
    }

    #[test]
    fn a_path_has_a_bound_and_the_query_is_no_part_of_it() {
        let long = |length: usize| format!("/{}?{}", "a".repeat(length - 1), "q".repeat(100));
        assert!(take(&long(64), Version::HTTP_11, &[("host", "a")]).is_ok());
        let refused = take(&long(65), Version::HTTP_11, &[("host", "a")]);
        assert_eq!(refused.map(|_| ()), Err(Reason::PathTooLong));
    }

    #[test]
    fn what_is_forwarded_names_the_host_that_was_matched() {
        for (field, sent) in [
            ("app.example.com.", "app.example.com"),
            ("app.example.com:", "app.example.com"),
            ("App.Example.com.:8080", "app.example.com:8080"),
            ("[::1]:", "[::1]"),
            ("[0:0::1]:80", "[::1]:80"),
        ] {
            let intake = take("/", Version::HTTP_11, &[("host", field)]).unwrap();
            assert_eq!(
                (&*intake.authority, intake.authority_value.to_str().unwrap()),
                (sent, sent),
                "{field}"
            );
        }
        let both =
            |uri, field| take(uri, Version::HTTP_11, &[("host", field)]).map(|intake| intake.authority);
        assert_eq!(both("http://a./", "A:").as_deref(), Ok("a"));
        assert_eq!(both("http://a:80/", "a").map(|_| ()), Err(Reason::HostInvalid));
    }

    #[test]
    fn fields_are_counted_and_one_credential_is_all_there_may_be() {
        let with = |fields: &[(&str, &str)]| {
            take("/", Version::HTTP_2, &[&[("host", "a")], fields].concat()).map(|_| ())
        };
        let many = |count: usize| vec![("x", "1"); count];
        assert_eq!(with(&many(7)), Ok(()));
        assert_eq!(with(&many(8)), Err(Reason::HeadersTooMany));
        assert_eq!(with(&vec![("cookie", "a=b"); 40]), Ok(()), "crumbs are one field");
        let two = [("authorization", "Basic eDp5"), ("authorization", "Bearer a")];
        assert_eq!(with(&two), Err(Reason::MalformedRequest));
    }

    #[test]
    fn the_query_is_kept_as_sent() {
        let intake = take("/a/../b?x=%2F..&y", Version::HTTP_11, &[("host", "a")]).unwrap();
        assert_eq!((intake.path.as_str(), intake.query.as_deref()), ("/b", Some("x=%2F..&y")));
        assert_eq!(take("/%2f%", Version::HTTP_11, &[("host", "a")]).map(|_| ()), Err(Reason::PathAmbiguous));
    }
}
