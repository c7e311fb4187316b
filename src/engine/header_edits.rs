//! Replace or remove: which header fields leave a request and which are put in (section 4.5 of the design).
//!
//! Must not let a client's copy of a managed name survive in any spelling, on any route.

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::identity::{CredentialSource, remove_credential_cookies};
use crate::policy::Caller;
use crate::session::FactorKind;

/// Fields that tell an origin to act on another URL or method than the one decided on, or name another client.
const ALWAYS_REMOVED: [&str; 11] = [
    "x-original-url",
    "x-original-uri",
    "x-rewrite-url",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "x-cluster-client-ip",
];
/// Names of ours besides the identity prefix.
const OWN_NAMES: [&str; 3] = ["x-request-id", "traceparent", "tracestate"];
/// What identity headers are called after the prefix.
const IDENTITY: [&str; 11] = [
    "kind",
    "member-id",
    "organization-id",
    "organization-slug",
    "session-id",
    "session-expires-at",
    "roles",
    "factors",
    "email",
    "impersonator",
    "evidence-age",
];
/// Whatever claims to speak for the client's side of an earlier hop.
const FORWARDED_PREFIX: &str = "x-forwarded-";

/// The names no client can speak under.
#[derive(Debug, Clone)]
pub struct ManagedNames {
    /// Folded, such as `x-auth-`.
    prefix: String,
    /// The identity headers by what follows the prefix, made once.
    identity: HashMap<&'static str, HeaderName>,
}

impl ManagedNames {
    /// `prefix` is what every identity header begins with.
    pub fn new(prefix: &str) -> Self {
        let prefix = fold(prefix);
        let named = |suffix| Some((suffix, HeaderName::try_from(format!("{prefix}{suffix}")).ok()?));
        Self { identity: IDENTITY.into_iter().filter_map(named).collect(), prefix }
    }

    /// Whether `name`, in whatever spelling an origin may fold it to, is ours.
    pub fn covers(&self, name: &str) -> bool {
        let folded = fold(name);
        folded.starts_with(&self.prefix)
            || folded.starts_with(FORWARDED_PREFIX)
            || ALWAYS_REMOVED.contains(&folded.as_str())
            || OWN_NAMES.contains(&folded.as_str())
    }

    /// Takes every managed name out of a request's headers or trailers, and other names with `_`, which
    /// CGI-like origins cannot tell from `-`.
    pub fn strip_request(&self, headers: &mut HeaderMap) {
        remove_where(headers, |name| name.contains('_') || self.covers(name));
    }

    /// Takes identity out of a response, where only an origin that echoes it could have put it.
    pub fn strip_response(&self, headers: &mut HeaderMap) {
        remove_where(headers, |name| {
            let folded = fold(name);
            folded.starts_with(&self.prefix) || OWN_NAMES.contains(&folded.as_str())
        });
    }
}

/// What a door does to the headers of a request that may pass.
#[derive(Debug, Clone)]
pub struct HeaderEdits {
    managed: Arc<ManagedNames>,
    credentials: Arc<[CredentialSource]>,
    remove_authorization: bool,
    inject: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderEdits {
    /// For a public route: nothing is injected, everything of ours is still removed.
    /// `by_bearer` tells that `Authorization` was a credential of ours.
    pub fn without_identity(
        managed: &Arc<ManagedNames>,
        credentials: &Arc<[CredentialSource]>,
        by_bearer: bool,
    ) -> Self {
        Self {
            managed: Arc::clone(managed),
            credentials: Arc::clone(credentials),
            remove_authorization: by_bearer,
            inject: Vec::new(),
        }
    }

    /// For a caller who was let through.
    pub fn for_caller(
        managed: &Arc<ManagedNames>,
        credentials: &Arc<[CredentialSource]>,
        caller: &Caller,
        by_bearer: bool,
    ) -> Self {
        let session = &caller.session;
        let mut edits = Self::without_identity(managed, credentials, by_bearer);
        let roles = session.roles.iter().flatten().map(|role| &**role);
        let readable = session.factors.iter().filter(|factor| factor.kind != FactorKind::Unreadable);
        let factors = readable.map(|factor| factor.kind.name());
        edits.put("kind", Some("member".to_owned()));
        edits.put("member-id", Some(encode_value(session.member.member_id.as_str())));
        edits.put("organization-id", Some(encode_value(session.member.organization_id.as_str())));
        edits.put("organization-slug", session.organization_slug.as_deref().map(encode_value));
        edits.put("session-id", Some(encode_value(session.session_id.as_str())));
        edits.put("session-expires-at", Some(session.expires_at.to_string()));
        edits.put("roles", Some(join(roles)));
        edits.put("factors", Some(join(factors)));
        edits.put("email", session.email().map(encode_value));
        edits.put("impersonator", session.impersonator().map(encode_value));
        edits.put("evidence-age", Some(caller.evidence_age.as_secs().to_string()));
        edits
    }

    /// Strips, then injects. Hop-by-hop fields must be gone already, or `Connection` could name ours away.
    pub fn apply(&self, headers: &mut HeaderMap) {
        self.managed.strip_request(headers);
        remove_credential_cookies(headers, &self.credentials);
        if self.remove_authorization {
            headers.remove(header::AUTHORIZATION);
        }
        for (name, value) in &self.inject {
            headers.insert(name.clone(), value.clone());
        }
    }

    /// What is injected, for explaining a decision.
    pub fn injected(&self) -> impl Iterator<Item = (&str, &str)> {
        self.inject.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap_or_default()))
    }

    fn put(&mut self, suffix: &str, value: Option<String>) {
        let name = self.managed.identity.get(suffix).cloned();
        let value = value.and_then(|value| HeaderValue::try_from(value).ok());
        if let (Some(name), Some(value)) = (name, value) {
            self.inject.push((name, value));
        }
    }
}

/// Percent-encodes `%`, `,` and everything outside visible ASCII, so that no value can break a list or a field.
pub fn encode_value(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' && byte != b',' {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn join<'a>(values: impl Iterator<Item = &'a str>) -> String {
    values.map(encode_value).collect::<Vec<_>>().join(",")
}

/// The form in which names are compared: origins fold case and confuse `_`, `.` and `-`.
fn fold(name: &str) -> String {
    name.chars()
        .map(|letter| match letter {
            '_' | '.' => '-',
            letter => letter.to_ascii_lowercase(),
        })
        .collect()
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

    fn managed() -> ManagedNames {
        ManagedNames::new("x-auth-")
    }

    #[test]
    fn no_spelling_of_a_managed_name_survives() {
        let mut headers = HeaderMap::new();
        for name in [
            "x-auth-member-id",
            "x_auth_member_id",
            "x-auth_roles",
            "x.auth.roles",
            "x-auth-",
            "x-auth-anything",
            "x-forwarded-for",
            "x_forwarded_email",
            "x-forwarded-user",
            "forwarded",
            "x-real-ip",
            "x-original-url",
            "x-rewrite-url",
            "x-http-method-override",
            "x_http_method_override",
            "traceparent",
            "x-request-id",
            "some_field",
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("forged"));
        }
        headers.insert("accept", HeaderValue::from_static("*/*"));
        headers.insert("x-authority", HeaderValue::from_static("kept"));
        managed().strip_request(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "x-authority"]);
    }

    #[test]
    fn values_cannot_break_a_list_or_a_field() {
        assert_eq!(
            join(["a,b", "50%", "é", "x\r\ny: z", "plain"].into_iter()),
            "a%2Cb,50%25,%C3%A9,x%0D%0Ay:%20z,plain"
        );
    }

    #[test]
    fn authorization_stays_where_it_was_no_credential_of_ours() {
        let names = Arc::new(managed());
        let mut headers =
            HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static("Basic eDp5"))]);
        HeaderEdits::without_identity(&names, &Arc::from([]), false).apply(&mut headers);
        assert!(headers.contains_key(header::AUTHORIZATION));
    }
}
