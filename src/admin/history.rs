//! The last minutes of the metrics, for rates, quantiles and small charts.
//!
//! Must not keep more than a page needs: a full sample for each step of one minute, a few numbers for five.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::telemetry::{Metrics, Sample};

/// How far two samples are apart.
const STEP: Duration = Duration::from_secs(5);
/// Full samples: one minute of them.
const SAMPLES: usize = 13;
/// Steps that charts show: five minutes.
const STEPS: usize = 60;

/// The last minutes. Cheap to clone.
#[derive(Clone)]
pub(super) struct History(Arc<Inner>);

struct Inner {
    metrics: Metrics,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    samples: VecDeque<Arc<Sample>>,
    steps: VecDeque<Step>,
}

/// What happened in one step, per second.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Step {
    pub(super) allowed: f64,
    pub(super) refused: f64,
    /// Refused because something of ours or the session API was in trouble.
    pub(super) unavailable: f64,
}

/// Two moments of the metrics.
pub(super) struct Window {
    pub(super) before: Arc<Sample>,
    pub(super) now: Sample,
}

impl Window {
    /// How long it is, in seconds; never zero.
    pub(super) fn seconds(&self) -> f64 {
        self.now.at.duration_since(self.before.at).as_secs_f64().max(0.001)
    }

    /// How much a counter grew, per second.
    pub(super) fn rate(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        (self.now.sum(name, labels) - self.before.sum(name, labels)).max(0.0) / self.seconds()
    }

    /// A quantile of what was observed in between.
    pub(super) fn quantile(&self, name: &str, labels: &[(&str, &str)], quantile: f64) -> Option<f64> {
        let before = self.before.distribution(name, labels);
        self.now.distribution(name, labels).since(&before).quantile(quantile)
    }
}

impl History {
    pub(super) fn new(metrics: Metrics) -> Self {
        let first = Arc::new(Sample::take(&metrics));
        let kept = Kept { samples: VecDeque::from([first]), ..Kept::default() };
        Self(Arc::new(Inner { metrics, kept: Mutex::new(kept) }))
    }

    /// Takes samples; ends only with the runtime.
    pub(super) async fn keep(self) {
        loop {
            tokio::time::sleep(STEP).await;
            self.step();
        }
    }

    fn step(&self) {
        let now = Arc::new(Sample::take(&self.0.metrics));
        let mut kept = self.lock();
        if let Some(before) = kept.samples.back() {
            let seconds = now.at.duration_since(before.at).as_secs_f64().max(0.001);
            let grew = |labels: &[(&str, &str)]| {
                (now.sum(DECISIONS, labels) - before.sum(DECISIONS, labels)).max(0.0) / seconds
            };
            let refused = grew(&[("decision", "refuse")]);
            let unavailable: f64 = unavailable_reasons().map(|reason| grew(&[("reason", reason)])).sum();
            let allowed = grew(&[("decision", "allow")]);
            let step = Step { allowed, refused: (refused - unavailable).max(0.0), unavailable };
            kept.steps.push_back(step);
        }
        kept.samples.push_back(now);
        while kept.samples.len() > SAMPLES {
            kept.samples.pop_front();
        }
        while kept.steps.len() > STEPS {
            kept.steps.pop_front();
        }
    }

    /// From about a minute ago, or the start, to now.
    pub(super) fn window(&self) -> Window {
        let now = Sample::take(&self.0.metrics);
        let kept = self.lock();
        let before = kept.samples.front().cloned();
        drop(kept);
        Window { before: before.unwrap_or_else(|| Arc::new(Sample::take(&self.0.metrics))), now }
    }

    /// The steps of the last minutes, the oldest first.
    pub(super) fn steps(&self) -> Vec<Step> {
        self.lock().steps.iter().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) const DECISIONS: &str = "portcullis_decisions_total";

/// Reasons that are no doing of the caller.
fn unavailable_reasons() -> impl Iterator<Item = &'static str> {
    let all = crate::policy::Reason::ALL.iter();
    all.filter(|reason| reason.status().is_server_error()).map(|reason| reason.code())
}
