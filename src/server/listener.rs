//! One listening socket: accept, count, bound, hand over.
//!
//! Must not read a byte of a connection here, so that a slow client never holds up the next.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::Instant;

use super::connection_slot::ConnectionSlot;
use super::peer_limit::PeerLimits;
use super::protocol::{Serve, serve_connection};
use super::tls::{PreparedTls, ServerTls};
use super::{Drain, ListenerSettings, Peer, Places, TlsError, server_tls};
use crate::telemetry::Metrics;

/// Connections that wait to be accepted; the system may allow fewer.
const BACKLOG: u32 = 4096;
/// How long those who are in already are taken once leaving begins, before the socket is closed.
const LAST_LOOK: Duration = Duration::from_millis(50);
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

/// A listener that is bound and takes no connections yet.
pub struct Listener {
    socket: Bound,
    address: SocketAddr,
    control: ListenerControl,
    metrics: Metrics,
}

enum Bound {
    /// Clients are turned away until it listens.
    Here(TcpSocket),
    /// Somebody else opened it and keeps it open: clients wait.
    Inherited(TcpListener),
}

/// What changes about a listener while it serves. Cheap to clone.
#[derive(Clone)]
pub struct ListenerControl {
    settings: Arc<ArcSwap<ListenerSettings>>,
    tls: Option<ServerTls>,
}

/// Other settings of a listener, with everything they need read and found good.
pub struct PreparedListener {
    settings: ListenerSettings,
    tls: Option<PreparedTls>,
}

impl ListenerControl {
    pub fn settings(&self) -> Arc<ListenerSettings> {
        self.settings.load_full()
    }

    /// Reads what `settings` need. They are for the same address, with TLS if there was.
    pub fn prepare(&self, settings: &ListenerSettings) -> Result<PreparedListener, TlsError> {
        let before = self.settings.load();
        let tls = match (&self.tls, &settings.tls) {
            (Some(tls), Some(wanted)) if before.tls.as_ref() != Some(wanted) => Some(tls.prepare(wanted)?),
            _ => None,
        };
        Ok(PreparedListener { settings: settings.clone(), tls })
    }

    /// Holds for connections accepted from now on.
    pub fn replace(&self, prepared: PreparedListener) {
        if let (Some(tls), Some(prepared)) = (&self.tls, prepared.tls) {
            tls.replace(prepared);
        }
        self.settings.store(Arc::new(prepared.settings));
    }

    /// Has the files of certificates looked at now.
    pub fn look_at_certificates(&self) {
        if let Some(tls) = &self.tls {
            tls.look();
        }
    }

    /// When the first of its certificates ends, in seconds since 1970; none without TLS.
    pub fn certificate_ends(&self) -> Option<i64> {
        self.tls.as_ref().map(|tls| tls.current().not_after)
    }
}

impl Listener {
    /// Takes over the socket for its address if there is one among `inherited`, and opens one otherwise.
    pub fn bind(
        settings: ListenerSettings,
        inherited: &mut Vec<std::net::TcpListener>,
        metrics: Metrics,
    ) -> Result<Self, BindError> {
        let tls = settings.tls.as_ref().map(server_tls).transpose()?;
        let wanted = settings.address;
        let failed = |error| BindError::Address { address: wanted, error };
        let found = inherited.iter().position(|socket| is_for(socket, wanted));
        let socket = match found {
            Some(at) => {
                let socket = inherited.swap_remove(at);
                socket.set_nonblocking(true).map_err(failed)?;
                Bound::Inherited(TcpListener::from_std(socket).map_err(failed)?)
            }
            None => Bound::Here(open(wanted).map_err(failed)?),
        };
        let address = match &socket {
            Bound::Here(socket) => socket.local_addr(),
            Bound::Inherited(socket) => socket.local_addr(),
        };
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let control = ListenerControl { settings, tls };
        Ok(Self { socket, address: address.map_err(failed)?, control, metrics })
    }

    /// Where it listens: the port chosen if the settings left it open.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn is_secure(&self) -> bool {
        self.control.tls.is_some()
    }

    pub fn control(&self) -> ListenerControl {
        self.control.clone()
    }

    /// Lets clients in. From here on they wait to be accepted.
    pub fn listen(self) -> Result<Listening, BindError> {
        let Self { socket, address, control, metrics } = self;
        let (socket, inherited) = match socket {
            Bound::Here(socket) => {
                let failed = |error| BindError::Address { address, error };
                (socket.listen(BACKLOG).map_err(failed)?, false)
            }
            Bound::Inherited(socket) => (socket, true),
        };
        Ok(Listening { socket, inherited, control, metrics })
    }
}

/// A listener whose clients may come.
pub struct Listening {
    socket: TcpListener,
    inherited: bool,
    control: ListenerControl,
    metrics: Metrics,
}

impl Listening {
    /// Accepts until leaving begins. Connections past the limit are closed at once and counted.
    pub async fn run<S: Serve>(self, service: S, drain: Drain) {
        let settings = self.control.settings.load_full();
        if let Some(tls) = self.control.tls.clone() {
            let metrics = self.metrics.clone();
            let name = Arc::clone(&settings.name);
            tokio::spawn(keep_certificates(tls, metrics, name, drain.clone()));
        }
        let peers = PeerLimits::default();
        let places = Places::new(settings.limits.max_connections);
        let mut limits = settings.limits.clone();
        let mut leaving: Option<Instant> = None;
        let over = async |leaving: Option<Instant>| match leaving {
            Some(until) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
        };
        loop {
            let accepted = tokio::select! {
                biased;
                // Once leaving, whoever is in already is taken: they would be cut off when the socket is closed.
                () = drain.begun(), if leaving.is_none() => {
                    if self.inherited {
                        return;
                    }
                    leaving = Some(Instant::now() + LAST_LOOK);
                    continue;
                }
                () = over(leaving) => return,
                accepted = self.socket.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(_) if leaving.is_some() => return,
                Err(error) => {
                    // Out of descriptors, most likely: trying again at once would spin.
                    tracing::warn!(listener = %settings.name, %error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let now = self.control.settings.load_full();
            if now.limits.max_connections != limits.max_connections {
                places.resize(now.limits.max_connections);
            }
            limits = now.limits.clone();
            let Some(permit) = places.take() else {
                self.metrics.connections_rejected.with_label_values(&[&*now.name, "limit"]).inc();
                continue;
            };
            let Some(peer) = peers.admit(address.ip(), &now) else {
                self.metrics.connections_rejected.with_label_values(&[&*now.name, "peer_limit"]).inc();
                continue;
            };
            let open = self.metrics.connections_open.with_label_values(&[&*now.name]);
            let slot = Arc::new(ConnectionSlot::new(permit, peer, peers.clone(), open));
            drain.spawn(self.serve_one(stream, address, now, slot, service.clone(), drain.clone()));
        }
    }

    fn serve_one<S: Serve>(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        settings: Arc<ListenerSettings>,
        slot: Arc<ConnectionSlot>,
        service: S,
        drain: Drain,
    ) -> impl Future<Output = ()> + Send + 'static {
        let tls = self.control.tls.clone();
        let peer = Peer::new(address, Arc::clone(&settings.name), tls.is_some(), slot);
        let rejected = self.metrics.connections_rejected.clone();
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
            () = tls.should_look() => {}
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

fn open(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Whether `socket` listens where `wanted` says: a port that is left open is nobody's, and a socket for every address of
/// IPv6 takes those of IPv4 as well.
fn is_for(socket: &std::net::TcpListener, wanted: SocketAddr) -> bool {
    let is_same = |address: SocketAddr| {
        address == wanted
            || (address.ip().is_unspecified() && address.is_ipv6() && wanted.ip().is_unspecified())
    };
    wanted.port() != 0
        && socket.local_addr().is_ok_and(|address| address.port() == wanted.port() && is_same(address))
}
