//! HTTP/2 connections to one server, each shared by many requests.
//!
//! Must not put more requests on a connection than the settings say, nor open two where one is on its way.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::Body;
use hyper::client::conn::http2::SendRequest;

use super::connect::{Connector, Endpoint};
use super::error::OriginError;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

pub(super) struct Multiplex<B> {
    max_streams: usize,
    idle_timeout: Duration,
    connections: Mutex<Vec<Shared<B>>>,
    /// Held while a connection is made: whoever needs one as well waits for this one.
    opening: tokio::sync::Mutex<()>,
}

struct Shared<B> {
    sender: SendRequest<B>,
    streams: Arc<AtomicUsize>,
    /// How many the server takes at once.
    taken: Arc<AtomicUsize>,
    used: Instant,
}

/// One request's share of a connection.
pub(super) struct Stream<B> {
    pub(super) sender: SendRequest<B>,
    streams: Arc<AtomicUsize>,
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
    pub(super) fn new(max_streams: usize, idle_timeout: Duration) -> Self {
        Self {
            max_streams,
            idle_timeout,
            connections: Mutex::new(Vec::new()),
            opening: tokio::sync::Mutex::new(()),
        }
    }

    /// A stream of the connection with the fewest, or of a new connection where all are full. Whether the connection was
    /// there before is told beside it.
    pub(super) async fn take(
        &self,
        endpoint: &Endpoint,
        connector: &Connector,
    ) -> Result<(Stream<B>, bool), OriginError> {
        if let Some(stream) = self.join() {
            return Ok((stream, true));
        }
        let _opening = self.opening.lock().await;
        if let Some(stream) = self.join() {
            return Ok((stream, true));
        }
        let (sender, taken) = connector.http2(endpoint).await?;
        let stream = Stream { sender: sender.clone(), streams: Arc::new(AtomicUsize::new(1)) };
        let shared = Shared { sender, streams: Arc::clone(&stream.streams), taken, used: Instant::now() };
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).push(shared);
        Ok((stream, false))
    }

    fn join(&self) -> Option<Stream<B>> {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|shared| !shared.sender.is_closed());
        let least = connections.iter_mut().min_by_key(|shared| shared.streams.load(Ordering::Relaxed))?;
        let most = self.max_streams.min(least.taken.load(Ordering::Relaxed).max(1));
        if least.streams.load(Ordering::Relaxed) >= most {
            return None;
        }
        least.used = Instant::now();
        least.streams.fetch_add(1, Ordering::Relaxed);
        Some(Stream { sender: least.sender.clone(), streams: Arc::clone(&least.streams) })
    }

    /// Lets go of connections nobody used for a while.
    pub(super) fn sweep(&self) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|shared| {
            let busy = shared.streams.load(Ordering::Relaxed) > 0;
            !shared.sender.is_closed() && (busy || shared.used.elapsed() < self.idle_timeout)
        });
    }
}
