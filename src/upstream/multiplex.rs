//! HTTP/2 connections to one server, each shared by many requests.
//!
//! Must not put more requests on a connection than the settings say, nor open two where one is on its way.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::Body;
use hyper::client::conn::http2::SendRequest;

use super::OriginSettings;
use super::connect::{BEFORE_SETTINGS, Connector, Endpoint};
use super::error::{BoxError, OriginError};

/// How often it is looked whether a connection has room again.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(5);

pub(super) struct Multiplex<B> {
    max_connections: usize,
    max_streams: usize,
    /// Tunnels and event streams at once where that was set; none: as many as requests.
    max_open_streams: Option<usize>,
    /// Requests at once on one connection: no more than the setting, nor than the server takes on any that is open.
    each: AtomicUsize,
    idle_timeout: Duration,
    wait_timeout: Duration,
    connections: Mutex<Vec<Shared<B>>>,
    /// Locked while a connection is made, so that requests wait for that one; holds the time of the last failure.
    opening: tokio::sync::Mutex<Option<Instant>>,
}

struct Shared<B> {
    sender: SendRequest<B>,
    streams: Arc<AtomicUsize>,
    /// How many the server takes at once; zero while it has not said.
    taken: Arc<AtomicUsize>,
    /// Whether nobody else may be put on it.
    closed: Arc<AtomicBool>,
    used: Instant,
}

/// Requests at once, and tunnels and event streams at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) requests: usize,
    pub(super) streams: usize,
}

/// One request's share of a connection.
pub(super) struct Stream<B> {
    pub(super) sender: SendRequest<B>,
    streams: Arc<AtomicUsize>,
    closed: Arc<AtomicBool>,
}

impl<B> Stream<B> {
    /// Nobody else is put on this connection; those who are on it finish.
    pub(super) fn close_to_others(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

impl<B> Drop for Stream<B> {
    fn drop(&mut self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<B> Multiplex<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(settings: &OriginSettings) -> Self {
        Self {
            max_connections: settings.max_connections,
            max_streams: settings.max_streams,
            max_open_streams: settings.max_open_streams,
            each: AtomicUsize::new(settings.max_streams),
            idle_timeout: settings.idle_timeout,
            wait_timeout: settings.wait_timeout,
            connections: Mutex::new(Vec::new()),
            opening: tokio::sync::Mutex::new(None),
        }
    }

    /// Opens a stream on the least loaded connection, or on a new one if all are full. Returns whether the connection already
    /// existed. Waiting for another request's connect and connecting itself each count against the connect timeout; if that
    /// connect fails, the requests that waited for it fail too.
    pub(super) async fn take(
        &self,
        endpoint: &Endpoint,
        connector: &Connector,
        until: Option<Instant>,
    ) -> Result<(Stream<B>, bool), OriginError> {
        if let Some(stream) = self.join() {
            return Ok((stream, true));
        }
        let began = Instant::now();
        let waited = tokio::time::timeout(connector.timeout, self.opening.lock()).await;
        let mut failed = waited.map_err(|_| OriginError::ConnectTimeout)?;
        if let Some(stream) = self.join() {
            return Ok((stream, true));
        }
        if failed.is_some_and(|failed| failed >= began) {
            let message = "the connection that several requests waited for could not be made";
            return Err(OriginError::Connect(io::Error::other(message)));
        }
        if self.is_full() {
            drop(failed);
            return self.wait_for_room(until).await.map(|stream| (stream, true));
        }
        let (sender, taken) = connector.http2(endpoint).await.inspect_err(|_| {
            *failed = Some(Instant::now());
        })?;
        let streams = Arc::new(AtomicUsize::new(1));
        let closed = Arc::new(AtomicBool::new(false));
        let stream =
            Stream { sender: sender.clone(), streams: Arc::clone(&streams), closed: Arc::clone(&closed) };
        let shared = Shared { sender, streams, taken, closed, used: Instant::now() };
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).push(shared);
        Ok((stream, false))
    }

    /// What there is room for, requests and streams that last, as far as the server takes that many.
    pub(super) fn room(&self) -> Room {
        let requests = self.max_connections.saturating_mul(self.each());
        Room { requests, streams: self.max_open_streams.unwrap_or(requests) }
    }

    /// Connections there may be: streams that last have as many besides as they need, and take none from the requests.
    fn most_connections(&self) -> usize {
        self.max_connections.saturating_add(self.room().streams.div_ceil(self.each()))
    }

    fn each(&self) -> usize {
        self.each.load(Ordering::Relaxed).max(1)
    }

    /// Whether no further connection may be made. Those that only finish what is on them do not count: each of their
    /// requests holds a slot, which bounds them.
    fn is_full(&self) -> bool {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let open = connections.iter().filter(|shared| !shared.closed.load(Ordering::Relaxed)).count();
        open >= self.most_connections()
    }

    /// Waits here, where it is nobody's failure, and not within a connection whose server takes no more.
    async fn wait_for_room(&self, until: Option<Instant>) -> Result<Stream<B>, OriginError> {
        let late = Instant::now() + self.wait_timeout;
        let late = until.map_or(late, |until| until.min(late));
        let waiting = async {
            loop {
                tokio::time::sleep(LOOK_FOR_ROOM).await;
                if let Some(stream) = self.join() {
                    return stream;
                }
            }
        };
        tokio::time::timeout_at(late.into(), waiting).await.map_err(|_| OriginError::Busy)
    }

    /// A stream of the connection with the fewest, if it has room and its server takes one more.
    fn join(&self) -> Option<Stream<B>> {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|shared| {
            let over = shared.closed.load(Ordering::Relaxed) && shared.streams.load(Ordering::Relaxed) == 0;
            !over && !shared.sender.is_closed()
        });
        let is_open = |shared: &&mut Shared<B>| !shared.closed.load(Ordering::Relaxed);
        let mut announced = 0;
        let mut least: Option<(usize, &mut Shared<B>)> = None;
        for shared in connections.iter_mut().filter(is_open) {
            let streams = shared.streams.load(Ordering::Relaxed);
            let bound = match shared.taken.load(Ordering::Relaxed) {
                0 => self.each().min(BEFORE_SETTINGS),
                taken => {
                    announced = announced.max(taken);
                    taken.min(self.max_streams)
                }
            };
            if streams < bound && least.as_ref().is_none_or(|(fewest, _)| streams < *fewest) {
                least = Some((streams, shared));
            }
        }
        if announced > 0 {
            self.each.store(announced.min(self.max_streams), Ordering::Relaxed);
        }
        let (_, least) = least?;
        least.used = Instant::now();
        least.streams.fetch_add(1, Ordering::Relaxed);
        Some(Stream {
            sender: least.sender.clone(),
            streams: Arc::clone(&least.streams),
            closed: Arc::clone(&least.closed),
        })
    }

    /// Lets go of connections nobody used for a while.
    pub(super) fn sweep(&self) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|shared| {
            let busy = shared.streams.load(Ordering::Relaxed) > 0;
            let idle = shared.closed.load(Ordering::Relaxed) || shared.used.elapsed() >= self.idle_timeout;
            !shared.sender.is_closed() && (busy || !idle)
        });
    }
}
