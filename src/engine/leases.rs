//! Leases of open streams: every response still being sent, by whose session it was allowed, until it ends.
//!
//! Must not ask or decide anything: it says who is due, and `recheck` does the asking.

mod holder;
mod stream;
mod young;

use std::collections::{BTreeSet, HashMap};
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use jiff::Timestamp;
use prometheus::IntGauge;
use tokio::sync::Notify;

use self::holder::Holder;
pub(super) use self::holder::HolderId;
pub(super) use self::stream::Stream;
use self::young::{FEW, Young, YoungStream};
use crate::identity::{Monotonic, OrganizationId, SessionId};
use crate::policy::Reason;
use crate::session::RevocationTarget;

/// When those are due whom an event about many touches: at once, after those whom an event names.
const AFTER_SINGLE_EVENTS: Monotonic = Monotonic::at(Duration::from_nanos(1));
/// Streams are kept by whose they are at the latest then.
pub(super) const GROWN_AFTER: Duration = Duration::from_secs(1);
const NEVER: Monotonic = Monotonic::at(Duration::MAX);

/// All open streams. Cheap to clone.
#[derive(Clone)]
pub(super) struct Leases(Arc<Inner>);

struct Inner {
    /// Grows with every event, so that a decision made before one is told from a decision made after.
    generation: AtomicU64,
    /// Nearly every stream ends before anybody asks about it: only what stays is kept by whose it is.
    young: Mutex<Young>,
    open: Mutex<Open>,
    /// Told when somebody is due sooner than was thought.
    sooner: Notify,
    next_number: AtomicU64,
    streams: IntGauge,
}

#[derive(Default)]
struct Open {
    holders: HashMap<HolderId, HolderStreams>,
    /// Whose session it is, for events that name only the session, and how many streams it has.
    sessions: HashMap<SessionId, (HolderId, usize)>,
    /// One moment per holder, however many streams they have.
    due: BTreeSet<(Monotonic, HolderId)>,
    /// When whoever looks after them will be back by themselves; unknown while they are at it.
    back_at: Option<Monotonic>,
}

struct HolderStreams {
    organization_id: Option<OrganizationId>,
    due: Monotonic,
    streams: HashMap<u64, Arc<Stream>>,
}

/// A holder who is due, and their streams.
pub(super) type DueStreams = (HolderId, Vec<Arc<Stream>>);

/// A stream's right to go on. Dropped when the stream ends by itself.
pub struct Lease {
    leases: Leases,
    number: u64,
    /// Its place while it was young, if it ever was.
    place: Option<usize>,
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
        self.leases.give_back(self);
    }
}

impl Leases {
    pub(super) fn new(streams: IntGauge) -> Self {
        Self(Arc::new(Inner {
            generation: AtomicU64::new(0),
            young: Mutex::new(Young::default()),
            open: Mutex::new(Open::default()),
            sooner: Notify::new(),
            next_number: AtomicU64::new(0),
            streams,
        }))
    }

    /// Taken before a decision: an event after it is seen when the stream is opened.
    pub(super) fn ticket(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// Registers a stream that was decided on under `ticket` at `now`. It is looked at again at `due`, or at once if
    /// anything happened since the ticket was taken.
    pub(super) fn open(&self, stream: Stream, ticket: u64, now: Monotonic, due: Monotonic) -> Lease {
        let number = self.0.next_number.fetch_add(1, Ordering::Relaxed);
        let stream = Arc::new(stream);
        self.0.streams.inc();
        let place = self.put_young(&stream, number, ticket, now, due);
        if place.is_none() && self.register(number, &stream, ticket, due) {
            self.0.sooner.notify_one();
        }
        Lease { leases: self.clone(), number, place, stream }
    }

    /// Nothing if it must be kept by whose it is from the start.
    fn put_young(
        &self,
        stream: &Arc<Stream>,
        number: u64,
        ticket: u64,
        now: Monotonic,
        due: Monotonic,
    ) -> Option<usize> {
        if due <= now.plus(GROWN_AFTER * 2) {
            return None;
        }
        let mut young = self.young();
        // Under the lock: whoever has an event to tell counts it up before they look who is there.
        let missed = self.0.generation.load(Ordering::Acquire) != ticket;
        (!missed).then(|| young.put(YoungStream { number, stream: Arc::clone(stream), due }))
    }

    /// Keeps a stream by whose it is. True if it is due before whoever looks after them is back.
    fn register(&self, number: u64, stream: &Arc<Stream>, ticket: u64, due: Monotonic) -> bool {
        let holder = Holder::of(&stream.subject);
        let mut open = self.lock();
        if let Some(session_id) = &holder.session_id {
            open.sessions.entry(session_id.clone()).or_insert_with(|| (holder.id.clone(), 0)).1 += 1;
        }
        let known = open.holders.entry(holder.id.clone()).or_insert_with(|| HolderStreams {
            organization_id: holder.organization_id,
            due: NEVER,
            streams: HashMap::new(),
        });
        known.streams.insert(number, Arc::clone(stream));
        let missed = self.0.generation.load(Ordering::Acquire) != ticket;
        let due = if missed { Monotonic::default() } else { due };
        open.bring_forward(&holder.id, due)
    }

    /// Keeps every stream by whose it is that is not yet: before anybody is looked for, and in time for when they are due.
    /// True if one is due before whoever looks after them is back.
    fn grow_up(&self) -> bool {
        let mut from = Some(0);
        let mut few = Vec::new();
        let mut sooner = false;
        while let Some(at) = from {
            // Held until they are registered: one that ends meanwhile is looked for here first, and then there.
            let mut young = self.young();
            from = young.take_some(at, &mut few);
            for YoungStream { number, stream, due } in few.drain(..) {
                sooner |= self.register(number, &stream, self.ticket(), due);
            }
        }
        sooner
    }

    /// An event came: all streams are to be found by whose they are.
    fn find_all(&self) {
        // Two events may come at once: each finds what the other made due, and neither would say so.
        if self.grow_up() {
            self.0.sooner.notify_one();
        }
    }

    /// Makes everybody due whom `target` touches.
    pub(super) fn revisit(&self, target: &RevocationTarget) {
        self.0.generation.fetch_add(1, Ordering::AcqRel);
        self.find_all();
        let open = self.lock();
        let (touched, due): (Vec<HolderId>, _) = match target {
            RevocationTarget::Session(id) => {
                (open.sessions.get(id).map(|(id, _)| id.clone()).into_iter().collect(), Monotonic::default())
            }
            RevocationTarget::Member(id) => (vec![HolderId::Member(id.clone())], Monotonic::default()),
            RevocationTarget::Organization(id) => {
                let of = open.holders.iter().filter(|(_, known)| known.organization_id.as_ref() == Some(id));
                (of.map(|(id, _)| id.clone()).collect(), AFTER_SINGLE_EVENTS)
            }
        };
        drop(open);
        self.bring_forward(&touched, due);
    }

    /// Makes everybody due.
    pub(super) fn revisit_all(&self) {
        self.0.generation.fetch_add(1, Ordering::AcqRel);
        self.find_all();
        let all: Vec<HolderId> = self.lock().holders.keys().cloned().collect();
        self.bring_forward(&all, AFTER_SINGLE_EVENTS);
    }

    fn bring_forward(&self, holders: &[HolderId], due: Monotonic) {
        for few in holders.chunks(FEW) {
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

    /// Takes the callers whose re-check is due and schedules their next one at `again()`. If none is due, returns when the next
    /// one is. Takes at most `urgent` callers that an event named and `ordinary` others.
    pub(super) fn take_due(
        &self,
        now: Monotonic,
        again: impl Fn() -> Monotonic,
        (urgent, ordinary): (usize, usize),
    ) -> Result<Vec<DueStreams>, Option<Monotonic>> {
        if self.young().is_time(now) {
            self.grow_up();
        }
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
            let Some((_, holder)) = open.due.pop_first() else { break };
            let at = again();
            let Some(known) = open.holders.get_mut(&holder) else { continue };
            known.due = at;
            let streams = known.streams.values().cloned().collect();
            open.due.insert((at, holder.clone()));
            taken.push((holder, streams));
        }
        Ok(taken)
    }

    /// Looks at a holder no later than `due`.
    pub(super) fn look_by(&self, holder: &HolderId, due: Monotonic) {
        if self.lock().bring_forward(holder, due) {
            self.0.sooner.notify_one();
        }
    }

    /// Resolves when somebody became due sooner than was thought.
    pub(super) async fn sooner(&self) {
        self.0.sooner.notified().await;
    }

    fn give_back(&self, lease: &Lease) {
        self.0.streams.dec();
        let number = lease.number;
        if lease.place.is_some_and(|place| self.young().take(place, number).is_some()) {
            return;
        }
        let holder = Holder::of(&lease.stream.subject);
        let mut open = self.lock();
        let Some(known) = open.holders.get_mut(&holder.id) else { return };
        known.streams.remove(&number);
        let empty = known.streams.is_empty();
        let due = known.due;
        if let Some(session_id) = &holder.session_id
            && let Some((_, count)) = open.sessions.get_mut(session_id)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.sessions.remove(session_id);
            }
        }
        if empty {
            open.holders.remove(&holder.id);
            open.due.remove(&(due, holder.id));
        }
    }

    fn young(&self) -> MutexGuard<'_, Young> {
        self.0.young.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// True if the holder is due before whoever looks after them is back.
    fn bring_forward(&mut self, holder: &HolderId, due: Monotonic) -> bool {
        let Some(known) = self.holders.get_mut(holder) else { return false };
        if known.due <= due {
            return false;
        }
        self.due.remove(&(known.due, holder.clone()));
        known.due = due;
        self.due.insert((due, holder.clone()));
        self.back_at.is_none_or(|at| due < at)
    }
}

/// When a session's end comes by the monotonic clock.
pub(super) fn moment_of(date: Timestamp, now: crate::identity::Now) -> Monotonic {
    let left = date.duration_since(now.wall);
    now.monotonic.plus(Duration::try_from(left).unwrap_or_default())
}

#[cfg(test)]
mod tests;
