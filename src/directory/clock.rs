//! Reading the clocks, in the one place that does.
//!
//! Must not be called by the pure core; it is handed a `Now`.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::identity::{Monotonic, Now};

/// Something that tells the time.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Now;
}

/// What the monotonic clock shows when the process starts. Evidence out of a shared cache, and a token made before, are
/// older than the process and need a moment of their own on it.
const AT_START: Duration = Duration::from_secs(365 * 24 * 3600);

/// The clocks of the machine.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        Now { wall: Timestamp::now(), monotonic: Monotonic::at(AT_START + self.started.elapsed()) }
    }
}

/// A clock that stands still until it is moved, for tests and for explaining a decision at another time.
#[derive(Debug)]
pub struct ManualClock(Mutex<Now>);

impl ManualClock {
    pub fn at(wall: Timestamp) -> Self {
        Self(Mutex::new(Now { wall, monotonic: Monotonic::at(Duration::from_secs(3600)) }))
    }

    pub fn advance(&self, span: Duration) {
        let mut now = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        now.monotonic = now.monotonic.plus(span);
        now.wall = now.wall.saturating_add(span).unwrap_or(now.wall);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Now {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
