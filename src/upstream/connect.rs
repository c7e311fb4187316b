//! Making a connection to one server: the socket, TLS, the protocol.
//!
//! Must not take longer than the connect timeout, all of it together.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body::Body;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::answer::MAX_FIELDS;
use super::error::{BoxError, OriginError};
use super::stream::OriginStream;
use super::wire::Wire;

/// What one answer may have on its way to us, unread.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Requests at once on a connection whose server has not said yet how many it takes. No server is known to announce this
/// number, so it tells that nothing was announced.
pub(super) const BEFORE_SETTINGS: usize = 13;

/// One server, as far as reaching it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) place: Place,
    /// The name under TLS.
    pub(super) name: Option<ServerName<'static>>,
    /// For logs, and for the `Host` of our own questions.
    pub(super) authority: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Address(SocketAddr),
    /// Every address of the name is tried in turn, each time: for `localhost`.
    Name(String, u16),
    Unix(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What connections of one application have in common.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) tls: Arc<ArcSwap<ClientConfig>>,
    pub(super) timeout: Duration,
    connection_window: u32,
}

impl Connector {
    pub(super) fn new(tls: Arc<ClientConfig>, timeout: Duration, max_streams: usize) -> Self {
        /// RFC 9113 section 6.9.1.
        const LARGEST_WINDOW: u32 = (1 << 31) - 1;
        let streams = u32::try_from(max_streams).unwrap_or(u32::MAX);
        let connection_window = STREAM_WINDOW.saturating_mul(streams).min(LARGEST_WINDOW);
        Self { tls: Arc::new(ArcSwap::new(tls)), timeout, connection_window }
    }

    /// A connection that speaks HTTP/1.1.
    pub(super) async fn http1<B>(&self, endpoint: &Endpoint) -> Result<http1::SendRequest<B>, OriginError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.within(async {
            let stream = self.open(endpoint).await?;
            let handshake = http1::Builder::new().max_headers(MAX_FIELDS).handshake(TokioIo::new(stream));
            let (sender, connection) = handshake.await.map_err(OriginError::of_exchange)?;
            // Its end is seen by whoever holds the sender; there is nobody else to tell.
            tokio::spawn(async move { drop(connection.with_upgrades().await) });
            Ok(sender)
        })
        .await
    }

    /// A connection that speaks HTTP/1.1 for requests without a body.
    pub(super) async fn wire(&self, endpoint: &Endpoint) -> Result<Wire, OriginError> {
        self.within(async { Ok(Wire::new(self.open(endpoint).await?)) }).await
    }

    /// A connection that speaks HTTP/2, and how many requests the server takes on it at once, kept up to date; zero until
    /// the server said so.
    pub(super) async fn http2<B>(
        &self,
        endpoint: &Endpoint,
    ) -> Result<(http2::SendRequest<B>, Arc<AtomicUsize>), OriginError>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        self.within(async {
            let stream = self.open(endpoint).await?;
            if let OriginStream::Tls(stream) = &stream
                && stream.get_ref().1.alpn_protocol() != Some(b"h2")
            {
                return Err(OriginError::Protocol);
            }
            let (sender, mut connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                // Room for every stream's own: those that are read slowly must not hold up the others.
                .initial_connection_window_size(self.connection_window)
                .initial_max_send_streams(BEFORE_SETTINGS)
                .max_send_buf_size(256 * 1024)
                .max_header_list_size(64 * 1024)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(OriginError::of_exchange)?;
            let taken = Arc::new(AtomicUsize::new(0));
            let told = Arc::clone(&taken);
            tokio::spawn(async move {
                // The settings come when they come, and may change; soon after the start most of all.
                let mut pause = Duration::from_millis(5);
                while tokio::time::timeout(pause, &mut connection).await.is_err() {
                    match connection.current_max_send_streams() {
                        BEFORE_SETTINGS => {}
                        announced => told.store(announced.max(1), Ordering::Relaxed),
                    }
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
            });
            Ok((sender, taken))
        })
        .await
    }

    async fn within<T>(
        &self,
        connecting: impl Future<Output = Result<T, OriginError>>,
    ) -> Result<T, OriginError> {
        tokio::time::timeout(self.timeout, connecting).await.unwrap_or(Err(OriginError::ConnectTimeout))
    }

    async fn open(&self, endpoint: &Endpoint) -> Result<OriginStream, OriginError> {
        let stream = match &endpoint.place {
            Place::Unix(path) => {
                return connect_unix(path).await.map(OriginStream::Unix).map_err(OriginError::Connect);
            }
            Place::Address(address) => TcpStream::connect(address).await,
            Place::Name(host, port) => TcpStream::connect((host.as_str(), *port)).await,
        };
        let stream = stream.map_err(OriginError::Connect)?;
        drop(stream.set_nodelay(true));
        let Some(name) = &endpoint.name else { return Ok(OriginStream::Tcp(stream)) };
        let stream = TlsConnector::from(self.tls.load_full()).connect(name.clone(), stream).await;
        stream.map(|stream| OriginStream::Tls(Box::new(stream))).map_err(|error| {
            let is_about_trust = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
            if is_about_trust { OriginError::Untrusted(error) } else { OriginError::Connect(error) }
        })
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
