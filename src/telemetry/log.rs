//! The operational log: JSON lines on standard error.
//!
//! Must not be written to per request; that is the access log's work.

use tracing_subscriber::EnvFilter;

/// How much is logged.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// A filter in the syntax of `tracing`: `info`, `portcullis=debug,warn`.
    pub filter: String,
    /// JSON for machines, plain lines for a terminal.
    pub json: bool,
}

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
