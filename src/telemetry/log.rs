//! The operational log: JSON lines on standard error.
//!
//! Must not be written to per request; that is the access log's work.

use tracing_subscriber::EnvFilter;

use super::settings::LogSettings;

/// Installs the log for the process. A second call does nothing: tests start many gateways in one process.
pub fn init_log(settings: &LogSettings) {
    let filter = EnvFilter::try_new(&settings.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let builder = builder.with_target(false);
    let installed = if settings.json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(false).try_init()
    };
    drop(installed);
}

/// Whether `filter` can be used, and if not, why.
pub fn check_filter(filter: &str) -> Result<(), String> {
    EnvFilter::try_new(filter).map(drop).map_err(|error| format!("`{filter}` is not a log filter: {error}"))
}
