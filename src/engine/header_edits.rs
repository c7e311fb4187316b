//! Replace or remove: which header fields leave a request and which are put in (section 4.5 of the design).
//!
//! Must not let a client's copy of a managed name survive in any spelling, on any route.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::assertion::Assertions;
use super::recent::RecentToken;
use super::{HeaderSettings, IdentityHeader};
use crate::identity::{CredentialSource, Now, other_cookies};
use crate::policy::{Caller, IdentityAttribute, Permit, Reason};

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
/// Whatever claims to speak for the client's side of an earlier hop.
const FORWARDED_PREFIX: &str = "x-forwarded-";

/// Where the fields of a request go as they are composed, one after the other.
pub trait Fields {
    fn put(&mut self, name: &HeaderName, value: &HeaderValue);
}

impl Fields for HeaderMap {
    fn put(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.append(name.clone(), value.clone());
    }
}

/// The names no client can speak under.
#[derive(Debug, Clone)]
pub struct ManagedNames {
    /// The first letters of all of them, folded: nearly every other name is told by its own.
    first_letters: FirstLetters,
    /// Folded, such as `x-auth-`.
    prefix: String,
    /// Folded: every other name that is injected, and those a trusted identity comes under.
    others: Vec<String>,
    identity: Arc<[IdentityHeader]>,
    max_value_bytes: usize,
}

impl ManagedNames {
    pub fn new(settings: &HeaderSettings) -> Self {
        let injected = settings.headers.iter().map(|header| &header.name);
        let assertion = settings.assertion.iter().map(|assertion| &assertion.header);
        let names = injected.chain(assertion).chain(&settings.also_managed);
        let mut others: Vec<String> = names.map(|name| fold(name.as_str()).into_owned()).collect();
        others.sort_unstable();
        others.dedup();
        let prefix = fold(&settings.prefix).into_owned();
        let ours = ALWAYS_REMOVED.iter().chain(&OWN_NAMES).copied().chain([FORWARDED_PREFIX, &prefix]);
        let first_letters = FirstLetters::of(ours.chain(others.iter().map(String::as_str)));
        Self {
            first_letters,
            prefix,
            others,
            identity: settings.headers.clone().into(),
            max_value_bytes: settings.max_value_bytes,
        }
    }

    fn is_identity(&self, folded: &str) -> bool {
        folded.starts_with(&self.prefix) || self.others.iter().any(|name| name == folded)
    }

    /// The identity headers of `caller` that `wanted` picks.
    fn written(
        &self,
        caller: &Caller,
        wanted: impl Fn(&IdentityHeader) -> bool,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, Reason> {
        let (mut headers, mut value) = (Vec::new(), String::new());
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

    /// Whether `name`, in whatever spelling an origin may fold it to, is ours.
    pub fn covers(&self, name: &str) -> bool {
        if !self.first_letters.begin(name) {
            return false;
        }
        let folded = fold(name);
        self.is_identity(&folded)
            || folded.starts_with(FORWARDED_PREFIX)
            || ALWAYS_REMOVED.contains(&&*folded)
            || OWN_NAMES.contains(&&*folded)
    }

    /// Takes every managed name out of a request's headers or trailers, and other names with `_`, which
    /// CGI-like origins cannot tell from `-`.
    pub fn strip_request(&self, headers: &mut HeaderMap) {
        remove_where(headers, |name| self.strips(name));
    }

    fn strips(&self, name: &str) -> bool {
        name.contains('_') || self.covers(name)
    }

    /// Takes identity out of a response, where only an origin that echoes it could have put it.
    pub fn strip_response(&self, headers: &mut HeaderMap) {
        remove_where(headers, |name| {
            if !self.first_letters.begin(name) {
                return false;
            }
            let folded = fold(name);
            self.is_identity(&folded) || OWN_NAMES.contains(&&*folded)
        });
    }
}

/// Letters that names begin with.
#[derive(Clone)]
struct FirstLetters([bool; 256]);

impl FirstLetters {
    fn of<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let mut letters = [false; 256];
        for name in names {
            // Of a name without any letters, whatever begins so is.
            let Some(first) = name.bytes().next() else { return Self([true; 256]) };
            if let Some(is_first) = letters.get_mut(usize::from(first)) {
                *is_first = true;
            }
        }
        Self(letters)
    }

    /// Whether a name, folded, begins with one of them.
    fn begin(&self, name: &str) -> bool {
        let first = name.bytes().next().map(fold_byte).unwrap_or_default();
        self.0.get(usize::from(first)).is_none_or(|is_first| *is_first)
    }
}

impl fmt::Debug for FirstLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = (0..=u8::MAX).zip(self.0).filter(|(_, is_first)| *is_first);
        f.debug_set().entries(letters.map(|(letter, _)| char::from(letter))).finish()
    }
}

/// What a door does to the headers of a request that may pass.
#[derive(Debug, Clone)]
pub struct HeaderEdits {
    managed: Arc<ManagedNames>,
    credentials: Arc<[CredentialSource]>,
    remove_authorization: bool,
    /// What tells of the session, written once for many requests.
    shared: Injected,
    /// What tells of this request alone.
    inject: Vec<(HeaderName, HeaderValue)>,
}

/// Header fields that are put into a request.
pub(super) type Injected = Arc<[(HeaderName, HeaderValue)]>;

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
            shared: Arc::default(),
            inject: Vec::new(),
        }
    }

    /// For a request that `permit` lets through, signed at `now`; unsigned for one that is only explained. A value past its
    /// bound is no value to send, and what an origin does without it nobody knows: the caller is refused.
    pub(super) fn for_permit(
        managed: &Arc<ManagedNames>,
        credentials: &Arc<[CredentialSource]>,
        permit: &Permit,
        assertions: Option<&Assertions>,
        by_bearer: bool,
        recent: Option<&RecentToken>,
        now: Option<Now>,
    ) -> Result<Self, Reason> {
        let mut edits = Self::without_identity(managed, credentials, by_bearer);
        let Some(caller) = permit.caller() else { return Ok(edits) };
        let of_request = |header: &IdentityHeader| header.attribute == IdentityAttribute::EvidenceAge;
        let written = recent.zip(caller.subject.session());
        edits.shared = match written.and_then(|(recent, session)| recent.told(session, managed)) {
            Some(headers) => headers,
            None => {
                let headers = managed.written(caller, |header| !of_request(header))?.into();
                if let Some((recent, session)) = written {
                    recent.tell(session, managed, &headers);
                }
                headers
            }
        };
        edits.inject = managed.written(caller, of_request)?;
        if let (Some(assertions), Some(audience)) = (assertions, &permit.route().audience) {
            let value = match now {
                Some(now) => assertions.assert(caller, audience, now.wall),
                // Whoever is told about a decision is not the origin: a signature would be good anywhere.
                None => Ok(HeaderValue::from_static("(signed for the application)")),
            };
            let value = value.map_err(|_| Reason::AssertionFailed)?;
            if value.len() > managed.max_value_bytes {
                return Err(Reason::IdentityOversized);
            }
            edits.inject.push((assertions.settings().header.clone(), value));
        }
        Ok(edits)
    }

    /// Whether a client's field does not go on as it is. Cookies do not: what is [left of them](Self::other_cookies) does.
    pub fn removes(&self, name: &HeaderName) -> bool {
        match *name {
            header::COOKIE => true,
            header::AUTHORIZATION if self.remove_authorization => true,
            _ => self.managed.strips(name.as_str()),
        }
    }

    /// The cookies in `headers` that are nobody's credential.
    pub fn other_cookies(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        other_cookies(headers, &self.credentials)
    }

    /// Puts in who is calling, in place of whatever was removed.
    pub fn inject(&self, fields: &mut impl Fields) {
        for (name, value) in self.shared.iter().chain(&self.inject) {
            fields.put(name, value);
        }
    }

    /// What is injected, for explaining a decision.
    pub fn injected(&self) -> impl Iterator<Item = (&str, &str)> {
        self.shared
            .iter()
            .chain(&self.inject)
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap_or_default()))
    }
}

/// The form in which names are compared: origins fold case and confuse `_`, `.` and `-`.
///
/// Nearly every name is in it already: header names are held in lower case.
fn fold(name: &str) -> Cow<'_, str> {
    if !name.bytes().any(|byte| matches!(byte, b'_' | b'.' | b'A'..=b'Z')) {
        return Cow::Borrowed(name);
    }
    let folded = name.chars().map(|letter| match u8::try_from(letter) {
        Ok(byte) => char::from(fold_byte(byte)),
        Err(_) => letter,
    });
    Cow::Owned(folded.collect())
}

fn fold_byte(byte: u8) -> u8 {
    match byte {
        b'_' | b'.' => b'-',
        byte => byte.to_ascii_lowercase(),
    }
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
        let named = |name| HeaderName::from_static(name);
        ManagedNames::new(&HeaderSettings {
            prefix: "x-auth-".to_owned(),
            headers: vec![IdentityHeader {
                name: named("remote-user"),
                attribute: IdentityAttribute::Subject,
                format: crate::policy::AttributeFormat::Joined(','),
            }],
            also_managed: vec![named("x-org")],
            max_value_bytes: 8192,
            assertion: None,
        })
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
            "remote-user",
            "remote_user",
            "x.org",
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
    fn authorization_stays_where_it_was_no_credential_of_ours() {
        let names = Arc::new(managed());
        let edits = |by_bearer| HeaderEdits::without_identity(&names, &Arc::from([]), by_bearer);
        assert!(edits(true).removes(&header::AUTHORIZATION) && !edits(false).removes(&header::AUTHORIZATION));
    }
}
