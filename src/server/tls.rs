//! TLS for listeners: certificates from PEM files, chosen by server name, ALPN for HTTP/2 and HTTP/1.1, and all of it
//! read again when the files change.
//!
//! Must not start with a certificate it cannot use, nor give up one that works for one that does not.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ::aws_lc_rs::digest::{Context, SHA256};
use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, VerifierBuilderError,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, version};
use tokio::sync::Notify;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::TlsSettings;
use super::settings::CertificateFiles;

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

/// The TLS of one listener. Cheap to clone.
#[derive(Clone)]
pub struct ServerTls(Arc<Inner>);

struct Inner {
    settings: ArcSwap<TlsSettings>,
    /// Told when the files may have changed.
    look: Notify,
    /// The same for all that is read again, so that a renewal ends no session.
    tickets: Arc<dyn ProducesTickets>,
    current: ArcSwap<Loaded>,
    /// Of files that could not be used when they were looked at last. Held while anything is put in force: what is read again
    /// must be by the settings that are.
    suspected: Mutex<Vec<u8>>,
}

/// What the files held when they were read last.
pub(super) struct Loaded {
    pub(super) config: Arc<ServerConfig>,
    /// What client certificates are verified with, where they are asked for.
    pub(super) verifier: Verifier,
    certificates: Vec<Arc<CertifiedKey>>,
    /// When the first of the certificates ends, in seconds since 1970.
    pub(super) not_after: i64,
    /// Of the files as they were.
    digest: Vec<u8>,
}

/// Other files, read and found good.
pub(super) struct PreparedTls {
    settings: TlsSettings,
    loaded: Loaded,
}

/// Reads the files and builds the configuration of one listener. The first certificate answers where no name fits.
pub fn server_tls(settings: &TlsSettings) -> Result<ServerTls, TlsError> {
    let tickets = aws_lc_rs::Ticketer::new().map_err(TlsError::Setup)?;
    // Before the files are read: a change in between is seen next time.
    let digest = digest(settings);
    let certificates = settings.certificates.iter().map(load).collect::<Result<Vec<_>, _>>()?;
    let verifier = verifier(settings)?;
    let current = ArcSwap::from_pointee(build(settings, &tickets, certificates, verifier, digest)?);
    let suspected = Mutex::new(Vec::new());
    Ok(ServerTls(Arc::new(Inner {
        settings: ArcSwap::from_pointee(settings.clone()),
        look: Notify::new(),
        tickets,
        current,
        suspected,
    })))
}

impl ServerTls {
    pub(super) fn current(&self) -> Arc<Loaded> {
        self.0.current.load_full()
    }

    /// Has the files looked at now.
    pub(super) fn look(&self) {
        self.0.look.notify_one();
    }

    /// Resolves when the files should be looked at.
    pub(super) async fn should_look(&self) {
        self.0.look.notified().await;
    }

    /// What `settings` come to, ready to be put in force.
    pub(super) fn prepare(&self, settings: &TlsSettings) -> Result<PreparedTls, TlsError> {
        let digest = digest(settings);
        let certificates = settings.certificates.iter().map(load).collect::<Result<Vec<_>, _>>()?;
        let loaded = build(settings, &self.0.tickets, certificates, verifier(settings)?, digest)?;
        Ok(PreparedTls { settings: settings.clone(), loaded })
    }

    /// Shows what was prepared from the next handshake on.
    pub(super) fn replace(&self, prepared: PreparedTls) {
        let mut suspected = self.0.suspected.lock().unwrap_or_else(PoisonError::into_inner);
        suspected.clear();
        self.0.settings.store(Arc::new(prepared.settings));
        self.0.current.store(Arc::new(prepared.loaded));
    }

    /// Reads the files again if they changed: true if they did. Of those that cannot be used, what was there before stays;
    /// that is said once they were found so twice, since files that belong together are rarely replaced at once.
    pub(super) fn renew(&self) -> Result<bool, TlsError> {
        let Inner { settings, tickets, current, suspected, .. } = &*self.0;
        let mut suspected = suspected.lock().unwrap_or_else(PoisonError::into_inner);
        let settings = &**settings.load();
        let digest = digest(settings);
        let before = current.load_full();
        if digest == before.digest {
            return Ok(false);
        }
        let mut broken = None;
        let mut certificates = Vec::new();
        for (files, kept) in settings.certificates.iter().zip(&before.certificates) {
            certificates.push(load(files).unwrap_or_else(|error| {
                broken.get_or_insert(error);
                Arc::clone(kept)
            }));
        }
        let verifier = verifier(settings).unwrap_or_else(|error| {
            broken.get_or_insert(error);
            before.verifier.clone()
        });
        if broken.is_some() && *suspected != digest {
            *suspected = digest;
            return Ok(false);
        }
        current.store(Arc::new(build(settings, tickets, certificates, verifier, digest)?));
        broken.map_or(Ok(true), Err)
    }
}

type Verifier = Option<Arc<dyn ClientCertVerifier>>;

/// What client certificates are verified with.
fn verifier(settings: &TlsSettings) -> Result<Verifier, TlsError> {
    let Some(path) = &settings.client_ca else { return Ok(None) };
    let unusable = |error| TlsError::ClientAuthorities { path: path.clone(), error };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(path)?), provider);
    let verifier = if settings.client_required { verifier } else { verifier.allow_unauthenticated() };
    verifier.build().map(Some).map_err(unusable)
}

fn build(
    settings: &TlsSettings,
    tickets: &Arc<dyn ProducesTickets>,
    certificates: Vec<Arc<CertifiedKey>>,
    verifier: Verifier,
    digest: Vec<u8>,
) -> Result<Loaded, TlsError> {
    let both = [&version::TLS13, &version::TLS12];
    let versions = if settings.only_tls13 { &both[..1] } else { &both[..] };
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .map_err(TlsError::Setup)?;
    let builder = match &verifier {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
    };
    let ends = certificates.iter().filter_map(|certified| not_after(certified));
    let not_after = ends.min().unwrap_or(i64::MAX);
    let mut config = builder.with_cert_resolver(Arc::new(ByServerName::new(&certificates)));
    if verifier.is_some() {
        // A session taken up again shows no certificate: it would carry on with one that may be over by then.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    } else {
        // Kept by the client, under keys that change: nothing is held here for those who may come back.
        config.ticketer = Arc::clone(tickets);
    }
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Loaded { config: Arc::new(config), verifier, certificates, not_after, digest })
}

/// Of everything in the files. One that cannot be read counts as empty: reading it says what is wrong.
fn digest(settings: &TlsSettings) -> Vec<u8> {
    let pairs = settings.certificates.iter().flat_map(|files| [&files.certificate, &files.key]);
    let mut context = Context::new(&SHA256);
    for path in pairs.chain(&settings.client_ca) {
        let bytes = std::fs::read(path).unwrap_or_default();
        context.update(&bytes.len().to_le_bytes());
        context.update(&bytes);
    }
    context.finish().as_ref().to_vec()
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

fn not_after(certified: &CertifiedKey) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certified.cert.first()?).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// Certificates by the names they are for, told apart once.
#[derive(Debug)]
struct ByServerName {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows `*.`; a wildcard stands for one label (RFC 6125 section 6.4.3).
    wildcards: HashMap<String, Arc<CertifiedKey>>,
    otherwise: Option<Arc<CertifiedKey>>,
}

impl ByServerName {
    /// Of several for one name, the earlier.
    fn new(certificates: &[Arc<CertifiedKey>]) -> Self {
        let mut exact = HashMap::new();
        let mut wildcards = HashMap::new();
        for certified in certificates {
            let Some(end) = certified.cert.first() else { continue };
            let Ok(parsed) = webpki::EndEntityCert::try_from(end) else { continue };
            for name in parsed.valid_dns_names() {
                let name = name.to_ascii_lowercase();
                let (names, name) = match name.strip_prefix("*.") {
                    Some(rest) => (&mut wildcards, rest.to_owned()),
                    None => (&mut exact, name),
                };
                names.entry(name).or_insert_with(|| Arc::clone(certified));
            }
        }
        Self { exact, wildcards, otherwise: certificates.first().cloned() }
    }
}

impl ResolvesServerCert for ByServerName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // In lower case already.
        let wildcard = |name: &str| self.wildcards.get(name.split_once('.')?.1);
        let found = hello.server_name().and_then(|name| self.exact.get(name).or_else(|| wildcard(name)));
        found.or(self.otherwise.as_ref()).cloned()
    }
}
