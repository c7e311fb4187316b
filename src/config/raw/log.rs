//! Logs as they are written.
//!
//! Must not hold a rule; `checked` does.

use schemars::JsonSchema;
use serde::Deserialize;

/// Logs.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawLog {
    /// What the operational log on standard error holds: `error`, `warn`, `info`, `debug`, or a filter by module. Default: `info`.
    pub(in crate::config) level: Option<String>,
    /// `json` or `text`. Default: `json`.
    pub(in crate::config) format: Option<String>,
    /// Whether every request writes an access line and a decision record to standard output. Default: `true`.
    pub(in crate::config) access: Option<bool>,
    /// How those are written: `json`, `logfmt`, or `combined` as web servers do, which has no room for decision records. Default: `json`.
    pub(in crate::config) access_format: Option<String>,
    /// A stream of its own for decision records, of which it loses none.
    pub(in crate::config) audit: Option<RawAudit>,
}

/// The audit stream: each decision as a line of JSON, written before the decision is acted on.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawAudit {
    /// Appended to, and made if it is not there, readable by its owner alone. Opened by its name again on SIGHUP and `POST /admin/reload`. Or `/dev/stdout`, with `access: false`.
    pub(in crate::config) file: Option<String>,
    /// Whether a record counts as written only once the disk has it; for files only. Default: `false`.
    pub(in crate::config) sync: Option<bool>,
    /// How long a request waits for its record to be written, at most `10s`; then it is refused. Default: `2s`.
    pub(in crate::config) deadline: Option<String>,
}
