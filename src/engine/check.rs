//! `Engine::check`: the one place a request is decided.
//!
//! Must not stand on an old reading of the clock after it waited, nor refuse anybody on evidence older than they are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use moka::sync::Cache;

use super::AccessRequest;
use super::header_edits::HeaderEdits;
use super::identify::{Identified, VerifiedToken};
use super::snapshot::Snapshot;
use crate::directory::{Clock, DirectoryError, KeySource, SessionDirectory, SessionQuery, Spelling};
use crate::identity::{Bound, CredentialDigest, Now, Principal, carries_session_jwt};
use crate::policy::{Access, Decision, Reason, Refusal, Route, RouteMiss, decide};
use crate::session::Evidence;
use crate::telemetry::{DecisionRecord, LineWriter, Metrics, RequestId, TraceContext, milliseconds};

/// Clock difference between us and whoever dates credentials (section 4.3).
const SKEW: Duration = Duration::from_secs(2);
/// How long a verified token is remembered; its own dates are checked on every use.
const REMEMBER_TOKEN_FOR: Duration = Duration::from_secs(600);

/// Decides requests.
pub struct Engine {
    pub(super) snapshot: ArcSwap<Snapshot>,
    pub(super) directory: Arc<dyn SessionDirectory>,
    pub(super) keys: Arc<dyn KeySource>,
    pub(super) tokens: Cache<CredentialDigest, VerifiedToken>,
    pub(super) clock: Arc<dyn Clock>,
    metrics: Metrics,
    records: LineWriter,
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
}

impl Engine {
    pub fn new(
        snapshot: Snapshot,
        directory: Arc<dyn SessionDirectory>,
        keys: Arc<dyn KeySource>,
        clock: Arc<dyn Clock>,
        max_tokens: u64,
        metrics: Metrics,
        records: LineWriter,
    ) -> Self {
        let tokens = Cache::builder().max_capacity(max_tokens).time_to_live(REMEMBER_TOKEN_FOR).build();
        Self { snapshot: ArcSwap::from_pointee(snapshot), directory, keys, tokens, clock, metrics, records }
    }

    /// The rules in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Decides `request` for whoever its credentials say is calling.
    pub async fn check(&self, request: &AccessRequest<'_>) -> Verdict {
        self.decide_for(request, None).await
    }

    /// Decides `request` as if `principal` were calling, to explain a decision without a credential.
    pub async fn check_as(&self, request: &AccessRequest<'_>, principal: Principal) -> Verdict {
        self.decide_for(request, Some(principal)).await
    }

    async fn decide_for(&self, request: &AccessRequest<'_>, given: Option<Principal>) -> Verdict {
        let started = Instant::now();
        let snapshot = self.snapshot.load_full();
        let mut course = Course::default();
        let decision = match self.run(request, &snapshot, given, &mut course).await {
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
        let Course { route, principal, evidence, .. } = course;
        let decided_at = self.clock.now();
        Verdict { decision, route, principal, evidence, edits, snapshot, decided_at }
    }

    /// The straight line: route, caller, evidence, policy; then once more with fresher evidence before a refusal.
    async fn run(
        &self,
        request: &AccessRequest<'_>,
        snapshot: &Arc<Snapshot>,
        given: Option<Principal>,
        course: &mut Course,
    ) -> Result<Decision, Refusal> {
        let route = snapshot.routes.find(request.host, request.path, request.method).map_err(missed)?;
        course.route = Some(Arc::clone(route));
        request
            .path
            .check_allowed(route.keep_encoded_slash, route.keep_path_parameters)
            .map_err(|_| Reason::PathAmbiguous)?;
        // An origin may decode before it routes: if that reading belongs to another route, the path is ambiguous.
        for other in request.path.other_readings().map_err(|_| Reason::PathAmbiguous)? {
            let same = snapshot.routes.find(request.host, &other, request.method);
            if !same.is_ok_and(|same| Arc::ptr_eq(same, route)) {
                return Err(Reason::PathAmbiguous.into());
            }
        }
        if matches!(route.access, Access::Public) {
            return Ok(decide(route, None, self.clock.now()));
        }

        let principal = match given {
            Some(principal) => principal,
            None => {
                let Identified { principal, by_bearer } = self.identify(request.headers, snapshot).await?;
                course.by_bearer = by_bearer;
                principal
            }
        };
        let principal = course.principal.insert(principal);
        let mut query = SessionQuery {
            member: principal.member.clone(),
            spelling: match principal.bound {
                Bound::Session(_) => Spelling::Canonical,
                Bound::AnySession => Spelling::AsWritten,
            },
            freshness: route.freshness,
            newer_than: None,
            now: self.clock.now(),
        };
        let evidence = self.directory.active_sessions(&query).wait().await.map_err(refused)?;
        let now = self.clock.now();
        let decision = decide(route, Some((principal, &evidence)), now);
        let evidence = course.evidence.insert(evidence);

        // Whoever is calling had the credential when the request came, so a list asked for since cannot be older.
        let asked_since = evidence.fetched_at().monotonic >= query.now.monotonic;
        if asked_since || !self.should_confirm(&decision, principal, evidence, snapshot, now) {
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
                || principal.issued_at.is_some_and(|issued_at| evidence.may_predate(issued_at, SKEW))
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
        let route = course.route.as_ref().map_or("none", |route| &*route.name);
        let (outcome, reason) = match decision {
            Decision::Allow(_) => ("allow", None),
            Decision::Refuse(refusal) => ("refuse", Some(refusal.reason.code())),
        };
        self.metrics.decisions.with_label_values(&[route, outcome, reason.unwrap_or_default()]).inc();
        self.metrics.decision_duration.with_label_values(&[route]).observe(took.as_secs_f64());
        let now = self.clock.now();
        let age = course.evidence.as_ref().map(|evidence| evidence.age(now.monotonic));
        if let (Decision::Allow(_), Some(age)) = (decision, age) {
            self.metrics.evidence_age.observe(age.as_secs_f64());
        }
        if !self.records.is_on() {
            return;
        }
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
            route,
            decision: outcome,
            reason,
            organization_id: member.map(|member| member.organization_id.as_str()),
            member_id: member.map(|member| member.member_id.as_str()),
            session,
            evidence_age_ms: age.map(milliseconds),
            duration_us: (took.as_secs_f64() * 1e9).round() / 1e3,
        };
        self.records.write(record.line());
    }
}

/// What was found out on the way to a decision.
#[derive(Default)]
struct Course {
    route: Option<Arc<Route>>,
    principal: Option<Principal>,
    evidence: Option<Evidence>,
    by_bearer: bool,
}

fn missed(miss: RouteMiss) -> Refusal {
    match miss {
        RouteMiss::Misdirected => Reason::Misdirected.into(),
        RouteMiss::NotFound => Reason::RouteNotFound.into(),
        RouteMiss::MethodNotAllowed { allowed, .. } => {
            Refusal { allowed_methods: allowed, ..Refusal::from(Reason::MethodNotAllowed) }
        }
    }
}

fn refused(error: DirectoryError) -> Refusal {
    error.refusal()
}
