//! Verifying a session JWT: RS256 whatever the header says, and claims, not keys, tell what kind of token it is.
//!
//! Must not fetch a key, read a clock, or follow anything a token names (`jku`, `x5u`, `jwk`).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;

use http::HeaderMap;

use super::{
    Bound, Credential, CredentialSource, KeySet, MAX_CREDENTIAL_BYTES, MemberId, MemberRef, OrganizationId,
    Principal, SessionId, find_credentials,
};

/// What a token must say to be one of ours.
#[derive(Debug, Clone)]
pub struct JwtRules {
    /// Exact issuers accepted: `stytch.com/<project_id>` and those the configuration adds.
    pub issuers: Vec<String>,
    /// The project id; must be among the token's audiences.
    pub audience: String,
    /// Clock difference forgiven on `exp`, `nbf` and `iat`.
    pub leeway: Duration,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    #[error("the token is not a well-formed JWT")]
    Malformed,
    #[error("the token is not signed with RS256")]
    Algorithm,
    #[error("no key `{0}` is known")]
    UnknownKey(String),
    #[error("the signature does not verify")]
    Signature,
    #[error("the token has another issuer")]
    Issuer,
    #[error("the token is for another audience")]
    Audience,
    #[error("the token expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("a machine token is not a session")]
    MachineToken,
    #[error("a connected app's token is not a session")]
    ConnectedAppToken,
    #[error("the token holds no session")]
    NoSession,
}

/// A session JWT whose signature, issuer and audience were verified.
///
/// Its dates are checked on every use, since it is remembered between requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionJwt {
    pub member: MemberRef,
    pub session_id: SessionId,
    pub issued_at: Timestamp,
    pub not_before: Timestamp,
    pub expires_at: Timestamp,
    pub key_id: String,
}

impl SessionJwt {
    /// Whether the token may be used at `now`, give or take `leeway`.
    pub fn check_dates(&self, now: Timestamp, leeway: Duration) -> Result<(), JwtError> {
        let latest = later(now, leeway);
        if self.not_before > latest || self.issued_at > latest {
            return Err(JwtError::NotYetValid);
        }
        if now >= later(self.expires_at, leeway) {
            return Err(JwtError::Expired);
        }
        Ok(())
    }

    pub fn principal(&self) -> Principal {
        Principal {
            member: self.member.clone(),
            bound: Bound::Session(self.session_id.clone()),
            issued_at: Some(self.issued_at),
            seen_at: None,
        }
    }
}

/// Whether `Authorization` is looked at and carries a session JWT that says it is of this project, genuine or not.
pub fn carries_session_jwt(headers: &HeaderMap, sources: &[CredentialSource], rules: &JwtRules) -> bool {
    let bearer = sources.iter().find(|source| **source == CredentialSource::Bearer);
    let found = find_credentials(headers, bearer.map(std::slice::from_ref).unwrap_or_default());
    found.candidates.iter().any(|(_, credential)| match credential {
        Credential::SessionJwt(token) => {
            let claims = token.split('.').nth(1).map(decode::<Claims>);
            matches!(claims, Some(Ok(claims)) if rules.issuers.contains(&claims.iss) && claims.session.is_some())
        }
        Credential::SessionToken(_) => false,
    })
}

/// Verifies `token` against the keys and rules at `now`.
///
/// Claims tell what the token is (a session carries `https://stytch.com/session`), since the same keys sign machine
/// and Connected-App tokens with the same issuer and audience.
pub fn verify_session_jwt(
    token: &str,
    keys: &KeySet,
    rules: &JwtRules,
    now: Timestamp,
) -> Result<SessionJwt, JwtError> {
    let jwt = verify_ended_or_not(token, keys, rules)?;
    jwt.check_dates(now, rules.leeway)?;
    Ok(jwt)
}

/// As [`verify_session_jwt`], whatever the token's dates are: for ending the session it is of, and nothing else.
pub fn verify_ended_or_not(token: &str, keys: &KeySet, rules: &JwtRules) -> Result<SessionJwt, JwtError> {
    if token.len() > MAX_CREDENTIAL_BYTES {
        return Err(JwtError::Malformed);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(JwtError::Malformed)?;
    let header: Header = decode(header)?;
    if header.alg != "RS256" || header.crit.is_some() || header.b64.is_some() {
        return Err(JwtError::Algorithm);
    }
    if header.typ.is_some_and(|typ| !typ.eq_ignore_ascii_case("JWT")) {
        return Err(JwtError::Malformed);
    }
    let key = keys.find(&header.kid).ok_or_else(|| JwtError::UnknownKey(printable(&header.kid)))?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| JwtError::Malformed)?;
    if !key.verifies(signed.as_bytes(), &signature) {
        return Err(JwtError::Signature);
    }

    let claims: Claims = decode(claims)?;
    if !rules.issuers.contains(&claims.iss) {
        return Err(JwtError::Issuer);
    }
    if !claims.aud.contains(&rules.audience) {
        return Err(JwtError::Audience);
    }
    claims.into_session(header.kid)
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
    typ: Option<String>,
    crit: Option<IgnoredAny>,
    b64: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: Audience,
    sub: String,
    exp: i64,
    iat: i64,
    nbf: Option<i64>,
    client_id: Option<IgnoredAny>,
    scope: Option<IgnoredAny>,
    #[serde(rename = "https://stytch.com/session")]
    session: Option<SessionClaim>,
    #[serde(rename = "https://stytch.com/organization")]
    organization: Option<OrganizationClaim>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn contains(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Many(many) => many.iter().any(|one| one == audience),
        }
    }
}

#[derive(Deserialize)]
struct SessionClaim {
    id: String,
}

#[derive(Deserialize)]
struct OrganizationClaim {
    organization_id: String,
}

impl Claims {
    fn into_session(self, key_id: String) -> Result<SessionJwt, JwtError> {
        let Some(session) = self.session else {
            return Err(match (self.client_id, self.organization, self.scope) {
                (Some(_), Some(_), _) => JwtError::ConnectedAppToken,
                (_, _, Some(_)) => JwtError::MachineToken,
                _ => JwtError::NoSession,
            });
        };
        let organization = self.organization.ok_or(JwtError::NoSession)?;
        let date = |second| Timestamp::from_second(second).map_err(|_| JwtError::Malformed);
        let issued_at = date(self.iat)?;
        Ok(SessionJwt {
            member: MemberRef {
                organization_id: OrganizationId::parse(&organization.organization_id)
                    .map_err(|_| JwtError::NoSession)?,
                member_id: MemberId::parse(&self.sub).map_err(|_| JwtError::NoSession)?,
            },
            session_id: SessionId::parse(&session.id).map_err(|_| JwtError::NoSession)?,
            issued_at,
            not_before: self.nbf.map_or(Ok(issued_at), date)?,
            expires_at: date(self.exp)?,
            key_id,
        })
    }
}

/// The claims set of a token, as it was signed. Says nothing about whether it verifies.
pub fn payload_of(token: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()
}

/// Strict base64url without padding, then JSON in which a repeated known member is an error.
fn decode<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, JwtError> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtError::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| JwtError::Malformed)
}

/// A key id as a message may show it: the sender chose it.
fn printable(key_id: &str) -> String {
    key_id.chars().filter(char::is_ascii_graphic).take(64).collect()
}

fn later(date: Timestamp, span: Duration) -> Timestamp {
    date.saturating_add(span).unwrap_or(date)
}

#[cfg(test)]
mod tests;
