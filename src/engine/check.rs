//! `Engine::check`: the one place a request is decided.
//!
//! Must not stand on an old reading of the clock after it waited, nor refuse anybody on evidence older than they are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use moka::sync::Cache;

use super::header_edits::HeaderEdits;
use super::identify::{Identified, VerifiedToken};
use super::leases::Leases;
use super::route::find_route;
use super::snapshot::Snapshot;
use super::{AccessRequest, EngineSettings};
use crate::directory::{
    Attempts, Clock, DirectoryError, KeySource, SessionDirectory, SessionQuery, Spelling,
};
use crate::identity::{Bound, CredentialDigest, Now, Principal, carries_session_jwt};
use crate::policy::{Access, Decision, Reason, Refusal, Route, decide};
use crate::session::{ActiveSessions, Evidence};
use crate::telemetry::{DecisionRecord, LineWriter, Metrics, RequestId, TraceContext, milliseconds};

/// Clock difference between us and whoever dates credentials (section 4.3).
const SKEW: Duration = Duration::from_secs(2);
/// How long a verified token is remembered; its own dates are checked on every use.
const REMEMBER_TOKEN_FOR: Duration = Duration::from_secs(600);

/// What decisions rest on.
pub struct Sources {
    pub directory: Arc<dyn SessionDirectory>,
    pub keys: Arc<dyn KeySource>,
    /// Told which addresses showed something genuine.
    pub attempts: Arc<Attempts>,
}

/// Decides requests.
pub struct Engine {
    pub(super) snapshot: ArcSwap<Snapshot>,
    pub(super) directory: Arc<dyn SessionDirectory>,
    pub(super) keys: Arc<dyn KeySource>,
    pub(super) tokens: Cache<CredentialDigest, VerifiedToken>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Metrics,
    records: LineWriter,
    pub(super) leases: Leases,
    pub(super) settings: EngineSettings,
    pub(super) attempts: Arc<Attempts>,
}

/// A decision with what it rests on and what it does to the request.
pub struct Verdict {
    pub decision: Decision,
    /// The route that answered, if one did.
    pub route: Option<Arc<Route>>,
    pub principal: Option<Principal>,
    pub evidence: Option<Evidence>,
    pub edits: HeaderEdits,
    /// The rules it was decided by.
    pub snapshot: Arc<Snapshot>,
    pub decided_at: Now,
    pub(super) vouched: Option<Arc<ActiveSessions>>,
    pub(super) ticket: u64,
}

impl Engine {
    pub fn new(
        snapshot: Snapshot,
        sources: Sources,
        clock: Arc<dyn Clock>,
        settings: EngineSettings,
        metrics: Metrics,
        records: LineWriter,
    ) -> Self {
        let Sources { directory, keys, attempts } = sources;
        let tokens = Cache::builder()
            .max_capacity(settings.max_tokens.saturating_mul(u64::from(VerifiedToken::LEAST_BYTES)))
            .weigher(|_, token: &VerifiedToken| token.weight())
            .time_to_live(REMEMBER_TOKEN_FOR)
            .build();
        let leases = Leases::new(metrics.streams_open.clone());
        let snapshot = ArcSwap::from_pointee(snapshot);
        Self { snapshot, directory, keys, tokens, clock, metrics, records, leases, settings, attempts }
    }

    /// The rules in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Puts other rules in force, and asks again about every stream that was opened for a session.
    pub fn replace(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
        self.leases.revisit_all();
    }

    /// Decides `request` for whoever its credentials say is calling.
    pub async fn check(&self, request: &AccessRequest<'_>) -> Verdict {
        self.decide_for(request, None, false).await
    }

    /// Decides whether `request` may have one of the gateway's own pages, which take any member session.
    pub async fn check_own(&self, request: &AccessRequest<'_>) -> Verdict {
        self.decide_for(request, None, true).await
    }

    /// Decides `request` as if `principal` were calling, to explain a decision without a credential.
    pub async fn check_as(&self, request: &AccessRequest<'_>, principal: Principal) -> Verdict {
        self.decide_for(request, Some(principal), false).await
    }

    async fn decide_for(&self, request: &AccessRequest<'_>, given: Option<Principal>, own: bool) -> Verdict {
        let started = Instant::now();
        let ticket = self.leases.ticket();
        let snapshot = self.snapshot.load_full();
        let mut course = Course { principal: given, ..Course::default() };
        let decided = if own {
            self.identified(request, Arc::clone(&snapshot.own_route), &snapshot, &mut course).await
        } else {
            self.run(request, &snapshot, &mut course).await
        };
        let decision = match decided {
            Ok(decision) => decision,
            Err(refusal) => Decision::Refuse(refusal),
        };
        let edits = match &decision {
            Decision::Allow(permit) if permit.caller().is_some() => permit.caller().map(|caller| {
                HeaderEdits::for_caller(
                    &snapshot.managed_names,
                    &snapshot.credentials,
                    caller,
                    course.by_bearer,
                )
            }),
            _ => None,
        };
        let edits = edits.unwrap_or_else(|| {
            // Nobody is identified on a public route, but a session JWT in `Authorization` is ours all the same.
            let ours = carries_session_jwt(request.headers, &snapshot.credentials, &snapshot.jwt_rules);
            HeaderEdits::without_identity(&snapshot.managed_names, &snapshot.credentials, ours)
        });
        self.write(request.request_id, request.trace, &decision, &course, started.elapsed());
        let Course { route, principal, evidence, vouched, .. } = course;
        let decided_at = self.clock.now();
        Verdict { decision, route, principal, evidence, edits, snapshot, decided_at, vouched, ticket }
    }

    /// The straight line: route, caller, evidence, policy; then once more with fresher evidence before a refusal.
    async fn run(
        &self,
        request: &AccessRequest<'_>,
        snapshot: &Arc<Snapshot>,
        course: &mut Course,
    ) -> Result<Decision, Refusal> {
        let found = find_route(snapshot, request.host, request.path, request.method);
        let route = match found {
            Ok(route) => route,
            Err(miss) => {
                course.route = miss.route;
                return Err(miss.refusal);
            }
        };
        course.route = Some(Arc::clone(route));
        if matches!(route.access, Access::Public) {
            return Ok(decide(route, None, self.clock.now()));
        }
        let route = Arc::clone(route);
        self.identified(request, route, snapshot, course).await
    }

    /// Finds out who is calling, unless that was given, and holds `route` against them.
    async fn identified(
        &self,
        request: &AccessRequest<'_>,
        route: Arc<Route>,
        snapshot: &Arc<Snapshot>,
        course: &mut Course,
    ) -> Result<Decision, Refusal> {
        course.route = Some(Arc::clone(&route));
        if course.principal.is_none() {
            let found = self.identify(request.headers, request.peer, snapshot).await?;
            let Identified { principal, by_bearer, vouched } = found;
            course.by_bearer = by_bearer;
            course.vouched = vouched;
            course.principal = Some(principal);
        }
        self.hold(&route, snapshot, course).await
    }

    /// Evidence and policy for the caller who is known by now.
    pub(super) async fn hold(
        &self,
        route: &Arc<Route>,
        snapshot: &Snapshot,
        course: &mut Course,
    ) -> Result<Decision, Refusal> {
        let Some(principal) = &course.principal else {
            return Err(Reason::CredentialMissing.into());
        };
        let mut query = SessionQuery {
            member: principal.member.clone(),
            spelling: match principal.bound {
                Bound::Session(_) => Spelling::Canonical,
                Bound::AnySession => Spelling::AsWritten,
            },
            freshness: route.freshness,
            settled: course.asked_again.is_some(),
            newer_than: None,
            vouched: course.vouched.clone(),
            now: course.asked_again.unwrap_or_else(|| self.clock.now()),
        };
        let mut evidence = self.directory.active_sessions(&query).wait().await.map_err(refused)?;
        let mut now = self.clock.now();
        if course.asked_again.is_some() && evidence.age(now.monotonic) > route.freshness.max_staleness {
            // The turn of the member's streams began a while ago; what was new enough then may not be now.
            query.now = now;
            evidence = self.directory.active_sessions(&query).wait().await.map_err(refused)?;
            now = self.clock.now();
        }
        let decision = decide(route, Some((principal, &evidence)), now);
        let evidence = course.evidence.insert(evidence);

        // Whoever is calling had the credential when the request came, so a list asked for since cannot be older.
        let asked_since = evidence.fetched_at().monotonic >= query.now.monotonic;
        // While the directory fails there is nothing newer to be had than what stands in for it.
        let stands_in = matches!(evidence, Evidence::Vouched(_));
        if asked_since || stands_in || !self.should_confirm(&decision, principal, evidence, snapshot, now) {
            return Ok(decision);
        }
        // Newer than the request, not than the list: a lookup already in the air may have been answered before the
        // caller signed in.
        query.newer_than = Some(query.now.monotonic);
        query.now = now;
        *evidence = self.directory.active_sessions(&query).wait().await.map_err(refused)?;
        Ok(decide(route, Some((principal, evidence)), self.clock.now()))
    }

    /// Whether a refusal rests on evidence that is older than the credential, or than `negative_for` (section 4.3).
    fn should_confirm(
        &self,
        decision: &Decision,
        principal: &Principal,
        evidence: &Evidence,
        snapshot: &Snapshot,
        now: Now,
    ) -> bool {
        let Decision::Refuse(refusal) = decision else {
            return false;
        };
        refusal.reason.rests_on_evidence()
            && (evidence.age(now.monotonic) > snapshot.negative_for
                || principal.issued_at.is_some_and(|issued_at| evidence.may_predate(issued_at, SKEW, now))
                || principal.seen_at.is_some_and(|seen_at| evidence.fetched_at().monotonic < seen_at))
    }

    /// Counts and records a refusal of a request that was too malformed to be decided on.
    pub fn record_refusal(&self, request_id: &RequestId, trace: &TraceContext, reason: Reason) {
        let decision = Decision::Refuse(reason.into());
        self.write(request_id, trace, &decision, &Course::default(), Duration::ZERO);
    }

    /// One decision, counted and recorded once.
    fn write(
        &self,
        request_id: &RequestId,
        trace: &TraceContext,
        decision: &Decision,
        course: &Course,
        took: Duration,
    ) {
        let (outcome, reason) = match decision {
            Decision::Allow(_) => ("allow", None),
            Decision::Refuse(refusal) => ("refuse", Some(refusal.reason)),
        };
        let route = course.route.as_ref().map_or("none", |route| &*route.name);
        let code = reason.map(Reason::code).unwrap_or_default();
        self.metrics.decisions.with_label_values(&[route, outcome, code]).inc();
        self.metrics.decision_duration.with_label_values(&[route]).observe(took.as_secs_f64());
        let age = course.evidence.as_ref().map(|evidence| evidence.age(self.clock.now().monotonic));
        if let (Decision::Allow(_), Some(age)) = (decision, age) {
            self.metrics.evidence_age.observe(age.as_secs_f64());
        }
        self.record(outcome, request_id, trace, reason, course, took);
    }

    /// The record of one decision, if records are kept.
    pub(super) fn record(
        &self,
        decision: &'static str,
        request_id: &RequestId,
        trace: &TraceContext,
        reason: Option<Reason>,
        course: &Course,
        took: Duration,
    ) {
        if !self.records.is_on() {
            return;
        }
        let now = self.clock.now();
        let age = course.evidence.as_ref().map(|evidence| evidence.age(now.monotonic));
        let session = course.principal.as_ref().and_then(|principal| match &principal.bound {
            Bound::Session(session_id) => Some(DecisionRecord::session_tail(session_id.as_str())),
            Bound::AnySession => None,
        });
        let member = course.principal.as_ref().map(|principal| &principal.member);
        let record = DecisionRecord {
            log: "decision",
            ts: now.wall,
            request_id: request_id.as_str(),
            trace_id: trace.trace_id(),
            route: course.route.as_ref().map_or("none", |route| &*route.name),
            decision,
            reason: reason.map(Reason::code),
            organization_id: member.map(|member| member.organization_id.as_str()),
            member_id: member.map(|member| member.member_id.as_str()),
            session,
            evidence: course.kind_of_evidence(now),
            evidence_age_ms: age.map(milliseconds),
            duration_us: (took.as_secs_f64() * 1e9).round() / 1e3,
        };
        self.records.write(record.line());
    }
}

/// What was found out on the way to a decision.
#[derive(Default)]
pub(super) struct Course {
    pub(super) route: Option<Arc<Route>>,
    pub(super) principal: Option<Principal>,
    pub(super) evidence: Option<Evidence>,
    pub(super) vouched: Option<Arc<ActiveSessions>>,
    pub(super) by_bearer: bool,
    /// When it was that an open stream's turn came to be asked about again: what was learnt before will not do unless
    /// it is fresh, and one answer will do for all streams of a member.
    pub(super) asked_again: Option<Now>,
}

impl Course {
    /// What the decision rested on, by how old it was for its route.
    fn kind_of_evidence(&self, now: Now) -> Option<&'static str> {
        let (evidence, freshness) = (self.evidence.as_ref()?, self.route.as_ref()?.freshness);
        let age = evidence.age(now.monotonic);
        Some(match evidence {
            Evidence::Vouched(_) => "jwt",
            _ if age <= freshness.fresh_for => "fresh",
            _ if age <= freshness.max_staleness => "stale",
            _ => "stale_error",
        })
    }
}

fn refused(error: DirectoryError) -> Refusal {
    error.refusal()
}
