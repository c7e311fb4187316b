//! The lines of a request: what was asked and answered, what was decided and why, and what a shadow would have.
//!
//! Must not hold a query, a credential or a header value; every field is listed here and nowhere else.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

/// The access-log line of one request.
#[derive(Debug, Serialize)]
pub struct AccessRecord<'a> {
    pub log: &'static str,
    pub ts: Timestamp,
    pub request_id: &'a str,
    pub trace_id: &'a str,
    pub listener: &'a str,
    pub client_ip: String,
    pub protocol: &'static str,
    pub method: &'a str,
    pub host: &'a str,
    /// Canonical, without the query.
    pub path: &'a str,
    pub route: &'a str,
    pub status: u16,
    pub reason: Option<&'static str>,
    pub upstream: Option<&'a str>,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub duration_ms: f64,
    pub upstream_ms: Option<f64>,
    /// Whether the response reached its end.
    pub complete: bool,
}

/// The record of one decision.
#[derive(Debug, Serialize)]
pub struct DecisionRecord<'a> {
    pub log: &'static str,
    pub ts: Timestamp,
    pub request_id: &'a str,
    pub trace_id: &'a str,
    pub route: &'a str,
    /// What was asked, so that the decision can be explained later; nothing where the request was too malformed.
    pub method: Option<&'a str>,
    pub host: Option<&'a str>,
    /// Canonical, without the query.
    pub path: Option<&'a str>,
    pub client_ip: Option<IpAddr>,
    pub decision: &'static str,
    pub reason: Option<&'static str>,
    pub organization_id: Option<&'a str>,
    pub member_id: Option<&'a str>,
    /// The machine or app.
    pub client_id: Option<&'a str>,
    /// The last six characters: enough to find a session again, not enough to name it elsewhere.
    pub session: Option<&'a str>,
    /// `fresh`, `stale`, `stale_error` (past its time, because the directory fails), `jwt`, or `token` for a machine.
    pub evidence: Option<&'static str>,
    pub evidence_age_ms: Option<f64>,
    pub duration_us: f64,
}

/// The line about a request that a shadow requirement would have treated differently.
#[derive(Debug, Serialize)]
pub struct ShadowRecord<'a> {
    pub log: &'static str,
    pub ts: Timestamp,
    pub request_id: &'a str,
    pub trace_id: &'a str,
    pub route: &'a str,
    /// What was decided, and why it was refused.
    pub decision: &'static str,
    pub reason: Option<&'static str>,
    /// `would_refuse`, `would_allow`, or `other_reason` where both refuse.
    pub result: &'static str,
    /// What the shadow would have refused for.
    pub shadow_reason: Option<&'static str>,
    pub organization_id: Option<&'a str>,
    pub member_id: Option<&'a str>,
}

impl ShadowRecord<'_> {
    pub fn line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl AccessRecord<'_> {
    pub fn line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl DecisionRecord<'_> {
    pub fn line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The part of a session id that is recorded.
    pub fn session_tail(session_id: &str) -> &str {
        session_id.get(session_id.len().saturating_sub(6)..).unwrap_or_default()
    }
}

/// A duration in milliseconds with microsecond precision.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
