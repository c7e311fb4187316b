//! Factors and custom claims out of the JSON they are written in: in an answer of the API and in a JWT alike.
//!
//! Must not lose a session to one odd factor.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Claim, DeliveryMethod, Factor, FactorKind, MemberSession};
use crate::identity::{MemberRef, SessionId};

/// Members of a JWT that are no custom claims (RFC 7519 section 4.1, and Stytch's own).
const RESERVED: [&str; 7] = ["aud", "exp", "iat", "iss", "jti", "nbf", "sub"];
const STYTCH: &str = "https://stytch.com/";

/// The factors of a session. One that cannot be read is kept as one that might have been anything; a session that
/// does not say what was proven may have been proven anyhow.
pub fn read_factors(factors: Option<&[&RawValue]>) -> Vec<Factor> {
    match factors {
        Some(factors) => factors.iter().map(|raw| read_factor(raw)).collect(),
        None => vec![unreadable_factor()],
    }
}

/// A date of RFC 3339. One past the end of our calendar is a date in the far future, and no fault of its writer.
pub fn read_date(text: &str) -> Option<Timestamp> {
    if let Ok(date) = text.parse() {
        return Some(date);
    }
    let (year, rest) = text.strip_prefix('+').unwrap_or(text).split_once('-')?;
    let is_far = year.len() >= 4 && year.bytes().all(|byte| byte.is_ascii_digit()) && *year >= *"9999";
    let is_longer = year.trim_start_matches('0').len() > 4;
    // The same day and time in a year that is ours shows whether it is a date at all.
    let is_date = (is_far || is_longer) && format!("2000-{rest}").parse::<Timestamp>().is_ok();
    is_date.then_some(Timestamp::MAX)
}

/// What is at each of the pointers, absences included.
pub fn claims_at(pointers: &[Arc<str>], claims: Option<&Value>) -> Vec<Claim> {
    let at = |pointer: &Arc<str>| Claim {
        pointer: Arc::clone(pointer),
        value: claims.and_then(|claims| claims.pointer(pointer)).cloned(),
    };
    pointers.iter().map(at).collect()
}

/// The session a verified JWT is about, as its own claims tell it; nothing if they do not tell enough.
///
/// `payload` is the JWT's claims set. `expires_at` of the session claim may be missing in older tokens; then `expiry`,
/// the JWT's own, holds.
pub fn session_of_claims(
    payload: &[u8],
    member: &MemberRef,
    session_id: &SessionId,
    expiry: Timestamp,
    pointers: &[Arc<str>],
) -> Option<MemberSession> {
    let claims: WireClaims<'_> = serde_json::from_slice(payload).ok()?;
    let custom = if pointers.is_empty() {
        None
    } else {
        let all: Value = serde_json::from_slice(payload).ok()?;
        let Value::Object(mut all) = all else { return None };
        all.retain(|name, _| !RESERVED.contains(&name.as_str()) && !name.starts_with(STYTCH));
        Some(Value::Object(all))
    };
    let date = |text: &Option<String>| text.as_deref().and_then(read_date);
    Some(MemberSession {
        session_id: session_id.clone(),
        member: member.clone(),
        organization_slug: claims.organization.slug.map(Arc::from),
        started_at: date(&claims.session.started_at),
        expires_at: match &claims.session.expires_at {
            Some(text) => read_date(text)?,
            None => expiry,
        },
        roles: claims.session.roles.map(|roles| roles.into_iter().map(Arc::from).collect()),
        factors: read_factors(claims.session.authentication_factors.as_deref()),
        claims: claims_at(pointers, custom.as_ref()),
    })
}

#[derive(Deserialize)]
struct WireClaims<'a> {
    #[serde(rename = "https://stytch.com/session", borrow)]
    session: WireSession<'a>,
    #[serde(rename = "https://stytch.com/organization")]
    organization: WireOrganization,
}

#[derive(Deserialize)]
struct WireSession<'a> {
    started_at: Option<String>,
    expires_at: Option<String>,
    roles: Option<Vec<String>>,
    #[serde(borrow, default)]
    authentication_factors: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct WireOrganization {
    slug: Option<String>,
}

#[derive(Deserialize)]
struct WireFactor {
    #[serde(rename = "type")]
    kind: String,
    delivery_method: Option<String>,
    last_authenticated_at: Option<String>,
    /// Everything else; the sub-object is found by what it holds, since its name varies between sources.
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

fn read_factor(raw: &RawValue) -> Factor {
    match serde_json::from_str::<WireFactor>(raw.get()) {
        Ok(factor) => factor.into_factor(),
        Err(_) => unreadable_factor(),
    }
}

fn unreadable_factor() -> Factor {
    Factor {
        kind: FactorKind::Unreadable,
        delivery: DeliveryMethod::untold(),
        last_authenticated_at: None,
        connection_id: None,
        email: None,
        impersonator: None,
    }
}

impl WireFactor {
    fn into_factor(self) -> Factor {
        let text = |object: &str, key: &str| {
            let value = self.rest.get(object)?.get(key)?.as_str()?;
            Some(Arc::from(value))
        };
        Factor {
            connection_id: text("saml_sso_factor", "provider_id")
                .or_else(|| text("oidc_sso_factor", "provider_id")),
            email: text("email_factor", "email_address"),
            impersonator: text("impersonated_factor", "impersonator_email_address")
                .or_else(|| text("impersonated_factor", "impersonator_id")),
            last_authenticated_at: self.last_authenticated_at.as_deref().and_then(read_date),
            delivery: self
                .delivery_method
                .as_deref()
                .map_or_else(DeliveryMethod::untold, DeliveryMethod::new),
            kind: FactorKind::from_name(&self.kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_past_the_calendar_is_in_the_far_future_and_nonsense_is_none() {
        for far in [
            "9999-12-31T23:59:59Z",
            "+12026-01-01T00:00:00Z",
            "10000-01-01T00:00:00.5+02:00",
            "99999-02-03T04:05:06Z",
        ] {
            assert_eq!(read_date(far), Some(Timestamp::MAX), "{far}");
        }
        assert_eq!(read_date("2026-01-01T00:00:00Z"), "2026-01-01T00:00:00Z".parse().ok());
        for nonsense in [
            "",
            "soon",
            "9999-13-01T00:00:00Z",
            "10000-01-01",
            "2026-02-30T00:00:00Z",
            "-9999-01-01T00:00:00Z",
        ] {
            assert_eq!(read_date(nonsense), None, "{nonsense}");
        }
    }
}
