//! The record of a decision: what was found out on the way to it, counted and written once.
//!
//! Must not decide anything, nor hold a credential.

use std::sync::Arc;
use std::time::Duration;

use super::AccessRequest;
use super::check::Engine;
use super::identify::CredentialRejection;
use super::recent::RecentToken;
use crate::identity::{Introspection, MemberRef, Now, Principal, SessionId};
use crate::policy::{Decision, Facts, Reason, Route};
use crate::session::{ActiveSessions, Evidence};
use crate::telemetry::{
    AuditEntry, AuditLog, DecisionRecord, PendingRecord, RefusalRecord, RequestId, RouteMetrics,
    ShadowRecord, Span, TraceContext,
};

/// How a shadow requirement would have decided, against how it was decided.
pub(super) struct ShadowDifference {
    pub(super) result: &'static str,
    /// What it would have been refused for.
    pub(super) reason: Option<Reason>,
    /// What it was refused for.
    pub(super) enforced: Option<Reason>,
}

/// What was found out on the way to a decision.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) route: Option<Arc<Route>>,
    pub(super) principal: Option<Principal>,
    pub(super) evidence: Option<Evidence>,
    pub(super) introspection: Option<Introspection>,
    pub(super) facts: Facts,
    pub(super) shadow: Option<ShadowDifference>,
    pub(super) vouched: Option<Arc<ActiveSessions>>,
    /// `Authorization` carried a credential of theirs.
    pub(super) by_authorization: bool,
    /// The JWT they showed.
    pub(super) recent: Option<Arc<RecentToken>>,
    pub(super) rejections: Vec<CredentialRejection>,
    /// The member whom a trusted peer named besides.
    pub(super) named: Option<MemberRef>,
    /// The member the directory found, in its own spelling, and the session that answered.
    pub(super) found: Option<(MemberRef, SessionId)>,
    /// The clock, where nothing was waited for since it was read.
    pub(super) reading: Option<Now>,
    /// When it was that an open stream's turn came to be asked about again: what was learnt before will not do unless
    /// it is fresh, and one answer will do for all streams of a member.
    pub(super) asked_again: Option<Now>,
}

impl Findings {
    /// Whose doing it is: as the directory spells them, if it found them.
    fn member(&self) -> Option<&MemberRef> {
        let found = self.found.as_ref().map(|(member, _)| member);
        found.or_else(|| self.principal.as_ref().and_then(Principal::member))
    }

    /// The age of the oldest lookup that the decision rested on.
    fn evidence_age(&self, now: Now) -> Option<Duration> {
        let introspected = self.introspection.as_ref();
        let introspected = introspected.map(|asked| now.monotonic.since(asked.fetched_at.monotonic));
        let own = self.evidence.as_ref().map(|evidence| evidence.age(now.monotonic)).or(introspected);
        let requirement = self.route.as_ref().and_then(|route| route.access.requirement());
        let of_facts = requirement.and_then(|asked| self.facts.oldest_age(asked, now.monotonic));
        own.max(of_facts)
    }

    /// What the decision rested on, by how old it was for its route.
    fn kind_of_evidence(&self, now: Now) -> Option<&'static str> {
        if matches!(self.principal, Some(Principal::Machine(_))) {
            return Some("token");
        }
        let age = self.evidence_age(now)?;
        let freshness = self.route.as_ref()?.freshness;
        Some(match self.evidence {
            Some(Evidence::Vouched(_)) => "jwt",
            _ if age <= freshness.fresh_for => "fresh",
            _ if age <= freshness.max_staleness => "stale",
            _ => "stale_error",
        })
    }
}

impl Findings {
    /// Whether what was decided is as good now as it was then: what it rests on grew older meanwhile, and sessions end.
    fn still_allows(&self, decision: &Decision, now: Now) -> bool {
        let Decision::Allow(permit) = decision else { return true };
        let Some(caller) = permit.caller() else { return true };
        if caller.subject.expires_at() <= now.wall {
            return false;
        }
        let (Some(age), Some(route)) = (self.evidence_age(now), &self.route) else { return true };
        let freshness = route.freshness;
        // Past its time, or by the caller's own claims, it was served because the directory fails.
        let bridged = matches!(self.evidence, Some(Evidence::Vouched(_)))
            || caller.evidence_age > freshness.max_staleness;
        let more = if bridged { freshness.stale_if_error } else { Duration::ZERO };
        age <= freshness.max_staleness.saturating_add(more)
    }

    /// Ends the span of a decision with what came of it. Who it was about is the decision record's to say.
    pub(super) fn tell(&self, mut span: Span, decision: &Decision, now: Now) {
        span.note_some("portcullis.route", self.route.as_ref().map(|route| route.name.to_string()));
        match decision {
            Decision::Allow(_) => span.note("portcullis.decision", "allow"),
            Decision::Refuse(refusal) => {
                span.note("portcullis.decision", "refuse");
                span.note("portcullis.reason", refusal.reason.code());
            }
        }
        span.note_some("portcullis.evidence", self.kind_of_evidence(now));
        span.note_some("portcullis.evidence_age", self.evidence_age(now));
    }
}

/// What was asked for, as far as it is recorded.
pub(super) struct Asked<'a> {
    pub(super) request_id: &'a RequestId,
    pub(super) trace: &'a TraceContext,
    /// Method, host and canonical path.
    pub(super) target: Option<(&'a str, &'a str, &'a str)>,
    pub(super) client_ip: Option<std::net::IpAddr>,
}

impl<'a> From<&AccessRequest<'a>> for Asked<'a> {
    fn from(request: &AccessRequest<'a>) -> Self {
        Self {
            request_id: request.request_id,
            trace: request.trace,
            target: Some((request.method.as_str(), request.host.as_str(), request.path.as_str())),
            client_ip: request.client_ip,
        }
    }
}

impl Engine {
    /// Counts and records a refusal of a request that was too malformed to be decided on, and gives what it is refused for:
    /// another thing where there is no place for the record. Nobody waits for that to be written.
    pub fn record_refusal(&self, request_id: &RequestId, trace: &TraceContext, reason: Reason) -> Reason {
        let entry = self.records.audit.as_ref().map(AuditLog::reserve_at_the_door);
        let reason = if matches!(entry, Some(None)) { Reason::AuditUnavailable } else { reason };
        let asked = Asked { request_id, trace, target: None, client_ip: None };
        let findings = Findings::default();
        let now = self.clock.now();
        let decided =
            Decided { asked: &asked, reason: Some(reason), findings: &findings, took: Duration::ZERO, now };
        drop(self.write(entry.flatten(), &decided));
        self.count(&decided);
        reason
    }

    /// A place for the record of one decision, where such records must not be lost.
    pub(super) async fn reserve_record(&self) -> Result<Option<AuditEntry>, Reason> {
        match &self.records.audit {
            Some(audit) => audit.reserve().await.map(Some).ok_or(Reason::AuditUnavailable),
            None => Ok(None),
        }
    }

    /// Records a decision, allowed or refused for a reason. What comes back is to be waited for before anything is done about
    /// it.
    pub(super) fn write(&self, entry: Option<AuditEntry>, decided: &Decided<'_>) -> Option<PendingRecord> {
        match (&self.records.audit, entry) {
            (Some(_), Some(entry)) => Some(entry.record(&decided.record())),
            // It is refused for want of a place, and there is none to say so.
            (Some(_), None) => None,
            (None, _) => {
                if self.records.lines.takes_decisions() {
                    self.records.lines.decision(&decided.record());
                }
                None
            }
        }
    }

    /// Waits for the record of `decision`, and says what became of it. Counts it, also if nobody waits any more; but not what
    /// is to be decided again.
    pub(super) async fn await_record(
        &self,
        pending: PendingRecord,
        decided: Decided<'_>,
        decision: &Decision,
        happened: impl Fn() -> bool,
        is_last: bool,
    ) -> Recorded {
        let mut counted = Counted { engine: self, decided: Some(decided) };
        let written = pending.written().await;
        let Some(decided) = &mut counted.decided else { return Recorded::Stands };
        let now = self.clock.now();
        // The second time an event alone overrules nothing: where events come without a pause nobody would get in. The
        // lease, which is older than both, finds it as it does where no record is waited for.
        let is_outdated = decided.reason.is_none()
            && (!is_last && happened() || !decided.findings.still_allows(decision, now));
        match (written, is_outdated) {
            (true, false) => return Recorded::Stands,
            (true, true) if !is_last => {
                counted.decided = None;
                return Recorded::Outdated;
            }
            _ => {}
        }
        decided.reason = Some(Reason::AuditUnavailable);
        if let Some(audit) = &self.records.audit {
            audit.append(&decided.record());
        }
        Recorded::Overruled
    }

    /// Counts a decision, once.
    pub(super) fn count(&self, decided: &Decided<'_>) {
        let &Decided { asked, reason, findings, took, now } = decided;
        // A decision that could not be recorded is compared with nothing.
        if reason != Some(Reason::AuditUnavailable) {
            self.record_shadow(decided);
        }
        let route = findings.route.as_ref().map_or("none", |route| &*route.name);
        match (&findings.route, reason) {
            (Some(route), None) => RouteMetrics::with(&self.metrics, &route.name, |metrics| {
                metrics.allowed.inc();
                metrics.decision_duration.observe(took.as_secs_f64());
            }),
            _ => {
                let code = reason.map(Reason::code).unwrap_or_default();
                let outcome = reason.map_or("allow", |_| "refuse");
                self.metrics.decisions.with_label_values(&[route, outcome, code]).inc();
                self.metrics.decision_duration.with_label_values(&[route]).observe(took.as_secs_f64());
            }
        }
        if let (None, Some(age)) = (reason, findings.evidence_age(now)) {
            self.metrics.evidence_age.observe(age.as_secs_f64());
        }
        if let (Some(refusals), Some(reason)) = (self.refusals.get(), reason) {
            refusals.note(|| told(asked, reason, route, findings, now));
        }
    }

    /// Records that an open stream was ended.
    pub(super) fn record_end(&self, asked: &Asked<'_>, reason: Reason, findings: &Findings) {
        let decided =
            Decided { asked, reason: Some(reason), findings, took: Duration::ZERO, now: self.clock.now() };
        let record = DecisionRecord { decision: "end", ..decided.record() };
        match &self.records.audit {
            Some(audit) => audit.append(&record),
            None => self.records.lines.decision(&record),
        }
    }

    /// Counts what a shadow requirement would have decided, with a line where it is something else.
    fn record_shadow(&self, decided: &Decided<'_>) {
        let &Decided { asked, findings, now, .. } = decided;
        let decision = decided.outcome();
        let (Some(shadow), Some(route)) = (&findings.shadow, &findings.route) else { return };
        let reason = shadow.reason.map(Reason::code).unwrap_or_default();
        self.metrics.shadow_decisions.with_label_values(&[&*route.name, shadow.result, reason]).inc();
        if shadow.result == "same" || !self.records.lines.takes_decisions() {
            return;
        }
        let member = findings.member();
        let record = ShadowRecord {
            ts: now.wall,
            request_id: asked.request_id.as_str(),
            trace_id: asked.trace.trace_id(),
            route: &route.name,
            decision,
            reason: shadow.enforced.map(Reason::code),
            result: shadow.result,
            shadow_reason: shadow.reason.map(Reason::code),
            organization_id: member.map(|member| member.organization_id.as_str()),
            member_id: member.map(|member| member.member_id.as_str()),
        };
        self.records.lines.shadow(&record);
    }
}

/// A decision, with what it was about and what it was come to on.
pub(super) struct Decided<'a> {
    pub(super) asked: &'a Asked<'a>,
    /// What it was refused for; nothing if it was allowed.
    pub(super) reason: Option<Reason>,
    pub(super) findings: &'a Findings,
    pub(super) took: Duration,
    pub(super) now: Now,
}

impl Decided<'_> {
    fn outcome(&self) -> &'static str {
        self.reason.map_or("allow", |_| "refuse")
    }

    fn record(&self) -> DecisionRecord<'_> {
        let &Self { asked, reason, findings, took, now } = self;
        let principal = findings.principal.as_ref();
        let session =
            findings.found.as_ref().map(|(_, id)| id).or_else(|| principal.and_then(Principal::session_id));
        let member = findings.member();
        let client_id = match principal {
            Some(Principal::Machine(token)) => Some(token.client_id.as_str()),
            Some(Principal::App(token)) => Some(token.client_id.as_str()),
            _ => None,
        };
        DecisionRecord {
            at: now.wall,
            request_id: asked.request_id.as_str(),
            trace_id: asked.trace.trace_id(),
            route: findings.route.as_ref().map_or("none", |route| &*route.name),
            method: asked.target.map(|(method, _, _)| method),
            host: asked.target.map(|(_, host, _)| host),
            path: asked.target.map(|(_, _, path)| path),
            client_ip: asked.client_ip.map(|address| address.to_canonical()),
            decision: self.outcome(),
            reason: reason.map(Reason::code),
            organization_id: member.map(|member| member.organization_id.as_str()),
            member_id: member.map(|member| member.member_id.as_str()),
            client_id,
            session: session.map(|id| DecisionRecord::session_tail(id.as_str())),
            evidence: findings.kind_of_evidence(now),
            evidence_age: findings.evidence_age(now),
            took,
        }
    }
}

/// What became of a decision whose record was waited for.
pub(super) enum Recorded {
    Stands,
    /// Its record was written, and what it rested on is not good any more.
    Outdated,
    /// It is refused instead.
    Overruled,
}

/// Counts a decision when it is dropped: whoever waits may leave at any time.
struct Counted<'a> {
    engine: &'a Engine,
    decided: Option<Decided<'a>>,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if let Some(decided) = &self.decided {
            self.engine.count(decided);
        }
    }
}

/// A refusal as whoever looks at the gateway is told of it.
fn told(asked: &Asked<'_>, reason: Reason, route: &str, findings: &Findings, now: Now) -> RefusalRecord {
    let (method, host, path) = asked.target.unwrap_or_default();
    let member = findings.member();
    RefusalRecord {
        at: now.wall,
        request_id: asked.request_id.as_str().to_owned(),
        route: route.to_owned(),
        method: method.to_owned(),
        host: host.to_owned(),
        path: path.chars().take(200).collect(),
        reason: reason.code(),
        from: asked.client_ip.map(|address| RefusalRecord::network(address.to_canonical())),
        organization: member.map(|member| RefusalRecord::tail(member.organization_id.as_str())),
        member: member.map(|member| RefusalRecord::tail(member.member_id.as_str())),
        evidence_age: findings.evidence_age(now).map(|age| age.as_secs_f64()),
    }
}
