//! What the directory knows of a member: factors, sessions, the list of active ones, and that some ended.
//!
//! Pure. It must not know how the facts were fetched, nor what a route asks of them.

mod active_sessions;
mod factor;
mod member_session;
mod packed;
mod reading;
mod revocation;

pub use active_sessions::{ActiveSessions, Evidence, UnreadableRecord};
pub use factor::{DeliveryMethod, Factor, FactorCategory, FactorKind};
pub use member_session::{Claim, MemberSession};
pub use reading::{claims_at, read_date, read_factors, session_of_claims};
pub use revocation::{Revocation, RevocationTarget};
