//! TLS towards origins: whom to believe, what to show, what to speak.
//!
//! Must not be built without verification: there is no switch that turns it off.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::aws_lc_rs::digest::{Context, SHA256};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::OriginTls;

/// Why TLS to an origin cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum OriginTlsError {
    #[error("`{}` cannot be read as PEM: {error}", path.display())]
    Read { path: PathBuf, error: rustls::pki_types::pem::Error },
    #[error("`{}` holds no authority that can be used", .0.display())]
    Authorities(PathBuf),
    #[error("`{}` and its key do not work together: {error}", path.display())]
    Pair { path: PathBuf, error: rustls::Error },
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// Builds what every connection to an origin begins TLS with. `usual` are the authorities where the settings name none.
pub fn origin_tls(
    settings: &OriginTls,
    http2: bool,
    usual: &Arc<RootCertStore>,
) -> Result<Arc<ClientConfig>, OriginTlsError> {
    let roots = match &settings.ca_file {
        None => Arc::clone(usual),
        Some(path) => Arc::new(authorities(path)?),
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(OriginTlsError::Setup)?
        .with_root_certificates(roots);
    let mut config = match &settings.client_certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let unreadable = |path: &Path| {
                let path = path.to_owned();
                move |error| OriginTlsError::Read { path, error }
            };
            let chain = CertificateDer::pem_file_iter(certificate)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(unreadable(certificate))?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(unreadable(key))?;
            let pair = |error| OriginTlsError::Pair { path: certificate.clone(), error };
            builder.with_client_auth_cert(chain, key).map_err(pair)?
        }
    };
    config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    Ok(Arc::new(config))
}

/// Watches the files of one application's TLS.
pub(super) struct Renewal {
    files: Vec<PathBuf>,
    /// Of what was in them when they were read last.
    pub(super) seen: Vec<u8>,
}

impl Renewal {
    pub(super) fn new(settings: &OriginTls) -> Self {
        let pair = settings.client_certificate.iter().flat_map(|(certificate, key)| [certificate, key]);
        let files = settings.ca_file.iter().chain(pair).cloned().collect();
        let mut renewal = Self { files, seen: Vec::new() };
        renewal.seen = renewal.digest();
        renewal
    }

    /// Of everything in the files. One that cannot be read counts as empty: reading it says what is wrong.
    pub(super) fn digest(&self) -> Vec<u8> {
        let mut context = Context::new(&SHA256);
        for file in &self.files {
            let bytes = std::fs::read(file).unwrap_or_default();
            context.update(&bytes.len().to_le_bytes());
            context.update(&bytes);
        }
        context.finish().as_ref().to_vec()
    }
}

fn authorities(path: &Path) -> Result<RootCertStore, OriginTlsError> {
    let unreadable = |error| OriginTlsError::Read { path: path.to_owned(), error };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
        let certificate = certificate.map_err(unreadable)?;
        roots.add(certificate).map_err(|_| OriginTlsError::Authorities(path.to_owned()))?;
    }
    if roots.is_empty() { Err(OriginTlsError::Authorities(path.to_owned())) } else { Ok(roots) }
}
