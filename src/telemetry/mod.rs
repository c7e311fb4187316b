//! What an operator sees: operational log, access log, decision record, metrics, traces.
//!
//! Must not hold a secret, a token or a query string, nor put anything a client chose into a label.

mod audit;
mod cause;
mod combined_line;
mod conditions;
mod json_line;
mod line;
mod lines;
mod log;
mod log_limit;
mod logfmt_line;
mod metrics;
mod otlp;
mod record;
mod recording;
mod refusals;
mod route_metrics;
mod sample;
mod settings;
mod span;
mod trace;
mod trace_ids;

pub use audit::{AuditEntry, AuditLog, DecisionLog, PendingRecord};
pub use cause::{cause, caused_by};
pub use conditions::{Condition, Conditions};
pub use lines::LineWriter;
pub use log::{check_filter, init_log, log_filter, set_log_filter};
pub use log_limit::tell_of_dropped_lines;
pub use metrics::{Metrics, method_label};
pub use otlp::TracerError;
pub use record::{AccessRecord, DecisionRecord, ShadowRecord};
pub use recording::{SpanKind, SpanValue};
pub use refusals::{RecentRefusals, RefusalRecord};
pub use route_metrics::RouteMetrics;
pub use sample::{Distribution, Sample};
pub use settings::{AuditSettings, LineFormat, LogSettings, TraceSettings};
pub use span::{Span, Tracer};
pub use trace::TraceContext;
pub use trace_ids::RequestId;
