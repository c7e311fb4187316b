//! What probes, metrics and the status page are told from: one place for all who look.
//!
//! Must not make readiness depend on the directory being reachable: its bad day would empty every service.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use jiff::Timestamp;
use tokio::sync::Mutex as AsyncMutex;

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
    /// The last answer of each configured probe, and when it came. The lock is held while the application is asked.
    probed: Mutex<HashMap<String, Arc<AsyncMutex<Option<Probed>>>>>,
    started_at: Timestamp,
}

type Probed = (Instant, Option<StatusCode>);

/// How long an application's answer stands for all who ask: the ops listener is open to everybody who reaches it.
const PROBED_FOR: Duration = Duration::from_secs(1);

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
            probed: Mutex::default(),
            started_at,
        }))
    }

    /// The metrics, with gauges as they are now.
    pub(super) fn metrics(&self) -> &Metrics {
        (self.0.refresh)();
        &self.0.metrics
    }

    /// What the application answers that the probe of this name asks, at most a second ago: none if it does not; nothing
    /// without such a probe. One request at a time is sent, however many ask.
    pub(super) async fn probe(&self, name: &str) -> Option<Option<StatusCode>> {
        let asking = (self.0.probe)(name)?;
        let probed = {
            let mut known = self.0.probed.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(known.entry(name.to_owned()).or_default())
        };
        let mut probed = probed.lock_owned().await;
        if let Some((at, status)) = *probed
            && at.elapsed() < PROBED_FOR
        {
            return Some(status);
        }
        // A prober that leaves does not stop it: the next one would ask once more.
        let asked = tokio::spawn(async move {
            let status = asking.await;
            *probed = Some((Instant::now(), status));
            status
        });
        Some(asked.await.ok().flatten())
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
