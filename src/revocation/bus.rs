//! The bus between replicas: announcing what was learnt here, acting on what others say, noticing when it is lost.
//!
//! Must not let Redis decide anything: without it, ages bound what replicas know of each other.

use std::time::Duration;

use tokio::sync::mpsc;

use super::{Revocations, Source};
use crate::directory::{BusEvent, BusMessage, RedisLink, Subscription};
use crate::identity::Now;

/// How often a sign of life is sent.
const TICK_EVERY: Duration = Duration::from_secs(1);
/// Silence after which the bus counts as lost: our own signs of life would have come back.
const SILENCE: Duration = Duration::from_millis(3_500);
/// The pause before an announcement is tried again.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// What the wall clocks of two replicas may be apart (section 4.3).
const SKEW: Duration = Duration::from_secs(2);

/// Announces what is sent to it, in order; each until Redis took it or it no longer matters.
pub(super) async fn announce(
    link: RedisLink,
    mut waiting: mpsc::Receiver<(BusEvent, Now)>,
    horizon: Duration,
) {
    while let Some((event, at)) = waiting.recv().await {
        let began = tokio::time::Instant::now();
        while began.elapsed() <= horizon && !link.announce(&event, at.wall, horizon).await {
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
        }
    }
}

pub(super) async fn tick(link: RedisLink) {
    loop {
        link.tick().await;
        tokio::time::sleep(TICK_EVERY.mul_f64(0.9 + fastrand::f64() * 0.2)).await;
    }
}

/// Listens for as long as the process runs, and again after every loss.
pub(super) async fn listen(link: RedisLink, revocations: Revocations) {
    let connected = revocations.0.metrics.revocation_bus_connected.clone();
    let mut pause = Duration::from_millis(100);
    let mut first = true;
    loop {
        if let Some(mut subscription) = link.subscribe().await {
            // Heard from now on; what was said while nobody listened is in the log.
            catch_up(&link, &revocations).await;
            if !first {
                tracing::info!("the revocation bus is back; everything known so far is looked at again");
                revocations.soften();
            }
            first = false;
            pause = Duration::from_millis(100);
            connected.set(1);
            hear(&mut subscription, &link, &revocations).await;
            connected.set(0);
            tracing::warn!("the revocation bus is lost; until it is back, ages bound what the others did");
        }
        tokio::time::sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

async fn hear(subscription: &mut Subscription, link: &RedisLink, revocations: &Revocations) {
    while let Ok(Some(message)) = tokio::time::timeout(SILENCE, subscription.next()).await {
        if message.replica == link.replica() {
            continue;
        }
        let now = revocations.0.clock.now();
        match &message.event {
            BusEvent::Tick => {}
            BusEvent::Revoked(target) => {
                let passed = now.age_of(message.published_at, SKEW).unwrap_or_default();
                if passed <= revocations.0.settings.horizon {
                    revocations.act(target, now, Source::Bus);
                    revocations.0.metrics.revocation_propagation.observe(passed.as_secs_f64());
                }
            }
            BusEvent::ChangedSomewhere => revocations.soften(),
        }
    }
}

/// Acts on what was announced while this replica did not listen, as of when it was said.
async fn catch_up(link: &RedisLink, revocations: &Revocations) {
    let logged = link.announced(revocations.0.settings.horizon).await;
    for BusMessage { replica, published_at, event } in logged.into_iter().flatten() {
        let BusEvent::Revoked(target) = event else { continue };
        if replica == link.replica() {
            continue;
        }
        let now = revocations.0.clock.now();
        let passed = now.age_of(published_at, SKEW).unwrap_or_default();
        revocations.act(&target, now.minus(passed.saturating_sub(SKEW)), Source::Bus);
    }
}
