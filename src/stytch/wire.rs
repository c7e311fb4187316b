//! Reading the API's JSON into session values, leniently where the reference says the API varies.
//!
//! Must not lose a session to one odd factor, nor take an answer about somebody else.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::directory::{DirectoryError, Spelling, TokenBinding};
use crate::identity::{MemberId, MemberRef, Now, OrganizationId, SessionId};
use crate::session::{ActiveSessions, DeliveryMethod, Factor, FactorKind, MemberSession};

/// Reads `GET /v1/b2b/sessions`. Ids come from the answer; one that names somebody else than asked is a fault.
pub fn read_session_list(
    body: &[u8],
    asked: &MemberRef,
    spelling: Spelling,
    sent: Now,
) -> Result<Arc<ActiveSessions>, DirectoryError> {
    let answer: ListAnswer<'_> = serde_json::from_slice(body).map_err(malformed)?;
    tracing::debug!(request_id = printable(answer.request_id.as_deref()), "session list read");
    let sessions = answer.member_sessions.into_iter().map(WireSession::into_session);
    let sessions = sessions.collect::<Result<Vec<_>, _>>()?;
    let member = match sessions.first() {
        None => asked.clone(),
        Some(first) => {
            if sessions.iter().any(|session| session.member != first.member) || !names(first, asked, spelling)
            {
                return Err(DirectoryError::Mismatched);
            }
            first.member.clone()
        }
    };
    let sessions = sessions.into_iter().map(Arc::new).collect();
    Ok(Arc::new(ActiveSessions { member, sessions, fetched_at: sent }))
}

/// Reads `POST /v1/b2b/sessions/authenticate`: only whose session it is, since the list is the evidence.
pub fn read_token_owner(body: &[u8], sent: Now) -> Result<TokenBinding, DirectoryError> {
    let answer: AuthenticateAnswer<'_> = serde_json::from_slice(body).map_err(malformed)?;
    tracing::debug!(request_id = printable(answer.request_id.as_deref()), "token resolved");
    let session = answer.member_session.into_session()?;
    Ok(TokenBinding {
        member: session.member,
        session_id: session.session_id,
        expires_at: session.expires_at,
        resolved_at: sent,
    })
}

/// The parts of an error answer that say what happened.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ApiError {
    error_type: Option<String>,
    request_id: Option<String>,
}

impl ApiError {
    /// An answer that is not JSON gives an error of no known type.
    pub(super) fn read(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }

    pub(super) fn is_any(&self, kinds: &[&str]) -> bool {
        self.error_type.as_deref().is_some_and(|kind| kinds.contains(&kind))
    }

    /// For the log: printable and short, since the far end chose it.
    pub(super) fn kind(&self) -> String {
        printable(self.error_type.as_deref())
    }

    pub(super) fn request_id(&self) -> String {
        printable(self.request_id.as_deref())
    }
}

#[derive(Deserialize)]
struct ListAnswer<'a> {
    #[serde(borrow)]
    member_sessions: Vec<WireSession<'a>>,
    request_id: Option<String>,
}

#[derive(Deserialize)]
struct AuthenticateAnswer<'a> {
    #[serde(borrow)]
    member_session: WireSession<'a>,
    request_id: Option<String>,
}

#[derive(Deserialize)]
struct WireSession<'a> {
    member_session_id: String,
    member_id: String,
    organization_id: String,
    organization_slug: Option<String>,
    started_at: Option<String>,
    expires_at: String,
    roles: Option<Vec<String>>,
    #[serde(borrow, default)]
    authentication_factors: Option<Vec<&'a RawValue>>,
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

impl WireSession<'_> {
    fn into_session(self) -> Result<MemberSession, DirectoryError> {
        let bad = |what: &str| DirectoryError::Malformed(format!("a session has no usable {what}"));
        Ok(MemberSession {
            session_id: SessionId::parse(&self.member_session_id).map_err(|_| bad("member_session_id"))?,
            member: MemberRef {
                organization_id: OrganizationId::parse(&self.organization_id)
                    .map_err(|_| bad("organization_id"))?,
                member_id: MemberId::parse(&self.member_id).map_err(|_| bad("member_id"))?,
            },
            organization_slug: self.organization_slug.map(Arc::from),
            started_at: self.started_at.as_deref().and_then(|date| date.parse().ok()),
            expires_at: self.expires_at.parse().map_err(|_| bad("expires_at"))?,
            roles: self.roles.map(|roles| roles.into_iter().map(Arc::from).collect()),
            // A session that does not say what was proven may have been proven anyhow.
            factors: match self.authentication_factors {
                Some(factors) => factors.iter().map(|raw| read_factor(raw)).collect(),
                None => vec![unreadable_factor()],
            },
        })
    }
}

/// A factor that cannot be read is kept as one that might have been anything.
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
            last_authenticated_at: self
                .last_authenticated_at
                .as_deref()
                .and_then(|date| date.parse::<Timestamp>().ok()),
            delivery: self
                .delivery_method
                .as_deref()
                .map_or_else(DeliveryMethod::untold, DeliveryMethod::new),
            kind: FactorKind::from_name(&self.kind),
        }
    }
}

/// Whether the answer is about whom we asked for.
fn names(session: &MemberSession, asked: &MemberRef, spelling: Spelling) -> bool {
    if session.member == *asked {
        return true;
    }
    // Written by somebody: a slug or external id resolves to another spelling, but an id of the directory's own
    // shape must come back as it went out.
    let may_stand_for = |written: &str, id: &str, shape: &str| written == id || !written.starts_with(shape);
    spelling == Spelling::AsWritten
        && (may_stand_for(
            asked.organization_id.as_str(),
            session.member.organization_id.as_str(),
            "organization-",
        ))
        && may_stand_for(asked.member_id.as_str(), session.member.member_id.as_str(), "member-")
}

fn malformed(error: serde_json::Error) -> DirectoryError {
    DirectoryError::Malformed(format!("line {} column {}", error.line(), error.column()))
}

fn printable(text: Option<&str>) -> String {
    text.unwrap_or("none").chars().filter(|letter| letter.is_ascii_graphic()).take(80).collect()
}

#[cfg(test)]
mod tests;
