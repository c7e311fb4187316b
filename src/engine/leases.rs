//! Leases of open streams: every response still being sent, by whose session it was allowed, until it ends.
//!
//! Must not ask or decide anything: it says who is due, and `recheck` does the asking.

use std::collections::{BTreeSet, HashMap};
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use http::Method;
use jiff::Timestamp;
use prometheus::IntGauge;
use tokio::sync::Notify;

use super::AccessRequest;
use crate::identity::{MemberId, MemberRef, Monotonic, Principal, SessionId};
use crate::policy::{CanonicalPath, HostName, Reason, Route};
use crate::session::{ActiveSessions, RevocationTarget};
use crate::telemetry::RequestId;

/// When those are due whom an event about many touches: at once, after those whom an event names.
const AFTER_SINGLE_EVENTS: Monotonic = Monotonic::at(std::time::Duration::from_nanos(1));
const NEVER: Monotonic = Monotonic::at(std::time::Duration::MAX);

/// All open streams. Cheap to clone.
#[derive(Clone)]
pub(super) struct Leases(Arc<Inner>);

struct Inner {
    /// Grows with every event, so that a decision made before one is told from a decision made after.
    generation: AtomicU64,
    open: Mutex<Open>,
    /// Told when somebody is due sooner than was thought.
    sooner: Notify,
    next_number: AtomicU64,
    streams: IntGauge,
}

#[derive(Default)]
struct Open {
    members: HashMap<MemberId, MemberStreams>,
    /// Whose session it is, for events that name only the session, and how many streams it has.
    sessions: HashMap<SessionId, (MemberId, usize)>,
    /// One moment per member, however many streams they have.
    due: BTreeSet<(Monotonic, MemberId)>,
    /// When whoever looks after them will be back by themselves; unknown while they are at it.
    back_at: Option<Monotonic>,
}

struct MemberStreams {
    member: MemberRef,
    due: Monotonic,
    streams: HashMap<u64, Arc<Stream>>,
}

/// A member who is due, and their streams.
pub(super) type DueStreams = (MemberId, Vec<Arc<Stream>>);

/// What was asked when a stream was allowed: all that is needed to ask again.
pub(super) struct Stream {
    pub(super) method: Method,
    pub(super) host: HostName,
    pub(super) path: CanonicalPath,
    pub(super) principal: Principal,
    /// What the caller's own token said, where that counts.
    pub(super) vouched: Option<Arc<ActiveSessions>>,
    pub(super) session_id: SessionId,
    /// The request it answers and its route, for the record of its end.
    pub(super) request_id: RequestId,
    pub(super) route: Arc<Route>,
    ended: OnceLock<Reason>,
    waker: AtomicWaker,
}

impl Stream {
    /// The stream that `request` becomes, which `principal` was allowed by `session_id`.
    pub(super) fn new(
        request: &AccessRequest<'_>,
        route: Arc<Route>,
        principal: Principal,
        vouched: Option<Arc<ActiveSessions>>,
        session_id: SessionId,
    ) -> Self {
        Self {
            method: request.method.clone(),
            host: request.host.clone(),
            path: request.path.clone(),
            principal,
            vouched,
            session_id,
            request_id: request.request_id.clone(),
            route,
            ended: OnceLock::new(),
            waker: AtomicWaker::new(),
        }
    }

    /// Ends the stream. True if it was not ended before.
    pub(super) fn end(&self, reason: Reason) -> bool {
        let first = self.ended.set(reason).is_ok();
        self.waker.wake();
        first
    }
}

/// A stream's right to go on. Dropped when the stream ends by itself.
pub struct Lease {
    leases: Leases,
    number: u64,
    member_id: MemberId,
    stream: Arc<Stream>,
}

impl Lease {
    /// Why the stream must end, if it must. Wakes whoever polled last.
    pub fn poll_ended(&self, cx: &Context<'_>) -> Poll<Reason> {
        if let Some(reason) = self.stream.ended.get() {
            return Poll::Ready(*reason);
        }
        self.stream.waker.register(cx.waker());
        // Ended between the look and the registration.
        self.stream.ended.get().map_or(Poll::Pending, |reason| Poll::Ready(*reason))
    }

    /// Why the stream must end, if it must: for a direction that is asked whenever something moves.
    pub fn end_reason(&self) -> Option<Reason> {
        self.stream.ended.get().copied()
    }

    /// Resolves when the stream must end.
    pub async fn ended(&self) -> Reason {
        poll_fn(|cx| self.poll_ended(cx)).await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.give_back(&self.member_id, self.number, &self.stream.session_id);
    }
}

impl Leases {
    pub(super) fn new(streams: IntGauge) -> Self {
        Self(Arc::new(Inner {
            generation: AtomicU64::new(0),
            open: Mutex::new(Open::default()),
            sooner: Notify::new(),
            next_number: AtomicU64::new(0),
            streams,
        }))
    }

    /// Taken before a decision: an event after it is seen when the stream is registered.
    pub(super) fn ticket(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// Registers a stream that was decided on under `ticket`. It is looked at again at `due`, or at once if anything
    /// happened since the ticket was taken.
    pub(super) fn open(&self, stream: Stream, member: &MemberRef, ticket: u64, due: Monotonic) -> Lease {
        let number = self.0.next_number.fetch_add(1, Ordering::Relaxed);
        let stream = Arc::new(stream);
        let member_id = member.member_id.clone();
        let mut open = self.lock();
        open.sessions.entry(stream.session_id.clone()).or_insert_with(|| (member_id.clone(), 0)).1 += 1;
        let known = open.members.entry(member_id.clone()).or_insert_with(|| MemberStreams {
            member: member.clone(),
            due: NEVER,
            streams: HashMap::new(),
        });
        known.streams.insert(number, Arc::clone(&stream));
        let missed = self.0.generation.load(Ordering::Acquire) != ticket;
        let due = if missed { Monotonic::default() } else { due };
        let sooner = open.bring_forward(&member_id, due);
        drop(open);
        self.0.streams.inc();
        if sooner {
            self.0.sooner.notify_one();
        }
        Lease { leases: self.clone(), number, member_id, stream }
    }

    /// Makes everybody due whom `target` touches.
    pub(super) fn revisit(&self, target: &RevocationTarget) {
        self.0.generation.fetch_add(1, Ordering::AcqRel);
        let open = self.lock();
        let one = |id: Option<&MemberId>| id.cloned().into_iter().collect::<Vec<_>>();
        let (touched, due) = match target {
            RevocationTarget::Session(id) => {
                (one(open.sessions.get(id).map(|(id, _)| id)), Monotonic::default())
            }
            RevocationTarget::Member(id) => (vec![id.clone()], Monotonic::default()),
            RevocationTarget::Organization(id) => {
                let of = open.members.iter().filter(|(_, known)| known.member.organization_id == *id);
                (of.map(|(id, _)| id.clone()).collect(), AFTER_SINGLE_EVENTS)
            }
        };
        drop(open);
        self.bring_forward(&touched, due);
    }

    /// Makes everybody due.
    pub(super) fn revisit_all(&self) {
        self.0.generation.fetch_add(1, Ordering::AcqRel);
        let all: Vec<MemberId> = self.lock().members.keys().cloned().collect();
        self.bring_forward(&all, AFTER_SINGLE_EVENTS);
    }

    /// A few at a time: every request takes the lock as well.
    fn bring_forward(&self, members: &[MemberId], due: Monotonic) {
        for few in members.chunks(128) {
            let mut open = self.lock();
            let mut sooner = false;
            for id in few {
                sooner |= open.bring_forward(id, due);
            }
            drop(open);
            if sooner {
                self.0.sooner.notify_one();
            }
        }
    }

    /// Members due at `now`, each due again at `again` unless told otherwise; and when the next one is, if nobody is
    /// now: whoever asked will be back by then. At most so many whom an event names, and so many in all others.
    pub(super) fn take_due(
        &self,
        now: Monotonic,
        again: impl Fn() -> Monotonic,
        (urgent, ordinary): (usize, usize),
    ) -> Result<Vec<DueStreams>, Option<Monotonic>> {
        let mut open = self.lock();
        open.back_at = None;
        let mut taken = Vec::new();
        loop {
            match open.due.first() {
                Some((at, _)) if *at == Monotonic::default() && taken.len() < urgent => {}
                Some((at, _)) if *at <= now && taken.len() < ordinary => {}
                Some((at, _)) if *at <= now => break,
                next if taken.is_empty() => {
                    let next = next.map(|(at, _)| *at);
                    open.back_at = Some(next.unwrap_or(NEVER));
                    return Err(next);
                }
                _ => break,
            }
            let Some((_, member_id)) = open.due.pop_first() else { break };
            let at = again();
            let Some(known) = open.members.get_mut(&member_id) else { continue };
            known.due = at;
            let streams = known.streams.values().cloned().collect();
            open.due.insert((at, member_id.clone()));
            taken.push((member_id, streams));
        }
        Ok(taken)
    }

    /// Looks at a member no later than `due`.
    pub(super) fn look_by(&self, member_id: &MemberId, due: Monotonic) {
        if self.lock().bring_forward(member_id, due) {
            self.0.sooner.notify_one();
        }
    }

    /// Resolves when somebody became due sooner than was thought.
    pub(super) async fn sooner(&self) {
        self.0.sooner.notified().await;
    }

    fn give_back(&self, member_id: &MemberId, number: u64, session_id: &SessionId) {
        self.0.streams.dec();
        let mut open = self.lock();
        let Some(known) = open.members.get_mut(member_id) else { return };
        known.streams.remove(&number);
        let (empty, due) = (known.streams.is_empty(), known.due);
        if let Some((_, count)) = open.sessions.get_mut(session_id) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.sessions.remove(session_id);
            }
        }
        if empty {
            open.members.remove(member_id);
            open.due.remove(&(due, member_id.clone()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// True if the member is due before whoever looks after them is back.
    fn bring_forward(&mut self, member_id: &MemberId, due: Monotonic) -> bool {
        let Some(known) = self.members.get_mut(member_id) else { return false };
        if known.due <= due {
            return false;
        }
        self.due.remove(&(known.due, member_id.clone()));
        known.due = due;
        self.due.insert((due, member_id.clone()));
        self.back_at.is_none_or(|at| due < at)
    }
}

/// When a session's end comes by the monotonic clock.
pub(super) fn moment_of(date: Timestamp, now: crate::identity::Now) -> Monotonic {
    let left = date.duration_since(now.wall);
    now.monotonic.plus(std::time::Duration::try_from(left).unwrap_or_default())
}

#[cfg(test)]
mod tests;
