//! `Engine::check`: the one place a request is decided.
//!
//! Must not stand on an old reading of the clock after it waited, nor refuse anybody on evidence older than they are.

use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use moka::sync::Cache;

use super::authorize::{Place, open_to_all};
use super::header_edits::HeaderEdits;
use super::identify::{CredentialRejection, Identified, VerifiedToken};
use super::leases::Leases;
use super::recent::RecentTokens;
use super::record::{Decided, Findings, Recorded};
use super::route::find_route;
use super::snapshot::{Rules, Snapshot, Ticket};
use super::{AccessRequest, EngineSettings, Page};
use crate::directory::{
    AppTokenSource, Attempts, Clock, KeySource, OrganizationSource, RbacSource, SessionDirectory,
};
use crate::identity::{CredentialDigest, Introspection, Now, Principal, holds_credential};
use crate::policy::{Access, Decision, Facts, ForwardedCredentials, Reason, Refusal, Route};
use crate::session::{ActiveSessions, Evidence};
use crate::telemetry::{DecisionLog, Metrics, RecentRefusals, SpanKind, caused_by};

/// How long a verified token is remembered; its own dates are checked on every use.
const REMEMBER_TOKEN_FOR: Duration = Duration::from_secs(600);

/// What decisions rest on.
pub struct Sources {
    pub directory: Arc<dyn SessionDirectory>,
    pub keys: Arc<dyn KeySource>,
    pub rbac: Arc<dyn RbacSource>,
    pub organizations: Arc<dyn OrganizationSource>,
    pub apps: Arc<dyn AppTokenSource>,
    /// Told which addresses showed something genuine.
    pub attempts: Arc<Attempts>,
}

/// Decides requests.
pub struct Engine {
    pub(super) snapshot: ArcSwap<Snapshot>,
    pub(super) sources: Sources,
    pub(super) recent: RecentTokens,
    pub(super) tokens: Cache<CredentialDigest, Arc<VerifiedToken>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Metrics,
    pub(super) records: DecisionLog,
    pub(super) leases: Leases,
    pub(super) settings: EngineSettings,
    /// Told of every refusal, if anybody wants to know.
    pub(super) refusals: OnceLock<RecentRefusals>,
}

/// A decision with what it rests on and what it does to the request.
pub struct Verdict {
    pub decision: Decision,
    /// The route that answered, if one did.
    pub route: Option<Arc<Route>>,
    pub principal: Option<Principal>,
    pub evidence: Option<Evidence>,
    /// What an app's token was found to be worth.
    pub introspection: Option<Introspection>,
    /// What was looked up besides.
    pub facts: Facts,
    /// Why what was shown is no credential.
    pub(super) rejections: Vec<CredentialRejection>,
    pub edits: HeaderEdits,
    /// The rules it was decided by.
    pub snapshot: Arc<Snapshot>,
    pub decided_at: Now,
    pub(super) vouched: Option<Arc<ActiveSessions>>,
    pub(super) ticket: u64,
}

/// Why something is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// To let a request through or not.
    Enforced,
    /// For one of the gateway's own pages.
    Own,
    /// To be told about, and not counted.
    Explained,
}

impl Engine {
    pub fn new(
        snapshot: Snapshot,
        sources: Sources,
        clock: Arc<dyn Clock>,
        settings: EngineSettings,
        metrics: Metrics,
        records: DecisionLog,
    ) -> Self {
        let tokens = Cache::builder()
            .max_capacity(settings.max_tokens.saturating_mul(u64::from(VerifiedToken::LEAST_BYTES)))
            .weigher(|_, token: &Arc<VerifiedToken>| token.weight())
            .time_to_live(REMEMBER_TOKEN_FOR)
            .build();
        let leases = Leases::new(metrics.streams_open.clone());
        let snapshot = ArcSwap::from_pointee(snapshot);
        Self {
            snapshot,
            sources,
            recent: RecentTokens::new(),
            tokens,
            clock,
            metrics,
            records,
            leases,
            settings,
            refusals: OnceLock::new(),
        }
    }

    /// Tells `refusals` of every refusal from now on; once for all.
    pub fn tell_refusals(&self, refusals: RecentRefusals) {
        drop(self.refusals.set(refusals));
    }

    /// A mark of now, for whoever takes rules from elsewhere than here.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.leases.ticket())
    }

    /// The rules in force, for one request.
    pub fn rules(&self) -> Rules {
        let ticket = self.ticket();
        Rules::new(ticket, self.snapshot())
    }

    /// The rules in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Puts other rules in force, and asks again about every stream that was opened for a session.
    pub fn replace(&self, snapshot: Arc<Snapshot>) {
        self.snapshot.store(snapshot);
        self.leases.revisit_all();
    }

    /// Decides `request` by `rules` for whoever its credentials say is calling.
    pub fn check(&self, request: &AccessRequest<'_>, rules: Rules) -> impl Future<Output = Verdict> + Send {
        self.decide_for(request, rules, None, Manner::Enforced)
    }

    /// Decides whether `request` may have one of the gateway's own pages, which take any member session.
    pub fn check_own(
        &self,
        request: &AccessRequest<'_>,
        rules: Rules,
    ) -> impl Future<Output = Verdict> + Send {
        self.decide_for(request, rules, None, Manner::Own)
    }

    pub(super) async fn decide_for(
        &self,
        request: &AccessRequest<'_>,
        rules: Rules,
        given: Option<Principal>,
        manner: Manner,
    ) -> Verdict {
        self.decide(request, rules, given, manner, false).await
    }

    /// Once more, for what was not good any more when its record was written.
    fn decide_again<'a>(
        &'a self,
        request: &'a AccessRequest<'a>,
        rules: Rules,
        manner: Manner,
    ) -> Pin<Box<dyn Future<Output = Verdict> + Send + 'a>> {
        Box::pin(self.decide(request, rules, None, manner, true))
    }

    async fn decide(
        &self,
        request: &AccessRequest<'_>,
        rules: Rules,
        given: Option<Principal>,
        manner: Manner,
        is_last: bool,
    ) -> Verdict {
        // What cannot be recorded is not decided.
        let (entry, unavailable) = match manner {
            Manner::Explained => (None, None),
            _ => {
                self.reserve_record().await.map_or_else(|reason| (None, Some(reason)), |entry| (entry, None))
            }
        };
        let began = self.clock.now();
        let seen = self.leases.ticket();
        let Rules { snapshot, ticket } = rules;
        let mut findings = Findings { principal: given, ..Findings::default() };
        let span = request.trace.start("authorize", SpanKind::Internal);
        let deciding = async {
            if let Some(reason) = unavailable {
                Err(reason.into())
            } else if manner == Manner::Own {
                self.identified(request, Arc::clone(&snapshot.own_route), &snapshot, &mut findings, began)
                    .await
            } else {
                self.run(request, &snapshot, &mut findings, began).await
            }
        };
        let decided = caused_by(span.as_ref().map(|span| span.context().clone()), pin!(deciding)).await;
        let decided_at = self.clock.now();
        let mut decision = match decided {
            Ok(decision) => decision,
            Err(refusal) => Decision::Refuse(refusal),
        };
        let edits = match &decision {
            // Our own pages answer themselves, and a refusal goes nowhere.
            Decision::Allow(permit) if permit.caller().is_some() && manner != Manner::Own => {
                HeaderEdits::for_permit(
                    &snapshot.managed_names,
                    &snapshot.credentials,
                    permit,
                    snapshot.assertions.as_deref(),
                    findings.by_authorization || Self::holds_credential(request, &snapshot),
                    findings.recent.as_deref(),
                    (manner == Manner::Enforced).then_some(decided_at),
                )
            }
            Decision::Allow(permit) => {
                Ok(Self::edits_for_nobody(request, &snapshot, permit.route().forwards))
            }
            Decision::Refuse(_) => Ok(Self::edits_for_refused(&snapshot)),
        };
        let mut edits = edits.unwrap_or_else(|reason| {
            decision = Decision::Refuse(reason.into());
            Self::edits_for_refused(&snapshot)
        });
        let mut is_outdated = false;
        if manner != Manner::Explained {
            let reason = match &decision {
                Decision::Allow(_) => None,
                Decision::Refuse(refusal) => Some(refusal.reason),
            };
            let asked = request.into();
            let took = decided_at.monotonic.since(began.monotonic);
            let decided = Decided { asked: &asked, reason, findings: &findings, took, now: decided_at };
            match self.write(entry, &decided) {
                None => self.count(&decided),
                Some(pending) => {
                    let happened = || self.leases.ticket() != seen;
                    let recorded = self.await_record(pending, decided, &decision, happened, is_last);
                    let recorded = Box::pin(recorded).await;
                    is_outdated = matches!(recorded, Recorded::Outdated);
                    if matches!(recorded, Recorded::Overruled) {
                        decision = Decision::Refuse(Reason::AuditUnavailable.into());
                        edits = Self::edits_for_refused(&snapshot);
                    }
                }
            }
        }
        if let Some(span) = span {
            findings.tell(span, &decision, decided_at);
        }
        if is_outdated {
            return self.decide_again(request, Rules { snapshot, ticket }, manner).await;
        }
        let Findings { route, principal, evidence, introspection, facts, vouched, rejections, .. } = findings;
        Verdict {
            decision,
            route,
            principal,
            evidence,
            introspection,
            facts,
            rejections,
            edits,
            snapshot,
            decided_at,
            vouched,
            ticket,
        }
    }

    /// The edits for a public route, where nobody is identified: a credential of a configured source is ours all the same.
    fn edits_for_nobody(
        request: &AccessRequest<'_>,
        snapshot: &Snapshot,
        forwards: ForwardedCredentials,
    ) -> HeaderEdits {
        let holds_credential = Self::holds_credential(request, snapshot);
        let managed = &snapshot.managed_names;
        let credentials = &snapshot.credentials;
        HeaderEdits::without_identity(managed, credentials, holds_credential, forwards)
    }

    /// A refused request goes nowhere.
    fn edits_for_refused(snapshot: &Snapshot) -> HeaderEdits {
        let managed = &snapshot.managed_names;
        let credentials = &snapshot.credentials;
        HeaderEdits::without_identity(managed, credentials, true, ForwardedCredentials::default())
    }

    fn holds_credential(request: &AccessRequest<'_>, snapshot: &Snapshot) -> bool {
        holds_credential(request.headers, &snapshot.credentials, &snapshot.jwt_rules)
    }

    /// The straight line: route, caller, evidence, policy; then once more with fresher evidence before a refusal.
    async fn run(
        &self,
        request: &AccessRequest<'_>,
        snapshot: &Arc<Snapshot>,
        findings: &mut Findings,
        now: Now,
    ) -> Result<Decision, Refusal> {
        let found = find_route(snapshot, request.host, request.path, request.method);
        let route = match found {
            Ok(route) => route,
            Err(miss) => {
                findings.route = miss.route;
                return Err(miss.refusal);
            }
        };
        findings.route = Some(Arc::clone(route));
        let route = Arc::clone(route);
        if matches!(route.access, Access::Public) {
            return Ok(open_to_all(&route, request, now));
        }
        self.identified(request, route, snapshot, findings, now).await
    }

    /// Finds out who is calling, unless that was given, and holds `route` against them.
    async fn identified(
        &self,
        request: &AccessRequest<'_>,
        route: Arc<Route>,
        snapshot: &Arc<Snapshot>,
        findings: &mut Findings,
        now: Now,
    ) -> Result<Decision, Refusal> {
        findings.route = Some(Arc::clone(&route));
        if findings.principal.is_none() {
            let (found, reading) = self.identify(request, snapshot, &mut findings.rejections, now).await?;
            findings.reading = reading;
            let Identified { principal, by_authorization, is_ambient, vouched, recent, named } = found;
            // A browser attaches cookies whichever page asks, and no rule of the same origin holds for a WebSocket.
            if let (Page::Other(origin), true, Some(rule)) = (request.page, is_ambient, &route.websocket)
                && !rule.origins.iter().any(|listed| listed.as_bytes() == origin)
            {
                findings.principal = Some(principal);
                return Err(Reason::ForeignOrigin.into());
            }
            findings.recent = recent;
            findings.by_authorization = by_authorization;
            findings.named = named;
            findings.vouched = vouched;
            findings.principal = Some(principal);
        }
        self.authorize(&route, Place::of(request), snapshot, findings).await
    }
}
