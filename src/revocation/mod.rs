//! Who is told that a session ended: the caches of this replica, its open streams, and the other replicas.
//!
//! Must not decide anything: a revocation makes what was known too old, and the next look finds out.

mod bus;
mod bus_health;
mod settings;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use moka::sync::Cache;
use tokio::sync::{Semaphore, mpsc};

use self::bus_health::BusHealth;
use crate::directory::{BusEvent, Clock, DirectoryError, Memory, RedisLink, SessionDirectory as _};
use crate::engine::Engine;
use crate::identity::{Now, OrganizationId, Secret, SessionId};
use crate::session::{Revocation, RevocationTarget};
use crate::stytch::{Revoked, StytchClient, WebhookEvent, WebhookSecret, verify_webhook};
use crate::telemetry::{DecisionRecord, Metrics};

pub use crate::stytch::{Signature, WebhookError};
pub use settings::RevocationSettings;

/// How long a delivery's id is remembered: longer than a copy of it could be replayed.
const REMEMBER_DELIVERIES_FOR: Duration = Duration::from_secs(900);
const MAX_DELIVERIES: u64 = 100_000;
/// How long a session that was ended is remembered for it. Its id is never given to another.
const REMEMBER_ENDED_FOR: Duration = Duration::from_secs(3_600);
const MAX_ENDED: u64 = 10_000;
/// Calls to end something at the API at once.
const MAX_UPSTREAM: usize = 16;
/// How long one may wait for its turn.
const MAX_WAIT_UPSTREAM: Duration = Duration::from_secs(2);
/// Announcements that wait for Redis.
const MAX_WAITING: usize = 4_096;

/// Where a revocation was learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Webhook,
    Admin,
    SignOut,
    Bus,
}

impl Source {
    fn label(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Admin => "admin",
            Self::SignOut => "sign_out",
            Self::Bus => "bus",
        }
    }
}

/// The one way in for every revocation. Cheap to clone.
#[derive(Clone)]
pub struct Revocations(Arc<Inner>);

struct Inner {
    memory: Memory,
    engine: Arc<Engine>,
    client: StytchClient,
    /// Tells our own announcements from others'.
    replica: u64,
    clock: Arc<dyn Clock>,
    settings: RevocationSettings,
    secrets: ArcSwap<Vec<WebhookSecret>>,
    deliveries: Cache<String, ()>,
    announcements: Option<mpsc::Sender<(BusEvent, Now)>>,
    /// Something was to be announced and there was no place for it.
    overflowed: AtomicBool,
    /// Announcements that Redis did not take yet, and what is under way that will make one.
    outstanding: AtomicUsize,
    /// Sessions that were ended at the API from here: ending one again costs nobody anything.
    ended: Cache<SessionId, ()>,
    /// Calls to end something at the API under way at once.
    upstream: Semaphore,
    /// Announcements acted on, so that a copy of one is not acted on again.
    heard: Cache<u64, ()>,
    metrics: Metrics,
}

/// Something that a process which leaves waits for.
struct Outstanding(Arc<Inner>);

impl Outstanding {
    fn one(inner: &Arc<Inner>) -> Self {
        inner.outstanding.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(inner))
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Revocations {
    /// With a link, begins to listen on the bus. Must be called inside a runtime.
    pub fn start(
        settings: RevocationSettings,
        memory: Memory,
        engine: Arc<Engine>,
        client: StytchClient,
        link: Option<RedisLink>,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Self {
        let secrets = ArcSwap::from_pointee(signing_secrets(&settings.webhook_secrets));
        let (sender, waiting) = mpsc::channel(MAX_WAITING);
        let revocations = Self(Arc::new(Inner {
            memory,
            engine,
            client,
            replica: link.as_ref().map(RedisLink::replica).unwrap_or_default(),
            clock,
            secrets,
            settings,
            deliveries: Cache::builder()
                .max_capacity(MAX_DELIVERIES)
                .time_to_live(REMEMBER_DELIVERIES_FOR)
                .build(),
            announcements: link.is_some().then_some(sender),
            overflowed: AtomicBool::new(false),
            outstanding: AtomicUsize::new(0),
            ended: Cache::builder().max_capacity(MAX_ENDED).time_to_live(REMEMBER_ENDED_FOR).build(),
            upstream: Semaphore::new(MAX_UPSTREAM),
            heard: Cache::builder()
                .max_capacity(MAX_DELIVERIES)
                .time_to_live(REMEMBER_DELIVERIES_FOR)
                .build(),
            metrics,
        }));
        if let Some(link) = link {
            let health = BusHealth::new(revocations.0.metrics.clone(), tokio::time::Instant::now());
            let health = Arc::new(health);
            tokio::spawn(bus::announce(link.clone(), waiting, revocations.clone(), Arc::clone(&health)));
            tokio::spawn(bus::tick(link.clone(), Arc::clone(&health)));
            tokio::spawn(bus::report(Arc::clone(&health)));
            tokio::spawn(bus::listen(link, revocations.clone(), health));
        }
        revocations
    }

    /// Whether deliveries are taken at all.
    pub fn takes_webhooks(&self) -> bool {
        !self.0.secrets.load().is_empty()
    }

    /// Takes deliveries signed with one of `secrets` from now on, and with no other.
    pub fn use_webhook_secrets(&self, secrets: &[Secret]) {
        self.0.secrets.store(Arc::new(signing_secrets(secrets)));
    }

    /// Forgets what is known about `target`, here and on the other replicas.
    pub fn forget(&self, target: &RevocationTarget, source: Source) {
        let now = self.0.clock.now();
        self.act(target, now, source);
        self.announce(BusEvent::Revoked(target.clone()), now);
    }

    /// Drops this replica's cached lists of `target`, or marks all of them stale. Revokes nothing and notifies no other replica.
    pub fn evict(&self, target: Option<&RevocationTarget>) {
        match target {
            None => self.soften(),
            Some(RevocationTarget::Organization(id)) => self.soften_organization(id),
            Some(target) => {
                let revocation = Revocation { target: target.clone(), at: self.0.clock.now() };
                self.0.memory.forget(&revocation);
                self.0.engine.forget(&revocation);
            }
        }
    }

    /// Ends a session, or all of a member's, at the API, and forgets what is known about them before and after: before,
    /// because the API may do it and not live to say so; after, because a lookup in between may still have found them.
    ///
    /// Goes on if whoever asked leaves.
    pub async fn end(&self, target: RevocationTarget, source: Source) -> Result<(), DirectoryError> {
        if matches!(&target, RevocationTarget::Session(id) if self.0.ended.contains_key(id)) {
            return Ok(());
        }
        self.0.memory.forget(&Revocation { target: target.clone(), at: self.0.clock.now() });
        let revocations = self.clone();
        let leaving = Outstanding::one(&self.0);
        let ending = tokio::spawn(async move {
            let _leaving = leaving;
            let inner = &revocations.0;
            let place = tokio::time::timeout(MAX_WAIT_UPSTREAM, inner.upstream.acquire()).await;
            let Ok(Ok(_place)) = place else { return Err(DirectoryError::Busy) };
            let ended = match &target {
                RevocationTarget::Session(id) => inner.client.revoke(Revoked::Session(id)).await,
                RevocationTarget::Member(id) => inner.client.revoke(Revoked::Member(id)).await,
                // The API has no such call.
                RevocationTarget::Organization(_) => Ok(()),
            };
            revocations.forget(&target, source);
            if let (RevocationTarget::Session(id), Ok(())) = (target, &ended) {
                inner.ended.insert(id, ());
            }
            ended
        });
        ending.await.unwrap_or(Err(DirectoryError::Failed { status: 0, retry_after: None }))
    }

    /// Waits until everything that was to be announced was, at most `patience`.
    pub async fn finish_announcing(&self, patience: Duration) {
        let told = async {
            while self.0.outstanding.load(Ordering::Acquire) > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(patience, told).await.is_err() {
            tracing::warn!(
                "not every revocation could be told to the other replicas; they learn of the rest by age"
            );
        }
    }

    /// Whether a delivery is worth reading: dated near now.
    pub fn is_timely(&self, signature: &Signature<'_>) -> bool {
        signature.is_timely(self.0.clock.now().wall)
    }

    /// Takes a delivery of the webhook.
    pub fn deliver(&self, body: &[u8], signature: &Signature<'_>) -> Result<(), WebhookError> {
        let inner = &self.0;
        let now = inner.clock.now();
        let secrets = inner.secrets.load();
        let event = verify_webhook(body, signature, &secrets, &inner.settings.project_id, now.wall)?;
        if !inner.deliveries.entry_by_ref(signature.id).or_insert(()).is_fresh() {
            // Delivered before: acknowledged, or it would be delivered for ever.
            return Ok(());
        }
        match event {
            WebhookEvent::Ended(target) => self.forget(&target, Source::Webhook),
            WebhookEvent::Changed(organization_id) => {
                self.count(Source::Webhook);
                self.soften_organization(&organization_id);
                self.announce(BusEvent::Changed(organization_id), now);
            }
            WebhookEvent::ChangedSomewhere => {
                self.count(Source::Webhook);
                self.soften();
                self.announce(BusEvent::ChangedSomewhere, now);
            }
            WebhookEvent::OtherProject => {
                tracing::warn!(
                    "a webhook delivery is about another project; the webhook leads to the wrong place"
                );
            }
            WebhookEvent::Irrelevant => {}
        }
        Ok(())
    }

    /// Acts on a revocation that took effect at `at`: marks first, so that whoever asks again finds what is new.
    fn act(&self, target: &RevocationTarget, at: Now, source: Source) {
        let inner = &self.0;
        let revocation = Revocation { target: target.clone(), at };
        inner.memory.forget(&revocation);
        inner.engine.forget(&revocation);
        self.count(source);
        let (kind, id) = match target {
            // Whole, it would be all it takes to revoke another's session.
            RevocationTarget::Session(id) => ("session", DecisionRecord::session_tail(id.as_str())),
            RevocationTarget::Member(id) => ("member", id.as_str()),
            RevocationTarget::Organization(id) => ("organization", id.as_str()),
        };
        if source != Source::Bus {
            // The replica that told us of it wrote the line.
            tracing::info!(kind, id, source = source.label(), "cached sessions invalidated");
        }
    }

    fn count(&self, source: Source) {
        self.0.metrics.revocations.with_label_values(&[source.label()]).inc();
    }

    /// Something about an organization is different: its members are looked at again as they come.
    fn soften_organization(&self, organization_id: &OrganizationId) {
        self.0.memory.soften_organization(organization_id);
        self.0.engine.soften_organization(organization_id);
    }

    /// Something happened, and it is not known to whom: everything is looked at again, without a herd.
    fn soften(&self) {
        self.0.memory.soften();
        self.0.engine.soften();
    }

    fn announce(&self, event: BusEvent, at: Now) {
        let Some(announcements) = &self.0.announcements else { return };
        self.0.outstanding.fetch_add(1, Ordering::AcqRel);
        if announcements.try_send((event, at)).is_err() {
            self.0.outstanding.fetch_sub(1, Ordering::AcqRel);
            // Told all at once instead, when the queue is worked off.
            self.0.overflowed.store(true, Ordering::Release);
        }
    }
}

/// What is no signing secret was refused when the configuration was checked.
fn signing_secrets(secrets: &[Secret]) -> Vec<WebhookSecret> {
    secrets.iter().filter_map(|secret| WebhookSecret::parse(secret).ok()).collect()
}
