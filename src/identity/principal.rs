//! The verified caller: a member, a machine, or an app that acts for a member.
//!
//! Must not be built from anything unverified: a `Principal` is the end of identification.

use std::sync::Arc;

use jiff::Timestamp;

use super::{ClientId, CredentialDigest, MemberRef, Monotonic, Now, Scopes, Secret, SessionId};

/// Who is calling, as far as a credential proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    Member(Arc<MemberPrincipal>),
    /// A machine, which has no organization; its token is its own evidence until it expires.
    Machine(Arc<MachineToken>),
    /// A connected app that acts for a member; what it may do is asked about again.
    App(Arc<AppToken>),
}

/// A member whose credential was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberPrincipal {
    pub member: MemberRef,
    pub bound: Bound,
    /// When the credential was made, if it says so: evidence older than this cannot refuse it.
    pub issued_at: Option<Timestamp>,
    /// When the directory said, by our own clock, that the session is alive: older evidence cannot deny it.
    pub seen_at: Option<Monotonic>,
}

/// Which of the member's sessions the caller may be judged on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// A session JWT or token is judged on its own session and no other.
    Session(SessionId),
    /// A trusted identity has no session of its own; any one active session may answer.
    AnySession,
}

/// A machine's access token (OAuth client credentials), verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineToken {
    pub client_id: ClientId,
    pub scopes: Scopes,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
}

/// A connected app's access token, verified. Whether its consent still stands is for introspection to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppToken {
    pub client_id: ClientId,
    pub member: MemberRef,
    pub scopes: Scopes,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    /// What introspection is asked with and what its answer is kept by.
    pub token: Secret,
    pub digest: CredentialDigest,
}

/// What introspection said of an app's token (RFC 7662).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introspection {
    pub active: bool,
    /// The scopes it still has, if that was said.
    pub scopes: Option<Scopes>,
    /// When it was asked, by both clocks.
    pub fetched_at: Now,
    /// How long the answer may be used on the route it was asked for.
    pub good_until: Monotonic,
}

impl Introspection {
    /// The token with the scopes it still has.
    pub fn narrow(&self, token: &Arc<AppToken>) -> Arc<AppToken> {
        match &self.scopes {
            Some(left) if *left != token.scopes => {
                Arc::new(AppToken { scopes: token.scopes.shared_with(left), ..(**token).clone() })
            }
            _ => Arc::clone(token),
        }
    }
}

impl From<MemberPrincipal> for Principal {
    fn from(principal: MemberPrincipal) -> Self {
        Self::Member(Arc::new(principal))
    }
}

impl MemberPrincipal {
    /// The one session it stands for, if it stands for one.
    pub fn session_id(&self) -> Option<&SessionId> {
        match &self.bound {
            Bound::Session(id) => Some(id),
            Bound::AnySession => None,
        }
    }
}

impl Principal {
    /// A member named by somebody, judged on any one active session.
    pub fn any_session_of(member: MemberRef) -> Self {
        MemberPrincipal { member, bound: Bound::AnySession, issued_at: None, seen_at: None }.into()
    }

    /// The member who calls or for whom an app does.
    pub fn member(&self) -> Option<&MemberRef> {
        match self {
            Self::Member(principal) => Some(&principal.member),
            Self::App(app) => Some(&app.member),
            Self::Machine(_) => None,
        }
    }

    /// The one session it stands for, if it stands for one.
    pub fn session_id(&self) -> Option<&SessionId> {
        match self {
            Self::Member(principal) => principal.session_id(),
            _ => None,
        }
    }

    /// Whether somebody else names the member, who showed no credential of their own.
    pub fn is_trusted(&self) -> bool {
        matches!(self, Self::Member(principal) if principal.bound == Bound::AnySession)
    }

    /// Whether two credentials of one request are the same caller's, as far as that can be told from them alone.
    ///
    /// A trusted identity names a member and no session, and may spell them otherwise: whether it is the session's member
    /// is for the directory to say.
    pub fn agrees_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Member(one), Self::Member(other)) => match (&one.bound, &other.bound) {
                (Bound::AnySession, Bound::AnySession) => one.member == other.member,
                (Bound::AnySession, _) | (_, Bound::AnySession) => true,
                (one, other) => one == other,
            },
            (Self::Machine(one), Self::Machine(other)) => one.client_id == other.client_id,
            (Self::App(one), Self::App(other)) => {
                (&one.client_id, &one.member) == (&other.client_id, &other.member)
            }
            _ => false,
        }
    }
}
