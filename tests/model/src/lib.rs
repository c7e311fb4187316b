//! The single flight, the marks and the ledger of the memory tier, the very files of `src/directory`, with loom's locks
//! in place of the standard ones: every interleaving of lookup, forget, refresh and disconnect is tried, up to a number of
//! preemptions. What calls them is written again here without IO, as short as it can be.
//!
//! Must not hold a copy of the files it checks.

#![cfg(test)]

use std::time::Duration;

use portcullis::directory::DirectoryError;
pub use portcullis::{identity, session, telemetry};

#[expect(dead_code, reason = "only what threads meet in is modelled")]
#[path = "../../../src/directory/flight.rs"]
mod flight;
#[expect(dead_code, reason = "only what threads meet in is modelled")]
#[path = "../../../src/directory/ledger.rs"]
mod ledger;
#[expect(dead_code, reason = "only what threads meet in is modelled")]
#[path = "../../../src/directory/marks.rs"]
mod marks;

/// What `src/directory/sync.rs` names, by loom.
mod sync {
    pub(super) use std::sync::PoisonError;

    pub(super) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    pub(super) use loom::sync::{Arc, Mutex, RwLock};
}

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use flight::{Flight, Flights};
use identity::{MemberId, MemberRef, Monotonic, Now, OrganizationId, SessionId};
use ledger::{Ledger, Shelf};
use loom::thread;
use marks::Marks;
use session::{ActiveSessions, Evidence, MemberSession, Revocation, RevocationTarget};
use sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering, PoisonError};

/// One place, in the stead of moka.
struct OnePlace(Mutex<Option<Evidence>>);

impl OnePlace {
    fn new() -> Self {
        Self(Mutex::new(None))
    }

    fn set(&self, evidence: Option<Evidence>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = evidence;
    }
}

impl Shelf for OnePlace {
    fn get(&self, _member: &MemberRef) -> Option<Evidence> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, _member: MemberRef, evidence: Evidence) {
        self.set(Some(evidence));
    }

    fn take_off(&self, _member: &MemberRef) {
        self.set(None);
    }
}

/// A directory that knows one session until it is ended, and a memory tier over it.
struct World {
    ledger: Ledger<OnePlace, OnePlace>,
    flights: Flights<MemberRef, Evidence>,
    /// Whether the session is alive, as the directory knows it.
    alive: AtomicBool,
    /// Every reading is a later one.
    clock: AtomicU64,
}

impl World {
    fn new() -> Arc<Self> {
        let marks = Marks::new(Duration::from_secs(3_600));
        Arc::new(Self {
            ledger: Ledger::new(OnePlace::new(), OnePlace::new(), marks),
            flights: Flights::new(),
            alive: AtomicBool::new(true),
            clock: AtomicU64::new(1),
        })
    }

    fn now(&self) -> Now {
        let tick = self.clock.fetch_add(1, Ordering::SeqCst);
        Now { wall: jiff::Timestamp::UNIX_EPOCH, monotonic: Monotonic::at(Duration::from_secs(tick)) }
    }

    /// Sent, then answered from what is true in between, then kept unless a mark outranks it: as the memory tier does.
    fn fetch(&self) -> Result<Evidence, DirectoryError> {
        for _ in 0..3 {
            let sent = self.now();
            let sessions = if self.alive.load(Ordering::SeqCst) { vec![member_session()] } else { Vec::new() };
            let evidence = Evidence::Sessions(std::sync::Arc::new(ActiveSessions::new(member(), &sessions, sent)));
            thread::yield_now();
            if self.ledger.keep(&member(), &evidence, Duration::ZERO) {
                return Ok(evidence);
            }
        }
        Err(DirectoryError::Busy)
    }

    fn join(world: &Arc<Self>) -> Flight<Evidence> {
        let fetching = Arc::clone(world);
        world.flights.join(&member(), || async move { fetching.fetch() }, spawn).0
    }

    /// A caller's question: what is kept, or what a lookup lands with, unless a mark outranks it.
    fn ask(world: &Arc<Self>) -> Evidence {
        if let Some(known) = world.ledger.remembered(&member(), None) {
            return known;
        }
        for _ in 0..3 {
            let landed = block_on(Self::join(world)).unwrap();
            if let Some(evidence) = world.ledger.marks.filter(&member(), landed) {
                return evidence;
            }
        }
        panic!("three lookups were outranked by one mark");
    }

    /// Ends the session at the directory, then forgets it here.
    fn revoke(&self) {
        self.alive.store(false, Ordering::SeqCst);
        let target = RevocationTarget::Session(session_id());
        self.ledger.forget(&Revocation { target, at: self.now() });
    }

    fn remembers_the_session(&self) -> bool {
        self.ledger.remembered(&member(), None).is_some_and(|evidence| holds_the_session(&evidence))
    }
}

/// Parks a thread until it is woken, on loom's own lock.
#[derive(Default)]
struct Parker {
    woken: Mutex<bool>,
    told: loom::sync::Condvar,
}

impl std::task::Wake for Parker {
    fn wake(self: std::sync::Arc<Self>) {
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.told.notify_one();
    }
}

/// Runs `future` to its end. A wake-up that never comes leaves the thread parked, and loom finds the deadlock.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let parker = std::sync::Arc::new(Parker::default());
    let waker = std::task::Waker::from(std::sync::Arc::clone(&parker));
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        let mut woken = parker.woken.lock().unwrap_or_else(PoisonError::into_inner);
        while !*woken {
            woken = parker.told.wait(woken).unwrap_or_else(PoisonError::into_inner);
        }
        *woken = false;
    }
}

fn spawn(lookup: Pin<Box<dyn Future<Output = ()> + Send>>) {
    thread::spawn(move || block_on(lookup));
}

fn member() -> MemberRef {
    MemberRef {
        organization_id: OrganizationId::parse("o").unwrap(),
        member_id: MemberId::parse("m").unwrap(),
    }
}

fn session_id() -> SessionId {
    SessionId::parse("s").unwrap()
}

fn member_session() -> MemberSession {
    MemberSession {
        session_id: session_id(),
        member: member(),
        organization_slug: None,
        started_at: None,
        expires_at: jiff::Timestamp::MAX,
        roles: None,
        factors: Vec::new(),
        claims: Vec::new(),
    }
}

fn holds_the_session(evidence: &Evidence) -> bool {
    evidence.list().is_some_and(|list| list.contains(&session_id()))
}

fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// A lookup that began before a revocation never lands after it.
#[test]
fn nothing_older_than_a_mark_is_ever_found() {
    explore(5, || {
        let world = World::new();
        let lookup = {
            let world = Arc::clone(&world);
            thread::spawn(move || drop(world.fetch()))
        };
        world.revoke();
        assert!(!world.remembers_the_session(), "right after the revocation");
        lookup.join().unwrap();
        assert!(!world.remembers_the_session(), "once the lookup landed");
    });
}

/// Whoever asks after a revocation never gets the session, even by joining a lookup from before it.
#[test]
fn whoever_asks_after_a_revocation_does_not_get_the_session() {
    explore(3, || {
        let world = World::new();
        let asker = {
            let world = Arc::clone(&world);
            thread::spawn(move || drop(World::ask(&world)))
        };
        world.revoke();
        assert!(!holds_the_session(&World::ask(&world)));
        asker.join().unwrap();
    });
}

/// A refresh that passes a revocation and a lookup: the last word is the directory's.
#[test]
fn a_refresh_brings_nothing_back() {
    explore(3, || {
        let world = World::new();
        drop(world.fetch());
        let refresh = {
            let world = Arc::clone(&world);
            thread::spawn(move || drop(world.fetch()))
        };
        let second = {
            let world = Arc::clone(&world);
            thread::spawn(move || drop(world.fetch()))
        };
        world.revoke();
        refresh.join().unwrap();
        second.join().unwrap();
        assert!(!world.remembers_the_session());
    });
}

/// Whoever waits is told, though whoever began the lookup left. A waiter that is lost is a deadlock, which loom finds.
#[test]
fn a_client_that_leaves_takes_no_waiter_along() {
    explore(5, || {
        let world = World::new();
        let leaver = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let mut flight = Box::pin(World::join(&world));
                // Looks once, as a connection does, and is gone.
                let waker = std::task::Waker::noop();
                drop(flight.as_mut().poll(&mut Context::from_waker(waker)));
            })
        };
        assert!(block_on(World::join(&world)).is_ok());
        leaver.join().unwrap();
    });
}

/// A lookup whose task ends without a word tells whoever waits that it failed.
#[test]
fn a_lookup_that_is_dropped_is_told_as_failed() {
    explore(5, || {
        let flights: Flights<u8, u8> = Flights::new();
        let (flight, _) = flights.join(&1, || async { Ok(1) }, |lookup| drop(thread::spawn(move || drop(lookup))));
        let (joined, _) = flights.join(&1, || async { Ok(2) }, spawn);
        assert!(block_on(flight).is_err());
        assert!(matches!(block_on(joined), Err(_) | Ok(2)));
    });
}
