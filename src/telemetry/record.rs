//! The lines of a request: what was asked and answered, what was decided and why, and what a shadow would have.
//!
//! Must not hold a query, a credential or a header value, but for the two that the combined format has room for; every
//! field is listed here and nowhere else.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;

use super::line::{Fields, Key, key, opening};

/// What is written field by field, in whatever form.
pub(super) trait Record {
    fn write(&self, lines: &mut impl Fields);
}

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
    /// As the client sent it; only in the combined format, and there its origin alone.
    pub referrer: Option<&'a [u8]>,
    /// As the client sent it; only in the combined format.
    pub user_agent: Option<&'a [u8]>,
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
#[derive(Debug)]
pub struct ShadowRecord<'a> {
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

impl Record for ShadowRecord<'_> {
    fn write(&self, lines: &mut impl Fields) {
        lines
            .begin(opening!("shadow"), self.ts)
            .word(key!("request_id"), self.request_id)
            .word(key!("trace_id"), self.trace_id)
            .text(key!("route"), self.route)
            .word(key!("decision"), self.decision)
            .optional_word(key!("reason"), self.reason)
            .word(key!("result"), self.result)
            .optional_word(key!("shadow_reason"), self.shadow_reason)
            .optional_word(key!("organization_id"), self.organization_id)
            .optional_word(key!("member_id"), self.member_id);
    }
}

impl Record for AccessRecord<'_> {
    fn write(&self, lines: &mut impl Fields) {
        lines
            .begin(opening!("access"), self.at)
            .word(key!("request_id"), self.request_id)
            .word(key!("trace_id"), self.trace_id)
            .text(key!("listener"), self.listener)
            .word(key!("client_ip"), self.client_ip)
            .word(key!("protocol"), self.protocol)
            .word(key!("method"), self.method)
            .text(key!("host"), self.host)
            .text(key!("path"), self.path)
            .text(key!("route"), self.route)
            .number(key!("status"), self.status.into())
            .optional_word(key!("reason"), self.reason)
            .optional_text(key!("upstream"), self.upstream)
            .number(key!("request_bytes"), self.request_bytes)
            .number(key!("response_bytes"), self.response_bytes)
            .milliseconds(key!("duration_ms"), Some(self.took))
            .milliseconds(key!("upstream_ms"), self.upstream_took)
            .truth(key!("complete"), self.complete);
    }
}

impl Record for DecisionRecord<'_> {
    fn write(&self, lines: &mut impl Fields) {
        lines
            .begin(opening!("decision"), self.at)
            .word(key!("request_id"), self.request_id)
            .word(key!("trace_id"), self.trace_id)
            .text(key!("route"), self.route)
            .optional_text(key!("method"), self.method)
            .optional_text(key!("host"), self.host)
            .optional_text(key!("path"), self.path)
            .address(key!("client_ip"), self.client_ip)
            .word(key!("decision"), self.decision)
            .optional_word(key!("reason"), self.reason)
            .optional_word(key!("organization_id"), self.organization_id)
            .optional_word(key!("member_id"), self.member_id)
            .optional_word(key!("client_id"), self.client_id)
            .optional_word(key!("session"), self.session)
            .optional_word(key!("evidence"), self.evidence)
            .milliseconds(key!("evidence_age_ms"), self.evidence_age)
            .microseconds(key!("duration_us"), self.took);
    }
}

impl DecisionRecord<'_> {
    /// The part of a session id that is recorded.
    pub fn session_tail(session_id: &str) -> &str {
        session_id.get(session_id.len().saturating_sub(6)..).unwrap_or_default()
    }
}
