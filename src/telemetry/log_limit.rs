//! A bound on the lines of the operational log: no place in the code writes more than so many, however they are provoked.
//!
//! Must not drop a line uncounted, nor write one itself: it runs while another is written.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Lines that one place may write at once, and how many more in a second.
const BURST: f64 = 100.0;
const PER_SECOND: f64 = 10.0;
/// The same for debug and trace lines, which are asked for.
const DEBUG_TIMES: f64 = 20.0;
/// How often the dropped lines are told of.
pub const TELL_EVERY: Duration = Duration::from_secs(10);

static DROPPED: AtomicU64 = AtomicU64::new(0);
/// The place that lost the most since it was told last.
static WORST: Mutex<Option<(&'static str, u32, u64)>> = Mutex::new(None);

/// Lines dropped since the process began.
pub(super) fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Tells now and then how many lines were dropped; ends only with the runtime.
pub async fn tell_of_dropped_lines() {
    let mut told = dropped();
    loop {
        tokio::time::sleep(TELL_EVERY).await;
        let now = dropped();
        if now > told {
            let worst = WORST.lock().unwrap_or_else(PoisonError::into_inner).take();
            let (file, line, _) = worst.unwrap_or_default();
            tracing::warn!(
                dropped = now - told,
                file,
                line,
                "log lines were dropped; most of them of this place"
            );
            told = now;
        }
    }
}

/// The layer that drops what is too much.
#[derive(Default)]
pub(super) struct LogLimit(Mutex<HashMap<Identifier, Bucket>>);

struct Bucket {
    left: f64,
    filled_at: Instant,
    dropped: u64,
}

impl Bucket {
    fn full(now: Instant, times: f64) -> Self {
        Self { left: BURST * times, filled_at: now, dropped: 0 }
    }

    fn take(&mut self, now: Instant, times: f64) -> bool {
        let passed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.left = (self.left + passed * PER_SECOND * times).min(BURST * times);
        self.filled_at = now;
        let is_there = self.left >= 1.0;
        if is_there {
            self.left -= 1.0;
        }
        is_there
    }
}

impl<S: Subscriber> Layer<S> for LogLimit {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let times = if *metadata.level() >= Level::DEBUG { DEBUG_TIMES } else { 1.0 };
        let now = Instant::now();
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry(metadata.callsite()).or_insert_with(|| Bucket::full(now, times));
        if bucket.take(now, times) {
            bucket.dropped = 0;
            return true;
        }
        bucket.dropped += 1;
        let lost = (metadata.file().unwrap_or_default(), metadata.line().unwrap_or_default(), bucket.dropped);
        drop(buckets);
        DROPPED.fetch_add(1, Ordering::Relaxed);
        let mut worst = WORST.lock().unwrap_or_else(PoisonError::into_inner);
        if worst.is_none_or(|(_, _, count)| lost.2 >= count) {
            *worst = Some(lost);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use tracing_subscriber::fmt;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn one_place_writes_so_many_lines_and_another_is_not_touched() {
        let written = Written::default();
        let writer = written.clone();
        let lines = fmt::layer().with_writer(move || writer.clone()).with_ansi(false);
        let subscriber = tracing_subscriber::registry().with(LogLimit::default()).with(lines);
        let before = dropped();
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..100_000 {
                tracing::warn!(number, "garbage");
            }
            tracing::warn!("another place");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let garbage = text.lines().filter(|line| line.contains("garbage")).count();
        assert!((100..1_000).contains(&garbage), "{garbage}");
        assert!(text.contains("another place"));
        assert!(dropped() - before >= 90_000);
    }
}
