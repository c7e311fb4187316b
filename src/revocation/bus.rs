//! The bus between replicas: announcing what was learnt here, acting on what others say, noticing when it is lost.
//!
//! Must not let Redis decide anything: without it, ages bound what replicas know of each other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::bus_health::{BusHealth, SILENCE};
use super::{MAX_WAITING, Revocations, Source};
use crate::directory::{BusEvent, BusMessage, Heard, RedisLink, SealedMessage, Subscription};
use crate::identity::Now;

/// How often a sign of life is sent.
const TICK_EVERY: Duration = Duration::from_secs(1);
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// The pauses between two tries to listen.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
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
    health: Arc<BusHealth>,
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
            match link.announce(message, horizon).await {
                Ok(logged) => health.note_log(logged),
                // What keeps it from travelling keeps the signs of life from travelling, which tell of it.
                Err(_) => break,
            }
            pending.pop_front();
        }
        if pending.is_empty() {
            revocations.0.outstanding.fetch_sub(std::mem::take(&mut taken), Ordering::AcqRel);
        }
    }
}

/// Sends signs of life on the way that revocations take, and tells whether they come back.
pub(super) async fn tick(link: RedisLink, health: Arc<BusHealth>) {
    loop {
        let sent = link.tick().await;
        if let Ok(logged) = sent {
            health.note_log(logged);
        }
        health.note_sent(sent.map(drop), Instant::now());
        tokio::time::sleep(TICK_EVERY.mul_f64(0.9 + fastrand::f64() * 0.2)).await;
    }
}

/// Keeps what metrics and pages tell of the bus up to date; ends only with the runtime.
pub(super) async fn report(health: Arc<BusHealth>) {
    loop {
        health.report(Instant::now());
        tokio::time::sleep(REPORT_EVERY).await;
    }
}

/// Listens for as long as the process runs, and again after every loss.
pub(super) async fn listen(link: RedisLink, revocations: Revocations, health: Arc<BusHealth>) {
    let mut pause = FIRST_PAUSE;
    let mut first = true;
    loop {
        match link.subscribe().await {
            Err(error) => {
                health.note_deaf(&error);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Ok(mut subscription) => {
                // Heard from now on; what was said while nobody listened is in the log.
                let whole = catch_up(&link, &revocations).await;
                if !(first && whole) {
                    tracing::info!("what may have been missed on the revocation bus is looked at again");
                    revocations.soften();
                }
                health.note_listening(Instant::now());
                let heard_any = hear(&mut subscription, &revocations, &health).await;
                pause = if heard_any { FIRST_PAUSE } else { LONGEST_PAUSE };
            }
        }
        // From the first failure on, something may have been missed.
        first = false;
        tokio::time::sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
    }
}

/// Hears until the connection ends, or is of no use. True if anything was heard.
async fn hear(subscription: &mut Subscription, revocations: &Revocations, health: &BusHealth) -> bool {
    let mut softened: Option<Instant> = None;
    let mut owed: bool = false;
    let mut heard_any = false;
    loop {
        let heard = match tokio::time::timeout(REPORT_EVERY, subscription.next()).await {
            Ok(Some(heard)) => Some(heard),
            Ok(None) => return heard_any,
            Err(_) => None,
        };
        if health.is_deaf(Instant::now()) {
            return heard_any;
        }
        let Some(heard) = heard else { continue };
        heard_any = true;
        health.note_heard(Instant::now());
        let now = revocations.0.clock.now();
        // It may have been a revocation. Not for every one at once: anybody who reaches Redis can say something.
        owed |= matches!(heard, Heard::Unreadable);
        if owed && softened.is_none_or(|at| at.elapsed() >= SOFTEN_EVERY) {
            (softened, owed) = (Some(Instant::now()), false);
            revocations.soften();
        }
        // As of now, whatever the date: the clock of whoever said it decides nothing.
        let Heard::Message(message) = heard else { continue };
        if message.replica == revocations.0.replica && message.event == BusEvent::Tick {
            // Our own clock wrote the date, so that an old one played again proves nothing.
            let is_recent = now.age_of(message.published_at, SKEW).is_some_and(|age| age <= SILENCE);
            if is_recent {
                health.note_echo(Instant::now());
            }
        }
        if heed(&message, now, revocations) {
            let passed = now.age_of(message.published_at, SKEW).unwrap_or_default();
            revocations.0.metrics.revocation_propagation.observe(passed.as_secs_f64());
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
