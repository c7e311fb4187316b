//! What operators and their machines ask of the gateway itself: metrics, probes, the admin API.
//!
//! Must not answer on a traffic listener, nor say anything about a caller to whoever lacks the admin token.

mod api;
mod explain;
mod ops;
mod settings;

pub use api::AdminDoor;
pub use ops::{OpsDoor, Readiness};
pub use settings::AdminSettings;
