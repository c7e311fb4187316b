//! Every metric, each defined once. `docs/metrics.md` has a row for each; a test compares.
//!
//! Must not take a label value from a client: routes, upstreams and listeners are named by the configuration.

use std::ops::Deref;
use std::sync::Arc;

use http::Method;
use prometheus::{
    Encoder as _, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::Conditions;
use super::log_limit::dropped;

/// Buckets of the decision's duration, from 5 µs: a hit is far below what request buckets can tell apart.
const DECISION_BUCKETS: [f64; 13] =
    [5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 5e-3, 0.025, 0.1, 0.5, 1.0, 5.0];
/// Buckets of request durations (OpenTelemetry semantic conventions for HTTP).
const REQUEST_BUCKETS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Buckets of a revocation's way between replicas.
const PROPAGATION_BUCKETS: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0];
/// Buckets of the evidence's age.
const AGE_BUCKETS: [f64; 10] = [0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0];

/// All metrics of one gateway. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<AllMetrics>);

impl Deref for Metrics {
    type Target = AllMetrics;

    fn deref(&self) -> &AllMetrics {
        &self.0
    }
}

/// Each metric by its name, without the prefix and the unit.
pub struct AllMetrics {
    registry: Registry,
    pub http_requests: IntCounterVec,
    pub http_request_duration: HistogramVec,
    pub http_requests_in_flight: IntGauge,
    pub http_fields_dropped: IntCounter,
    pub caller_share_refusals: IntCounterVec,
    pub decisions: IntCounterVec,
    pub decision_duration: HistogramVec,
    pub shadow_decisions: IntCounterVec,
    pub session_lookups: IntCounterVec,
    pub session_cache_entries: IntGauge,
    pub session_cache_bytes: IntGauge,
    pub directory_requests: IntCounterVec,
    pub directory_request_duration: HistogramVec,
    pub directory_breaker_state: IntGaugeVec,
    pub directory_credentials_rejected: IntGauge,
    pub evidence_age: Histogram,
    pub revocations: IntCounterVec,
    pub revocation_propagation: Histogram,
    pub revocation_bus_connected: IntGauge,
    pub streams_open: IntGauge,
    pub streams_closed: IntCounterVec,
    pub jwks_last_success: Gauge,
    pub upstream_requests: IntCounterVec,
    pub upstream_request_duration: HistogramVec,
    pub upstream_retries: IntCounterVec,
    pub upstream_ejections: IntCounterVec,
    pub upstream_health_checks: IntCounterVec,
    pub upstream_servers: IntGaugeVec,
    pub connections_open: IntGaugeVec,
    pub connections_rejected: IntCounterVec,
    pub tls_certificate_not_after: IntGaugeVec,
    pub tls_certificate_reloads: IntCounterVec,
    pub config_reloads: IntCounterVec,
    pub config_last_reload_successful: IntGauge,
    pub config_last_reload_success_timestamp: IntGauge,
    pub log_lines_dropped: IntCounter,
    /// Brought up to date when metrics are read.
    log_lines_suppressed: IntCounter,
    pub audit_records: IntCounter,
    pub audit_write_failures: IntCounter,
    pub audit_failing: IntGaugeVec,
    pub audit_wait: Histogram,
    pub spans: IntCounterVec,
    pub revocation_bus_age: Gauge,
    /// Faults that go on.
    pub conditions: Conditions,
}

impl Metrics {
    /// Registers everything once.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let build_info =
            GaugeVec::new(opts("build_info", "Always 1; the version is the label."), &["version"])?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        registry.register(Box::new(build_info))?;
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let counters =
            |name, help, labels: &[&str]| keep(&registry, IntCounterVec::new(opts(name, help), labels));
        let histograms = |name, help, labels: &[&str], buckets: &[f64]| {
            let opts = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
            keep(&registry, HistogramVec::new(opts, labels))
        };
        let gauge = |name, help| keep(&registry, IntGauge::with_opts(opts(name, help)));
        Ok(Self(Arc::new(AllMetrics {
            http_requests: counters(
                "http_requests_total",
                "Requests answered.",
                &["listener", "route", "method", "code"],
            )?,
            http_request_duration: histograms(
                "http_request_duration_seconds",
                "From the head of the request to the end of the response.",
                &["route"],
                &REQUEST_BUCKETS,
            )?,
            http_requests_in_flight: gauge("http_requests_in_flight", "Requests being answered.")?,
            http_fields_dropped: keep(
                &registry,
                IntCounter::with_opts(opts(
                    "http_fields_dropped_total",
                    "Header fields of requests that were dropped for a byte outside A-Z, a-z, 0-9 and - in their name.",
                )),
            )?,
            caller_share_refusals: counters(
                "caller_share_refusals_total",
                "Requests refused because their caller held its share of a limit.",
                &["limit"],
            )?,
            decisions: counters(
                "decisions_total",
                "Decisions by outcome and reason; the reason is empty for an allow.",
                &["route", "decision", "reason"],
            )?,
            decision_duration: histograms(
                "decision_duration_seconds",
                "Time to decide, lookups included.",
                &["route"],
                &DECISION_BUCKETS,
            )?,
            shadow_decisions: counters(
                "shadow_decisions_total",
                "What shadow requirements would have decided, against what was; the reason is the shadow's.",
                &["route", "result", "reason"],
            )?,
            session_lookups: counters(
                "session_lookups_total",
                "Session lists asked of a tier, by what came of it.",
                &["tier", "result"],
            )?,
            session_cache_entries: gauge("session_cache_entries", "Members whose session list is cached.")?,
            session_cache_bytes: gauge("session_cache_bytes", "What the cached session lists take.")?,
            directory_requests: counters(
                "directory_requests_total",
                "Calls to the session directory, by outcome.",
                &["operation", "outcome"],
            )?,
            directory_request_duration: histograms(
                "directory_request_duration_seconds",
                "Duration of calls to the session directory.",
                &["operation"],
                &REQUEST_BUCKETS,
            )?,
            directory_breaker_state: keep(
                &registry,
                IntGaugeVec::new(
                    opts("directory_breaker_state", "0 closed, 1 open, 2 recovering."),
                    &["operation"],
                ),
            )?,
            directory_credentials_rejected: gauge(
                "directory_credentials_rejected",
                "1 while the session directory rejects our own credentials.",
            )?,
            evidence_age: keep(
                &registry,
                Histogram::with_opts(
                    HistogramOpts::from(opts(
                        "evidence_age_seconds",
                        "Age of the evidence an allow rested on.",
                    ))
                    .buckets(AGE_BUCKETS.to_vec()),
                ),
            )?,
            revocations: counters("revocations_total", "Revocations learnt of, by where from.", &["source"])?,
            revocation_propagation: keep(
                &registry,
                Histogram::with_opts(
                    HistogramOpts::from(opts(
                        "revocation_propagation_seconds",
                        "From another replica publishing a revocation to this one acting on it.",
                    ))
                    .buckets(PROPAGATION_BUCKETS.to_vec()),
                ),
            )?,
            revocation_bus_connected: gauge(
                "revocation_bus_connected",
                "1 while this replica hears the others.",
            )?,
            streams_open: gauge("streams_open", "Responses and tunnels under way that hold a lease.")?,
            streams_closed: counters(
                "streams_closed_total",
                "Open streams that were ended because they would not be allowed any more, by reason.",
                &["reason"],
            )?,
            jwks_last_success: keep(
                &registry,
                Gauge::with_opts(opts(
                    "jwks_last_success_timestamp_seconds",
                    "When the verification keys were last fetched.",
                )),
            )?,
            upstream_requests: counters(
                "upstream_requests_total",
                "Requests sent to an upstream, by outcome.",
                &["upstream", "outcome"],
            )?,
            upstream_request_duration: histograms(
                "upstream_request_duration_seconds",
                "From sending a request to an upstream to the head of its response.",
                &["upstream"],
                &REQUEST_BUCKETS,
            )?,
            upstream_retries: counters(
                "upstream_retries_total",
                "Requests sent to a further server, or once more.",
                &["upstream"],
            )?,
            upstream_ejections: counters(
                "upstream_ejections_total",
                "Servers left out for a while because they did not answer.",
                &["upstream"],
            )?,
            upstream_health_checks: counters(
                "upstream_health_checks_total",
                "Health checks of servers, by what they found.",
                &["upstream", "result"],
            )?,
            upstream_servers: keep(
                &registry,
                IntGaugeVec::new(
                    opts("upstream_servers", "Servers of an upstream, by how they stand."),
                    &["upstream", "state"],
                ),
            )?,
            connections_open: keep(
                &registry,
                IntGaugeVec::new(opts("connections_open", "Client connections open."), &["listener"]),
            )?,
            connections_rejected: counters(
                "connections_rejected_total",
                "Client connections closed before a request, by reason.",
                &["listener", "reason"],
            )?,
            tls_certificate_not_after: keep(
                &registry,
                IntGaugeVec::new(
                    opts(
                        "tls_certificate_not_after_timestamp_seconds",
                        "When the first certificate of a listener ends.",
                    ),
                    &["listener"],
                ),
            )?,
            tls_certificate_reloads: counters(
                "tls_certificate_reloads_total",
                "Certificates read again after their files changed, by what came of it.",
                &["listener", "result"],
            )?,
            config_reloads: counters(
                "config_reloads_total",
                "Changes of the configuration, by what became of them.",
                &["result"],
            )?,
            config_last_reload_successful: gauge(
                "config_last_reload_successful",
                "1 if the last change of the configuration could be used, or there was none.",
            )?,
            config_last_reload_success_timestamp: gauge(
                "config_last_reload_success_timestamp_seconds",
                "When the configuration in force was read, or found to be the same.",
            )?,
            log_lines_dropped: keep(
                &registry,
                IntCounter::with_opts(opts(
                    "log_lines_dropped_total",
                    "Access and decision lines that were dropped.",
                )),
            )?,
            log_lines_suppressed: keep(
                &registry,
                IntCounter::with_opts(opts(
                    "log_lines_suppressed_total",
                    "Lines of the operational log that were dropped because one place in the code wrote too many.",
                )),
            )?,
            audit_records: keep(
                &registry,
                IntCounter::with_opts(opts("audit_records_total", "Decision records in the audit stream.")),
            )?,
            audit_write_failures: keep(
                &registry,
                IntCounter::with_opts(opts(
                    "audit_write_failures_total",
                    "Attempts to write to the audit stream that failed.",
                )),
            )?,
            audit_failing: keep(
                &registry,
                IntGaugeVec::new(
                    opts(
                        "audit_failing",
                        "1 while the audit stream cannot be written to, or its file not be opened again.",
                    ),
                    &["operation"],
                ),
            )?,
            audit_wait: keep(
                &registry,
                Histogram::with_opts(
                    HistogramOpts::from(opts(
                        "audit_wait_seconds",
                        "From recording a decision to its record being written.",
                    ))
                    .buckets(DECISION_BUCKETS.to_vec()),
                ),
            )?,
            spans: counters("spans_total", "Spans of sampled traces, by what became of them.", &["result"])?,
            revocation_bus_age: keep(
                &registry,
                Gauge::with_opts(opts(
                    "revocation_bus_age_seconds",
                    "Since an announcement of this replica last came back on the revocation bus, or since the start.",
                )),
            )?,
            conditions: Conditions::default(),
            registry,
        })))
    }

    /// An upstream is gone: how its servers stand is told no more.
    pub fn forget_upstream(&self, name: &str) {
        self.conditions.forget(&format!("upstream {name}"));
        for state in ["available", "ejected", "unhealthy"] {
            // One that never was is gone as well.
            drop(self.upstream_servers.remove_label_values(&[name, state]));
        }
    }

    /// Everything as it is now.
    pub fn families(&self) -> Vec<prometheus::proto::MetricFamily> {
        self.log_lines_suppressed.inc_by(dropped().saturating_sub(self.log_lines_suppressed.get()));
        self.registry.gather()
    }

    /// Everything in the text format of Prometheus 0.0.4.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        if TextEncoder::new().encode(&self.families(), &mut text).is_err() {
            return String::new();
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

/// The method as a label: known ones by name, all others folded into one (OpenTelemetry's `_OTHER`).
pub fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "PATCH" => "PATCH",
        "OPTIONS" => "OPTIONS",
        "TRACE" => "TRACE",
        "CONNECT" => "CONNECT",
        _ => "_OTHER",
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("portcullis_{name}"), help)
}

fn keep<C: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    metric: Result<C, prometheus::Error>,
) -> Result<C, prometheus::Error> {
    let metric = metric?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
