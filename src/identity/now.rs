//! A reading of both clocks, taken once and passed on.
//!
//! Must not read a clock itself: whoever decides is handed the time, so a test needs no waiting.

use std::time::Duration;

use jiff::Timestamp;

/// One reading of the wall clock and of the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For dates that others wrote: JWT claims, factor times, session expiry.
    pub wall: Timestamp,
    /// For ages of what we fetched ourselves.
    pub monotonic: Monotonic,
}

/// A moment on the monotonic clock, counted from one that lies before everything there is a date of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Monotonic(Duration);

impl Monotonic {
    pub const fn at(passed: Duration) -> Self {
        Self(passed)
    }

    /// Time passed since `earlier`; zero if `earlier` lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span))
    }

    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

impl Now {
    /// This reading with a wall clock that never goes back behind `earlier`: what had passed by both clocks then
    /// stays passed, whatever the wall clock was set to since.
    pub fn no_earlier_than(self, earlier: Self) -> Self {
        let passed = self.monotonic.since(earlier.monotonic);
        let least = earlier.wall.saturating_add(passed).unwrap_or(self.wall);
        Self { wall: self.wall.max(least), ..self }
    }

    /// This reading as it would have been so long ago.
    pub fn minus(self, span: Duration) -> Self {
        Self {
            wall: self.wall.saturating_sub(span).unwrap_or(self.wall),
            monotonic: self.monotonic.minus(span),
        }
    }

    /// How long ago `date` was by the wall clock, or `None` if it lies more than `skew` ahead.
    pub fn age_of(&self, date: Timestamp, skew: Duration) -> Option<Duration> {
        let passed = self.wall.duration_since(date);
        match Duration::try_from(passed) {
            Ok(age) => Some(age),
            Err(_) if passed.unsigned_abs() <= skew => Some(Duration::ZERO),
            Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_ahead_of_the_clock_is_believed_only_within_the_skew() {
        let now = Now { wall: Timestamp::from_second(1_000).unwrap(), monotonic: Monotonic::default() };
        let skew = Duration::from_secs(2);
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(now.age_of(at(990), skew), Some(Duration::from_secs(10)));
        assert_eq!(now.age_of(at(1_002), skew), Some(Duration::ZERO));
        assert_eq!(now.age_of(at(1_003), skew), None);
    }
}
