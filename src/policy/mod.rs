//! What a route asks and whether it is met: canonical path, route table, requirements, evaluation, decision.
//!
//! Pure. Only this module can make a `Permit`. It must not know which door asked or how evidence was fetched.

#![deny(clippy::wildcard_enum_match_arm)]

mod attribute;
mod contradiction;
mod decision;
mod evaluate;
mod explain;
mod host;
mod organization;
mod overlap;
mod path;
mod pattern;
mod proof;
mod rbac;
mod reason;
mod requirement;
mod route;
mod steps;
mod subject;
mod table;
mod truth;

pub use attribute::{AttributeFormat, IdentityAttribute};
pub use contradiction::contradiction;
pub use decision::{Caller, Decision, Permit, Presented, Refusal, decide, judge, names_needed};
pub use explain::{Explanation, explain};
pub use host::{HostName, HostPattern, InvalidHost};
pub use organization::NamesNeeded;
pub use path::{CanonicalPath, PathError, PathReading, PathText, Segments};
pub use pattern::{InvalidPattern, PathPattern};
pub use rbac::{Grants, OrganizationNames, OrganizationRoles, Permission, RbacPolicy};
pub use reason::{Reason, Remedy};
pub use requirement::{
    ClaimRequirement, ClaimTest, FactorRequirement, OrganizationFrom, OrganizationNaming, OrganizationPlace,
    PermissionRequirement, Requirement, Span,
};
pub use route::{Access, ForwardedCredentials, Freshness, LetterCase, Route, RouteMatch, WebSocketRule};
pub use steps::Challenge;
pub use subject::{Environment, Fact, Facts, Subject};
pub use table::{RouteMiss, RouteTable, Standing};
pub use truth::Truth;
