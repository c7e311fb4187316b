//! How lookups in memory ended.
//!
//! Must not count anything twice: whoever answers a question says how.

use prometheus::IntCounter;

use crate::telemetry::Metrics;

/// How lookups ended, counted.
pub(super) struct Lookups {
    pub(super) hit: IntCounter,
    pub(super) stale: IntCounter,
    pub(super) stale_error: IntCounter,
    pub(super) jwt_evidence: IntCounter,
    pub(super) miss: IntCounter,
    pub(super) coalesced: IntCounter,
    pub(super) negative: IntCounter,
    pub(super) error: IntCounter,
}

impl Lookups {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let result = |result| metrics.session_lookups.with_label_values(&["memory", result]);
        Self {
            hit: result("hit"),
            stale: result("stale"),
            stale_error: result("stale_error"),
            jwt_evidence: result("jwt_evidence"),
            miss: result("miss"),
            coalesced: result("coalesced"),
            negative: result("negative"),
            error: result("error"),
        }
    }
}
