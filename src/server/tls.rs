//! TLS for listeners: certificates from PEM files, chosen by server name, ALPN for HTTP/2 and HTTP/1.1.
//!
//! Must not start with a certificate it cannot use.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, VerifierBuilderError,
    WebPkiClientVerifier,
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
    #[error("`{}` holds a certificate that cannot be an authority: {error}", path.display())]
    Authority { path: PathBuf, error: rustls::Error },
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// The TLS of one listener.
#[derive(Clone)]
pub struct ServerTls {
    pub(super) config: Arc<ServerConfig>,
    /// What client certificates are verified with, where they are asked for.
    pub(super) verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// Builds the configuration of one listener. The first certificate answers where no name fits. With `client_ca` a client
/// may show a certificate, and one that does not verify ends the handshake.
pub fn server_tls(files: &[CertificateFiles], client_ca: Option<&Path>) -> Result<ServerTls, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let certificates = files.iter().map(load).collect::<Result<Vec<_>, _>>()?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(TlsError::Setup)?;
    let verifier = match client_ca {
        None => None,
        Some(path) => {
            let unusable = |error| TlsError::ClientAuthorities { path: path.to_owned(), error };
            let roots = Arc::new(authorities(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            Some(verifier.allow_unauthenticated().build().map_err(unusable)?)
        }
    };
    let builder = match &verifier {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
    };
    let mut config = builder.with_cert_resolver(Arc::new(ByServerName(certificates)));
    if verifier.is_some() {
        // A session taken up again shows no certificate: it would carry on with one that may be over by then.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(ServerTls { config: Arc::new(config), verifier })
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let unreadable = |error| TlsError::Read { path: path.to_owned(), error };
    let unusable = |error| TlsError::Authority { path: path.to_owned(), error };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
        roots.add(certificate.map_err(unreadable)?).map_err(unusable)?;
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
