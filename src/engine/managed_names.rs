//! Names of header fields that a client cannot send to an application: those that carry identity, that rewrite a request, or
//! that name a user, a certificate or an address on behalf of a proxy (section 4.5 of the design).
//!
//! Must not compare names in any form but the folded one: an application may take `x_auth_roles` for `x-auth-roles`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{HeaderSettings, IdentityHeader};
use crate::policy::{Caller, Reason};

/// Names that make an application act on another URL, method or proxy than the one decided on.
const REWRITES: [&str; 13] = [
    "proxy",
    "x-original-url",
    "x-original-uri",
    "x-original-method",
    "x-original-host",
    "x-rewrite-url",
    "x-override-url",
    "x-http-method-override",
    "x-http-method",
    "x-http-path-override",
    "x-method-override",
    "x-http-host-override",
    "x-http-destinationurl",
];
/// Names in which proxies tell applications who signed in, and in which TLS terminators pass on a client certificate.
const USERS_AND_CERTIFICATES: [&str; 35] = [
    "remote-user",
    "remote-name",
    "remote-email",
    "remote-groups",
    "x-remote-user",
    "x-remote-user-id",
    "x-remote-group",
    "x-remote-groups",
    "x-remote-name",
    "x-remote-email",
    "x-webauth-user",
    "x-webauth-email",
    "x-webauth-name",
    "x-webauth-role",
    "x-webauth-groups",
    "x-authenticated-user",
    "x-authenticated-groups",
    "x-authenticated-userid",
    "cf-access-authenticated-user-email",
    "x-goog-authenticated-user-email",
    "x-goog-authenticated-user-id",
    "x-ms-client-principal",
    "x-ms-client-principal-id",
    "x-ms-client-principal-name",
    "x-ms-client-principal-idp",
    "client-cert",
    "client-cert-chain",
    "x-client-cert",
    "x-client-certificate",
    "x-client-dn",
    "x-client-verify",
    "x-ssl-cert",
    "x-arr-clientcert",
    "x-tls-client-cert",
    "ssl-client-cert",
];
/// Names that carry a client's address. Many proxies pass on the client's own copy of them.
const CLIENT_ADDRESSES: [&str; 23] = [
    "client-ip",
    "true-client-ip",
    "x-true-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-pseudo-ipv4",
    "fastly-client-ip",
    "x-client-ip",
    "x-clientip",
    "x-cluster-client-ip",
    "x-real-ip",
    "x-forwarded",
    "forwarded",
    "forwarded-for",
    "forwarded-for-ip",
    "x-original-forwarded-for",
    "x-originating-ip",
    "x-remote-ip",
    "remote-addr",
    "x-source-ip",
    "x-appengine-user-ip",
    "x-azure-clientip",
    "x-azure-socketip",
];
/// What names of that kind end with, whatever product they begin with.
const ADDRESS_ENDINGS: [&str; 10] = [
    "-client-ip",
    "-connecting-ip",
    "-real-ip",
    "-user-ip",
    "-forwarded-for",
    "-remote-addr",
    "-remote-ip",
    "-client-address",
    "-viewer-address",
    "-external-address",
];
/// What families of such names begin with.
const FAMILIES: [&str; 18] = [
    "x-forwarded-",
    "x-envoy-",
    "x-accel-",
    "ssl-client-",
    "x-ssl-client-",
    "x-tls-client-",
    "x-client-cert-",
    "x-amzn-mtls-",
    "x-remote-extra-",
    "x-webauth-",
    "x-authenticated-",
    "x-auth-request-",
    "x-authentik-",
    "x-ms-client-principal",
    "x-goog-authenticated-",
    "x-pomerium-claim-",
    "x-vouch-",
    "tailscale-user-",
];
/// Names of the gateway's own beside the identity prefix.
const OWN: [&str; 3] = ["x-request-id", "traceparent", "tracestate"];
/// Names that the gateway writes itself into every forwarded request.
const WRITTEN: [&str; 4] = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"];

/// Names that frame a message, concern one connection only (RFC 9110 section 7.6.1), or hold credentials.
const FRAMING: [&str; 14] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// What a name is, once it is known to be none of a client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It carries identity: injected, below the prefix, or read from a trusted peer.
    Identity,
    Own,
    Removed,
    /// Kept by `identity.keep`, but only from a listed proxy.
    KeptAddress,
}

/// The names no client can speak under.
#[derive(Clone)]
pub struct ManagedNames {
    /// By their folded form.
    exact: HashMap<Box<str>, Kind>,
    /// Beginnings, folded, the identity prefix first.
    beginnings: Vec<(Box<str>, Kind)>,
    /// Names below a beginning that `identity.keep` spares.
    kept: Vec<Box<str>>,
    /// For each first byte the lengths of exact names, a bit each, and whether a beginning starts with it: nearly every name
    /// is told apart by that.
    shapes: Box<[Shape; 256]>,
    identity: Arc<[IdentityHeader]>,
    pub(super) max_value_bytes: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Shape {
    lengths: u64,
    begins: bool,
}

impl ManagedNames {
    pub fn new(settings: &HeaderSettings) -> Self {
        let folded = |name: &HeaderName| fold(name.as_str()).into_owned().into_boxed_str();
        let kept: Vec<Box<str>> = settings.keep.iter().map(&folded).collect();
        let mut exact: HashMap<Box<str>, Kind> = HashMap::new();
        for name in REWRITES.iter().chain(&USERS_AND_CERTIFICATES) {
            exact.insert(Box::from(*name), Kind::Removed);
        }
        for name in CLIENT_ADDRESSES {
            exact.insert(Box::from(name), Kind::Removed);
        }
        exact.extend(settings.remove.iter().map(|name| (folded(name), Kind::Removed)));
        for name in &kept {
            if is_client_address(name) {
                exact.insert(name.clone(), Kind::KeptAddress);
            } else {
                exact.remove(name);
            }
        }
        // What is ours is never spared.
        exact.extend(WRITTEN.iter().map(|name| (Box::from(*name), Kind::Removed)));
        exact.extend(OWN.iter().map(|name| (Box::from(*name), Kind::Own)));
        let injected = settings.headers.iter().map(|header| &header.name);
        let assertion = settings.assertion.iter().map(|assertion| &assertion.header);
        let names = injected.chain(assertion).chain(&settings.also_managed);
        exact.extend(names.map(|name| (folded(name), Kind::Identity)));

        let prefix = fold(&settings.prefix).into_owned().into_boxed_str();
        let families = FAMILIES.iter().map(|family| (Box::from(*family), Kind::Removed));
        let beginnings: Vec<(Box<str>, Kind)> =
            std::iter::once((prefix, Kind::Identity)).chain(families).collect();
        let mut shapes = Box::new([Shape::default(); 256]);
        for name in exact.keys() {
            if let Some(shape) = name.bytes().next().and_then(|first| shapes.get_mut(usize::from(first))) {
                shape.lengths |=
                    1_u64.checked_shl(u32::try_from(name.len()).unwrap_or(u32::MAX)).unwrap_or(u64::MAX);
            }
        }
        for (beginning, _) in &beginnings {
            match beginning.bytes().next() {
                Some(first) => {
                    if let Some(shape) = shapes.get_mut(usize::from(first)) {
                        shape.begins = true;
                    }
                }
                // A prefix of nothing is the beginning of every name.
                None => shapes.iter_mut().for_each(|shape| shape.begins = true),
            }
        }
        let kept = kept.into_iter().filter(|name| !is_client_address(name)).collect();
        let identity = settings.headers.clone().into();
        Self { exact, beginnings, kept, shapes, identity, max_value_bytes: settings.max_value_bytes }
    }

    /// What `name` is, in whatever spelling an application may fold it from.
    fn kind_of(&self, name: &str) -> Option<Kind> {
        let first = name.bytes().next().map(fold_byte).unwrap_or_default();
        let shape = self.shapes.get(usize::from(first)).copied().unwrap_or_default();
        let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
        let may_be_exact = shape.lengths.checked_shr(length).unwrap_or(1) & 1 == 1;
        // The last letter of every ending in `ADDRESS_ENDINGS`.
        let may_be_address = matches!(name.bytes().last(), Some(b'p' | b'r' | b's' | b'P' | b'R' | b'S'));
        if !may_be_exact && !shape.begins && !may_be_address {
            return None;
        }
        let folded = fold(name);
        let exact = if may_be_exact { self.exact.get(&*folded).copied() } else { None };
        exact.or_else(|| {
            let mut beginnings = self.beginnings.iter();
            let found = beginnings.find(|(beginning, _)| folded.starts_with(&**beginning));
            let by_ending = || (may_be_address && ends_as_address(&folded)).then_some(Kind::Removed);
            let kind = found.map(|(_, kind)| *kind).or_else(by_ending)?;
            let is_spared = kind == Kind::Removed && self.kept.iter().any(|kept| **kept == *folded);
            (!is_spared).then_some(kind)
        })
    }

    /// Whether `name` is none that a client or an application may send on.
    pub fn covers(&self, name: &str) -> bool {
        self.kind_of(name).is_some()
    }

    /// Whether a client's field does not go on; `from_listed_proxy` tells whether one of the proxies that the listener lists
    /// sent it.
    pub(super) fn strips(&self, name: &str, from_listed_proxy: bool) -> bool {
        match self.kind_of(name) {
            Some(Kind::KeptAddress) => !from_listed_proxy,
            Some(_) => true,
            None => is_odd(name),
        }
    }

    /// Takes identity out of a response, where only an origin that echoes it could have put it.
    pub fn strip_response(&self, headers: &mut HeaderMap) {
        remove_where(headers, |name| matches!(self.kind_of(name), Some(Kind::Identity | Kind::Own)));
    }

    /// The identity headers of `caller` that `wanted` picks.
    pub(super) fn written(
        &self,
        caller: &Caller,
        wanted: impl Fn(&IdentityHeader) -> bool,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, Reason> {
        let mut headers = Vec::new();
        let mut value = String::new();
        for planned in self.identity.iter().filter(|header| wanted(header)) {
            value.clear();
            if !planned.attribute.write(caller, &planned.format, &mut value) {
                continue;
            }
            if value.len() > self.max_value_bytes {
                return Err(Reason::IdentityOversized);
            }
            let value = HeaderValue::from_str(&value).map_err(|_| Reason::IdentityOversized)?;
            headers.push((planned.name.clone(), value));
        }
        Ok(headers)
    }
}

impl fmt::Debug for ManagedNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManagedNames")
            .field("exact", &self.exact)
            .field("beginnings", &self.beginnings)
            .finish()
    }
}

impl HeaderSettings {
    /// Whether `name` may be spared: it is neither identity, nor written by the gateway, nor does it frame a message or concern
    /// one connection only.
    pub fn may_keep(&self, name: &HeaderName) -> bool {
        let folded = fold(name.as_str());
        let is_identity = self.headers.iter().map(|header| &header.name).chain(&self.also_managed);
        let is_assertion = self.assertion.iter().map(|assertion| &assertion.header);
        let is_ours = is_identity.chain(is_assertion).any(|own| fold(own.as_str()) == folded);
        let is_written = WRITTEN.contains(&&*folded) || OWN.contains(&&*folded);
        !is_ours && !is_written && !folded.starts_with(&*fold(&self.prefix)) && !FRAMING.contains(&&*folded)
    }
}

/// Whether the folded `name` carries a client's address.
fn is_client_address(name: &str) -> bool {
    CLIENT_ADDRESSES.contains(&name) || ends_as_address(name)
}

fn ends_as_address(name: &str) -> bool {
    ADDRESS_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Whether a name holds a byte outside `[A-Za-z0-9-]`. Lenient readers take such names for others: CGI folds `_` into `-`,
/// and `'Transfer-Encoding` frames a message for some.
pub fn is_odd(name: &str) -> bool {
    !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// The form in which names are compared: letter case is ignored, and every byte that is neither letter nor digit is a `-`.
///
/// Nearly every name is in it already: header names are held in lower case.
fn fold(name: &str) -> Cow<'_, str> {
    if name.bytes().all(|byte| fold_byte(byte) == byte) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(name.bytes().map(|byte| char::from(fold_byte(byte))).collect())
}

fn fold_byte(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}

fn remove_where(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{AttributeFormat, IdentityAttribute};

    fn settings() -> HeaderSettings {
        let named = HeaderName::from_static;
        HeaderSettings {
            headers: vec![IdentityHeader {
                name: named("remote-user"),
                attribute: IdentityAttribute::Subject,
                format: AttributeFormat::Joined(','),
            }],
            also_managed: vec![named("x-org")],
            ..HeaderSettings::usual("x-auth-")
        }
    }

    fn left(settings: &HeaderSettings, names: &[&str], from_listed_proxy: bool) -> Vec<String> {
        let managed = ManagedNames::new(settings);
        names
            .iter()
            .filter(|name| !managed.strips(name, from_listed_proxy))
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn no_spelling_of_a_managed_name_survives() {
        let kept = left(
            &settings(),
            &[
                "x-auth-member-id",
                "x_auth_member_id",
                "x-auth_roles",
                "x.auth.roles",
                "x+auth+roles",
                "x-auth~roles",
                "x'auth'roles",
                "X!Auth|Roles",
                "x-auth-",
                "x-auth-anything",
                "remote-user",
                "remote_user",
                "x.org",
                "x-forwarded-for",
                "x_forwarded_email",
                "x-forwarded-user",
                "x-forwarded-client-cert",
                "forwarded",
                "forwarded-for",
                "x-real-ip",
                "cf-connecting-ip",
                "client-ip",
                "proxy",
                "x-original-url",
                "x-original-method",
                "x-original-host",
                "x-override-url",
                "x-rewrite-url",
                "x-http-method-override",
                "x_http_method_override",
                "x-envoy-original-path",
                "x-accel-redirect",
                "x-webauth-user",
                "ssl-client-verify",
                "x-ssl-client-s-dn",
                "traceparent",
                "x-request-id",
                "some_field",
                "'transfer-encoding",
                "accept",
                "x-authority",
                "x-origin",
                "x-client",
                "cookie",
                "content-type",
                "user-agent",
            ],
            true,
        );
        assert_eq!(
            kept,
            ["accept", "x-authority", "x-origin", "x-client", "cookie", "content-type", "user-agent"]
        );
    }

    #[test]
    fn identity_remove_adds_names_and_identity_keep_spares_them() {
        let named = HeaderName::from_static;
        let settings = HeaderSettings {
            remove: vec![named("x-legacy-user")],
            keep: [
                "x-original-url",
                "x-envoy-attempt-count",
                "x-real-ip",
                "x-forwarded-port",
                "x-request-id",
                "x-org",
            ]
            .map(named)
            .to_vec(),
            ..settings()
        };
        let names = [
            "x-legacy-user",
            "x_legacy_user",
            "x-original-url",
            "x-original_url",
            "x-envoy-attempt-count",
            "x-envoy-original-path",
            "x-real-ip",
            "x-forwarded-port",
            "x-forwarded-for",
            "x-request-id",
            "x-org",
        ];
        let from_anybody = ["x-original-url", "x-envoy-attempt-count", "x-forwarded-port"];
        assert_eq!(left(&settings, &names, false), from_anybody);
        let from_proxy = ["x-original-url", "x-envoy-attempt-count", "x-real-ip", "x-forwarded-port"];
        assert_eq!(left(&settings, &names, true), from_proxy);
    }

    /// Every byte that a field name may hold: none makes another name of ours.
    #[test]
    fn every_byte_that_is_no_letter_or_digit_is_folded() {
        let managed = ManagedNames::new(&settings());
        for byte in 0_u8..=0x7f {
            let Ok(name) = HeaderName::from_bytes(format!("x{}auth{0}roles", char::from(byte)).as_bytes())
            else {
                continue;
            };
            let is_name_of_its_own = byte.is_ascii_alphanumeric();
            assert_eq!(managed.covers(name.as_str()), !is_name_of_its_own, "{name}");
        }
    }
}
