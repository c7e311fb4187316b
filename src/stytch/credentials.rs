//! Whether our own credentials are refused: believed only once the API confirms it, and taken back by itself.
//!
//! Must not let one odd 401 close the directory, nor a wrong secret storm it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

use super::exchange::{Exchange, Operation};
use crate::telemetry::Metrics;

/// How often a refused secret is tried again.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// The most often a doubt is put to the API.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// What is known of our credentials. Cheap to clone.
#[derive(Clone)]
pub(super) struct OwnCredentials(Arc<Inner>);

struct Inner {
    exchange: Exchange,
    deadline: Duration,
    metrics: Metrics,
    rejected: AtomicBool,
    /// When the API was last asked. The lock makes those in doubt wait for one answer.
    asked: Mutex<Option<Instant>>,
    /// Told when there are others to try.
    changed: Notify,
}

impl OwnCredentials {
    pub(super) fn new(exchange: Exchange, deadline: Duration, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            exchange,
            deadline,
            metrics,
            rejected: AtomicBool::new(false),
            asked: Mutex::new(None),
            changed: Notify::new(),
        }))
    }

    pub(super) fn are_rejected(&self) -> bool {
        self.0.rejected.load(Ordering::Acquire)
    }

    /// They are others now: what was refused is tried again at once.
    pub(super) fn changed(&self) {
        self.0.changed.notify_one();
    }

    /// Settles a 401, in a task of its own: a lookup that runs out of time does not take the answer along.
    pub(super) async fn doubt(&self) -> bool {
        let credentials = self.clone();
        tokio::spawn(async move { credentials.settle().await }).await.unwrap_or_default()
    }

    /// Asks `GET /v1/debug/whoami`, and if that is refused too, believes it and begins to probe.
    async fn settle(&self) -> bool {
        let mut asked = self.0.asked.lock().await;
        if self.are_rejected() {
            return true;
        }
        if asked.is_some_and(|at| at.elapsed() < ASK_EVERY) {
            return false;
        }
        *asked = Some(Instant::now());
        match self.0.whoami().await {
            Some(StatusCode::UNAUTHORIZED) => {
                self.0.rejected.store(true, Ordering::Release);
                self.0.metrics.directory_credentials_rejected.set(1);
                tracing::error!(
                    "the session directory rejects our project id or secret; every decision that needs it is refused"
                );
                let inner = Arc::clone(&self.0);
                tokio::spawn(async move { inner.probe().await });
                true
            }
            _ => false,
        }
    }
}

impl Inner {
    async fn whoami(&self) -> Option<StatusCode> {
        let call = self.exchange.call(Operation::Whoami, Method::GET, "/v1/debug/whoami", None);
        Some(tokio::time::timeout(self.deadline, call).await.ok()?.ok()?.status)
    }

    async fn probe(&self) {
        loop {
            let jitter = Duration::from_millis(fastrand::u64(0..1_000));
            tokio::select! {
                () = tokio::time::sleep(PROBE_EVERY + jitter) => {}
                () = self.changed.notified() => {}
            }
            if self.whoami().await.is_some_and(|status| status.is_success()) {
                break;
            }
        }
        self.rejected.store(false, Ordering::Release);
        self.metrics.directory_credentials_rejected.set(0);
        tracing::info!("the session directory accepts our credentials again");
    }
}
