//! What an operator sees: operational log, access log, decision record, metrics, trace context.
//!
//! Must not hold a secret, a token or a query string, nor put anything a client chose into a label.

mod json_line;
mod lines;
mod log;
mod metrics;
mod record;
mod refusals;
mod route_metrics;
mod sample;
mod settings;
mod trace;

pub use lines::LineWriter;
pub use log::{check_filter, init_log, log_filter, set_log_filter};
pub use metrics::{Metrics, method_label};
pub use record::{AccessRecord, DecisionRecord, ShadowRecord};
pub use refusals::{RecentRefusals, RefusalRecord};
pub use route_metrics::RouteMetrics;
pub use sample::{Distribution, Sample};
pub use settings::LogSettings;
pub use trace::{RequestId, TraceContext};
