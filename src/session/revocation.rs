//! That something ended: a session, a member's sessions, or an organization's.
//!
//! Must not say who is to be told; it is one value, whatever source it came from.

use crate::identity::{MemberId, Now, OrganizationId, SessionId};

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
