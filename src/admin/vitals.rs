//! What probes, metrics and the status page are told from: one place for all who look.
//!
//! Must not make readiness depend on the directory being reachable: its bad day would empty every service.

use std::pin::Pin;
use std::sync::Arc;

use http::StatusCode;
use jiff::Timestamp;

use super::ConfigurationState;
use crate::telemetry::{Condition, Metrics, RecentRefusals};

/// One thing readiness depends on: its name, and whether it holds now.
pub struct Readiness {
    pub name: &'static str,
    pub holds: Box<dyn Fn() -> bool + Send + Sync>,
}

/// Asks the application that a probe is about; nothing where there is no probe of that name.
pub type Probe = Box<dyn Fn(&str) -> Option<Probing> + Send + Sync>;
type Probing = Pin<Box<dyn Future<Output = Option<StatusCode>> + Send>>;

/// What there is to look at. Cheap to clone.
#[derive(Clone)]
pub struct Vitals(Arc<Inner>);

struct Inner {
    metrics: Metrics,
    startup: Vec<Readiness>,
    readiness: Vec<Readiness>,
    configuration: ConfigurationState,
    refusals: RecentRefusals,
    refresh: Box<dyn Fn() + Send + Sync>,
    probe: Probe,
    started_at: Timestamp,
}

impl Vitals {
    /// `startup` is needed once, at the start, `readiness` all the time; `refresh` brings gauges up to date before they are
    /// read.
    pub fn new(
        metrics: Metrics,
        startup: Vec<Readiness>,
        readiness: Vec<Readiness>,
        configuration: ConfigurationState,
        refusals: RecentRefusals,
        refresh: Box<dyn Fn() + Send + Sync>,
        probe: Probe,
    ) -> Self {
        let started_at = Timestamp::now();
        Self(Arc::new(Inner {
            metrics,
            startup,
            readiness,
            configuration,
            refusals,
            refresh,
            probe,
            started_at,
        }))
    }

    /// The metrics, with gauges as they are now.
    pub(super) fn metrics(&self) -> &Metrics {
        (self.0.refresh)();
        &self.0.metrics
    }

    /// What the application answers that the probe of this name asks: none if it does not; nothing without such a probe.
    pub(super) async fn probe(&self, name: &str) -> Option<Option<StatusCode>> {
        Some((self.0.probe)(name)?.await)
    }

    pub(super) fn startup(&self) -> impl Iterator<Item = &Readiness> {
        self.0.startup.iter()
    }

    pub(super) fn readiness(&self) -> impl Iterator<Item = &Readiness> {
        self.0.startup.iter().chain(&self.0.readiness)
    }

    pub(super) fn configuration(&self) -> &ConfigurationState {
        &self.0.configuration
    }

    pub(super) fn refusals(&self) -> &RecentRefusals {
        &self.0.refusals
    }

    /// Faults that go on; told and not judged, since none of them is mended by sending traffic elsewhere.
    pub(super) fn conditions(&self) -> Vec<(String, Condition)> {
        self.0.metrics.conditions.list()
    }

    pub(super) fn started_at(&self) -> Timestamp {
        self.0.started_at
    }
}
