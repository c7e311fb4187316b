//! What is known of the configuration in force: where it is from, since when, and what became of the last change.
//!
//! Must not hold a secret of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;

use crate::telemetry::Metrics;

/// The outcomes of a change, as the metric has them.
const RESULTS: [&str; 4] = ["applied", "unchanged", "refused", "invalid"];

/// Works out every value in force with where it is from, secrets hidden.
pub type Resolved = Box<dyn Fn() -> serde_json::Value + Send + Sync>;

/// What is known, told to whoever asks. Cheap to clone.
#[derive(Clone)]
pub struct ConfigurationState(Arc<Inner>);

struct Inner {
    known: Mutex<ConfigurationStatus>,
    resolved: Mutex<Resolved>,
    metrics: Metrics,
}

/// What is known at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct ConfigurationStatus {
    /// The file it is from; none where it was made up in the process.
    pub source: Option<String>,
    /// SHA-256 of every value that is set as it is shown, in hex: of secrets nothing but that there is one.
    pub checksum: Option<String>,
    pub in_force_since: Timestamp,
    /// The last change that was looked at, if there was one.
    pub last_change: Option<Change>,
}

/// What became of a change.
#[derive(Debug, Clone, Serialize)]
pub struct Change {
    pub at: Timestamp,
    /// `applied`, `unchanged`, `refused` (it needs a restart) or `invalid`.
    pub result: &'static str,
    /// Why it is not in force, with places in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl ConfigurationState {
    pub fn new(metrics: Metrics) -> Self {
        for result in RESULTS {
            // What never happened is zero, not missing.
            metrics.config_reloads.with_label_values(&[result]);
        }
        metrics.config_last_reload_successful.set(1);
        let now = Timestamp::now();
        metrics.config_last_reload_success_timestamp.set(now.as_second());
        let status =
            ConfigurationStatus { source: None, checksum: None, in_force_since: now, last_change: None };
        let resolved = Mutex::new(Box::new(|| serde_json::json!([])) as Resolved);
        Self(Arc::new(Inner { known: Mutex::new(status), resolved, metrics }))
    }

    /// Tells where what is in force is from.
    pub fn is_from(&self, source: String, checksum: String, resolved: Resolved) {
        let mut known = self.lock();
        (known.source, known.checksum) = (Some(source), Some(checksum));
        self.resolves_to(resolved);
    }

    /// Every value in force with where it is from, secrets hidden.
    pub fn resolved(&self) -> serde_json::Value {
        (self.0.resolved.lock().unwrap_or_else(PoisonError::into_inner))()
    }

    fn resolves_to(&self, resolved: Resolved) {
        *self.0.resolved.lock().unwrap_or_else(PoisonError::into_inner) = resolved;
    }

    /// A change was put in force.
    pub fn applied(&self, checksum: String, resolved: Resolved) {
        self.resolves_to(resolved);
        let now = Timestamp::now();
        let mut known = self.lock();
        (known.checksum, known.in_force_since) = (Some(checksum), now);
        self.note(&mut known, Change { at: now, result: "applied", error: None });
    }

    /// There was nothing to change.
    pub fn unchanged(&self) {
        self.note(&mut self.lock(), Change { at: Timestamp::now(), result: "unchanged", error: None });
    }

    /// A change is not in force: `refused` if it needs a restart, `invalid` if nobody could use it.
    pub fn failed(&self, result: &'static str, error: String) {
        self.note(&mut self.lock(), Change { at: Timestamp::now(), result, error: Some(error) });
    }

    pub fn status(&self) -> ConfigurationStatus {
        self.lock().clone()
    }

    fn note(&self, known: &mut ConfigurationStatus, change: Change) {
        let metrics = &self.0.metrics;
        metrics.config_reloads.with_label_values(&[change.result]).inc();
        metrics.config_last_reload_successful.set(i64::from(change.error.is_none()));
        if change.error.is_none() {
            metrics.config_last_reload_success_timestamp.set(change.at.as_second());
        }
        known.last_change = Some(change);
    }

    fn lock(&self) -> MutexGuard<'_, ConfigurationStatus> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
