//! The bus between replicas: announcing what was learnt here, acting on what others say, noticing when it is lost.
//!
//! Must not let Redis decide anything: without it, ages bound what replicas know of each other.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{MAX_WAITING, Revocations, Source};
use crate::directory::{BusEvent, BusMessage, Heard, RedisLink, SealedMessage, Subscription};
use crate::identity::Now;

/// How often a sign of life is sent.
const TICK_EVERY: Duration = Duration::from_secs(1);
/// Silence after which the bus counts as lost: our own signs of life would have come back.
const SILENCE: Duration = Duration::from_millis(3_500);
/// The pause before announcements are tried again, or the log.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// The most often that what cannot be read makes everything be looked at again.
const SOFTEN_EVERY: Duration = Duration::from_secs(3);
/// What the wall clocks of two replicas may be apart (section 4.3).
const SKEW: Duration = Duration::from_secs(2);

/// Announces what is sent to it, each until Redis took it. What does not fit is told as one: that something changed.
pub(super) async fn announce(
    link: RedisLink,
    mut waiting: mpsc::Receiver<(BusEvent, Now)>,
    revocations: Revocations,
) {
    let horizon = revocations.0.settings.horizon;
    let mut pending: VecDeque<SealedMessage> = VecDeque::new();
    let mut taken = 0;
    loop {
        let next = if pending.is_empty() {
            waiting.recv().await
        } else {
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
            waiting.try_recv().ok()
        };
        if next.is_none() && pending.is_empty() {
            return;
        }
        let mut events: Vec<(BusEvent, Now)> = next.into_iter().collect();
        while let Ok(event) = waiting.try_recv() {
            events.push(event);
        }
        taken += events.len();
        if pending.len() + events.len() > MAX_WAITING {
            revocations.0.overflowed.store(true, Ordering::Release);
            pending.clear();
            events.clear();
        }
        if revocations.0.overflowed.swap(false, Ordering::AcqRel) {
            tracing::warn!(
                "more revocations than the bus could take; the other replicas look at everything again"
            );
            events.push((BusEvent::ChangedSomewhere, revocations.0.clock.now()));
        }
        let sealed = events.into_iter().filter_map(|(event, at)| link.seal_message(event, at.wall));
        pending.extend(sealed);
        while let Some(message) = pending.front() {
            if !link.announce(message, horizon).await {
                break;
            }
            pending.pop_front();
        }
        if pending.is_empty() {
            revocations.0.outstanding.fetch_sub(std::mem::take(&mut taken), Ordering::AcqRel);
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
        match link.subscribe().await {
            Err(error) if first => {
                tracing::warn!(%error, "redis cannot be listened to; until it can, ages bound what the others did");
            }
            Err(error) => tracing::debug!(%error, "redis cannot be listened to yet"),
            Ok(mut subscription) => {
                // Heard from now on; what was said while nobody listened is in the log.
                let whole = catch_up(&link, &revocations).await;
                if !(first && whole) {
                    tracing::info!("what may have been missed on the revocation bus is looked at again");
                    revocations.soften();
                }
                pause = Duration::from_millis(100);
                connected.set(1);
                hear(&mut subscription, &revocations).await;
                connected.set(0);
                tracing::warn!(
                    "the revocation bus is lost; until it is back, ages bound what the others did"
                );
            }
        }
        // From the first failure on, something may have been missed.
        first = false;
        tokio::time::sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

async fn hear(subscription: &mut Subscription, revocations: &Revocations) {
    let (mut softened, mut owed): (Option<Instant>, bool) = (None, false);
    while let Ok(Some(heard)) = tokio::time::timeout(SILENCE, subscription.next()).await {
        let now = revocations.0.clock.now();
        // It may have been a revocation. Not for every one at once: anybody who reaches Redis can say something.
        owed |= matches!(heard, Heard::Unreadable);
        if owed && softened.is_none_or(|at| at.elapsed() >= SOFTEN_EVERY) {
            (softened, owed) = (Some(Instant::now()), false);
            revocations.soften();
        }
        match heard {
            // As of now, whatever the date: the clock of whoever said it decides nothing.
            Heard::Message(message) => {
                if heed(&message, now, revocations) {
                    let passed = now.age_of(message.published_at, SKEW).unwrap_or_default();
                    revocations.0.metrics.revocation_propagation.observe(passed.as_secs_f64());
                }
            }
            Heard::Unreadable => {}
        }
    }
}

/// Acts on what was announced while this replica did not listen, as of when it was said. True if that was all of it.
async fn catch_up(link: &RedisLink, revocations: &Revocations) -> bool {
    let horizon = revocations.0.settings.horizon;
    for _ in 0..10 {
        let Some((logged, whole)) = link.announced(horizon).await else {
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
            continue;
        };
        let mut news = 0;
        for message in &logged {
            let now = revocations.0.clock.now();
            let passed = now.age_of(message.published_at, SKEW).unwrap_or_default();
            news += usize::from(heed(message, now.minus(passed.saturating_sub(SKEW)), revocations));
        }
        tracing::info!(news, whole, "the log of revocations is read");
        return whole;
    }
    false
}

/// Acts on a message, unless it is our own, was heard before, or says nothing. True if it was acted on.
fn heed(message: &BusMessage, at: Now, revocations: &Revocations) -> bool {
    let inner = &revocations.0;
    let is_news = message.event != BusEvent::Tick
        && message.replica != inner.replica
        && inner.heard.entry(message.id).or_insert(()).is_fresh();
    if is_news {
        match &message.event {
            BusEvent::Tick => {}
            BusEvent::Revoked(target) => revocations.act(target, at, Source::Bus),
            BusEvent::Changed(organization_id) => revocations.soften_organization(organization_id),
            BusEvent::ChangedSomewhere => revocations.soften(),
        }
    }
    is_news
}
