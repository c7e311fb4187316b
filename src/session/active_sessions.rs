//! The list of a member's active sessions, with the moment its lookup was sent.
//!
//! Must not merge sessions: whoever reads the list picks one.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::MemberSession;
use crate::identity::{MemberRef, Monotonic, Now, SessionId};

/// One answer of the directory about one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveSessions {
    pub member: MemberRef,
    pub sessions: Vec<Arc<MemberSession>>,
    /// When the lookup was sent, on both clocks.
    pub fetched_at: Now,
}

impl ActiveSessions {
    pub fn find(&self, session_id: &SessionId) -> Option<&Arc<MemberSession>> {
        self.sessions.iter().find(|session| session.session_id == *session_id)
    }

    pub fn age(&self, now: Monotonic) -> Duration {
        now.since(self.fetched_at.monotonic)
    }
}

/// What a decision may rest on: the list, or the directory's word that there is no such member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    Sessions(Arc<ActiveSessions>),
    /// No such member or organization, with the moment of the lookup.
    NoSuchMember(Now),
}

impl Evidence {
    pub fn fetched_at(&self) -> Now {
        match self {
            Self::Sessions(list) => list.fetched_at,
            Self::NoSuchMember(at) => *at,
        }
    }

    pub fn age(&self, now: Monotonic) -> Duration {
        now.since(self.fetched_at().monotonic)
    }

    /// Whether a credential made at `issued_at` may postdate this evidence (section 4.3: `iat` is truncated to whole
    /// seconds and clocks differ by up to `skew`).
    pub fn may_predate(&self, issued_at: Timestamp, skew: Duration) -> bool {
        let latest_issue = issued_at.saturating_add(skew + Duration::from_secs(1));
        latest_issue.is_ok_and(|date| date >= self.fetched_at().wall)
    }
}
