//! One connection: TLS if it is to be, then HTTP/1.1 or HTTP/2, for as long as the limits allow.
//!
//! Must not wait for a client without a timer: neither the handshake, the first bytes, nor the next request.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prometheus::IntCounterVec;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::activity::{Activity, Counted};
use super::client_certificate::ClientCertificate;
use super::peek::peek_past;
use super::peer::Peer;
use super::proxy_protocol::{ProxiedClient, read_header};
use super::stream::ClientStream;
use super::tls::ServerTls;
use super::{Drain, ListenerSettings, ServerLimits};

/// What answers the requests of a listener.
pub trait Serve: Clone + Send + Sync + 'static {
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static;

    /// The request comes in a box: whatever answers it is moved about with all that it holds.
    fn serve(
        &self,
        request: Box<Request<Incoming>>,
        peer: Arc<Peer>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// How long whoever is in the middle of saying something is waited for once everyone leaves.
const FAREWELL: Duration = Duration::from_secs(1);

/// Finds out which protocol is spoken and leaves the rest to a task of its own, which takes little more than the socket
/// while there is nothing to do.
///
/// The error is the label of a connection that ended before it was one.
pub(super) async fn serve_connection<S: Serve>(
    stream: TcpStream,
    tls: Option<ServerTls>,
    mut peer: Peer,
    settings: Arc<ListenerSettings>,
    service: S,
    drain: Drain,
    rejected: IntCounterVec,
) -> Result<(), &'static str> {
    // Small writes must not wait for an acknowledgement; a socket that refuses is served all the same.
    drop(stream.set_nodelay(true));
    let activity = Arc::new(Activity::new());
    let limits = &settings.limits;
    let begun = tokio::select! {
        begun = Box::pin(tokio::time::timeout(limits.header_timeout, begin(stream, tls, &mut peer, &settings, &activity))) => {
            begun.map_err(|_| "timeout")?
        }
        // Whoever is in the middle of saying hello is let finish, if they are quick.
        () = async { drain.begun().await; tokio::time::sleep(FAREWELL).await } => return Ok(()),
    };
    let (stream, is_http2): (ClientStream, bool) = begun?;
    peer.activity = Some(Arc::clone(&activity));
    let connection = Connection { service, peer: Arc::new(peer), activity, settings, drain };
    let drain = connection.drain.clone();
    let stream = Box::new(stream);
    drain.spawn(async move {
        let listener = Arc::clone(&connection.peer.listener);
        let ended = if is_http2 {
            Box::pin(connection.serve_http2(stream)).await
        } else {
            connection.serve_spells(stream).await
        };
        if let Err(reason) = ended {
            rejected.with_label_values(&[&*listener, reason]).inc();
        }
    });
    Ok(())
}

/// The handshake, or the first bytes: until it is known which protocol is spoken.
async fn begin(
    mut stream: TcpStream,
    tls: Option<ServerTls>,
    peer: &mut Peer,
    settings: &ListenerSettings,
    activity: &Arc<Activity>,
) -> Result<(ClientStream, bool), &'static str> {
    let limits = &settings.limits;
    if settings.proxy_protocol.iter().any(|network| network.contains(&peer.socket)) {
        let proxied = read_header(&mut stream).await.map_err(|_| "proxy_protocol")?;
        if let ProxiedClient::Address(client) = proxied.client
            && !peer.slot.count_client(client, settings)
        {
            return Err("peer_limit");
        }
        peer.is_proxied(proxied);
    }
    let Some(tls) = tls else {
        let is_http2 = sniff(&stream).await.map_err(|_| "preface")?;
        return Ok((ClientStream::clear(stream, limits.write_timeout, Arc::clone(activity)), is_http2));
    };
    let accepting = TlsAcceptor::from(Arc::clone(&tls.current().config)).accept(stream);
    let stream = accepting.await.map_err(|_| "handshake")?;
    let session = stream.get_ref().1;
    peer.server_name = session.server_name().map(Arc::from);
    let is_http2 = session.alpn_protocol() == Some(b"h2");
    let shown = session.peer_certificates();
    peer.certificate = shown.and_then(|chain| ClientCertificate::new(chain, tls)).map(Arc::new);
    Ok((ClientStream::tls(stream, limits.write_timeout, Arc::clone(activity)), is_http2))
}

/// What became of a connection, or of one spell of it.
enum Served {
    Ended(Result<(), &'static str>),
    /// Nothing is under way; what was read of the next request is given back.
    Resting(Box<ClientStream>, Bytes),
}

/// What a connection goes on with through all its spells.
struct Connection<S> {
    service: S,
    peer: Arc<Peer>,
    activity: Arc<Activity>,
    settings: Arc<ListenerSettings>,
    drain: Drain,
}

type Answering<B> = Pin<Box<dyn Future<Output = Result<Response<Counted<B>>, Infallible>> + Send>>;

impl<S: Serve> Connection<S> {
    /// Answers its requests, each counted while it is under way.
    fn answering(&self) -> impl Fn(Request<Incoming>) -> Answering<S::Body> + use<S> {
        let Self { service, peer, activity, .. } = self;
        let service = service.clone();
        let peer = Arc::clone(peer);
        let activity = Arc::clone(activity);
        move |request: Request<Incoming>| {
            let busy = Activity::begin(&activity, request.body().is_end_stream());
            let service = service.clone();
            let peer = Arc::clone(&peer);
            let request = Box::new(request);
            Box::pin(async move {
                let response = service.serve(request, peer).await;
                Ok::<_, Infallible>(response.map(|body| Counted::new(body, busy)))
            })
        }
    }

    /// Serves HTTP/1.1 until the client leaves, a limit ends it, or everyone is told to leave. Everything large is in a box
    /// of its own phase.
    async fn serve_spells(&self, mut stream: Box<ClientStream>) -> Result<(), &'static str> {
        let Self { activity, settings, drain, .. } = self;
        loop {
            let unread;
            (stream, unread) = match Box::pin(self.serve_http1(stream)).await {
                Served::Ended(ended) => return ended,
                Served::Resting(stream, unread) => (stream, unread),
            };
            if unread.is_empty() {
                // Empty, it still holds the buffer it was a part of.
                drop(unread);
                let left = activity.bound(&settings.limits).saturating_sub(activity.idle());
                if !Box::pin(rest(&mut stream, left, drain)).await {
                    return Ok(());
                }
            } else {
                stream.unread(unread);
            }
        }
    }

    async fn serve_http2(&self, mut stream: Box<ClientStream>) -> Result<(), &'static str> {
        let Self { activity, settings, drain, .. } = self;
        let limits = &settings.limits;
        activity.speaks_http2();
        stream.gather();
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.max_streams)
            .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .max_send_buf_size(256 * 1024)
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20))
            .enable_connect_protocol();
        let answer = service_fn(self.answering());
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), answer));
        let watched = watch(true, activity, limits, drain, connection.as_mut(), |connection| {
            connection.graceful_shutdown();
        });
        watched.await.unwrap_or(Ok(()))
    }

    async fn serve_http1(&self, stream: Box<ClientStream>) -> Served {
        let Self { activity, settings, drain, .. } = self;
        let limits = &settings.limits;
        let mut builder = http1::Builder::new();
        builder
            // `watch` knows when nothing was answered for too long, whatever trickles in: no timer for each head besides.
            .header_read_timeout(None)
            .max_header_size(limits.max_header_bytes);
        // As many as hyper has room for without an allocation need not be said.
        if limits.max_headers != ServerLimits::default().max_headers {
            builder.max_headers(limits.max_headers);
        }
        let answer = service_fn(self.answering());
        let mut connection = builder.serve_connection(TokioIo::new(stream), answer).with_upgrades();
        let watched = watch(false, activity, limits, drain, Pin::new(&mut connection), |connection| {
            connection.graceful_shutdown();
        });
        if let Some(ended) = watched.await {
            return Served::Ended(ended);
        }
        match connection.into_parts() {
            Some(parts) => Served::Resting(parts.io.into_inner(), parts.read_buf),
            None => Served::Ended(Ok(())),
        }
    }
}

/// Waits, holding nothing but the socket, until the client says something: true. At most `left`, and not once everyone
/// leaves: then it is closed.
async fn rest(stream: &mut ClientStream, left: Duration, drain: &Drain) -> bool {
    let spoken = tokio::select! {
        biased;
        readable = stream.readable() => readable.is_ok(),
        () = drain.begun() => false,
        () = tokio::time::sleep(left) => false,
    };
    if !spoken {
        drop(Box::pin(tokio::time::timeout(Duration::from_secs(1), stream.shutdown())).await);
    }
    spoken
}

/// Drives a connection; asks it to end when it is idle for too long or everyone leaves, and cuts it if it does not.
/// Nothing once it has rested for a moment and can be taken apart.
async fn watch<C>(
    is_http2: bool,
    activity: &Activity,
    limits: &ServerLimits,
    drain: &Drain,
    mut connection: Pin<&mut C>,
    mut end: impl FnMut(Pin<&mut C>),
) -> Option<Result<(), &'static str>>
where
    C: Future<Output = hyper::Result<()>>,
{
    // Over HTTP/1.1 an idle connection ends when it is asked to, and half a head is nothing to wait for.
    let grace = if is_http2 { Duration::from_secs(5) } else { Duration::ZERO };
    let mut ending: Option<Instant> = None;
    let mut draining = false;
    // An HTTP/2 client gets one GOAWAY when the drain is announced. An HTTP/1.1 client learns of it from `Connection: close`
    // on its next response: an idle one may be about to send. A connection accepted in between is told when the drain starts.
    let early = is_http2 && !drain.is_announced();
    let told = async { if early { drain.announced().await } else { drain.begun().await } };
    let mut told = pin!(told);
    loop {
        let patience = activity.patience(limits).min(if draining { FAREWELL } else { Duration::MAX });
        tokio::select! {
            // First, so that a request that has arrived is read before everyone is told to leave.
            biased;
            ended = connection.as_mut() => {
                return Some(match ended {
                    Err(error) if error.is_parse() => Err("malformed"),
                    Err(error) if error.is_timeout() && !activity.has_served() => Err("timeout"),
                    _ => Ok(()),
                });
            }
            () = &mut told, if !draining => {
                draining = true;
                end(connection.as_mut());
            }
            () = tokio::time::sleep(patience) => {
                if activity.is_busy() || (!is_http2 && activity.is_blocked()) {
                    // HTTP/2 alone can take a piece and never send it: a client that opens no window.
                    if is_http2 && activity.longest_unsent() >= limits.write_timeout {
                        return Some(Err("stalled"));
                    }
                    continue;
                }
                let expired = activity.idle() >= activity.bound(limits);
                match ending {
                    None if expired => {
                        ending = Some(Instant::now());
                        end(connection.as_mut());
                    }
                    // Half a head: it may be finished, if that is quick.
                    None if !is_http2 && draining && activity.idle() >= FAREWELL => return Some(Ok(())),
                    None if !is_http2 && !draining && activity.is_at_rest() => return None,
                    // Asked to end, idle, and still there: what is left is a client that does not answer.
                    Some(asked) if (is_http2 || expired) && asked.elapsed().min(activity.idle()) >= grace => {
                        return Some(if activity.has_served() { Ok(()) } else { Err("timeout") });
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Whether the first bytes are the preface of HTTP/2 (RFC 9113 section 3.4); no HTTP/1 method begins with `PRI`.
async fn sniff(stream: &TcpStream) -> std::io::Result<bool> {
    const PREFACE: &[u8] = b"PRI ";
    let mut first = [0; PREFACE.len()];
    let mut count = stream.peek(&mut first).await?;
    loop {
        let seen = first.get(..count).unwrap_or_default();
        if count == PREFACE.len() || !PREFACE.starts_with(seen) || count == 0 {
            return Ok(seen == PREFACE);
        }
        // The bytes so far could be either.
        match peek_past(stream, count, &mut first).await? {
            more if more > count => count = more,
            _ => return Ok(false),
        }
    }
}
