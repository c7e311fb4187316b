//! The lines of a request: what was asked and answered, what was decided and why, and what a shadow would have.
//!
//! Must not hold a query, a credential or a header value; every field is listed here and nowhere else.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::json_line::JsonLine;

/// The access-log line of one request.
#[derive(Debug)]
pub struct AccessRecord<'a> {
    pub at: Timestamp,
    pub request_id: &'a str,
    pub trace_id: &'a str,
    pub listener: &'a str,
    pub client_ip: &'a str,
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
    pub took: Duration,
    pub upstream_took: Option<Duration>,
    /// Whether the response reached its end.
    pub complete: bool,
}

/// The record of one decision.
#[derive(Debug)]
pub struct DecisionRecord<'a> {
    pub at: Timestamp,
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
    pub evidence_age: Option<Duration>,
    pub took: Duration,
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
        JsonLine::begin("access", self.at)
            .text("request_id", self.request_id)
            .text("trace_id", self.trace_id)
            .text("listener", self.listener)
            .text("client_ip", self.client_ip)
            .text("protocol", self.protocol)
            .text("method", self.method)
            .text("host", self.host)
            .text("path", self.path)
            .text("route", self.route)
            .number("status", self.status.into())
            .optional("reason", self.reason)
            .optional("upstream", self.upstream)
            .number("request_bytes", self.request_bytes)
            .number("response_bytes", self.response_bytes)
            .milliseconds("duration_ms", Some(self.took))
            .milliseconds("upstream_ms", self.upstream_took)
            .truth("complete", self.complete)
            .end()
    }
}

impl DecisionRecord<'_> {
    pub fn line(&self) -> String {
        JsonLine::begin("decision", self.at)
            .text("request_id", self.request_id)
            .text("trace_id", self.trace_id)
            .text("route", self.route)
            .optional("method", self.method)
            .optional("host", self.host)
            .optional("path", self.path)
            .optional("client_ip", self.client_ip.map(|address| address.to_string()).as_deref())
            .text("decision", self.decision)
            .optional("reason", self.reason)
            .optional("organization_id", self.organization_id)
            .optional("member_id", self.member_id)
            .optional("client_id", self.client_id)
            .optional("session", self.session)
            .optional("evidence", self.evidence)
            .milliseconds("evidence_age_ms", self.evidence_age)
            .microseconds("duration_us", self.took)
            .end()
    }

    /// The part of a session id that is recorded.
    pub fn session_tail(session_id: &str) -> &str {
        session_id.get(session_id.len().saturating_sub(6)..).unwrap_or_default()
    }
}
