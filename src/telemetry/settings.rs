//! How much is logged and traced, already checked.
//!
//! Must not read anything: plain values only.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderMap;

/// The operational log and the access log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// A filter in the syntax of `tracing`: `info`, `portcullis=debug,warn`.
    pub filter: String,
    /// JSON for machines, plain lines for a terminal.
    pub json: bool,
    /// Whether access lines and decision records are written to standard output.
    pub access: bool,
}

/// Which traces are recorded, and the collector they are sent to.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceSettings {
    /// Where spans are posted, whole: `http://127.0.0.1:4318/v1/traces`.
    pub endpoint: String,
    /// Certificates to trust besides the others, in a PEM file.
    pub ca_file: Option<PathBuf>,
    /// Header fields sent along, such as the collector's key.
    pub headers: HeaderMap,
    /// How long one batch may take.
    pub timeout: Duration,
    /// The share of traces begun here that are recorded, from 0 to 1.
    pub sample_ratio: f64,
    /// Whether a trace that a listed proxy began is recorded exactly if it says so.
    pub follow_parent: bool,
    pub service_name: String,
    /// What else is said of this process with every batch.
    pub attributes: Vec<(String, String)>,
}
