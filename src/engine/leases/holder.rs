//! Whose a stream is, as far as events and looks concern them.
//!
//! Must not hold anything of the request.

use crate::identity::{ClientId, MemberId, OrganizationId, SessionId};
use crate::policy::Subject;

/// Whom streams are kept by: a member, for whom apps act as well, or a machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::engine) enum HolderId {
    Member(MemberId),
    Machine(ClientId),
}

/// Whose a stream is.
pub(super) struct Holder {
    pub(super) id: HolderId,
    pub(super) organization_id: Option<OrganizationId>,
    pub(super) session_id: Option<SessionId>,
}

impl Holder {
    pub(super) fn of(subject: &Subject) -> Self {
        let id = match subject {
            Subject::Machine(token) => HolderId::Machine(token.client_id.clone()),
            Subject::Member(session) => HolderId::Member(session.member.member_id.clone()),
            Subject::App(token) => HolderId::Member(token.member.member_id.clone()),
        };
        Self {
            id,
            organization_id: subject.member().map(|member| member.organization_id.clone()),
            session_id: subject.session().map(|session| session.session_id.clone()),
        }
    }
}
