//! TLS for listeners: certificates from PEM files, chosen by server name, ALPN for HTTP/2 and HTTP/1.1.
//!
//! Must not start with a certificate it cannot use.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{
    ClientHello, ParsedCertificate, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, version};

use super::CertificateFiles;

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("`{}` cannot be read as PEM: {error}", path.display())]
    Read { path: PathBuf, error: rustls::pki_types::pem::Error },
    #[error("`{}` holds no certificate", .0.display())]
    Empty(PathBuf),
    #[error("`{}` and its key do not work together: {error}", path.display())]
    Pair { path: PathBuf, error: rustls::Error },
    #[error("`{}` holds no authority that client certificates could be verified with: {error}", path.display())]
    ClientAuthorities { path: PathBuf, error: VerifierBuilderError },
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// Builds the configuration of one listener. The first certificate answers where no name fits. With `client_ca` a client
/// may show a certificate, and one that does not verify ends the handshake.
pub fn server_tls(
    files: &[CertificateFiles],
    client_ca: Option<&Path>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let certificates = files.iter().map(load).collect::<Result<Vec<_>, _>>()?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(TlsError::Setup)?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let unusable = |error| TlsError::ClientAuthorities { path: path.to_owned(), error };
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(path)?), provider);
            builder.with_client_cert_verifier(verifier.allow_unauthenticated().build().map_err(unusable)?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(ByServerName(certificates)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The names in a verified client certificate: DNS names and URIs (RFC 5280 section 4.2.1.6).
pub(super) fn names_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(parsed) = webpki::EndEntityCert::try_from(certificate) else { return Vec::new() };
    parsed.valid_dns_names().chain(parsed.valid_uri_names()).map(str::to_owned).collect()
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let unreadable = |error| TlsError::Read { path: path.to_owned(), error };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
        roots.add(certificate.map_err(unreadable)?).map_err(TlsError::Setup)?;
    }
    Ok(roots)
}

fn load(files: &CertificateFiles) -> Result<Arc<CertifiedKey>, TlsError> {
    let unreadable = |path: &PathBuf| {
        let path = path.clone();
        move |error| TlsError::Read { path, error }
    };
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(unreadable(&files.certificate))?;
    if chain.is_empty() {
        return Err(TlsError::Empty(files.certificate.clone()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(unreadable(&files.key))?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .map(Arc::new)
        .map_err(|error| TlsError::Pair { path: files.certificate.clone(), error })
}

#[derive(Debug)]
struct ByServerName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByServerName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let wanted = hello.server_name().and_then(|name| ServerName::try_from(name.to_owned()).ok());
        let fits = |certified: &&Arc<CertifiedKey>| {
            let parsed = certified.cert.first().and_then(|end| ParsedCertificate::try_from(end).ok());
            wanted
                .as_ref()
                .zip(parsed)
                .is_some_and(|(name, parsed)| verify_server_name(&parsed, name).is_ok())
        };
        self.0.iter().find(fits).or_else(|| self.0.first()).cloned()
    }
}
