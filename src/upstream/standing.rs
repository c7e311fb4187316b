//! How one server stands: what its own health says, and what became of the requests sent to it.
//!
//! Must not look at a clock: the time is passed in, counted from when the application was built.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::settings::{EjectionSettings, HealthSettings};

/// The longest a server is left out for failing, in periods.
const MOST_PERIODS: u32 = 10;

#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Requests in a row that got no answer.
    failures: AtomicU32,
    /// Times in a row it was left out.
    ejections: AtomicU32,
    /// Until when it is left out, in milliseconds.
    out_until: AtomicU64,
    /// Its last health checks failed.
    unhealthy: AtomicBool,
    /// Checks in a row that went the other way than it stands.
    against: AtomicU32,
}

impl Standing {
    /// Whether it is among those that are asked.
    pub(super) fn is_available(&self, now: Duration) -> bool {
        !self.is_unhealthy() && !self.is_ejected(now)
    }

    pub(super) fn is_unhealthy(&self) -> bool {
        self.unhealthy.load(Ordering::Relaxed)
    }

    pub(super) fn is_ejected(&self, now: Duration) -> bool {
        let until = self.out_until.load(Ordering::Relaxed);
        until > 0 && milliseconds(now) < until
    }

    /// It answered.
    pub(super) fn succeed(&self) {
        // Nearly always there is nothing to forget, and a load is cheaper than a store that others must see.
        if self.failures.load(Ordering::Relaxed) > 0 || self.ejections.load(Ordering::Relaxed) > 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.ejections.store(0, Ordering::Relaxed);
            self.out_until.store(0, Ordering::Relaxed);
        }
    }

    /// It did not answer. True if that was once too often, and it is left out from now on.
    pub(super) fn fail(&self, now: Duration, settings: &EjectionSettings) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures < settings.after || self.is_ejected(now) {
            return false;
        }
        // One more failure is enough once it is back.
        self.failures.store(settings.after.saturating_sub(1), Ordering::Relaxed);
        let before = self.ejections.fetch_add(1, Ordering::Relaxed);
        let periods = 1_u32.checked_shl(before.min(8)).unwrap_or(MOST_PERIODS).min(MOST_PERIODS);
        self.out_until.store(milliseconds(now + settings.period * periods), Ordering::Relaxed);
        true
    }

    /// What a health check found. The new standing if that changed it.
    pub(super) fn check(&self, healthy: bool, settings: &HealthSettings) -> Option<bool> {
        if healthy != self.is_unhealthy() {
            self.against.store(0, Ordering::Relaxed);
            return None;
        }
        let against = self.against.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let enough = if healthy { settings.healthy_after } else { settings.unhealthy_after };
        if against < enough {
            return None;
        }
        self.against.store(0, Ordering::Relaxed);
        self.unhealthy.store(!healthy, Ordering::Relaxed);
        if healthy {
            // Whoever says it is well is asked again, whatever happened before.
            self.succeed();
        }
        Some(healthy)
    }
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EJECTION: EjectionSettings = EjectionSettings { after: 3, period: Duration::from_secs(10) };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn failures_in_a_row_leave_a_server_out_for_longer_each_time() {
        let standing = Standing::default();
        assert!(!standing.fail(at(1), &EJECTION));
        standing.succeed();
        assert!(!standing.fail(at(1), &EJECTION) && !standing.fail(at(1), &EJECTION));
        assert!(standing.is_available(at(1)));
        assert!(standing.fail(at(1), &EJECTION));
        assert!(!standing.is_available(at(10)) && standing.is_available(at(11)));
        assert!(standing.fail(at(11), &EJECTION), "one failure is enough after the first time");
        assert!(!standing.is_available(at(30)) && standing.is_available(at(31)));
        for round in 1..20 {
            standing.fail(at(31 + 1000 * round), &EJECTION);
        }
        assert!(standing.is_available(at(31 + 19_000 + 100)), "never longer than ten periods");
        standing.succeed();
        assert!(!standing.fail(at(20_000), &EJECTION), "an answer makes up for everything");
    }

    #[test]
    fn what_fails_while_it_is_left_out_does_not_prolong_that() {
        let standing = Standing::default();
        for _ in 0..3 {
            standing.fail(at(0), &EJECTION);
        }
        for _ in 0..50 {
            assert!(!standing.fail(at(5), &EJECTION));
        }
        assert!(standing.is_available(at(10)));
    }

    #[test]
    fn checks_change_the_standing_only_in_a_row() {
        let settings = HealthSettings {
            path: "/".to_owned(),
            every: at(1),
            timeout: at(1),
            unhealthy_after: 2,
            healthy_after: 3,
        };
        let standing = Standing::default();
        assert_eq!(standing.check(false, &settings), None);
        assert_eq!(standing.check(true, &settings), None);
        assert_eq!(standing.check(false, &settings), None);
        assert_eq!(standing.check(false, &settings), Some(false));
        assert!(!standing.is_available(at(0)));
        let back: Vec<_> =
            [true, true, false, true, true, true].map(|healthy| standing.check(healthy, &settings)).into();
        assert_eq!(back, [None, None, None, None, None, Some(true)]);
        assert!(standing.is_available(at(0)));
    }
}
