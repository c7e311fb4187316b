//! That something ended: a session, a member's sessions, or an organization's.
//!
//! Must not say who is to be told; it is one value, whatever source it came from.

use super::MemberSession;
use crate::identity::{MemberId, MemberRef, Monotonic, Now, OrganizationId, SessionId};

/// A revocation and when it was learnt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    pub target: RevocationTarget,
    pub at: Now,
}

/// What was revoked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RevocationTarget {
    Session(SessionId),
    /// A member id is enough: the directory's own notices carry no organization.
    Member(MemberId),
    Organization(OrganizationId),
}

impl RevocationTarget {
    /// Whether the whole list of `member` is outranked.
    pub fn covers_member(&self, member: &MemberRef) -> bool {
        match self {
            Self::Session(_) => false,
            Self::Member(member_id) => *member_id == member.member_id,
            Self::Organization(organization_id) => *organization_id == member.organization_id,
        }
    }

    pub fn covers_session(&self, session: &MemberSession) -> bool {
        match self {
            Self::Session(session_id) => *session_id == session.session_id,
            other => other.covers_member(&session.member),
        }
    }
}

impl Revocation {
    /// Evidence whose lookup was sent at or before this revocation cannot know of it.
    pub fn outranks(&self, lookup_sent: Monotonic) -> bool {
        lookup_sent <= self.at.monotonic
    }
}
