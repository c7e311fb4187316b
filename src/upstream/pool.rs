//! Connections to one origin: taken one by one, put back when their answer is read to its end.
//!
//! Must not hand out a connection that anything was left unread on.

use std::future::{Future as _, poll_fn};
use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::Body;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsConnector;

use super::settings::Transport;
use super::{OriginError, OriginSettings};

/// A kept connection that is good is ready at once.
const READY_WITHIN: Duration = Duration::from_millis(100);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The connections of one origin.
pub(super) struct Pool<B> {
    settings: OriginSettings,
    tls: TlsConnector,
    idle: Mutex<Vec<Idle<B>>>,
    /// One place per request under way: since an idle connection is taken before a new one is made, it also
    /// bounds the connections.
    places: Arc<Semaphore>,
}

struct Idle<B> {
    sender: SendRequest<B>,
    since: Instant,
}

/// A connection in use by one request.
pub(super) struct Lease<B> {
    pub(super) sender: SendRequest<B>,
    /// Whether it has served a request before.
    pub(super) used: bool,
    /// Held as long as the request, or the tunnel it became, lives.
    pub(super) place: OwnedSemaphorePermit,
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(settings: OriginSettings, tls: &Arc<rustls::ClientConfig>) -> Self {
        Self {
            places: Arc::new(Semaphore::new(settings.max_connections)),
            tls: TlsConnector::from(Arc::clone(tls)),
            idle: Mutex::new(Vec::new()),
            settings,
        }
    }

    /// An idle connection that is ready, the latest used first, or a new one.
    pub(super) async fn take(&self) -> Result<Lease<B>, OriginError> {
        let place = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                let place = Arc::clone(&self.places).acquire_owned();
                match Box::pin(tokio::time::timeout(self.settings.connect_timeout, place)).await {
                    Ok(Ok(place)) => place,
                    _ => return Err(OriginError::Busy),
                }
            }
        };
        while let Some(mut idle) = self.pop() {
            let fresh = idle.since.elapsed() < self.settings.idle_timeout && !idle.sender.is_closed();
            if fresh && is_ready(&mut idle.sender).await {
                return Ok(Lease { sender: idle.sender, used: true, place });
            }
        }
        Ok(Lease { sender: Box::pin(self.connect()).await?, used: false, place })
    }

    /// A new connection in the place of one that turned out closed.
    pub(super) async fn reconnect(&self, lease: &mut Lease<B>) -> Result<(), OriginError> {
        lease.sender = Box::pin(self.connect()).await?;
        lease.used = false;
        Ok(())
    }

    pub(super) fn put_back(&self, lease: Lease<B>) {
        if !lease.sender.is_closed() {
            let idle = Idle { sender: lease.sender, since: Instant::now() };
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(idle);
        }
    }

    /// Drops connections that were idle for too long; called now and then.
    pub(super) fn sweep(&self) {
        let limit = self.settings.idle_timeout;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| idle.since.elapsed() < limit && !idle.sender.is_closed());
    }

    fn pop(&self) -> Option<Idle<B>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    async fn connect(&self) -> Result<SendRequest<B>, OriginError> {
        let connect = async {
            let (host, port, tls) = match &self.settings.address.0 {
                Transport::Unix(path) => {
                    return handshake(connect_unix(path).await.map_err(OriginError::Connect)?).await;
                }
                Transport::Tcp { host, port, tls } => (host.as_str(), *port, *tls),
            };
            let stream = TcpStream::connect((host, port)).await.map_err(OriginError::Connect)?;
            drop(stream.set_nodelay(true));
            if tls {
                let name = ServerName::try_from(host.to_owned()).map_err(|_| OriginError::Name)?;
                let stream = self.tls.connect(name, stream).await.map_err(OriginError::Connect)?;
                handshake(stream).await
            } else {
                handshake(stream).await
            }
        };
        tokio::time::timeout(self.settings.connect_timeout, connect)
            .await
            .unwrap_or(Err(OriginError::ConnectTimeout))
    }
}

/// A Unix socket whose backlog is full says so at once, where TCP would wait; whoever asked bounds how long this does.
async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            connected => return connected,
        }
    }
}

/// Ready only after the connection looked for bytes nobody asked for. Nearly always it has, and no timer is needed.
async fn is_ready<B>(sender: &mut SendRequest<B>) -> bool {
    let mut ready = pin!(sender.ready());
    let at_once = poll_fn(|cx| Poll::Ready(ready.as_mut().poll(cx))).await;
    match at_once {
        Poll::Ready(ready) => ready.is_ok(),
        Poll::Pending => matches!(Box::pin(tokio::time::timeout(READY_WITHIN, ready)).await, Ok(Ok(()))),
    }
}

async fn handshake<B>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<SendRequest<B>, OriginError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (sender, connection) = http1::Builder::new()
        .max_headers(200)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(OriginError::Exchange)?;
    // Its end is seen by whoever holds the sender; there is nobody else to tell.
    tokio::spawn(async move { drop(connection.with_upgrades().await) });
    Ok(sender)
}
