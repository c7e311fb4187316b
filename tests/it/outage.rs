//! Ten minutes without the directory, on a clock that is moved by hand: what is asked, served, refused, and when it is
//! over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use portcullis::directory::{
    Answer, Attempts, Clock, DirectoryError, Guard, GuardSettings, ManualClock, Memory, MemorySettings,
    SessionDirectory, SessionQuery, Spelling, TokenOwner, TokenQuery, UnknownTokenSettings,
};
use portcullis::identity::{MemberId, MemberRef, OrganizationId};
use portcullis::policy::Freshness;
use portcullis::session::{ActiveSessions, Evidence, Revocation};
use portcullis::telemetry::Metrics;

const MEMBERS: usize = 2_000;
/// One request of every member in so many steps.
const EVERY: usize = 50;
const STEP: Duration = Duration::from_millis(100);

struct Directory {
    clock: Arc<ManualClock>,
    down: AtomicBool,
    calls: AtomicU64,
}

impl SessionDirectory for Directory {
    fn active_sessions(&self, query: &SessionQuery) -> Answer<Evidence> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.down.load(Ordering::Relaxed) {
            return Answer::Ready(Err(DirectoryError::Unreachable));
        }
        let list = ActiveSessions::new(query.member.clone(), &[], self.clock.now());
        Answer::Ready(Ok(Evidence::Sessions(Arc::new(list))))
    }

    fn resolve(&self, _query: &TokenQuery) -> Answer<TokenOwner> {
        Answer::Ready(Err(DirectoryError::Unreachable))
    }

    fn forget(&self, _revocation: &Revocation) {}
}

struct Simulation {
    clock: Arc<ManualClock>,
    directory: Arc<Directory>,
    memory: Memory,
    step: usize,
}

/// What came of the requests of one stretch of time.
#[derive(Debug, Default)]
struct Tally {
    fresh: u64,
    stale: u64,
    bridged: u64,
    refused: u64,
    oldest: Duration,
    calls: u64,
    most_calls_in_a_second: u64,
}

impl Simulation {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at("2026-01-01T00:00:00Z".parse().unwrap()));
        let shared: Arc<dyn Clock> = clock.clone();
        let (down, calls) = (AtomicBool::new(false), AtomicU64::new(0));
        let directory = Arc::new(Directory { clock: Arc::clone(&clock), down, calls });
        let metrics = Metrics::new().unwrap();
        let guard = GuardSettings { deadline: Duration::from_secs(2), max_in_flight: 64, max_waiting: 1024 };
        let next: Arc<dyn SessionDirectory> = directory.clone();
        let attempts = Arc::new(Attempts::new(UnknownTokenSettings { per_peer: 2, in_total: 50 }));
        let guard = Guard::new(next, Arc::clone(&shared), &guard, attempts, &metrics);
        let settings = MemorySettings {
            max_entries: 100_000,
            max_bytes: 128 << 20,
            max_refreshes: 32,
            negative_for: Duration::from_secs(2),
            token_binding_for: Duration::from_secs(900),
            horizon: Duration::from_secs(330),
        };
        let attempts = Attempts::new(UnknownTokenSettings { per_peer: 2, in_total: 50 });
        let memory = Memory::new(Arc::new(guard), shared, settings, Arc::new(attempts), &metrics);
        Self { clock, directory, memory, step: 0 }
    }

    async fn run(&mut self, span: Duration) -> Tally {
        let mut tally = Tally::default();
        let began = self.directory.calls.load(Ordering::Relaxed);
        let mut second = began;
        for step in 0..span.as_millis() / STEP.as_millis() {
            for number in (self.step % EVERY..MEMBERS).step_by(EVERY) {
                self.request(number, &mut tally).await;
            }
            self.step += 1;
            self.clock.advance(STEP);
            // Whoever refreshes in the background gets a turn.
            tokio::time::sleep(Duration::from_millis(200)).await;
            if step % 10 == 9 {
                let calls = self.directory.calls.load(Ordering::Relaxed);
                tally.most_calls_in_a_second = tally.most_calls_in_a_second.max(calls - second);
                second = calls;
            }
        }
        tally.calls = self.directory.calls.load(Ordering::Relaxed) - began;
        tally
    }

    async fn request(&self, number: usize, tally: &mut Tally) {
        let now = self.clock.now();
        let query = SessionQuery {
            member: MemberRef {
                organization_id: OrganizationId::parse("organization-1").unwrap(),
                member_id: MemberId::parse(&format!("member-{number}")).unwrap(),
            },
            spelling: Spelling::Canonical,
            freshness: Freshness {
                fresh_for: Duration::from_secs(10),
                max_staleness: Duration::from_secs(30),
                stale_if_error: Duration::from_secs(300),
            },
            newer_than: None,
            settled: false,
            vouched: None,
            now,
        };
        match self.memory.active_sessions(&query).wait().await {
            Ok(evidence) => {
                let age = evidence.age(now.monotonic);
                tally.oldest = tally.oldest.max(age);
                match age.as_secs() {
                    0..=10 => tally.fresh += 1,
                    11..=30 => tally.stale += 1,
                    _ => tally.bridged += 1,
                }
            }
            Err(error) => {
                assert!(error.is_outage(), "{error}");
                tally.refused += 1;
            }
        }
    }
}

/// Must show 2.
#[tokio::test(start_paused = true)]
async fn ten_minutes_without_the_directory() {
    let mut simulation = Simulation::new();
    let before = simulation.run(Duration::from_secs(60)).await;
    simulation.directory.down.store(true, Ordering::Relaxed);
    let bridge = simulation.run(Duration::from_secs(300)).await;
    let rest = simulation.run(Duration::from_secs(300)).await;
    simulation.directory.down.store(false, Ordering::Relaxed);
    let mut recovery = Duration::ZERO;
    loop {
        let second = simulation.run(Duration::from_millis(100)).await;
        if second.refused == 0 && second.fresh > 0 {
            break;
        }
        recovery += Duration::from_millis(100);
        assert!(recovery < Duration::from_secs(10), "it did not recover");
    }
    let after = simulation.run(Duration::from_secs(60)).await;
    println!("before    {before:?}");
    println!("0-5 min   {bridge:?}");
    println!("5-10 min  {rest:?}");
    println!("recovery  served again {recovery:?} after the directory was back");
    println!("after     {after:?}");

    assert_eq!(before.refused + bridge.refused + after.refused, 0);
    assert_eq!(before.bridged + after.bridged, 0);
    assert!(bridge.bridged > 100_000 && bridge.oldest <= Duration::from_secs(330));
    assert!(rest.oldest <= Duration::from_secs(330) && rest.refused > 100_000);
    // A handful opens the breaker; from then on one probe a second at the most.
    assert!(bridge.calls <= 300 + 10 && rest.calls <= 300, "{} {}", bridge.calls, rest.calls);
    assert_eq!(rest.most_calls_in_a_second, 1);
    assert!(recovery <= Duration::from_millis(1_500), "{recovery:?}");
}
