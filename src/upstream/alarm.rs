//! The timer of a connection: set once, and only set again when a request needs it sooner than it goes off anyway.
//!
//! Must not be taken for a deadline: whoever waits for it looks at the time themselves.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::Sleep;

/// Goes off at or before the moment it was asked for. Setting a timer for every request, and taking it back for nearly
/// every one, costs more than the request's share of one that goes off too early now and then.
pub(super) struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    pub(super) fn at(moment: Instant) -> Self {
        Self(Box::pin(tokio::time::sleep_until(moment.into())))
    }

    /// Goes off at `moment` at the latest.
    pub(super) fn set_by(&mut self, moment: Instant) {
        if self.0.is_elapsed() || self.0.deadline().into_std() > moment {
            self.0.as_mut().reset(moment.into());
        }
    }

    /// Ready once it went off: it must be set again then.
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
        let mut alarm = Alarm::at(after(30));
        for (asked, goes_off) in [(40, 30), (50, 50), (70, 70), (60, 60)] {
            alarm.set_by(after(asked));
            if asked == 70 {
                continue;
            }
            poll_fn(|cx| alarm.poll(cx)).await;
            assert_eq!(start.elapsed().as_secs(), goes_off);
        }
    }
}
