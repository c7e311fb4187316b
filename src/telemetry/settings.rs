//! How much is logged and traced, already checked.
//!
//! Must not read anything: plain values only.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::HeaderMap;

/// The operational log and the access log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// A filter in the syntax of `tracing`: `info`, `portcullis=debug,warn`.
    pub filter: String,
    /// JSON for machines, plain lines for a terminal.
    pub json: bool,
    /// The form of access lines and decision records on standard output, if any are written.
    pub access: Option<LineFormat>,
    /// Where decision records go that must not be lost, if anywhere: then they are in no other stream.
    pub audit: Option<AuditSettings>,
}

/// The form of lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LineFormat {
    #[default]
    Json,
    Logfmt,
    /// As web servers write it: access lines alone, for it has no room for decisions.
    Combined,
}

impl FromStr for LineFormat {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "json" => Ok(Self::Json),
            "logfmt" => Ok(Self::Logfmt),
            "combined" => Ok(Self::Combined),
            _ => Err(()),
        }
    }
}

/// The stream of decision records that drops none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSettings {
    /// Appended to; made if it is not there, readable by its owner alone. Standard output if there is none.
    pub file: Option<PathBuf>,
    /// Whether a record counts as written only once the disk has it.
    pub sync: bool,
    /// How long a request waits for its record to be written before it is refused.
    pub deadline: Duration,
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
