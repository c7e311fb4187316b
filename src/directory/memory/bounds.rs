//! The bounds of the memory tier, which change with the configuration while the process runs.
//!
//! Must not let evidence be served for longer than marks are kept.

use std::sync::PoisonError;
use std::time::Duration;

use super::Memory;
use crate::directory::MemorySettings;

/// A little longer than anything kept for its sake.
const SLACK: Duration = Duration::from_secs(60);

/// What can change while the process runs.
#[derive(PartialEq)]
pub(super) struct Bounds {
    max_entries: u64,
    max_bytes: u64,
    horizon: Duration,
}

impl Bounds {
    pub(super) fn of(settings: &MemorySettings) -> Self {
        let MemorySettings { max_entries, max_bytes, horizon, .. } = *settings;
        Self { max_entries, max_bytes, horizon }
    }

    pub(super) fn list_life(&self, settings: &MemorySettings) -> Duration {
        self.horizon.max(settings.negative_for) + SLACK
    }

    pub(super) fn marks_life(&self, settings: &MemorySettings) -> Duration {
        self.horizon.max(settings.token_binding_for) + SLACK
    }
}

impl Memory {
    /// Goes on within the bounds of `settings`, and keeps evidence for as long as they say.
    pub fn resize(&self, settings: &MemorySettings) {
        let inner = &self.0;
        let mut bounds = inner.bounds.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = Bounds { horizon: settings.horizon.max(bounds.horizon), ..Bounds::of(settings) };
        if wanted == *bounds {
            return;
        }
        // Marks first: there may be no evidence that is older than they are.
        inner.ledger.marks.keep_for(wanted.marks_life(settings));
        let lists = inner.ledger.lists();
        lists.resize(wanted.max_entries, wanted.max_bytes, wanted.list_life(settings));
        *bounds = wanted;
    }

    /// The oldest evidence that may be served.
    pub fn horizon(&self) -> Duration {
        self.0.bounds.lock().unwrap_or_else(PoisonError::into_inner).horizon
    }

    /// Members whose list is cached, and what the lists take in bytes.
    pub fn size(&self) -> (u64, u64) {
        self.0.ledger.lists().size()
    }
}
