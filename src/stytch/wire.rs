//! Reading the API's JSON into session values, leniently where the reference says the API varies.
//!
//! Must not lose a session to one odd factor, nor take an answer about somebody else.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::directory::{DirectoryError, Spelling, TokenBinding};
use crate::identity::{MemberId, MemberRef, Now, OrganizationId, SessionId};
use crate::session::{ActiveSessions, MemberSession, claims_at, read_date, read_factors};

/// Reads `GET /v1/b2b/sessions`. Ids come from the answer; one that names somebody else than asked is a fault.
///
/// Of the custom claims only what is at `pointers` is kept.
pub fn read_session_list(
    body: &[u8],
    asked: &MemberRef,
    spelling: Spelling,
    sent: Now,
    pointers: &[Arc<str>],
) -> Result<Arc<ActiveSessions>, DirectoryError> {
    let answer: ListAnswer<'_> = serde_json::from_slice(body).map_err(malformed)?;
    tracing::debug!(request_id = printable(answer.request_id.as_deref()), "session list read");
    let sessions = answer.member_sessions.into_iter().map(|session| session.into_session(pointers));
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
    Ok(Arc::new(ActiveSessions::new(member, &sessions, sent)))
}

/// Reads `POST /v1/b2b/sessions/authenticate`: only whose session it is, since the list is the evidence.
pub fn read_token_owner(body: &[u8], sent: Now) -> Result<TokenBinding, DirectoryError> {
    let answer: AuthenticateAnswer<'_> = serde_json::from_slice(body).map_err(malformed)?;
    tracing::debug!(request_id = printable(answer.request_id.as_deref()), "token resolved");
    let session = answer.member_session.into_session(&[])?;
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
    /// What its OAuth endpoints answer in place of a type (RFC 6749 section 5.2).
    error: Option<String>,
}

/// The errors of OAuth that an introspection is refused with.
const OAUTH_ERRORS: [&str; 4] = ["invalid_client", "invalid_request", "invalid_token", "unauthorized_client"];

impl ApiError {
    /// An answer that is not JSON gives an error of no known type.
    pub(super) fn read(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }

    pub(super) fn is_any(&self, kinds: &[&str]) -> bool {
        self.error_type.as_deref().is_some_and(|kind| kinds.contains(&kind))
    }

    /// Whether the answer has the shape that the API gives its errors: what an edge or a proxy in between answers has not.
    pub(super) fn is_the_apis(&self) -> bool {
        self.error_type.is_some() || self.error.as_deref().is_some_and(|error| OAUTH_ERRORS.contains(&error))
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
    #[serde(borrow, default)]
    custom_claims: Option<&'a RawValue>,
}

impl WireSession<'_> {
    fn into_session(self, pointers: &[Arc<str>]) -> Result<MemberSession, DirectoryError> {
        let bad = |what: &str| DirectoryError::Malformed(format!("a session has no usable {what}"));
        Ok(MemberSession {
            session_id: SessionId::parse(&self.member_session_id).map_err(|_| bad("member_session_id"))?,
            member: MemberRef {
                organization_id: OrganizationId::parse(&self.organization_id)
                    .map_err(|_| bad("organization_id"))?,
                member_id: MemberId::parse(&self.member_id).map_err(|_| bad("member_id"))?,
            },
            organization_slug: self.organization_slug.map(Arc::from),
            started_at: self.started_at.as_deref().and_then(read_date),
            expires_at: read_date(&self.expires_at).ok_or_else(|| bad("expires_at"))?,
            roles: self.roles.map(|roles| roles.into_iter().map(Arc::from).collect()),
            factors: read_factors(self.authentication_factors.as_deref()),
            claims: match pointers {
                [] => Vec::new(),
                pointers => match self.custom_claims.map(|raw| serde_json::from_str::<Value>(raw.get())) {
                    Some(Ok(claims)) => claims_at(pointers, Some(&claims)),
                    None => claims_at(pointers, None),
                    // What cannot be read may hold anything: unknown, not absent.
                    Some(Err(_)) => Vec::new(),
                },
            },
        })
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
