//! The decision point: finds the route, the caller and the evidence, and has `policy` decide.
//!
//! Must not know which door asked, nor let any request be decided elsewhere.

mod access_request;
mod check;
mod header_edits;
mod identify;
mod leases;
mod recheck;
mod route;
mod settings;
mod snapshot;

pub use access_request::AccessRequest;
pub use check::{Engine, Sources, Verdict};
pub use header_edits::{HeaderEdits, ManagedNames, encode_value};
pub use leases::Lease;
pub use settings::EngineSettings;
pub use snapshot::Snapshot;
