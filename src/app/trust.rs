//! Whom the gateway trusts when it calls somebody.
//!
//! Must not build anything else: `app` does.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::StartError;
use crate::config::Config;

/// Trust in servers: the system's authorities, those that come with the program where there are none, and the configured ones.
pub(super) fn trusted_roots(config: &Config) -> Result<Arc<RootCertStore>, StartError> {
    let mut roots = RootCertStore::empty();
    for certificate in rustls_native_certs::load_native_certs().certs {
        // One unreadable authority of the system is no reason not to start.
        drop(roots.add(certificate));
    }
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    match &config.ca_file {
        Some(file) => with_authorities(roots, file),
        None => Ok(Arc::new(roots)),
    }
}

/// Those, and the authorities of a PEM file.
pub(super) fn with_authorities(
    mut roots: RootCertStore,
    file: &Path,
) -> Result<Arc<RootCertStore>, StartError> {
    let fail = |message: String| StartError::Authorities { file: file.display().to_string(), message };
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| fail(error.to_string()))? {
        let certificate = certificate.map_err(|error| fail(error.to_string()))?;
        roots.add(certificate).map_err(|error| fail(error.to_string()))?;
    }
    Ok(Arc::new(roots))
}

/// TLS towards servers that are trusted by `roots`.
pub(super) fn client_tls(roots: &Arc<RootCertStore>) -> Result<Arc<ClientConfig>, StartError> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(StartError::Tls)?
        .with_root_certificates(Arc::clone(roots))
        .with_no_client_auth();
    Ok(Arc::new(config))
}
