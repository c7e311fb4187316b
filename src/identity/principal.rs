//! The verified caller.
//!
//! Must not be built from anything unverified: a `Principal` is the end of identification.

use jiff::Timestamp;

use super::{MemberRef, Monotonic, SessionId};

/// A member whose credential was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
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
