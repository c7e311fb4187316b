//! Replace or remove: which header fields leave a request and which are put in (section 4.5 of the design).
//!
//! Must not let a client's copy of a managed name survive in any spelling, on any route.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::assertion::Assertions;
use super::recent::RecentToken;
use super::{IdentityHeader, ManagedNames};
use crate::identity::{CredentialSource, Now, other_cookies};
use crate::policy::{ForwardedCredentials, IdentityAttribute, Permit, Reason};

/// Where the fields of a request go as they are composed, one after the other.
pub trait Fields {
    fn put(&mut self, name: &HeaderName, value: &HeaderValue);
}

impl Fields for HeaderMap {
    fn put(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.append(name.clone(), value.clone());
    }
}

/// What a door does to the headers of a request that may pass.
#[derive(Debug, Clone)]
pub struct HeaderEdits {
    managed: Arc<ManagedNames>,
    credentials: Arc<[CredentialSource]>,
    /// `Authorization` holds a credential of a configured source that the application does not receive.
    remove_authorization: bool,
    keep_session_cookies: bool,
    /// What tells of the session, written once for many requests.
    shared: Injected,
    /// What tells of this request alone.
    inject: Vec<(HeaderName, HeaderValue)>,
}

/// Header fields that are put into a request.
pub(super) type Injected = Arc<[(HeaderName, HeaderValue)]>;

impl HeaderEdits {
    /// Nothing is injected, everything of ours is still removed. `holds_credential` tells that `Authorization` holds what a
    /// configured source reads.
    pub fn without_identity(
        managed: &Arc<ManagedNames>,
        credentials: &Arc<[CredentialSource]>,
        holds_credential: bool,
        forwards: ForwardedCredentials,
    ) -> Self {
        Self {
            managed: Arc::clone(managed),
            credentials: Arc::clone(credentials),
            remove_authorization: holds_credential && !forwards.authorization,
            keep_session_cookies: forwards.cookies,
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
        holds_credential: bool,
        recent: Option<&RecentToken>,
        now: Option<Now>,
    ) -> Result<Self, Reason> {
        let forwards = permit.route().forwards;
        let mut edits = Self::without_identity(managed, credentials, holds_credential, forwards);
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
    pub fn removes(&self, name: &HeaderName, from_listed_proxy: bool) -> bool {
        match *name {
            header::COOKIE => true,
            header::AUTHORIZATION if self.remove_authorization => true,
            _ => self.managed.strips(name.as_str(), from_listed_proxy),
        }
    }

    /// The cookies in `headers` that the application receives, joined into one field.
    pub fn other_cookies(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let removed = if self.keep_session_cookies { &[][..] } else { &self.credentials };
        other_cookies(headers, removed)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::HeaderSettings;

    #[test]
    fn a_credential_goes_on_only_where_the_upstream_receives_it() {
        let names = Arc::new(ManagedNames::new(&HeaderSettings::usual("x-auth-")));
        let sources = Arc::from([CredentialSource::Cookie("s".to_owned())]);
        let cookies = HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_static("s=1; t=2"))]);
        for (holds_credential, authorization, cookies_too, removed, left) in [
            (true, false, false, true, "t=2"),
            (true, true, false, false, "t=2"),
            (false, false, false, false, "t=2"),
            (true, false, true, true, "s=1; t=2"),
        ] {
            let forwards = ForwardedCredentials { authorization, cookies: cookies_too };
            let edits = HeaderEdits::without_identity(&names, &sources, holds_credential, forwards);
            assert_eq!(edits.removes(&header::AUTHORIZATION, true), removed);
            assert_eq!(edits.other_cookies(&cookies).unwrap(), left);
        }
    }
}
