//! One listening socket: accept, count, bound, hand over.
//!
//! Must not read a byte of a connection here, so that a slow client never holds up the next.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntGauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::peer_shares::{Share, Shares};
use super::protocol::{Serve, serve_connection};
use super::tls::ServerTls;
use super::{Drain, ListenerSettings, Peer, TlsError, server_tls};
use crate::telemetry::Metrics;

/// How often the files of certificates are looked at.
const RENEW_EVERY: Duration = Duration::from_secs(5);

/// Why a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("cannot listen on `{address}`: {error}")]
    Address { address: SocketAddr, error: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A connection's place, given back when nobody holds it any more.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    _share: Share,
    open: IntGauge,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.dec();
    }
}

/// A listener that is bound and not yet serving.
pub struct Listener {
    socket: TcpListener,
    settings: Arc<ListenerSettings>,
    tls: Option<ServerTls>,
    metrics: Metrics,
}

impl Listener {
    pub async fn bind(settings: ListenerSettings, metrics: Metrics) -> Result<Self, BindError> {
        let tls = settings.tls.as_ref().map(server_tls).transpose()?;
        let address = settings.address;
        let socket =
            TcpListener::bind(address).await.map_err(|error| BindError::Address { address, error })?;
        Ok(Self { socket, settings: Arc::new(settings), tls, metrics })
    }

    /// Where it listens: the port chosen if the settings left it open.
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap_or(self.settings.address)
    }

    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Accepts until leaving begins. Connections past the limit are closed at once and counted.
    pub async fn run<S: Serve>(self, service: S, drain: Drain) {
        if let Some(tls) = self.tls.clone() {
            let (metrics, name) = (self.metrics.clone(), Arc::clone(&self.settings.name));
            tokio::spawn(keep_certificates(tls, metrics, name, drain.clone()));
        }
        let shares = Shares::new(self.settings.limits.max_connections_per_peer);
        let places = Arc::new(Semaphore::new(self.settings.limits.max_connections));
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = drain.begun() => return,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: trying again at once would spin.
                    tracing::warn!(listener = %self.settings.name, %error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&places).try_acquire_owned() else {
                self.metrics.connections_rejected.with_label_values(&[&*self.settings.name, "limit"]).inc();
                continue;
            };
            let Some(share) = shares.take(address.ip()) else {
                self.metrics
                    .connections_rejected
                    .with_label_values(&[&*self.settings.name, "peer_limit"])
                    .inc();
                continue;
            };
            let open = self.metrics.connections_open.with_label_values(&[&*self.settings.name]);
            open.inc();
            let place = Arc::new(Place { _permit: permit, _share: share, open });
            drain.spawn(self.serve_one(stream, address, place, service.clone(), drain.clone()));
        }
    }

    fn serve_one<S: Serve>(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        place: Arc<Place>,
        service: S,
        drain: Drain,
    ) -> impl Future<Output = ()> + Send + 'static {
        let peer = Peer::new(address, Arc::clone(&self.settings.name), self.tls.is_some(), place);
        let (tls, settings, rejected) =
            (self.tls.clone(), Arc::clone(&self.settings), self.metrics.connections_rejected.clone());
        async move {
            let listener = Arc::clone(&peer.listener);
            let serving = serve_connection(stream, tls, peer, settings, service, drain, rejected.clone());
            if let Err(reason) = serving.await {
                rejected.with_label_values(&[&*listener, reason]).inc();
            }
        }
    }
}

/// Reads certificates again when their files change, until everyone leaves.
async fn keep_certificates(tls: ServerTls, metrics: Metrics, listener: Arc<str>, drain: Drain) {
    let ends = metrics.tls_certificate_not_after.with_label_values(&[&*listener]);
    let count = |result: &str| metrics.tls_certificate_reloads.with_label_values(&[&*listener, result]);
    for result in ["ok", "failed"] {
        // What never happened is zero, not missing.
        count(result);
    }
    loop {
        ends.set(tls.current().not_after);
        tokio::select! {
            () = drain.begun() => return,
            () = tokio::time::sleep(RENEW_EVERY) => {}
        }
        let looking = tls.clone();
        match tokio::task::spawn_blocking(move || looking.renew()).await {
            Ok(Ok(true)) => {
                count("ok").inc();
                tracing::info!(%listener, "the certificates were read again");
            }
            Ok(Err(error)) => {
                count("failed").inc();
                tracing::error!(%listener, %error, "certificates that changed cannot be used; the ones before stay, the others are renewed");
            }
            _ => {}
        }
    }
}
