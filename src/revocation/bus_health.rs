//! Whether the revocation bus works: whether what this replica says comes back to it, on the way that revocations take.
//!
//! Must not take an open connection for one that works.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::directory::{BusFault, Deaf};
use crate::telemetry::Metrics;

/// How long a sign of life may take to come back: past that the bus counts as lost.
pub(super) const SILENCE: Duration = Duration::from_millis(3_500);

const BUS: &str = "revocation_bus";
const BUS_FAILS: &str =
    "the revocation bus does not carry what this replica announces; the other replicas learn of it by age";
const LOG: &str = "revocation_log";
const LOG_FAILS: &str =
    "redis does not take revocations into its log; a replica that is away learns of them by age";

/// What is known of the bus.
pub(super) struct BusHealth {
    known: Mutex<Known>,
    metrics: Metrics,
}

struct Known {
    /// When a sign of life last came back; when this replica began, if none did.
    echo: Instant,
    is_echoed: bool,
    /// Since when Redis takes signs of life of which none came back.
    unanswered: Option<Instant>,
    /// When anything was heard, or the connection was made.
    heard: Instant,
    sending: Option<BusFault>,
    listening: Option<String>,
}

impl BusHealth {
    pub(super) fn new(metrics: Metrics, now: Instant) -> Self {
        let known = Known {
            echo: now,
            is_echoed: false,
            unanswered: None,
            heard: now,
            sending: None,
            listening: None,
        };
        Self { known: Mutex::new(known), metrics }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sign of life was taken by Redis, or not.
    pub(super) fn note_sent(&self, sent: Result<(), BusFault>, now: Instant) {
        let mut known = self.lock();
        match sent {
            Ok(()) => {
                known.sending = None;
                known.unanswered.get_or_insert(now);
            }
            // Why it is left alone was known before.
            Err(BusFault::LeftAlone) if known.sending.is_some() => {}
            Err(fault) => known.sending = Some(fault),
        }
    }

    /// Redis took an announcement into its log, or kept none of it.
    pub(super) fn note_log(&self, logged: bool) {
        let conditions = &self.metrics.conditions;
        if logged {
            conditions.clear(LOG);
        } else {
            conditions.raise(LOG, LOG_FAILS, "redis is full, or its user may not write the log");
        }
    }

    pub(super) fn note_listening(&self, now: Instant) {
        let mut known = self.lock();
        (known.heard, known.unanswered, known.listening) = (now, None, None);
    }

    pub(super) fn note_deaf(&self, error: &Deaf) {
        self.lock().listening = Some(error.to_string());
    }

    pub(super) fn note_heard(&self, now: Instant) {
        self.lock().heard = now;
    }

    /// A sign of life of this replica came back.
    pub(super) fn note_echo(&self, now: Instant) {
        let mut known = self.lock();
        (known.echo, known.is_echoed, known.unanswered) = (now, true, None);
        drop(known);
        self.report(now);
    }

    /// Whether the connection that is listened on is of no use: what Redis took does not come over it, or nothing does and
    /// Redis does not answer elsewhere either.
    pub(super) fn is_deaf(&self, now: Instant) -> bool {
        let known = self.lock();
        let is_past = |at: Instant| now.saturating_duration_since(at) > SILENCE;
        let is_lost = matches!(known.sending, Some(BusFault::Lost(_) | BusFault::LeftAlone));
        known.unanswered.is_some_and(is_past) || is_lost && is_past(known.heard)
    }

    /// Tells metrics and pages how it stands.
    pub(super) fn report(&self, now: Instant) {
        let known = self.lock();
        let age = now.saturating_duration_since(known.echo);
        let is_connected = known.is_echoed && age <= SILENCE;
        let cause = match (&known.listening, &known.sending) {
            (_, Some(fault)) => fault.to_string(),
            (Some(error), None) => error.clone(),
            (None, None) => "what is announced does not come back".to_owned(),
        };
        drop(known);
        self.metrics.revocation_bus_age.set(age.as_secs_f64());
        self.metrics.revocation_bus_connected.set(i64::from(is_connected));
        let conditions = &self.metrics.conditions;
        if is_connected {
            conditions.clear(BUS);
        } else if age > SILENCE {
            conditions.raise(BUS, BUS_FAILS, &cause);
        }
    }

    /// How long ago a sign of life came back.
    #[cfg(test)]
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.lock().echo)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn health(now: Instant) -> BusHealth {
        BusHealth::new(Metrics::new().unwrap(), now)
    }

    fn connected(health: &BusHealth, now: Instant) -> bool {
        health.report(now);
        health.metrics.revocation_bus_connected.get() == 1
    }

    #[test]
    fn connected_means_that_what_was_said_came_back() {
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        let health = health(began);
        health.note_listening(began);
        health.note_sent(Ok(()), at(0));
        assert!(!connected(&health, at(10)), "an open connection proves nothing");
        assert_eq!(health.metrics.conditions.list(), []);
        health.note_echo(at(20));
        assert!(connected(&health, at(3_500)));
        assert!(!connected(&health, at(3_521)));
        let (key, condition) = health.metrics.conditions.list().remove(0);
        assert_eq!((key.as_str(), condition.cause.as_str()), (BUS, "what is announced does not come back"));
        // A cause that is known is told.
        health.note_sent(Err(BusFault::Refused("it is a replica".to_owned())), at(3_600));
        health.note_sent(Err(BusFault::LeftAlone), at(3_700));
        assert!(!connected(&health, at(3_800)));
        assert_eq!(health.metrics.conditions.list()[0].1.cause, "it is a replica");
        assert_eq!(health.age(at(4_020)), Duration::from_secs(4));
        health.note_echo(at(5_000));
        assert_eq!(health.metrics.conditions.list(), []);
    }

    #[test]
    fn a_connection_is_given_up_only_where_it_is_of_no_use() {
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        let health = health(began);
        health.note_listening(began);
        health.note_sent(Ok(()), at(0));
        assert!(!health.is_deaf(at(3_500)));
        assert!(health.is_deaf(at(3_501)), "what redis took does not come over it");
        health.note_listening(at(4_000));
        health.note_sent(Err(BusFault::Refused("no".to_owned())), at(4_000));
        assert!(!health.is_deaf(at(60_000)), "redis refuses what is said; others may still be heard");
        health.note_sent(Err(BusFault::Lost("reset".to_owned())), at(60_000));
        assert!(health.is_deaf(at(60_001)));
        health.note_heard(at(60_001));
        assert!(!health.is_deaf(at(60_002)));
    }
}
