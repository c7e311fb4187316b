//! The operational log: JSON lines on standard error.
//!
//! Must not be written to per request; that is the access log's work.

use std::sync::OnceLock;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use super::log_limit::LogLimit;
use super::settings::LogSettings;

/// The log is the process's, and so is its filter.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Installs the log for the process. A second call does nothing: tests start many gateways in one process.
pub fn init_log(settings: &LogSettings) {
    let filter = EnvFilter::try_new(&settings.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(filter).with(LogLimit::default());
    let installed = if settings.json {
        registry.with(lines.json().flatten_event(true)).try_init()
    } else {
        registry.with(lines.with_ansi(false)).try_init()
    };
    if installed.is_ok() {
        drop(FILTER.set(handle));
    }
}

/// Logs by another filter from now on. Does nothing where no log is installed, or for what is no filter.
pub fn set_log_filter(filter: &str) {
    let Some(handle) = FILTER.get() else { return };
    let before = handle.with_current(ToString::to_string).unwrap_or_default();
    if let Ok(filter) = EnvFilter::try_new(filter)
        && before != filter.to_string()
    {
        drop(handle.reload(filter));
    }
}

/// The filter in force, where a log is installed.
pub fn log_filter() -> Option<String> {
    FILTER.get()?.with_current(ToString::to_string).ok()
}

/// Whether `filter` can be used, and if not, why.
pub fn check_filter(filter: &str) -> Result<(), String> {
    EnvFilter::try_new(filter).map(drop).map_err(|error| format!("`{filter}` is not a log filter: {error}"))
}
