//! What operators and their machines ask of the gateway itself: metrics, probes, the status page, the admin API.
//!
//! Must not answer on a traffic listener, nor say anything about a caller to whoever lacks the admin token.

mod access;
mod answer;
mod api;
mod calls;
mod configuration;
mod explain;
mod history;
mod ops;
mod page;
mod settings;
mod status;
mod vitals;

pub use api::{AdminDoor, Controls, RefusedAtTheDoor, ReloadSender};
pub use configuration::{Change, ConfigurationState, ConfigurationStatus, Resolved};
pub use ops::OpsDoor;
pub use settings::{AdminSettings, OpsSettings, ProbeSettings};
pub use vitals::{Probe, Readiness, Vitals};
