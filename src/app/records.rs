//! Where requests and decisions are written.
//!
//! Must not build anything else: `app` does.

use std::io;

use super::StartError;
use crate::telemetry::{AuditLog, DecisionLog, LineWriter, LogSettings, Metrics};

/// The streams that `settings` ask for; `lines` takes the one that may drop lines.
pub(super) fn start_records(
    settings: &LogSettings,
    lines: impl io::Write + Send + 'static,
    metrics: &Metrics,
) -> Result<DecisionLog, StartError> {
    let dropped = metrics.log_lines_dropped.clone();
    let lines = match settings.access {
        Some(format) => LineWriter::start(lines, format, dropped).map_err(StartError::Log)?,
        None => LineWriter::off(dropped),
    };
    let audit = settings.audit.as_ref().map(|settings| {
        let file = settings
            .file
            .as_ref()
            .map_or_else(|| "/dev/stdout".to_owned(), |file| file.display().to_string());
        let unusable = |error| StartError::Audit { file, error };
        AuditLog::start(settings, metrics.clone()).map_err(unusable)
    });
    Ok(DecisionLog { lines, audit: audit.transpose()? })
}
