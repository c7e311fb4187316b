//! Making a connection to one server: the socket, TLS, the protocol.
//!
//! Must not take longer than the connect timeout, all of it together.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::error::OriginError;
use super::stream::OriginStream;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

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

/// What connections of one application have in common.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) tls: Arc<ClientConfig>,
    pub(super) timeout: Duration,
}

impl Connector {
    /// A connection that speaks HTTP/1.1.
    pub(super) async fn http1<B>(&self, endpoint: &Endpoint) -> Result<http1::SendRequest<B>, OriginError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.within(async {
            let stream = self.open(endpoint).await?;
            let (sender, connection) = http1::Builder::new()
                .max_headers(200)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(OriginError::of_exchange)?;
            // Its end is seen by whoever holds the sender; there is nobody else to tell.
            tokio::spawn(async move { drop(connection.with_upgrades().await) });
            Ok(sender)
        })
        .await
    }

    /// A connection that speaks HTTP/2, and how many requests the server takes on it at once, kept up to date.
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
                .initial_stream_window_size(256 * 1024)
                .initial_connection_window_size(1024 * 1024)
                .max_send_buf_size(256 * 1024)
                .max_header_list_size(64 * 1024)
                .keep_alive_interval(Duration::from_secs(20))
                .keep_alive_timeout(Duration::from_secs(10))
                .handshake(TokioIo::new(stream))
                .await
                .map_err(OriginError::of_exchange)?;
            let taken = Arc::new(AtomicUsize::new(connection.current_max_send_streams()));
            let told = Arc::clone(&taken);
            tokio::spawn(poll_fn(move |cx| {
                let polled = Pin::new(&mut connection).poll(cx);
                told.store(connection.current_max_send_streams(), Ordering::Relaxed);
                polled.map(drop)
            }));
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
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name.clone(), stream).await;
        stream.map(|stream| OriginStream::Tls(Box::new(stream))).map_err(OriginError::Untrusted)
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
