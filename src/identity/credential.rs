//! Finding credentials in a request's headers (RFC 6265 cookies, RFC 6750 bearer tokens).
//!
//! Must not judge them: what is found here is only a candidate.

use std::net::IpAddr;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderValue, header};
use jiff::Timestamp;
use zeroize::Zeroizing;

use super::{MemberRef, TrustedIdentity};

/// Some clients leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Values looked at under one name; a client can send as many cookies of one name as it likes.
pub const MAX_VALUES_PER_NAME: usize = 4;
/// The longest credential looked at, in bytes.
pub const MAX_CREDENTIAL_BYTES: usize = 8 * 1024;

/// A cookie of the gateway's own: it remembers where a browser was sent, and is nobody else's business.
pub const OWN_COOKIE: &str = "portcullis_sign_in";

/// Where the configuration says a credential may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialSource {
    /// A cookie of this exact name.
    Cookie(String),
    /// `Authorization: Bearer …`.
    Bearer,
    /// The password of `Authorization: Basic …`, for clients that can send nothing else; the user name is ignored.
    BasicPassword,
    /// Two headers of a peer that is trusted to name a member.
    TrustedIdentity(TrustedIdentity),
}

/// A candidate, sorted by its shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential<'a> {
    /// Three dot-separated parts that begin like a JSON object in base64url: a session's, a machine's or an app's.
    Jwt(&'a str),
    /// Anything else that could be an opaque session token.
    SessionToken(&'a str),
    /// A member whom a trusted peer names.
    TrustedIdentity(MemberRef),
}

/// Whoever is at the other end of the socket: what a trusted identity rests on.
#[derive(Debug, Clone, Copy, Default)]
pub struct SocketPeer<'a> {
    /// The socket's own address, never one out of a header.
    pub address: Option<IpAddr>,
    /// The names of the verified client certificate, if there was one.
    pub certificate_names: &'a [String],
    /// When that certificate ends: what was allowed for its names lasts no longer.
    pub certificate_ends: Option<Timestamp>,
}

/// What stands where a credential could be, not looked at yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Candidate<'a> {
    Text(&'a [u8]),
    /// A member whom a trusted peer names; nothing if it does so in a way that cannot be read.
    TrustedIdentity(Option<MemberRef>),
}

/// All candidates in the configured order. `malformed` counts values that could be no credential at all.
#[derive(Debug, Default)]
pub struct FoundCredentials<'a> {
    pub candidates: Vec<(usize, Credential<'a>)>,
    pub malformed: usize,
}

/// The password of HTTP Basic (RFC 7617 section 2), where that is a configured source.
pub fn basic_password(headers: &HeaderMap, sources: &[CredentialSource]) -> Option<Zeroizing<Vec<u8>>> {
    if !sources.iter().any(|source| matches!(source, CredentialSource::BasicPassword)) {
        return None;
    }
    let values = headers.get_all(header::AUTHORIZATION).iter();
    let mut encoded = values.filter_map(|value| after_scheme(value.as_bytes(), b"basic"));
    let encoded = encoded.next().filter(|encoded| encoded.len() <= 2 * MAX_CREDENTIAL_BYTES)?;
    let mut pair = Zeroizing::new(BASE64.decode(encoded).ok()?);
    let colon = pair.iter().position(|byte| *byte == b':')?;
    pair.drain(..=colon);
    Some(pair)
}

/// Looks in every configured source, in order. `basic` is the [password of Basic](basic_password).
///
/// Each candidate carries the index of its source. The same text in the same source is one candidate.
pub fn find_candidates<'a>(
    headers: &'a HeaderMap,
    basic: Option<&'a [u8]>,
    sources: &[CredentialSource],
    peer: SocketPeer<'_>,
) -> Vec<(usize, Candidate<'a>)> {
    let mut found = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        let mut take = |text| {
            let candidate = (index, Candidate::Text(text));
            if !found.contains(&candidate) {
                found.push(candidate);
            }
        };
        match source {
            CredentialSource::Cookie(name) => {
                let values =
                    cookies(headers).filter_map(|(key, value)| (key == name).then_some(value.as_bytes()));
                values.take(MAX_VALUES_PER_NAME).for_each(take);
            }
            CredentialSource::Bearer => bearers(headers).take(MAX_VALUES_PER_NAME).for_each(&mut take),
            CredentialSource::BasicPassword => basic.into_iter().for_each(&mut take),
            CredentialSource::TrustedIdentity(trusted) => {
                let read = trusted.read(headers, peer.address, peer.certificate_names);
                found.extend(read.map(|member| (index, Candidate::TrustedIdentity(member.ok()))));
            }
        }
    }
    found
}

/// As [`find_candidates`], each sorted by its shape.
pub fn find_credentials<'a>(
    headers: &'a HeaderMap,
    basic: Option<&'a [u8]>,
    sources: &[CredentialSource],
    peer: SocketPeer<'_>,
) -> FoundCredentials<'a> {
    let mut found = FoundCredentials::default();
    for (source, candidate) in find_candidates(headers, basic, sources, peer) {
        match candidate.into_credential() {
            Some(credential) => found.candidates.push((source, credential)),
            None => found.malformed += 1,
        }
    }
    found
}

impl<'a> Candidate<'a> {
    /// What it is by its shape; nothing if it can be no credential at all.
    pub fn into_credential(self) -> Option<Credential<'a>> {
        match self {
            Self::Text(text) => classify(text),
            Self::TrustedIdentity(member) => member.map(Credential::TrustedIdentity),
        }
    }
}

/// What is left of the `Cookie` fields without the configured session cookies, joined into one; nothing if nothing is.
///
/// Crumbs of HTTP/2 (RFC 9113 section 8.2.3) are joined, since many origins read only one field.
pub fn other_cookies(headers: &HeaderMap, sources: &[CredentialSource]) -> Option<HeaderValue> {
    let is_credential = |pair: &[u8]| {
        let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
        name == OWN_COOKIE.as_bytes()
            || sources
                .iter()
                .any(|source| matches!(source, CredentialSource::Cookie(cookie) if cookie.as_bytes() == name))
    };
    let mut kept = Vec::new();
    for value in headers.get_all(header::COOKIE) {
        let pairs = value.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        for pair in pairs.filter(|pair| !pair.is_empty() && !is_credential(pair)) {
            if !kept.is_empty() {
                kept.extend_from_slice(b"; ");
            }
            kept.extend_from_slice(pair);
        }
    }
    (!kept.is_empty()).then(|| HeaderValue::from_bytes(&kept).ok()).flatten()
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    headers
        .get_all(header::COOKIE)
        .into_iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'))
        // Pair by pair: a cookie in some other alphabet must not hide its neighbours.
        .filter_map(|pair| std::str::from_utf8(pair).ok()?.split_once('='))
        // The blanks of RFC 6265 and no others, as where they are removed: what is found here must not be left there.
        .map(|(name, value)| (name.trim_ascii(), value.trim_ascii().trim_matches('"')))
}

fn bearers(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = headers.get_all(header::AUTHORIZATION).into_iter();
    values.filter_map(|value| after_scheme(value.as_bytes(), b"bearer"))
}

/// What follows the scheme of an `Authorization` value, if it is this one (RFC 9110 section 11.4).
pub(super) fn after_scheme<'a>(value: &'a [u8], scheme: &[u8]) -> Option<&'a [u8]> {
    let (found, rest) = value.trim_ascii_start().split_at_checked(scheme.len())?;
    let ends = rest.first().is_none_or(|byte| matches!(byte, b' ' | b'\t'));
    (found.eq_ignore_ascii_case(scheme) && ends).then(|| rest.trim_ascii())
}

/// Every byte comes through here of every token that was not known by its bytes already.
fn classify(value: &[u8]) -> Option<Credential<'_>> {
    if value.is_empty() || value.len() > MAX_CREDENTIAL_BYTES {
        return None;
    }
    // Whole vectors at a time, which the compiler makes of it as long as nothing in the loop can stop it.
    let between = |byte: u8, first: u8, span: u8| byte.wrapping_sub(first) <= span;
    let mut odd = 0;
    let mut dots = 0_usize;
    for piece in value.chunks(128) {
        let mut dots_here = 0_u8;
        for &byte in piece {
            // `+ - . / 0…9`: all from `+` to `9` but the comma.
            let plausible = between(byte | 0x20, b'a', 25)
                | (between(byte, b'+', 14) & (byte != b','))
                | (byte == b'_')
                | (byte == b'=')
                | (byte == b'~');
            odd |= u8::from(!plausible);
            dots_here = dots_here.wrapping_add(u8::from(byte == b'.'));
        }
        dots += usize::from(dots_here);
    }
    if odd != 0 {
        return None;
    }
    let value = std::str::from_utf8(value).ok()?;
    match (value.starts_with("eyJ"), dots) {
        (true, 2) => Some(Credential::Jwt(value)),
        // An encrypted or broken JWT is no opaque token, and nothing to ask the directory about.
        (true, 1 | 3..) => None,
        _ => Some(Credential::SessionToken(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> Vec<CredentialSource> {
        vec![
            CredentialSource::Cookie("stytch_session_jwt".into()),
            CredentialSource::Cookie("stytch_session".into()),
            CredentialSource::Bearer,
        ]
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn kinds_are_tried_in_the_configured_order() {
        let headers = headers(&[
            ("authorization", "bearer opaque-one"),
            ("cookie", "a=b; stytch_session=opaque-two; stytch_session_jwt=eyJh.b.c"),
        ]);
        let found = find_credentials(&headers, None, &sources(), SocketPeer::default());
        assert_eq!(
            found.candidates,
            [
                (0, Credential::Jwt("eyJh.b.c")),
                (1, Credential::SessionToken("opaque-two")),
                (2, Credential::SessionToken("opaque-one")),
            ]
        );
    }

    #[test]
    fn odd_neighbours_and_broken_jwts_are_passed_over() {
        let cookie = HeaderValue::from_bytes("name=\u{e9}; stytch_session=opaque".as_bytes()).unwrap();
        let mut latin = HeaderMap::from_iter([(header::COOKIE, cookie)]);
        assert_eq!(find_credentials(&latin, None, &sources(), SocketPeer::default()).candidates.len(), 1);
        latin.insert(header::COOKIE, HeaderValue::from_static("stytch_session=eyJa.b.c.d.e"));
        let found = find_credentials(&latin, None, &sources(), SocketPeer::default());
        assert_eq!((found.candidates.len(), found.malformed), (0, 1));
    }

    #[test]
    fn only_what_a_token_can_be_made_of_is_a_candidate() {
        for byte in 1..=u8::MAX {
            let value = [b"abc", [byte].as_slice(), b"def"].concat();
            let plausible = byte.is_ascii_alphanumeric() || b"-_=+/.~".contains(&byte);
            assert_eq!(classify(&value).is_some(), plausible, "{byte:#x}");
            let far = [[b'a'; 300].as_slice(), &[byte]].concat();
            assert_eq!(classify(&far).is_some(), plausible, "{byte:#x}");
        }
        let dots = |count: usize| format!("eyJ{}", ".".repeat(count));
        assert!(matches!(classify(dots(2).as_bytes()), Some(Credential::Jwt(_))));
        assert!(classify(dots(258).as_bytes()).is_none());
    }

    #[test]
    fn an_intermediate_token_is_never_a_session() {
        let headers = headers(&[("cookie", "stytch_intermediate_session_token=abc")]);
        assert!(find_credentials(&headers, None, &sources(), SocketPeer::default()).candidates.is_empty());
    }

    #[test]
    fn values_past_the_fourth_and_oversized_ones_are_not_looked_at() {
        let long = format!("stytch_session={}", "x".repeat(MAX_CREDENTIAL_BYTES + 1));
        let found = headers(&[("cookie", long.as_str())]);
        let found = find_credentials(&found, None, &sources(), SocketPeer::default());
        assert!(found.candidates.is_empty());
        assert_eq!(found.malformed, 1);

        let many: Vec<String> = (0..9).map(|n| format!("stytch_session=t{n}")).collect();
        let many = headers(&[("cookie", many.join("; ").as_str())]);
        assert_eq!(
            find_credentials(&many, None, &sources(), SocketPeer::default()).candidates.len(),
            MAX_VALUES_PER_NAME
        );
    }

    #[test]
    fn the_password_of_basic_is_read_like_a_bearer_token() {
        let read = |value: &str| {
            let headers = headers(&[("authorization", value)]);
            let sources = [CredentialSource::BasicPassword];
            basic_password(&headers, &sources).map(|password| String::from_utf8(password.to_vec()).unwrap())
        };
        let encoded = |pair: &str| BASE64.encode(pair);
        assert_eq!(read(&format!("Basic {}", encoded("vera:opaque-token"))).as_deref(), Some("opaque-token"));
        assert_eq!(read(&format!("bAsIc\t {}", encoded(":a:b"))).as_deref(), Some("a:b"));
        assert_eq!(read(encoded("u:p").trim_end_matches('=')).as_deref(), None);
        let bare = encoded("us:p");
        assert_eq!(read(&format!("Basic {}", bare.trim_end_matches('='))).as_deref(), Some("p"));
        for none in ["Basic", "Basic ###", "Bearer dTpw", &format!("Basic {}", encoded("no-colon"))] {
            assert_eq!(read(none), None, "{none}");
        }
        let long = format!("Basic {}", encoded(&format!("u:{}", "x".repeat(3 * MAX_CREDENTIAL_BYTES))));
        assert_eq!(read(&long), None);
        let headers = headers(&[("authorization", &format!("Basic {}", encoded("u:p")))]);
        assert!(basic_password(&headers, &sources()).is_none(), "it is no configured source");
    }

    #[test]
    fn session_cookies_go_and_others_stay_joined() {
        let crumbs = headers(&[
            ("cookie", "theme=dark"),
            ("cookie", "stytch_session=secret"),
            ("cookie", "lang=de; stytch_session_jwt=eyJ.b.c"),
        ]);
        assert_eq!(other_cookies(&crumbs, &sources()).unwrap(), "theme=dark; lang=de");

        let alone = headers(&[("cookie", "stytch_session=secret")]);
        assert_eq!(other_cookies(&alone, &sources()), None);
    }
}
