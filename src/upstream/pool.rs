//! Connections to one server: taken one by one, put back when their answer is read to its end.
//!
//! Must not hand out a connection that anything was left unread on.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use super::answer::AnswerHead;
use super::answer_body::AnswerBody;
use super::connect::{Connector, Endpoint};
use super::error::{BoxError, OriginError};
use super::multiplex::{Multiplex, Room, Stream};
use super::request::{Needs, OriginRequest};
use super::slots::{Caller, Joined, Slot, Slots, Waiting};
use super::timer::ReusableTimer;
use super::wire::Wire;
use super::{CallerShare, OriginSettings};
use bytes::Bytes;
use http::Response;
use http_body::Body;
use hyper::client::conn::http1::SendRequest;

/// A kept connection that is good is ready at once.
const READY_WITHIN: Duration = Duration::from_millis(100);

/// The connections of one server.
pub(super) struct Pool<B> {
    endpoint: Endpoint,
    connector: Connector,
    limits: Limits,
    idle: Mutex<Vec<Idle<SendRequest<B>>>>,
    idle_wires: Mutex<Vec<Idle<Box<Wire>>>>,
    /// Where the server speaks HTTP/2.
    multiplex: Option<Multiplex<B>>,
    /// One slot per request under way: since an idle connection is taken before a new one is made, or closed where it
    /// is of the other kind, it also bounds the connections.
    slots: Slots,
    /// One per tunnel or event stream, which hold no slot of the requests.
    streams: Slots,
    /// What the slots are for, where the server's word on HTTP/2 decides it.
    room: Mutex<Option<Room>>,
    share: CallerShare,
}

struct Limits {
    slots: usize,
    wait_timeout: Duration,
    idle_timeout: Duration,
}

struct Idle<C> {
    connection: C,
    timer: Option<ReusableTimer>,
    /// No longer good from here on.
    until: Instant,
}

/// What a request is sent on.
pub(super) enum Sender<B> {
    /// A connection of its own, driven by the request.
    Wire(Box<Wire>),
    /// A connection of its own with a task of its own, for requests with a body and for tunnels: whatever is sent while an
    /// answer comes.
    Http1(SendRequest<B>),
    /// A stream of a connection others use as well.
    Http2(Stream<B>),
}

/// A connection in use by one request.
pub(super) struct Lease<B> {
    pub(super) sender: Sender<B>,
    /// Whether it has served a request before.
    pub(super) used: bool,
    /// How long the server keeps it idle, if it said so.
    pub(super) kept_for: Option<Duration>,
    /// When it was taken.
    pub(super) taken_at: Instant,
    /// Kept with the connection.
    pub(super) timer: Option<ReusableTimer>,
    /// Held as long as the request, or the tunnel it became, lives.
    pub(super) slot: Slot,
}

/// A request that did not get an answer, and the request itself if none of it was sent.
pub(super) type Unanswered<B> = (OriginError, Option<OriginRequest<B>>);

impl<B> Sender<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    pub(super) async fn send(
        &mut self,
        request: OriginRequest<B>,
    ) -> Result<Response<AnswerBody>, Unanswered<B>> {
        let sent = match (self, request) {
            (Self::Wire(wire), OriginRequest::Head(head)) => {
                wire.begin(head);
                return match wire.answer().await {
                    Ok(AnswerHead { status, headers, framing, .. }) => {
                        let mut response = Response::new(AnswerBody::Wire(framing));
                        *response.status_mut() = status;
                        *response.headers_mut() = headers;
                        Ok(response)
                    }
                    Err(error) => Err((error.into(), wire.take_unsent().map(OriginRequest::Head))),
                };
            }
            (Self::Http1(sender), OriginRequest::Request(request)) => sender.try_send_request(*request).await,
            (Self::Http2(stream), OriginRequest::Request(request)) => {
                stream.sender.try_send_request(*request).await
            }
            // Connections are taken by what is to be sent.
            (_, other) => return Err((OriginError::Protocol, Some(other))),
        };
        sent.map(|response| response.map(AnswerBody::Incoming)).map_err(|mut error| {
            let unsent = error.take_message().map(Box::new).map(OriginRequest::Request);
            (OriginError::of_exchange(error.into_error()), unsent)
        })
    }
}

impl<B> Lease<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    fn new(sender: Sender<B>, used: bool, slot: Slot) -> Self {
        Self { sender, used, kept_for: None, taken_at: Instant::now(), timer: None, slot }
    }

    /// Nobody else comes onto its connection, where it is shared; one that is not is dropped after use.
    pub(super) fn close_to_others(&self) {
        if let Sender::Http2(stream) = &self.sender {
            stream.close_to_others();
        }
    }

    /// Resolves when the connection is free again: true if it still is one.
    pub(super) async fn is_free(&mut self) -> bool {
        match &mut self.sender {
            Sender::Http1(sender) => sender.ready().await.is_ok(),
            Sender::Http2(_) | Sender::Wire(_) => true,
        }
    }
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(endpoint: Endpoint, settings: &OriginSettings, connector: Connector) -> Self {
        let multiplex = settings.http2.then(|| Multiplex::new(settings));
        let room = multiplex.as_ref().map(Multiplex::room);
        let slots = room.map_or(settings.max_connections, |room| room.requests);
        let open_streams = settings.max_open_streams.unwrap_or(slots);
        let share = settings.caller_share;
        Self {
            endpoint,
            connector,
            limits: Limits {
                slots,
                wait_timeout: settings.wait_timeout,
                idle_timeout: settings.idle_timeout,
            },
            idle: Mutex::new(Vec::new()),
            idle_wires: Mutex::new(Vec::new()),
            multiplex,
            slots: Slots::with_queue(slots, settings.max_waiting, share),
            streams: Slots::new(open_streams, share),
            room: Mutex::new(room),
            share,
        }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Requests under way and waiting, and streams that last.
    pub(super) fn load(&self) -> usize {
        self.slots.load() + self.streams.load()
    }

    /// An idle connection that is ready, the latest used first, or a new one; by `until` at the latest.
    pub(super) async fn take(
        &self,
        needs: Needs,
        caller: Option<Caller>,
        until: Option<Instant>,
    ) -> Result<Lease<B>, OriginError> {
        let Needs { plain, may_last } = needs;
        if may_last {
            // Before it is sent, so that another server can take it.
            drop(self.streams.take(caller).map_err(OriginError::NoStream)?);
        }
        let slot = match self.slots.join(caller)? {
            Joined::Slot(slot) => slot,
            Joined::Queue(waiting) => Box::pin(self.wait(waiting, until)).await?,
        };
        if let Some(multiplex) = &self.multiplex {
            let taking = Box::pin(multiplex.take(&self.endpoint, &self.connector, until));
            let (stream, used) = by(until, taking, OriginError::ConnectTimeout).await?;
            self.fit(multiplex);
            return Ok(Lease::new(Sender::Http2(stream), used, slot));
        }
        if plain {
            while let Some(Idle { connection: mut wire, timer, until }) = pop(&self.idle_wires) {
                let now = Instant::now();
                if now < until && wire.is_quiet() {
                    let sender = Sender::Wire(wire);
                    return Ok(Lease { sender, used: true, kept_for: None, taken_at: now, timer, slot });
                }
            }
        } else {
            while let Some(Idle { connection: mut sender, timer, until }) = pop(&self.idle) {
                let now = Instant::now();
                if now < until && !sender.is_closed() && is_ready(&mut sender).await {
                    let sender = Sender::Http1(sender);
                    return Ok(Lease { sender, used: true, kept_for: None, taken_at: now, timer, slot });
                }
            }
        }
        let sender = self.connect(plain, until).await?;
        Ok(Lease::new(sender, false, slot))
    }

    /// Makes the slots as many as the server takes over HTTP/2: requests past that would wait without shares.
    fn fit(&self, multiplex: &Multiplex<B>) {
        let mut fitted = lock(&self.room);
        let room = multiplex.room();
        if fitted.replace(room) != Some(room) {
            self.slots.resize(room.requests, self.share);
            self.streams.resize(room.streams, self.share);
        }
    }

    /// A new connection that speaks HTTP/1.1.
    async fn connect(&self, plain: bool, until: Option<Instant>) -> Result<Sender<B>, OriginError> {
        self.make_room();
        let connecting = Box::pin(async {
            Ok(if plain {
                Sender::Wire(Box::new(self.connector.wire(&self.endpoint).await?))
            } else {
                Sender::Http1(self.connector.http1(&self.endpoint).await?)
            })
        });
        by(until, connecting, OriginError::ConnectTimeout).await
    }

    /// Closes idle connections, of either kind, that would be too many beside those in use.
    fn make_room(&self) {
        let in_use = self.slots.in_use();
        let mut idle = lock(&self.idle);
        let mut wires = lock(&self.idle_wires);
        let most = self.limits.slots.saturating_sub(in_use);
        let mut excess = (idle.len() + wires.len()).saturating_sub(most);
        // The oldest of those there are more of: they are at the front.
        while excess > 0 {
            if idle.len() > wires.len() {
                idle.remove(0);
            } else {
                wires.remove(0);
            }
            excess -= 1;
        }
    }

    async fn wait(&self, mut waiting: Waiting, until: Option<Instant>) -> Result<Slot, OriginError> {
        let late = Instant::now() + self.limits.wait_timeout;
        let late = until.map_or(late, |until| until.min(late));
        match tokio::time::timeout_at(late.into(), &mut waiting).await {
            Ok(slot) => Ok(slot),
            Err(_) if waiting.exceeds_share() => Err(OriginError::CallerShare),
            Err(_) => Err(OriginError::Busy),
        }
    }

    /// Moves a request whose answer may last for days out of the slots of those that pass.
    pub(super) fn note_lasting(
        &self,
        lease: &mut Lease<B>,
        caller: Option<Caller>,
    ) -> Result<(), OriginError> {
        lease.slot = self.streams.take(caller).map_err(OriginError::NoStream)?;
        Ok(())
    }

    /// Another connection in the place of one that turned out closed.
    pub(super) async fn reconnect(
        &self,
        lease: &mut Lease<B>,
        until: Option<Instant>,
    ) -> Result<(), OriginError> {
        if let Sender::Http2(closed) = &lease.sender {
            closed.close_to_others();
        }
        match &self.multiplex {
            Some(multiplex) => {
                let taking = Box::pin(multiplex.take(&self.endpoint, &self.connector, until));
                let (stream, used) = by(until, taking, OriginError::ConnectTimeout).await?;
                (lease.sender, lease.used) = (Sender::Http2(stream), used);
            }
            None => {
                let plain = matches!(lease.sender, Sender::Wire(_));
                (lease.sender, lease.used) = (self.connect(plain, until).await?, false);
            }
        }
        Ok(())
    }

    /// The connection can serve again. A stream of a shared one is simply over.
    pub(super) fn put_back(&self, lease: Lease<B>) {
        // Closed here before the server closes it: a request sent at that very moment would be lost.
        let kept = lease.kept_for.map_or(self.limits.idle_timeout, |kept| {
            kept.saturating_sub(Duration::from_secs(1)).min(self.limits.idle_timeout)
        });
        if kept.is_zero() {
            return;
        }
        let timer = lease.timer;
        let until = Instant::now() + kept;
        match lease.sender {
            Sender::Wire(mut wire) => {
                let reusable = wire.is_reusable();
                if reusable {
                    wire.shrink();
                    lock(&self.idle_wires).push(Idle { connection: wire, timer, until });
                }
            }
            Sender::Http1(sender) if !sender.is_closed() => {
                lock(&self.idle).push(Idle { connection: sender, timer, until });
            }
            _ => {}
        }
    }

    /// Drops connections that were idle for too long; called now and then.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        lock(&self.idle).retain(|idle| now < idle.until && !idle.connection.is_closed());
        lock(&self.idle_wires).retain_mut(|idle| now < idle.until && idle.connection.is_quiet());
        if let Some(multiplex) = &self.multiplex {
            multiplex.sweep();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pop<C>(idle: &Mutex<Vec<Idle<C>>>) -> Option<Idle<C>> {
    lock(idle).pop()
}

/// What comes of `work`, or `late` where it is not there by then.
async fn by<T>(
    until: Option<Instant>,
    work: impl Future<Output = Result<T, OriginError>>,
    late: OriginError,
) -> Result<T, OriginError> {
    match until {
        None => work.await,
        Some(until) => tokio::time::timeout_at(until.into(), work).await.unwrap_or(Err(late)),
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
