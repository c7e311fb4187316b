//! The certificate a client showed: its names count only as long as it is valid.
//!
//! Must not believe a name of a certificate that expired while its connection stayed open.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::tls::ServerTls;
use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// How long a look at the dates is good for.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// A verified client certificate.
pub(super) struct ClientCertificate {
    names: Vec<String>,
    ends: Option<Timestamp>,
    chain: Vec<CertificateDer<'static>>,
    /// Who is believed may change while the connection is open.
    tls: ServerTls,
    shown: Instant,
    /// Until when, in milliseconds since it was shown, it need not be looked at again.
    looked_until: AtomicU64,
}

impl ClientCertificate {
    /// Of a handshake that verified it just now.
    pub(super) fn new(chain: &[CertificateDer<'_>], tls: ServerTls) -> Option<Self> {
        let end = chain.first()?;
        Some(Self {
            names: names_of(end),
            ends: not_after(end),
            chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
            tls,
            shown: Instant::now(),
            looked_until: AtomicU64::new(milliseconds(LOOK_EVERY)),
        })
    }

    /// When it ends (RFC 5280 section 4.1.2.5).
    pub(super) fn ends(&self) -> Option<Timestamp> {
        self.ends
    }

    /// Its names, while it is valid.
    pub(super) fn names(&self) -> &[String] {
        let now = milliseconds(self.shown.elapsed());
        if now < self.looked_until.load(Ordering::Relaxed) {
            return &self.names;
        }
        let Some((end, between)) = self.chain.split_first() else { return &[] };
        let current = self.tls.current();
        let Some(verifier) = &current.verifier else { return &[] };
        match verifier.verify_client_cert(end, between, UnixTime::now()) {
            Ok(_) => {
                self.looked_until.store(now + milliseconds(LOOK_EVERY), Ordering::Relaxed);
                &self.names
            }
            Err(_) => &[],
        }
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientCertificate").field(&self.names).finish()
    }
}

fn not_after(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// DNS names, in lower case since they have none, and URIs as they are (RFC 5280 section 4.2.1.6).
fn names_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(parsed) = webpki::EndEntityCert::try_from(certificate) else { return Vec::new() };
    let hosts = parsed.valid_dns_names().map(str::to_ascii_lowercase);
    hosts.chain(parsed.valid_uri_names().map(str::to_owned)).collect()
}
