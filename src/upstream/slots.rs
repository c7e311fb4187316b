//! Slots of a limit that all callers share: a bound on how many there are at once, and on how many one caller holds.
//!
//! Must not let one caller hold so many slots that the others find none.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::CallerShare;

/// Slots that every caller may hold, however small the limit is.
const LEAST_SHARE: usize = 8;

static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Who takes slots: a member, a client or an address, as a hash under a random key of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caller(u64);

impl Caller {
    pub fn of(who: impl Hash) -> Self {
        Self(KEYS.hash_one(who))
    }
}

impl CallerShare {
    fn of(self, limit: usize) -> usize {
        (limit / self.parts.max(1)).max(LEAST_SHARE)
    }

    /// Whether a caller who holds `held` may take one more while all together hold `in_use`.
    fn allows(self, held: usize, in_use: usize, limit: usize) -> bool {
        in_use <= limit / 2 || held < self.of(limit)
    }
}

/// Why there is no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSlot {
    /// All are taken, and the queue is full.
    Full,
    /// The caller holds its share.
    CallerShare,
}

/// A limit's slots. Cheap to clone.
#[derive(Clone)]
pub struct Slots(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// Slots in use and waiters, for readers without the lock.
    load: AtomicUsize,
}

struct State {
    limit: usize,
    share: CallerShare,
    max_waiting: usize,
    in_use: usize,
    /// Callers that hold any.
    held: HashMap<Caller, usize>,
    /// The waiters of each caller in the order of arrival; no queue is empty.
    queues: HashMap<Option<Caller>, VecDeque<Waiter>>,
    /// The first waiter of each queue: a caller beyond its share is passed over once, however many of its requests wait.
    heads: BTreeMap<u64, Option<Caller>>,
    waiting: usize,
    next_id: u64,
}

struct Waiter {
    id: u64,
    granted: oneshot::Sender<()>,
}

/// One slot, given back when it is dropped.
pub struct Slot {
    slots: Slots,
    /// Changes under the lock of the slots.
    caller: Mutex<Option<Caller>>,
}

/// A request that waits for a slot, in the order of arrival: callers beyond their share let the others pass.
pub(super) struct Waiting {
    slots: Slots,
    caller: Option<Caller>,
    id: u64,
    granted: oneshot::Receiver<()>,
    taken: bool,
}

/// What came of asking for a slot.
pub(super) enum Joined {
    Slot(Slot),
    Queue(Waiting),
}

impl Slots {
    pub fn new(limit: usize, share: CallerShare) -> Self {
        Self::with_queue(limit, 0, share)
    }

    pub(super) fn with_queue(limit: usize, max_waiting: usize, share: CallerShare) -> Self {
        let state = State {
            limit,
            share,
            max_waiting,
            in_use: 0,
            held: HashMap::new(),
            queues: HashMap::new(),
            heads: BTreeMap::new(),
            waiting: 0,
            next_id: 0,
        };
        Self(Arc::new(Inner { state: Mutex::new(state), load: AtomicUsize::new(0) }))
    }

    /// Changes the limit. Slots in use stay in use and count.
    pub fn resize(&self, limit: usize, share: CallerShare) {
        let mut state = self.lock();
        (state.limit, state.share) = (limit, share);
        self.grant(&mut state);
    }

    /// A slot, if one is free and within the caller's share.
    pub fn take(&self, caller: Option<Caller>) -> Result<Slot, NoSlot> {
        let mut state = self.lock();
        if state.in_use >= state.limit {
            return Err(NoSlot::Full);
        }
        if !state.allows(caller) {
            return Err(NoSlot::CallerShare);
        }
        Ok(self.issue(&mut state, caller))
    }

    /// A slot, or a place in the queue. One caller holds no more than its share of a queue either.
    pub(super) fn join(&self, caller: Option<Caller>) -> Result<Joined, NoSlot> {
        let mut state = self.lock();
        if state.in_use < state.limit && state.allows(caller) {
            return Ok(Joined::Slot(self.issue(&mut state, caller)));
        }
        let waiting = state.waiting;
        let most = state.max_waiting;
        if waiting >= most {
            // With free slots, what the caller holds is why it would wait.
            return Err(if state.in_use < state.limit { NoSlot::CallerShare } else { NoSlot::Full });
        }
        let own = state.queues.get(&caller).map_or(0, VecDeque::len);
        if caller.is_some() && !state.share.allows(own, waiting, most) {
            return Err(NoSlot::CallerShare);
        }
        let (sender, granted) = oneshot::channel();
        let id = state.next_id;
        state.next_id += 1;
        state.queue(caller, Waiter { id, granted: sender });
        self.note(&state);
        Ok(Joined::Queue(Waiting { slots: self.clone(), caller, id, granted, taken: false }))
    }

    pub(super) fn in_use(&self) -> usize {
        self.lock().in_use
    }

    /// Slots in use and requests that wait for one.
    pub(super) fn load(&self) -> usize {
        self.0.load.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, state: &State) {
        self.0.load.store(state.in_use + state.waiting, Ordering::Relaxed);
    }

    fn issue(&self, state: &mut State, caller: Option<Caller>) -> Slot {
        state.count(caller);
        self.note(state);
        Slot { slots: self.clone(), caller: Mutex::new(caller) }
    }

    fn release(&self, state: &mut State, caller: Option<Caller>) {
        state.in_use -= 1;
        state.forget(caller);
        self.grant(state);
    }

    /// Hands free slots to the first waiters that are within their shares.
    fn grant(&self, state: &mut State) {
        while state.in_use < state.limit {
            let next = state.heads.iter().find(|(_, caller)| state.allows(**caller));
            let Some((&id, &caller)) = next else { break };
            let Some(waiter) = state.unqueue(caller, id) else { break };
            state.count(caller);
            // A waiter leaves the queue under the lock before its receiver is dropped: somebody is there.
            _ = waiter.granted.send(());
        }
        self.note(state);
    }
}

impl State {
    fn allows(&self, caller: Option<Caller>) -> bool {
        // Nearly always less than half is in use, and nobody needs to be looked for.
        if self.in_use <= self.limit / 2 {
            return true;
        }
        let held = caller.and_then(|caller| self.held.get(&caller).copied()).unwrap_or_default();
        self.share.allows(held, self.in_use, self.limit)
    }

    fn queue(&mut self, caller: Option<Caller>, waiter: Waiter) {
        let queue = self.queues.entry(caller).or_default();
        if queue.is_empty() {
            self.heads.insert(waiter.id, caller);
        }
        queue.push_back(waiter);
        self.waiting += 1;
    }

    fn unqueue(&mut self, caller: Option<Caller>, id: u64) -> Option<Waiter> {
        let queue = self.queues.get_mut(&caller)?;
        let at = queue.binary_search_by_key(&id, |waiter| waiter.id).ok()?;
        let waiter = queue.remove(at);
        self.waiting -= 1;
        let first = queue.front().map(|waiter| waiter.id);
        if at == 0 {
            self.heads.remove(&id);
            if let Some(first) = first {
                self.heads.insert(first, caller);
            }
        }
        if first.is_none() {
            self.queues.remove(&caller);
        }
        waiter
    }

    fn count(&mut self, caller: Option<Caller>) {
        self.in_use += 1;
        if let Some(caller) = caller {
            *self.held.entry(caller).or_default() += 1;
        }
    }

    fn forget(&mut self, caller: Option<Caller>) {
        let Some(caller) = caller else { return };
        if let Some(held) = self.held.get_mut(&caller) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&caller);
            }
        }
    }
}

impl Slot {
    /// Counts the slot as this caller's, if that is within its share: it was taken before the caller was known.
    pub fn claim(&self, caller: Option<Caller>) -> bool {
        let Some(caller) = caller else { return true };
        let mut state = self.slots.lock();
        let mut held_by = self.caller.lock().unwrap_or_else(PoisonError::into_inner);
        if *held_by == Some(caller) {
            return true;
        }
        let held = state.held.get(&caller).copied().unwrap_or_default();
        // The slot itself is in use already.
        if !state.share.allows(held, state.in_use - 1, state.limit) {
            return false;
        }
        state.forget(*held_by);
        *state.held.entry(caller).or_default() += 1;
        *held_by = Some(caller);
        // Another request of the caller that held it may wait for just that.
        self.slots.grant(&mut state);
        true
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.lock();
        let caller = *self.caller.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.slots.release(&mut state, caller);
    }
}

impl Waiting {
    /// Whether the caller's own slots are why it waits.
    pub(super) fn exceeds_share(&self) -> bool {
        !self.slots.lock().allows(self.caller)
    }
}

impl Future for Waiting {
    type Output = Slot;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Slot> {
        match Pin::new(&mut self.granted).poll(cx) {
            Poll::Ready(Ok(())) => {
                self.taken = true;
                Poll::Ready(Slot { slots: self.slots.clone(), caller: Mutex::new(self.caller) })
            }
            // The sender goes only with a grant.
            _ => Poll::Pending,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let mut state = self.slots.lock();
        match state.unqueue(self.caller, self.id) {
            Some(_) => self.slots.note(&state),
            // The slot came while the request left.
            None => self.slots.release(&mut state, self.caller),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// What is there without waiting.
    fn now(waiting: &mut Waiting) -> Option<Slot> {
        match Pin::new(waiting).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(slot) => Some(slot),
            Poll::Pending => None,
        }
    }

    fn queue(joined: Result<Joined, NoSlot>) -> Waiting {
        match joined {
            Ok(Joined::Queue(waiting)) => waiting,
            Ok(Joined::Slot(_)) => panic!("got a slot"),
            Err(error) => panic!("{error:?}"),
        }
    }

    #[test]
    fn one_caller_leaves_the_other_half_to_the_others() {
        let slots = Slots::new(64, CallerShare::default());
        let greedy = Some(Caller::of("greedy"));
        let good = Some(Caller::of("good"));
        let mut held: Vec<_> = std::iter::from_fn(|| slots.take(greedy).ok()).collect();
        assert_eq!(held.len(), 33, "alone, it takes what is over half");
        assert_eq!(slots.take(greedy).err(), Some(NoSlot::CallerShare));
        let others: Vec<_> = std::iter::from_fn(|| slots.take(good).ok()).collect();
        assert_eq!(others.len(), 8, "an eighth");
        let nobody: Vec<_> = std::iter::from_fn(|| slots.take(None).ok()).collect();
        assert_eq!(nobody.len(), 64 - 33 - 8, "without a caller there is only the limit");
        assert_eq!(slots.take(good).err(), Some(NoSlot::Full));
        held.clear();
        assert!(slots.take(good).is_ok(), "under half, shares do not matter");
        drop((others, nobody));
        assert!(slots.lock().held.is_empty() && slots.load() == 0);
    }

    #[test]
    fn small_limits_and_whole_shares_are_open_to_one_caller() {
        let caller = Some(Caller::of(1));
        for (limit, parts, takes) in [(8, 8, 8), (4, 8, 4), (64, 1, 64), (20, 2, 11), (100, 8, 51)] {
            let slots = Slots::new(limit, CallerShare { parts });
            let held: Vec<_> = std::iter::from_fn(|| slots.take(caller).ok()).collect();
            assert_eq!(held.len(), takes, "{limit} in {parts}");
        }
    }

    #[test]
    fn a_slot_taken_before_the_caller_is_known_is_claimed() {
        let slots = Slots::new(32, CallerShare::default());
        let caller = Some(Caller::of(1));
        let mut held = Vec::new();
        let refused = loop {
            let slot = slots.take(None).unwrap();
            if !slot.claim(caller) {
                break slot;
            }
            held.push(slot);
        };
        assert_eq!(held.len(), 17);
        drop(refused);
        assert_eq!(slots.in_use(), 17);
        drop(held);
        assert!(slots.lock().held.is_empty());
    }

    #[test]
    fn callers_beyond_their_share_wait_behind_the_others() {
        let slots = Slots::with_queue(16, 8, CallerShare::default());
        let greedy = Some(Caller::of(1));
        let good = Some(Caller::of(2));
        let mut held: Vec<_> = (0..9).map(|_| slots.take(greedy).unwrap()).collect();
        let mut first = queue(slots.join(greedy));
        assert!(first.exceeds_share() && now(&mut first).is_none());
        // Free ones go to the others at once.
        let mut others: Vec<_> = (0..7).map(|_| slots.take(good).unwrap()).collect();
        let mut second = queue(slots.join(good));
        assert!(!second.exceeds_share());
        held.pop();
        assert!(now(&mut second).is_some() && now(&mut first).is_none(), "the later one is served first");
        drop(second);
        others.clear();
        let slot = now(&mut first).expect("half of them are free");
        drop((slot, first, held));
        assert_eq!(slots.load(), 0);
    }

    #[test]
    fn a_full_queue_says_that_the_callers_share_is_why_it_would_wait() {
        let slots = Slots::with_queue(16, 1, CallerShare::default());
        let greedy = Some(Caller::of(1));
        let _held: Vec<_> = (0..9).map(|_| slots.take(greedy).unwrap()).collect();
        let _waiting = queue(slots.join(greedy));
        assert_eq!(slots.join(greedy).err(), Some(NoSlot::CallerShare));
        let _others: Vec<_> = (0..7).map(|_| slots.take(None).unwrap()).collect();
        assert_eq!(slots.join(greedy).err(), Some(NoSlot::Full));
    }

    #[test]
    fn a_slot_goes_on_from_one_caller_to_the_next() {
        let slots = Slots::new(32, CallerShare::default());
        let network = Some(Caller::of("network"));
        let member = Some(Caller::of("member"));
        let _others: Vec<_> = (0..17).map(|_| slots.take(None).unwrap()).collect();
        let held: Vec<_> = (0..8).map(|_| slots.take(None).unwrap()).collect();
        assert!(held.iter().all(|slot| slot.claim(network)));
        assert!(held.iter().all(|slot| slot.claim(network)), "they count once");
        assert!(!slots.take(None).unwrap().claim(network), "it holds its share");
        assert!(held[0].claim(member));
        assert!(slots.take(None).unwrap().claim(network), "one of them is the member's");
    }

    #[test]
    fn a_queue_has_shares_too() {
        let slots = Slots::with_queue(1, 32, CallerShare::default());
        let greedy = Some(Caller::of(1));
        let good = Some(Caller::of(2));
        let _one = slots.take(None).unwrap();
        let waiting: Vec<_> = (0..17).map(|_| queue(slots.join(greedy))).collect();
        assert_eq!(slots.join(greedy).err(), Some(NoSlot::CallerShare));
        let other = queue(slots.join(good));
        assert_eq!(slots.load(), 19);
        // From the middle, from the front, and the rest.
        let mut waiting = waiting;
        drop(waiting.remove(5));
        drop(waiting.remove(0));
        assert_eq!(slots.load(), 17);
        drop(queue(slots.join(greedy)));
        drop((waiting, other));
        assert_eq!(slots.load(), 1);
        let state = slots.lock();
        assert!(state.queues.is_empty() && state.heads.is_empty());
    }

    #[test]
    fn a_waiter_that_leaves_gives_its_slot_on() {
        let slots = Slots::with_queue(1, 8, CallerShare::default());
        let slot = slots.take(None).unwrap();
        let (left, granted, mut last) =
            (queue(slots.join(None)), queue(slots.join(None)), queue(slots.join(None)));
        drop(left);
        drop(slot);
        // Granted, and gone before it looked.
        drop(granted);
        assert!(now(&mut last).is_some());
        drop(last);
        assert_eq!(slots.load(), 0);
    }

    #[test]
    fn a_smaller_limit_counts_those_in_use() {
        let slots = Slots::with_queue(4, 8, CallerShare::default());
        let mut held: Vec<_> = (0..4).map(|_| slots.take(None).unwrap()).collect();
        slots.resize(2, CallerShare::default());
        held.truncate(2);
        assert_eq!(slots.take(None).err(), Some(NoSlot::Full));
        let mut waiting = queue(slots.join(None));
        slots.resize(3, CallerShare::default());
        assert!(now(&mut waiting).is_some());
    }
}
