//! Asking again about open streams: on an event, at the session's expiry, and every so often.
//!
//! Must not decide in another way than the request was decided: the route, the evidence and the policy are asked anew.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::Waits;
use super::authorize::Place;
use super::check::Engine;
use super::leases::{GROWN_AFTER, HolderId, Lease, Stream, moment_of};
use super::record::{Asked, Findings};
use super::route::find_route;
use super::{AccessRequest, Verdict};
use crate::identity::{CredentialSource, Monotonic, Now, OrganizationId, Principal};
use crate::policy::{Access, Decision, Reason, Refusal};
use crate::session::{Revocation, RevocationTarget};
use crate::telemetry::TraceContext;

/// When a member is asked about again whose answer could not be had for our own crowd.
const SOON: Duration = Duration::from_secs(1);
/// Answers that could not be had for our own crowd before the streams end.
const PATIENCE: u32 = 5;

impl Engine {
    /// Registers the stream that an allowed request becomes. Nothing for a public route.
    pub fn lease(&self, request: &AccessRequest<'_>, verdict: &Verdict) -> Option<Lease> {
        let Decision::Allow(permit) = &verdict.decision else { return None };
        let caller = permit.caller()?;
        let principal = verdict.principal.as_ref()?;
        let route = Arc::clone(permit.route());
        let subject = caller.subject.clone();
        let stream = Stream::new(request, route, principal.clone(), subject, verdict.vouched.clone());
        let expiry = moment_of(stream.until(caller.subject.expires_at()), verdict.decided_at);
        let due = self.next_look(verdict.decided_at).min(expiry);
        Some(self.leases.open(stream, verdict.ticket, verdict.decided_at.monotonic, due))
    }

    /// Drops what is known of an organization or an app's token that `revocation` names, and asks again about every stream
    /// that it touches.
    pub fn forget(&self, revocation: &Revocation) {
        self.sources.organizations.forget(revocation);
        self.sources.apps.forget(revocation);
        self.leases.revisit(&revocation.target);
    }

    /// Something about an organization is different: what is known of it is asked for again, and its streams are.
    pub fn soften_organization(&self, id: &OrganizationId) {
        self.sources.organizations.soften(Some(id));
        self.leases.revisit(&RevocationTarget::Organization(id.clone()));
    }

    /// Something is different, and it is not known what: everything is asked for again.
    pub fn soften(&self) {
        self.sources.organizations.soften(None);
        self.sources.apps.soften();
        self.leases.revisit_all();
    }

    /// Looks after open streams; ends only with the runtime.
    pub async fn keep_leases(self: Arc<Self>) {
        let at_once = self.settings.max_rechecks * 2;
        let for_single_events = self.settings.max_rechecks;
        let places = Arc::new(Semaphore::new(at_once));
        loop {
            let now = self.clock.now();
            let free = places.available_permits();
            let limits = (free, free.saturating_sub(for_single_events));
            match self.leases.take_due(now.monotonic, || self.next_look(now), limits) {
                Ok(due) if due.is_empty() => {
                    // All places are taken: go on when enough are free, or somebody more urgent is due.
                    let wanted = if free == 0 { 1 } else { for_single_events + 1 };
                    let wanted = u32::try_from(wanted).unwrap_or(1);
                    tokio::select! {
                        () = self.leases.sooner() => {}
                        place = places.acquire_many(wanted) => drop(place),
                    }
                }
                Ok(due) => {
                    for (holder, streams) in due {
                        let engine = Arc::clone(&self);
                        let place = Arc::clone(&places).try_acquire_owned();
                        tokio::spawn(async move {
                            engine.recheck(holder, streams).await;
                            drop(place);
                        });
                    }
                }
                Err(next) => {
                    let wait = next.map_or(GROWN_AFTER, |at| at.since(now.monotonic)).min(GROWN_AFTER);
                    tokio::select! {
                        () = self.leases.sooner() => {}
                        () = tokio::time::sleep(wait) => {}
                    }
                }
            }
        }
    }

    /// When a member is looked at again, if nothing happens before: a little apart from others.
    fn next_look(&self, now: Now) -> Monotonic {
        now.monotonic.plus(self.settings.recheck_every.mul_f64(0.9 + fastrand::f64() * 0.2))
    }

    /// Asks again about the streams of one member.
    async fn recheck(&self, holder: HolderId, mut streams: Vec<Arc<Stream>>) {
        // The member's own first: one answer does for all of them, and each app's token is a question of its own.
        streams.sort_by_key(|stream| !matches!(stream.principal, Principal::Member(_)));
        for attempt in 1..=PATIENCE {
            let mut crowded = false;
            // One reading for all of them, so that the first one's answer is new enough for the rest.
            let now = self.clock.now();
            for stream in &streams {
                match self.ask_again(stream, now).await {
                    Ok(until) => self.leases.look_by(&holder, until),
                    Err(refusal) if refusal.reason == Reason::DirectoryBusy && attempt < PATIENCE => {
                        crowded = true;
                    }
                    Err(refusal) => self.end(stream, refusal.reason),
                }
            }
            if !crowded {
                return;
            }
            tokio::time::sleep(SOON).await;
        }
    }

    /// Returns the time of the stream's next check, or the reason to end it.
    async fn ask_again(&self, stream: &Stream, now: Now) -> Result<Monotonic, Refusal> {
        let snapshot = self.snapshot();
        let route = find_route(&snapshot, &stream.host, &stream.path, &stream.method)?;
        let mut findings = Findings {
            principal: Some(stream.principal.clone()),
            asked_again: Some(now),
            ..Findings::default()
        };
        findings.vouched = stream.vouched.clone().filter(|_| snapshot.jwt_evidence);
        if matches!(route.access, Access::Public) {
            return Ok(self.next_look(self.clock.now()));
        }
        let certificate_names = stream.certificate_names(now.wall);
        if stream.principal.is_trusted() {
            // Whoever named the member must still be known and believed.
            let names = certificate_names.ok_or(Reason::ClientCertificateMissing)?;
            let believed = snapshot.credentials.iter().any(|source| match source {
                CredentialSource::TrustedIdentity(trusted) => trusted.from.include(stream.peer, names),
                _ => false,
            });
            if !believed {
                return Err(Reason::CredentialMissing.into());
            }
        }
        let place = Place {
            host: &stream.host,
            path: &stream.path,
            client_ip: stream.client_ip,
            certificate_names: certificate_names.unwrap_or_default(),
            waits: Waits::default(),
        };
        match self.authorize(route, place, &snapshot, &mut findings).await? {
            Decision::Allow(permit) => Ok(permit.caller().map_or_else(
                || self.next_look(self.clock.now()),
                |caller| {
                    let now = self.clock.now();
                    let expiry = caller.subject.expires_at();
                    moment_of(certificate_names.map_or(expiry, |_| stream.until(expiry)), now)
                },
            )),
            Decision::Refuse(refusal) => Err(refusal),
        }
    }

    fn end(&self, stream: &Stream, reason: Reason) {
        if !stream.end(reason) {
            return;
        }
        self.metrics.streams_closed.with_label_values(&[reason.code()]).inc();
        let findings = Findings {
            principal: Some(stream.principal.clone()),
            route: Some(Arc::clone(&stream.route)),
            ..Findings::default()
        };
        let asked = Asked {
            request_id: &stream.request_id,
            trace: &TraceContext::begin(&stream.request_id),
            target: Some((stream.method.as_str(), stream.host.as_str(), stream.path.as_str())),
            client_ip: stream.client_ip,
        };
        self.record_end(&asked, reason, &findings);
    }
}
