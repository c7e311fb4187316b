//! Verifying a JWT of the project: RS256 whatever the header says, and claims, not keys, tell what kind of token it is.
//!
//! Must not fetch a key, read a clock, or follow anything a token names (`jku`, `x5u`, `jwk`).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;

use http::{HeaderMap, header};

use super::credential::after_scheme;
use super::{
    AppToken, Bound, ClientId, CredentialDigest, CredentialSource, KeySet, MAX_CREDENTIAL_BYTES,
    MachineToken, MemberId, MemberPrincipal, MemberRef, OrganizationId, Principal, Scopes, Secret, SessionId,
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
    #[error("the token's claims are those of no kind of token, or of more than one")]
    NoKind,
}

/// A JWT whose signature, issuer and audience were verified.
///
/// Its dates are checked on every use, since it is remembered between requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedJwt {
    pub subject: JwtSubject,
    pub issued_at: Timestamp,
    pub not_before: Timestamp,
    pub expires_at: Timestamp,
    pub key_id: String,
}

/// Whom a JWT speaks for, told by its claims alone: the same keys sign all kinds, for the same issuer and audience.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwtSubject {
    Session { member: MemberRef, session_id: SessionId },
    Machine { client_id: ClientId, scopes: Scopes },
    App { client_id: ClientId, member: MemberRef, scopes: Scopes },
}

impl VerifiedJwt {
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

    /// Who calls with it. `token` is the JWT itself, which introspection of an app's token needs.
    pub fn principal(&self, token: &str) -> Principal {
        let issued_at = self.issued_at;
        let expires_at = self.expires_at;
        match &self.subject {
            JwtSubject::Session { member, session_id } => Principal::from(MemberPrincipal {
                member: member.clone(),
                bound: Bound::Session(session_id.clone()),
                issued_at: Some(issued_at),
                seen_at: None,
            }),
            JwtSubject::Machine { client_id, scopes } => {
                let client_id = client_id.clone();
                let scopes = scopes.clone();
                Principal::Machine(Arc::new(MachineToken { client_id, scopes, issued_at, expires_at }))
            }
            JwtSubject::App { client_id, member, scopes } => Principal::App(Arc::new(AppToken {
                client_id: client_id.clone(),
                member: member.clone(),
                scopes: scopes.clone(),
                issued_at,
                expires_at,
                token: Secret::new(token.to_owned()),
                digest: CredentialDigest::of(token),
            })),
        }
    }
}

/// Whether `Authorization` holds what a configured source reads, verified or not, so that no application may see it.
///
/// A JWT of an issuer that is none of ours is an application's own. Anything else in a scheme that is looked at is taken for a
/// credential: an opaque token, a JWT that expired, is forged or cannot be read.
pub fn holds_credential(headers: &HeaderMap, sources: &[CredentialSource], rules: &JwtRules) -> bool {
    let reads = |source: &CredentialSource| sources.contains(source);
    headers.get_all(header::AUTHORIZATION).iter().any(|value| {
        let value = value.as_bytes();
        // A lenient reader may find a second credential behind a comma.
        let is_list = value.contains(&b',');
        value.split(|byte| *byte == b',').any(|part| {
            let bearer = after_scheme(part, b"bearer").filter(|_| reads(&CredentialSource::Bearer));
            let basic = after_scheme(part, b"basic").filter(|_| reads(&CredentialSource::BasicPassword));
            let is_ours = |token| is_list || !is_of_another_issuer(token, rules);
            // What follows the scheme may be blank to a reader that knows more blanks than RFC 9110.
            let blurred =
                bearer.is_none() && (reads(&CredentialSource::Bearer) && begins_with_scheme(part, b"bearer"));
            basic.is_some()
                || bearer.is_some_and(is_ours)
                || blurred
                || reads(&CredentialSource::BasicPassword) && begins_with_scheme(part, b"basic")
        })
    })
}

/// Whether a lenient reader may see `scheme` there.
fn begins_with_scheme(value: &[u8], scheme: &[u8]) -> bool {
    let value = value.trim_ascii_start();
    value.split_at_checked(scheme.len()).is_some_and(|(found, rest)| {
        let ends = rest.first().is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte != b'-');
        found.eq_ignore_ascii_case(scheme) && ends
    })
}

/// Whether `token` is a JWT that says it was issued by somebody else.
fn is_of_another_issuer(token: &[u8], rules: &JwtRules) -> bool {
    #[derive(Deserialize)]
    struct Issued {
        iss: String,
    }
    let Ok(token) = std::str::from_utf8(token) else { return false };
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    decode::<Issued>(claims).is_ok_and(|issued| !rules.issuers.contains(&issued.iss))
}

/// Verifies `token` against the keys and rules at `now`.
///
/// Source of the claims that tell the kinds apart: <https://stytch.com/docs/b2b/guides/sessions/resources/using-jwts>
/// for sessions, the official SDKs for machines and connected apps.
pub fn verify_jwt(
    token: &str,
    keys: &KeySet,
    rules: &JwtRules,
    now: Timestamp,
) -> Result<VerifiedJwt, JwtError> {
    let jwt = verify_ended_or_not(token, keys, rules)?;
    jwt.check_dates(now, rules.leeway)?;
    Ok(jwt)
}

/// As [`verify_jwt`], whatever the token's dates are: for ending the session it is of, and nothing else.
pub fn verify_ended_or_not(token: &str, keys: &KeySet, rules: &JwtRules) -> Result<VerifiedJwt, JwtError> {
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
    claims.into_verified(header.kid)
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
    client_id: Option<serde_json::Value>,
    scope: Option<serde_json::Value>,
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

/// What every machine's `sub` begins with. No member's does.
const MACHINE: &str = "m2m-client-";

impl Claims {
    fn into_verified(self, key_id: String) -> Result<VerifiedJwt, JwtError> {
        let date = |second| Timestamp::from_second(second).map_err(|_| JwtError::Malformed);
        let issued_at = date(self.iat)?;
        let not_before = self.nbf.map_or(Ok(issued_at), date)?;
        let expires_at = date(self.exp)?;
        Ok(VerifiedJwt { subject: self.into_subject()?, issued_at, not_before, expires_at, key_id })
    }

    /// A session claim makes a session; without one, a client and an organization an app; without those, scopes and a
    /// machine's `sub` a machine. What mixes them is nobody's.
    fn into_subject(self) -> Result<JwtSubject, JwtError> {
        let no_kind = |_| JwtError::NoKind;
        let is_machine = self.sub.starts_with(MACHINE);
        match (self.session, self.organization) {
            (Some(session), Some(organization)) if !is_machine => Ok(JwtSubject::Session {
                member: member_of(&organization, &self.sub)?,
                session_id: SessionId::parse(&session.id).map_err(no_kind)?,
            }),
            (None, Some(organization)) if !is_machine => {
                let Some(serde_json::Value::String(client_id)) = &self.client_id else {
                    return Err(JwtError::NoKind);
                };
                Ok(JwtSubject::App {
                    client_id: ClientId::parse(client_id).map_err(no_kind)?,
                    member: member_of(&organization, &self.sub)?,
                    scopes: scopes_of(self.scope.as_ref())?,
                })
            }
            (None, None) if is_machine && self.scope.is_some() => Ok(JwtSubject::Machine {
                client_id: ClientId::parse(&self.sub).map_err(no_kind)?,
                scopes: scopes_of(self.scope.as_ref())?,
            }),
            _ => Err(JwtError::NoKind),
        }
    }
}

fn member_of(organization: &OrganizationClaim, sub: &str) -> Result<MemberRef, JwtError> {
    Ok(MemberRef {
        organization_id: OrganizationId::parse(&organization.organization_id)
            .map_err(|_| JwtError::NoKind)?,
        member_id: MemberId::parse(sub).map_err(|_| JwtError::NoKind)?,
    })
}

/// No claim is no scope; a claim of another shape is no token.
fn scopes_of(claim: Option<&serde_json::Value>) -> Result<Scopes, JwtError> {
    match claim {
        None => Ok(Scopes::default()),
        Some(serde_json::Value::String(text)) => Ok(Scopes::parse(text)),
        Some(_) => Err(JwtError::NoKind),
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
