//! How the gateway is, at a glance and in detail: what the page shows and `GET /admin/status` tells.
//!
//! Must not guess: what is not known is left out.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::ConfigurationStatus;
use super::history::{DECISIONS, History, Step, Window};
use crate::policy::{Access, Reason, Route};
use crate::telemetry::{Condition, RefusalRecord, log_filter};

/// Everything that is told.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    pub(super) version: &'static str,
    pub(super) at: Timestamp,
    pub(super) started_at: Timestamp,
    /// `healthy`, `degraded`, `unready` or `leaving`.
    pub(super) verdict: &'static str,
    /// Why it is not healthy, the worst first.
    pub(super) findings: Vec<Finding>,
    /// How many seconds rates and quantiles are of.
    pub(super) window: f64,
    pub(super) traffic: Traffic,
    pub(super) routes: Vec<RouteStatus>,
    pub(super) sessions: Sessions,
    pub(super) directory: Vec<OperationStatus>,
    pub(super) upstreams: Vec<UpstreamStatus>,
    pub(super) certificates: Vec<CertificateStatus>,
    /// When the verification keys were last fetched.
    pub(super) keys_fetched_at: Option<Timestamp>,
    pub(super) configuration: ConfigurationStatus,
    pub(super) log_filter: Option<String>,
    pub(super) log_lines_dropped: f64,
    /// The newest first.
    pub(super) refusals: Vec<RefusalRecord>,
}

/// Something to look at.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    /// `critical` or `warning`.
    pub(super) severity: &'static str,
    pub(super) what: String,
    /// Since when, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<Timestamp>,
    /// What to do about it.
    pub(super) hint: &'static str,
}

/// All requests together.
#[derive(Debug, Serialize)]
pub(super) struct Traffic {
    pub(super) in_flight: f64,
    pub(super) allowed_per_second: f64,
    pub(super) refused_per_second: f64,
    pub(super) by_reason: Vec<ReasonStatus>,
    pub(super) streams_open: f64,
    pub(super) connections_open: f64,
    /// The last five minutes in steps of five seconds, the oldest first.
    pub(super) steps: Vec<Step>,
}

/// Refusals for one reason.
#[derive(Debug, Serialize)]
pub(super) struct ReasonStatus {
    pub(super) reason: String,
    pub(super) title: &'static str,
    pub(super) per_second: f64,
    /// Since the start.
    pub(super) total: f64,
}

/// One route; times are in seconds.
#[derive(Debug, Serialize)]
pub(super) struct RouteStatus {
    pub(super) name: String,
    /// What it asks.
    pub(super) access: String,
    pub(super) upstream: String,
    pub(super) per_second: f64,
    pub(super) refused_per_second: f64,
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
}

/// The session cache.
#[derive(Debug, Serialize)]
pub(super) struct Sessions {
    pub(super) entries: f64,
    pub(super) bytes: f64,
    /// By result, per second.
    pub(super) lookups: BTreeMap<String, f64>,
    /// The share that was answered without a wait; none without any.
    pub(super) served: Option<f64>,
    /// In seconds.
    pub(super) evidence_age_p50: Option<f64>,
    pub(super) evidence_age_p99: Option<f64>,
}

/// Calls of one kind to the session API.
#[derive(Debug, Serialize)]
pub(super) struct OperationStatus {
    pub(super) operation: String,
    /// `closed`, `open` or `recovering`.
    pub(super) breaker: &'static str,
    pub(super) per_second: f64,
    pub(super) failed_per_second: f64,
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
}

/// One application.
#[derive(Debug, Serialize)]
pub(super) struct UpstreamStatus {
    pub(super) name: String,
    /// Servers by state.
    pub(super) servers: BTreeMap<String, f64>,
    pub(super) per_second: f64,
    pub(super) failed_per_second: f64,
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
}

/// The certificate of a listener that ends first.
#[derive(Debug, Serialize)]
pub(super) struct CertificateStatus {
    pub(super) listener: String,
    pub(super) ends: Timestamp,
    pub(super) days_left: i64,
}

/// What is known besides the metrics.
pub(super) struct Known {
    pub(super) configuration: ConfigurationStatus,
    pub(super) started_at: Timestamp,
    /// Why readiness is off, if it is.
    pub(super) unready: Vec<&'static str>,
    pub(super) leaving: bool,
    pub(super) refusals: Vec<RefusalRecord>,
    pub(super) routes: Vec<std::sync::Arc<Route>>,
    pub(super) conditions: Vec<(String, Condition)>,
}

/// How it all is now.
pub(super) fn status(history: &History, known: Known) -> Status {
    let window = history.window();
    let now = Timestamp::now();
    let Known { configuration, started_at, unready, leaving, refusals, routes, conditions } = known;
    let directory = directory(&window);
    let upstreams = upstreams(&window);
    let certificates = certificates(&window, now);
    let keys = window.now.sum("portcullis_jwks_last_success_timestamp_seconds", &[]);
    let mut status = Status {
        version: env!("CARGO_PKG_VERSION"),
        at: now,
        started_at,
        verdict: "healthy",
        findings: Vec::new(),
        window: window.seconds(),
        traffic: traffic(&window, history),
        routes: routes.iter().map(|route| route_status(&window, route)).collect(),
        sessions: sessions(&window),
        directory,
        upstreams,
        certificates,
        keys_fetched_at: (keys > 0.0).then(|| moment(keys)).flatten(),
        configuration,
        log_filter: log_filter(),
        log_lines_dropped: window.now.sum("portcullis_log_lines_dropped_total", &[]),
        refusals,
    };
    status.findings = findings(&status, &window, &unready, &conditions);
    status.verdict = match status.findings.first() {
        _ if leaving => "leaving",
        _ if !unready.is_empty() => "unready",
        Some(_) => "degraded",
        None => "healthy",
    };
    status
}

fn traffic(window: &Window, history: &History) -> Traffic {
    let refuse = [("decision", "refuse")];
    let by_reason = window.now.by(DECISIONS, &refuse, "reason").into_iter().map(|(reason, total)| {
        let per_second = window.rate(DECISIONS, &[("decision", "refuse"), ("reason", &reason)]);
        let known = Reason::ALL.iter().find(|known| known.code() == reason);
        ReasonStatus { title: known.map_or("", |known| known.title()), reason, per_second, total }
    });
    let mut by_reason: Vec<ReasonStatus> = by_reason.filter(|reason| reason.total > 0.0).collect();
    by_reason.sort_by(|one, other| {
        other.per_second.total_cmp(&one.per_second).then(other.total.total_cmp(&one.total))
    });
    Traffic {
        in_flight: window.now.sum("portcullis_http_requests_in_flight", &[]),
        allowed_per_second: window.rate(DECISIONS, &[("decision", "allow")]),
        refused_per_second: window.rate(DECISIONS, &refuse),
        by_reason,
        streams_open: window.now.sum("portcullis_streams_open", &[]),
        connections_open: window.now.sum("portcullis_connections_open", &[]),
        steps: history.steps(),
    }
}

fn route_status(window: &Window, route: &Route) -> RouteStatus {
    let of = [("route", &*route.name)];
    let durations = "portcullis_http_request_duration_seconds";
    RouteStatus {
        name: route.name.to_string(),
        access: match &route.access {
            Access::Public => "public".to_owned(),
            Access::Require(requirement) => requirement.sentence(),
        },
        upstream: route.upstream.to_string(),
        per_second: window.rate("portcullis_http_requests_total", &of),
        refused_per_second: window.rate(DECISIONS, &[("route", &*route.name), ("decision", "refuse")]),
        p50: window.quantile(durations, &of, 0.5),
        p99: window.quantile(durations, &of, 0.99),
    }
}

fn sessions(window: &Window) -> Sessions {
    let name = "portcullis_session_lookups_total";
    let tier = ("tier", "memory");
    let results = window.now.by(name, &[tier], "result").into_keys();
    let lookups: BTreeMap<String, f64> = results
        .map(|result| {
            let rate = window.rate(name, &[tier, ("result", &result)]);
            (result, rate)
        })
        .collect();
    let of = |results: &[&str]| -> f64 { results.iter().filter_map(|result| lookups.get(*result)).sum() };
    let all: f64 = lookups.values().sum();
    let served = (all > 0.0).then(|| of(&["hit", "stale", "negative", "stale_error", "jwt_evidence"]) / all);
    let ages = "portcullis_evidence_age_seconds";
    Sessions {
        entries: window.now.sum("portcullis_session_cache_entries", &[]),
        bytes: window.now.sum("portcullis_session_cache_bytes", &[]),
        served,
        evidence_age_p50: window.quantile(ages, &[], 0.5),
        evidence_age_p99: window.quantile(ages, &[], 0.99),
        lookups,
    }
}

fn directory(window: &Window) -> Vec<OperationStatus> {
    let (requests, durations) =
        ("portcullis_directory_requests_total", "portcullis_directory_request_duration_seconds");
    let states = window.now.by("portcullis_directory_breaker_state", &[], "operation");
    let mut operations: BTreeMap<String, f64> = window.now.by(requests, &[], "operation");
    operations.extend(states.clone());
    let told = operations.into_keys().map(|operation| {
        let of = [("operation", &*operation)];
        // A token that is none is its caller's matter.
        let callers: &[&str] = if operation == "authenticate" { &["refused"] } else { &[] };
        let good = ["ok", "not_found"].iter().chain(callers);
        let good =
            good.map(|outcome| window.rate(requests, &[("operation", &operation), ("outcome", outcome)]));
        let good: f64 = good.sum();
        let per_second = window.rate(requests, &of);
        let state = states.get(&operation).copied().unwrap_or_default();
        OperationStatus {
            breaker: match state {
                state if state >= 2.0 => "recovering",
                state if state >= 1.0 => "open",
                _ => "closed",
            },
            per_second,
            failed_per_second: (per_second - good).max(0.0),
            p50: window.quantile(durations, &of, 0.5),
            p99: window.quantile(durations, &of, 0.99),
            operation,
        }
    });
    told.collect()
}

fn upstreams(window: &Window) -> Vec<UpstreamStatus> {
    let (requests, durations) =
        ("portcullis_upstream_requests_total", "portcullis_upstream_request_duration_seconds");
    // Those of before have no servers any more.
    let names = window.now.by("portcullis_upstream_servers", &[], "upstream").into_keys();
    let told = names.map(|name| {
        let of = [("upstream", &*name)];
        let per_second = window.rate(requests, &of);
        let good = window.rate(requests, &[("upstream", &name), ("outcome", "ok")]);
        UpstreamStatus {
            servers: window.now.by("portcullis_upstream_servers", &of, "state"),
            per_second,
            failed_per_second: (per_second - good).max(0.0),
            p50: window.quantile(durations, &of, 0.5),
            p99: window.quantile(durations, &of, 0.99),
            name,
        }
    });
    told.collect()
}

fn certificates(window: &Window, now: Timestamp) -> Vec<CertificateStatus> {
    let ends = window.now.by("portcullis_tls_certificate_not_after_timestamp_seconds", &[], "listener");
    let told = ends.into_iter().filter_map(|(listener, ends)| {
        let ends = moment(ends)?;
        Some(CertificateStatus { listener, ends, days_left: ends.duration_since(now).as_hours() / 24 })
    });
    told.collect()
}

fn moment(seconds: f64) -> Option<Timestamp> {
    #[expect(clippy::cast_possible_truncation, reason = "a date in seconds is far below 2^53")]
    Timestamp::from_second(seconds as i64).ok()
}

/// Failures a second that are worth a word: more than one in the last minute.
const A_FEW: f64 = 0.02;

/// How bad a fault that goes on is, and what to do about it.
fn advice(key: &str) -> (&'static str, &'static str) {
    match key {
        "revocation_bus" => (
            "critical",
            "revocations do not reach the other replicas: see that redis is the primary, and what its user may do",
        ),
        "revocation_log" => ("warning", "give redis memory, or its user the commands of docs/revocation.md"),
        "session_api" => (
            "critical",
            "evidence at hand is served within `stale_if_error`; see names, routes and certificates on the way",
        ),
        _ => ("warning", "the cause is named; it is tried again by itself"),
    }
}

/// What is wrong, the worst first.
fn findings(
    status: &Status,
    window: &Window,
    unready: &[&str],
    conditions: &[(String, Condition)],
) -> Vec<Finding> {
    let mut found = Vec::new();
    for (key, Condition { what, cause, since }) in conditions {
        let (severity, hint) = advice(key);
        let what = format!("{what}: {cause}");
        found.push(Finding { severity, what, since: Some(*since), hint });
    }
    let mut find = |severity, what: String, hint| found.push(Finding { severity, what, since: None, hint });
    for check in unready {
        find(
            "critical",
            format!("not ready: {check} is not so"),
            "readiness is off, and orchestrators send no traffic",
        );
    }
    if window.now.sum("portcullis_directory_credentials_rejected", &[]) > 0.0 {
        find(
            "critical",
            "the session API rejects our project id or secret".to_owned(),
            "put the right secret in its place; it is read again at once, and tried every few seconds",
        );
    }
    for operation in &status.directory {
        if operation.breaker == "open" {
            let what = match operation.operation.as_str() {
                "redis" | "redis_bus" => "redis is left alone for a moment: it failed too often".to_owned(),
                name => format!("the session API is not asked to `{name}`: it failed too often"),
            };
            find(
                "critical",
                what,
                "evidence at hand is served within `stale_if_error`; it is tried again by itself",
            );
        } else if operation.failed_per_second > A_FEW {
            let share = 100.0 * operation.failed_per_second / operation.per_second.max(0.001);
            let what = format!("{share:.0} % of `{}` calls to the session API fail", operation.operation);
            find(
                "warning",
                what,
                "see `portcullis_directory_requests_total` by outcome, and the API's status page",
            );
        }
    }
    for upstream in &status.upstreams {
        let available = upstream.servers.get("available").copied().unwrap_or_default();
        let all: f64 = upstream.servers.values().sum();
        if all > 0.0 && available < 1.0 {
            let what = format!("no server of `{}` is available", upstream.name);
            find("critical", what, "see whether the application runs and listens where the upstream says");
        } else if available < all {
            let what = format!("{} of {all} servers of `{}` are left out", all - available, upstream.name);
            find("warning", what, "they did not answer; they are tried again by themselves");
        } else if upstream.failed_per_second > A_FEW {
            let what = format!("requests to `{}` fail", upstream.name);
            find("warning", what, "see `portcullis_upstream_requests_total` by outcome");
        }
    }
    if let Some(change) = &status.configuration.last_change
        && change.error.is_some()
    {
        let what = format!("the last change of the configuration is {} and not in force", change.result);
        find("warning", what, "what was in force before still is; the error is below");
    }
    for certificate in &status.certificates {
        let what = |when: &str| format!("the certificate of `{}` {when}", certificate.listener);
        match certificate.days_left {
            ..0 => find("critical", what("has ended"), "put another in its place; it is read by itself"),
            0..14 => {
                let when = format!("ends in {} days", certificate.days_left);
                find("warning", what(&when), "renew it; it is read by itself");
            }
            _ => {}
        }
    }
    let unrecorded = window.rate("portcullis_decisions_total", &[("reason", "audit_unavailable")]) > 0.0;
    if unrecorded || window.now.sum("portcullis_audit_failing", &[("operation", "write")]) > 0.0 {
        let what = "decisions cannot be recorded, and requests are refused for it".to_owned();
        find(
            "critical",
            what,
            "the audit stream's disk is full or its reader stands still; the log says which",
        );
    }
    if window.rate("portcullis_log_lines_dropped_total", &[]) > 0.0 {
        find(
            "warning",
            "access and decision lines are lost".to_owned(),
            "whoever reads standard output is too slow",
        );
    }
    found.sort_by_key(|finding| finding.severity != "critical");
    found
}
