//! How much is logged, already checked.
//!
//! Must not read anything: plain values only.

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
