//! The timer of a connection: armed once, and armed again only when a request needs it sooner.
//!
//! Must not be taken for a deadline: it may fire early, so its owner compares the time itself.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::Sleep;

/// Fires at or before the requested moment. Arming and cancelling a timer for every request would cost more than a wake-up
/// that comes too early now and then.
pub(super) struct ReusableTimer(Pin<Box<Sleep>>);

impl ReusableTimer {
    pub(super) fn at(moment: Instant) -> Self {
        Self(Box::pin(tokio::time::sleep_until(moment.into())))
    }

    /// Fires at `moment` at the latest.
    pub(super) fn set_by(&mut self, moment: Instant) {
        if self.0.is_elapsed() || self.0.deadline().into_std() > moment {
            self.0.as_mut().reset(moment.into());
        }
    }

    /// Ready once it fired; it must then be armed again.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_goes_off_no_later_than_anybody_asked_for() {
        let start = tokio::time::Instant::now();
        let after = |seconds| (start + Duration::from_secs(seconds)).into_std();
        let mut timer = ReusableTimer::at(after(30));
        for (asked, goes_off) in [(40, 30), (50, 50), (70, 70), (60, 60)] {
            timer.set_by(after(asked));
            if asked == 70 {
                continue;
            }
            poll_fn(|cx| timer.poll(cx)).await;
            assert_eq!(start.elapsed().as_secs(), goes_off);
        }
    }
}
