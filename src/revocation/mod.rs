//! Who is told that a session ended: the caches of this replica, its open streams, and the other replicas.
//!
//! Must not decide anything: a revocation makes what was known too old, and the next look finds out.

mod bus;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::mpsc;

use crate::directory::{BusEvent, Clock, DirectoryError, Memory, RedisLink, SessionDirectory as _};
use crate::engine::Engine;
use crate::identity::Now;
use crate::session::{Revocation, RevocationTarget};
use crate::stytch::{StytchClient, WebhookEvent, WebhookSecret, verify_webhook};
use crate::telemetry::Metrics;

pub use crate::stytch::{Revoked, Signature, WebhookError};
pub use settings::RevocationSettings;

/// How long a delivery's id is remembered: longer than a copy of it could be replayed.
const REMEMBER_DELIVERIES_FOR: Duration = Duration::from_secs(900);
const MAX_DELIVERIES: u64 = 100_000;
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

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    Acted,
    /// Seen before: acknowledged and nothing done.
    Duplicate,
    /// Nothing here depends on it.
    Irrelevant,
}

/// The one way in for every revocation. Cheap to clone.
#[derive(Clone)]
pub struct Revocations(Arc<Inner>);

struct Inner {
    memory: Memory,
    engine: Arc<Engine>,
    client: StytchClient,
    clock: Arc<dyn Clock>,
    settings: RevocationSettings,
    secrets: Vec<WebhookSecret>,
    deliveries: Cache<String, ()>,
    announcements: Option<mpsc::Sender<(BusEvent, Now)>>,
    metrics: Metrics,
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
        // What is no signing secret was refused when the configuration was checked.
        let secrets = settings.webhook_secrets.iter().filter_map(|secret| WebhookSecret::parse(secret).ok());
        let (sender, waiting) = mpsc::channel(MAX_WAITING);
        let revocations = Self(Arc::new(Inner {
            memory,
            engine,
            client,
            clock,
            secrets: secrets.collect(),
            settings,
            deliveries: Cache::builder()
                .max_capacity(MAX_DELIVERIES)
                .time_to_live(REMEMBER_DELIVERIES_FOR)
                .build(),
            announcements: link.is_some().then_some(sender),
            metrics,
        }));
        if let Some(link) = link {
            tokio::spawn(bus::announce(link.clone(), waiting, revocations.0.settings.horizon));
            tokio::spawn(bus::tick(link.clone()));
            tokio::spawn(bus::listen(link, revocations.clone()));
        }
        revocations
    }

    /// Whether deliveries are taken at all.
    pub fn takes_webhooks(&self) -> bool {
        !self.0.secrets.is_empty()
    }

    /// Acts on a revocation learnt here, and tells the other replicas.
    pub fn revoke(&self, target: &RevocationTarget, source: Source) {
        let now = self.0.clock.now();
        self.act(target, now, source);
        self.announce(BusEvent::Revoked(target.clone()), now);
    }

    /// Ends a session or all of a member's at the API.
    pub async fn revoke_upstream(&self, target: Revoked<'_>) -> Result<(), DirectoryError> {
        self.0.client.revoke(target).await
    }

    /// Takes a delivery of the webhook.
    pub fn deliver(&self, body: &[u8], signature: &Signature<'_>) -> Result<Delivery, WebhookError> {
        let inner = &self.0;
        let now = inner.clock.now();
        let event = verify_webhook(body, signature, &inner.secrets, &inner.settings.project_id, now.wall)?;
        let entry = inner.deliveries.entry_by_ref(signature.id).or_insert(());
        if !entry.is_fresh() {
            return Ok(Delivery::Duplicate);
        }
        match event {
            WebhookEvent::Changed(target) => self.revoke(&target, Source::Webhook),
            WebhookEvent::ChangedSomewhere => {
                inner.metrics.revocations.with_label_values(&[Source::Webhook.label()]).inc();
                self.soften();
                self.announce(BusEvent::ChangedSomewhere, now);
            }
            WebhookEvent::Irrelevant => return Ok(Delivery::Irrelevant),
        }
        Ok(Delivery::Acted)
    }

    /// Acts on a revocation that took effect at `at`: marks first, so that whoever asks again finds what is new.
    fn act(&self, target: &RevocationTarget, at: Now, source: Source) {
        let inner = &self.0;
        inner.memory.forget(&Revocation { target: target.clone(), at });
        inner.engine.revisit(target);
        inner.metrics.revocations.with_label_values(&[source.label()]).inc();
    }

    /// Something happened, and it is not known to whom: everything is looked at again, without a herd.
    fn soften(&self) {
        self.0.memory.soften();
        self.0.engine.revisit_all();
    }

    fn announce(&self, event: BusEvent, at: Now) {
        let Some(announcements) = &self.0.announcements else { return };
        if announcements.try_send((event, at)).is_err() {
            tracing::error!(
                "too many revocations wait for the bus; the other replicas learn of this one by age alone"
            );
        }
    }
}
