//! What the directory knows of a member: factors, sessions, the list of active ones, and that some ended.
//!
//! Pure. It must not know how the facts were fetched, nor what a route asks of them.

mod active_sessions;
mod factor;
mod member_session;
mod revocation;

pub use active_sessions::{ActiveSessions, Evidence};
pub use factor::{DeliveryMethod, Factor, FactorCategory, FactorKind};
pub use member_session::MemberSession;
pub use revocation::{Revocation, RevocationTarget};
