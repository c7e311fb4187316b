//! What a route asks and whether it is met: canonical path, route table, requirements, evaluation, decision.
//!
//! Pure. Only this module can make a `Permit`. It must not know which door asked or how evidence was fetched.

mod decision;
mod evaluate;
mod explain;
mod host;
mod path;
mod pattern;
mod reason;
mod requirement;
mod route;
mod truth;

pub use decision::{Caller, Challenge, Decision, Permit, Refusal, decide};
pub use explain::{Explanation, explain};
pub use host::{HostName, HostPattern, InvalidHost};
pub use path::{CanonicalPath, PathError};
pub use pattern::{InvalidPattern, PathPattern};
pub use reason::{Reason, Remedy};
pub use requirement::{ClaimRequirement, ClaimTest, FactorRequirement, Requirement};
pub use route::{Access, Freshness, Route, RouteMatch, RouteMiss, RouteTable};
pub use truth::Truth;
