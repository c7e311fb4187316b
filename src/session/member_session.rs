//! One session of one member, as the directory last told it.
//!
//! Must not hold a token: the directory's list has none, and nothing here needs one.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Factor, FactorKind};
use crate::identity::{MemberRef, SessionId};

/// A member's session (Stytch B2B API, MemberSession).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberSession {
    pub session_id: SessionId,
    /// The canonical ids, as the directory spells them.
    pub member: MemberRef,
    /// Absent in answers of older API versions.
    pub organization_slug: Option<Arc<str>>,
    pub started_at: Option<Timestamp>,
    pub expires_at: Timestamp,
    /// The session's own roles. `None` when the answer had none to read: unknown, not empty.
    pub roles: Option<Vec<Arc<str>>>,
    pub factors: Vec<Factor>,
    /// The custom claims that the configuration asks about.
    pub claims: Vec<Claim>,
}

/// What a session holds at one place of its custom claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// RFC 6901.
    pub pointer: Arc<str>,
    /// `None` where nothing is there.
    pub value: Option<serde_json::Value>,
}

impl MemberSession {
    /// What is at `pointer`, if it was asked about when the session was read.
    pub fn claim(&self, pointer: &str) -> Option<&Claim> {
        self.claims.iter().find(|claim| &*claim.pointer == pointer)
    }

    pub fn is_live(&self, now: Timestamp) -> bool {
        self.expires_at > now
    }

    /// The address of the first factor that carries one.
    pub fn email(&self) -> Option<&str> {
        self.factors.iter().find_map(|factor| factor.email.as_deref())
    }

    /// Who acts as this member, when somebody does.
    pub fn impersonator(&self) -> Option<&str> {
        self.factors
            .iter()
            .find(|factor| factor.kind == FactorKind::Impersonated)
            .map(|factor| factor.impersonator.as_deref().unwrap_or("unknown"))
    }
}
