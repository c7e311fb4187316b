//! Traces, and whom the gateway trusts when it sends them.
//!
//! Must not build anything else: `app` does.

use std::sync::Arc;

use rustls::RootCertStore;

use super::StartError;
use super::trust::{client_tls, with_authorities};
use crate::config::Config;
use crate::telemetry::{Metrics, Tracer};

/// What records the traces that `config` wants recorded. Must be called inside a runtime.
pub(super) fn start_tracer(
    config: &Config,
    roots: &Arc<RootCertStore>,
    metrics: &Metrics,
) -> Result<Tracer, StartError> {
    let Some(settings) = &config.tracing else { return Ok(Tracer::default()) };
    let roots = match &settings.ca_file {
        Some(file) => with_authorities(RootCertStore::clone(roots), file)?,
        None => Arc::clone(roots),
    };
    let tls = client_tls(&roots)?;
    Ok(Tracer::start(settings, &tls, metrics)?)
}
