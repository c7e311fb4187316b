//! The decision point: finds the route, the caller and the evidence, and has `policy` decide.
//!
//! Must not know which door asked, nor let any request be decided elsewhere.

mod access_request;
mod assertion;
mod authorize;
mod check;
mod evidence;
mod explain;
mod header_edits;
mod identify;
mod leases;
mod managed_names;
mod recent;
mod recheck;
mod record;
mod route;
mod settings;
mod snapshot;

pub use access_request::{AccessRequest, Page, Waits};
pub use assertion::{Assertions, KeyFailure};
pub use check::{Engine, Sources, Verdict};
pub use explain::{
    Asked, Considered, Held, Report, ReportedCaller, ReportedFact, ReportedRefusal, ReportedRoute,
};
pub use header_edits::{Fields, HeaderEdits};
pub use leases::Lease;
pub use managed_names::{ManagedNames, is_odd};
pub use settings::{AssertionSettings, EngineSettings, HeaderSettings, IdentityHeader};
pub use snapshot::{Rules, Snapshot, Ticket};
