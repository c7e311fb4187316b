//! Leaving in order: first it is said, then nobody is let in, work under way is counted, and the wait has an end.
//!
//! Must not decide how long to wait; whoever drains says so.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Told to every connection and tunnel. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    announced: CancellationToken,
    begun: CancellationToken,
    tasks: TaskTracker,
    cut: Arc<AtomicBool>,
}

impl Drain {
    /// Runs `task` where the end of the process waits for it.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Says that we will leave: whoever sends requests should send them elsewhere. Those that come are answered as ever.
    pub fn announce(&self) {
        self.announced.cancel();
    }

    /// Whether leaving was announced.
    pub fn is_announced(&self) -> bool {
        self.announced.is_cancelled()
    }

    /// Resolves when leaving is announced.
    pub async fn announced(&self) {
        self.announced.cancelled().await;
    }

    /// Resolves when leaving begins.
    pub async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// Something was ended before it was over.
    pub fn note_cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Tells everyone and waits for what is under way, at most `patience`. True if nothing was cut off.
    pub async fn finish(&self, patience: Duration) -> bool {
        self.announced.cancel();
        self.begun.cancel();
        self.tasks.close();
        let ended = tokio::time::timeout(patience, self.tasks.wait()).await.is_ok();
        ended && !self.cut.load(Ordering::Relaxed)
    }
}
