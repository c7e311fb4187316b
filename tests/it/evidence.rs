//! What the tiers serve, ask for and keep, each over a directory that does as it is told, on a clock moved by hand.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portcullis::directory::{
    Answer, Attempts, Clock, DirectoryError, Guard, GuardSettings, ManualClock, Memory, MemorySettings,
    SessionDirectory, SessionQuery, Spelling, TokenOwner, TokenQuery, UnknownTokenSettings,
};
use portcullis::identity::{CredentialDigest, MemberId, MemberRef, Now, OrganizationId, Secret, SessionId};
use portcullis::policy::Freshness;
use portcullis::session::{ActiveSessions, Evidence, MemberSession, Revocation, RevocationTarget};
use portcullis::telemetry::Metrics;

/// The tier below: answers as told, and remembers what it was asked.
struct Below {
    clock: Arc<ManualClock>,
    asked: Mutex<Vec<SessionQuery>>,
    tokens: AtomicUsize,
    fault: Mutex<Option<DirectoryError>>,
    /// Answers with a list that was asked for so long ago, as a shared tier does.
    as_of: Mutex<Duration>,
    /// What it still has while it fails.
    left: Mutex<Option<Evidence>>,
}

impl SessionDirectory for Below {
    fn active_sessions(&self, query: &SessionQuery) -> Answer<Evidence> {
        self.asked.lock().unwrap().push(query.clone());
        if let Some(fault) = self.fault.lock().unwrap().clone() {
            return Answer::Ready(Err(fault));
        }
        let sent = self.clock.now().minus(std::mem::take(&mut *self.as_of.lock().unwrap()));
        Answer::Ready(Ok(list(&query.member, "s1", sent)))
    }

    fn resolve(&self, _query: &TokenQuery) -> Answer<TokenOwner> {
        self.tokens.fetch_add(1, Ordering::SeqCst);
        let fault = self.fault.lock().unwrap().clone();
        Answer::Ready(Err(fault.unwrap_or(DirectoryError::Unreachable)))
    }

    fn forget(&self, _revocation: &Revocation) {}

    fn last_known(&self, query: &SessionQuery) -> Answer<Option<Evidence>> {
        let left = self.left.lock().unwrap().clone();
        let newer = |left: &Evidence| query.newer_than.is_none_or(|than| left.fetched_at().monotonic > than);
        Answer::Ready(Ok(left.filter(newer)))
    }
}

struct World {
    clock: Arc<ManualClock>,
    below: Arc<Below>,
    metrics: Metrics,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at("2026-01-01T00:00:00Z".parse().unwrap()));
        let below = Arc::new(Below {
            clock: Arc::clone(&clock),
            asked: Mutex::default(),
            tokens: AtomicUsize::new(0),
            fault: Mutex::default(),
            as_of: Mutex::default(),
            left: Mutex::default(),
        });
        Self { clock, below, metrics: Metrics::new().unwrap() }
    }

    fn memory(&self) -> Memory {
        self.memory_of(settings())
    }

    fn memory_of(&self, settings: MemorySettings) -> Memory {
        let attempts = Arc::new(Attempts::new(UnknownTokenSettings { per_peer: 2, in_total: 50 }));
        let next: Arc<dyn SessionDirectory> = self.below.clone();
        Memory::new(next, self.clock.clone(), settings, attempts, &self.metrics)
    }

    fn guard(&self) -> Guard {
        let settings = GuardSettings { deadline: Duration::from_secs(2), max_in_flight: 4, max_waiting: 4 };
        Guard::new(
            self.below.clone(),
            self.clock.clone(),
            &settings,
            Arc::new(Attempts::new(UnknownTokenSettings { per_peer: 2, in_total: 50 })),
            &self.metrics,
        )
    }

    fn query(&self) -> SessionQuery {
        SessionQuery {
            member: member(1),
            spelling: Spelling::Canonical,
            freshness: Freshness {
                fresh_for: Duration::from_secs(10),
                max_staleness: Duration::from_secs(30),
                stale_if_error: Duration::from_secs(300),
            },
            newer_than: None,
            settled: false,
            vouched: None,
            now: self.clock.now(),
        }
    }

    fn calls(&self) -> usize {
        self.below.asked.lock().unwrap().len()
    }

    fn fail(&self, fault: Option<DirectoryError>) {
        *self.below.fault.lock().unwrap() = fault;
    }

    /// What came of the lookups counted under this name.
    fn counted(&self, result: &str) -> u64 {
        self.metrics.session_lookups.with_label_values(&["memory", result]).get()
    }
}

fn settings() -> MemorySettings {
    MemorySettings {
        max_entries: 1_000,
        max_bytes: 64 << 20,
        max_refreshes: 32,
        negative_for: Duration::from_secs(2),
        token_binding_for: Duration::from_secs(900),
        horizon: Duration::from_secs(330),
    }
}

fn member(number: u64) -> MemberRef {
    MemberRef {
        organization_id: OrganizationId::parse("organization-1").unwrap(),
        member_id: MemberId::parse(&format!("member-{number}")).unwrap(),
    }
}

fn list(member: &MemberRef, session: &str, sent: Now) -> Evidence {
    let session = MemberSession {
        session_id: SessionId::parse(session).unwrap(),
        member: member.clone(),
        organization_slug: None,
        started_at: None,
        expires_at: sent.wall + Duration::from_secs(36_000),
        roles: None,
        factors: Vec::new(),
        claims: Vec::new(),
    };
    Evidence::Sessions(Arc::new(ActiveSessions::new(member.clone(), &[session], sent)))
}

fn vouched(sent: Now) -> Option<Arc<ActiveSessions>> {
    list(&member(1), "s1", sent).list().cloned()
}

async fn settle(memory: &Memory) {
    while memory.in_flight() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_is_nearly_stale_is_refreshed_for_whoever_asks_and_for_nobody_else() {
    let world = World::new();
    let memory = world.memory_of(MemorySettings { max_refreshes: 1_000, ..settings() });
    for number in 0..200 {
        let query = SessionQuery { member: member(number), ..world.query() };
        memory.active_sessions(&query).wait().await.unwrap();
        world.clock.advance(Duration::from_micros(1));
    }
    let mut refreshed_by = Vec::new();
    for milliseconds in [7_400, 900, 1_300] {
        world.clock.advance(Duration::from_millis(milliseconds));
        // Only every other one asks again.
        for number in (0..200).step_by(2) {
            let query = SessionQuery { member: member(number), ..world.query() };
            assert!(matches!(memory.active_sessions(&query), Answer::Ready(Ok(_))), "it is still fresh");
        }
        settle(&memory).await;
        refreshed_by.push(world.calls() - 200);
    }
    assert_eq!(refreshed_by[0], 0, "not in the first three quarters of its time");
    assert!((10..90).contains(&refreshed_by[1]), "not all in step: {refreshed_by:?}");
    assert_eq!(refreshed_by[2], 100, "all who ask, and nobody else: {refreshed_by:?}");
    let idle = world.below.asked.lock().unwrap().iter().skip(200).any(|query| {
        let digits = query.member.member_id.as_str().trim_start_matches("member-").to_owned();
        digits.parse::<u64>().unwrap() % 2 == 1
    });
    assert!(!idle);
}

#[tokio::test]
async fn a_token_counts_for_itself_while_the_directory_fails_unless_something_newer_is_known() {
    let outage = Some(DirectoryError::Unreachable);
    let ask = async |world: &World, memory: &Memory, made: Duration| {
        let now = world.clock.now();
        let query = SessionQuery { vouched: vouched(now.minus(made)), ..world.query() };
        memory.active_sessions(&query).wait().await
    };
    let seconds = Duration::from_secs;
    let vouches = |answer: &Result<Evidence, DirectoryError>| matches!(answer, Ok(Evidence::Vouched(_)));

    let world = World::new();
    let memory = world.memory();
    assert!(!vouches(&ask(&world, &memory, seconds(5)).await), "while the directory answers, it is asked");
    world.fail(outage.clone());

    let cold = world.memory();
    assert!(vouches(&ask(&world, &cold, seconds(330)).await));
    assert_eq!(world.counted("jwt_evidence"), 1);
    assert!(ask(&world, &world.memory(), seconds(331)).await.is_err(), "the same bounds as a list's");
    let never = SessionQuery { vouched: None, ..world.query() };
    assert!(world.memory().active_sessions(&never).wait().await.is_err(), "nobody vouches");

    // A list asked for after the token was made, or within the skew of it, speaks instead.
    world.clock.advance(seconds(60));
    assert!(matches!(ask(&world, &memory, seconds(58)).await, Ok(Evidence::Sessions(_))));
    assert!(vouches(&ask(&world, &memory, seconds(57)).await));
    // So does one that another replica left.
    let left = list(&member(1), "other", world.clock.now().minus(seconds(40)));
    *world.below.left.lock().unwrap() = Some(left);
    let elsewhere = ask(&world, &world.memory(), seconds(50)).await.unwrap();
    assert!(elsewhere.list().unwrap().contains(&SessionId::parse("other").unwrap()), "{elsewhere:?}");
    // And one of which something ended since.
    let partly = world.memory();
    let target = RevocationTarget::Session(SessionId::parse("other").unwrap());
    partly.forget(&Revocation { target, at: world.clock.now().minus(seconds(5)) });
    let salvaged = ask(&world, &partly, seconds(50)).await.unwrap();
    assert!(!vouches(&Ok(salvaged.clone())) && salvaged.list().unwrap().sessions().count() == 0);
    *world.below.left.lock().unwrap() = None;
    // A mark over any of it, as new as the token or within the skew, leaves nothing of it.
    for target in [
        RevocationTarget::Session(SessionId::parse("s1").unwrap()),
        RevocationTarget::Member(member(1).member_id),
        RevocationTarget::Organization(member(1).organization_id),
    ] {
        let memory = world.memory();
        memory.forget(&Revocation { target, at: world.clock.now() });
        world.clock.advance(seconds(1));
        assert!(ask(&world, &memory, seconds(0)).await.is_err());
        assert!(ask(&world, &memory, seconds(10)).await.is_err());
        world.clock.advance(seconds(2));
        assert!(vouches(&ask(&world, &memory, seconds(0)).await), "made after it");
    }
}

#[tokio::test]
async fn what_bridges_an_outage_is_counted_and_never_older_than_the_bound() {
    let world = World::new();
    world.fail(Some(DirectoryError::Unreachable));
    let left = |ago| Some(list(&member(1), "s1", world.clock.now().minus(Duration::from_secs(ago))));
    for (ago, served) in [(329, true), (331, false)] {
        *world.below.left.lock().unwrap() = left(ago);
        let answer = world.memory().active_sessions(&world.query()).wait().await;
        assert_eq!(answer.is_ok(), served, "left {ago} s ago");
    }
    assert_eq!(world.counted("stale_error"), 1);
    // A clock that dated it may be ahead of the one that dates marks.
    *world.below.left.lock().unwrap() = left(0);
    let memory = world.memory();
    let target = RevocationTarget::Session(SessionId::parse("s1").unwrap());
    memory.forget(&Revocation { target, at: world.clock.now().minus(Duration::from_secs(1)) });
    let salvaged = memory.active_sessions(&world.query()).wait().await.unwrap();
    assert_eq!(salvaged.list().unwrap().sessions().count(), 0, "without the session that ended");
}

#[tokio::test]
async fn an_answer_that_another_clock_dated_is_held_against_marks_with_a_margin() {
    let world = World::new();
    let memory = world.memory();
    let target = RevocationTarget::Session(SessionId::parse("s1").unwrap());
    memory.forget(&Revocation { target, at: world.clock.now() });
    world.clock.advance(Duration::from_millis(1_500));
    *world.below.as_of.lock().unwrap() = Duration::from_millis(200);
    memory.active_sessions(&world.query()).wait().await.unwrap();
    let asked = world.below.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 2, "by another's clock it may be from before the revocation");
    assert!(asked[1].newer_than.is_some());
}

#[tokio::test]
async fn after_an_event_about_nobody_in_particular_nothing_older_is_taken_from_below() {
    let world = World::new();
    let memory = world.memory();
    memory.active_sessions(&world.query()).wait().await.unwrap();
    world.clock.advance(Duration::from_secs(2));
    let softened: Now = world.clock.now();
    memory.soften();
    world.clock.advance(Duration::from_secs(1));
    // Served once more while it is asked for again, by those who may have it old.
    assert!(matches!(memory.active_sessions(&world.query()), Answer::Ready(Ok(_))));
    settle(&memory).await;
    let floor = |index: usize| world.below.asked.lock().unwrap()[index].newer_than;
    assert!(floor(1) >= Some(softened.monotonic), "{:?}", floor(1));
    // For whoever asks because of it, nothing from before will do.
    let other = SessionQuery { member: member(2), settled: true, ..world.query() };
    memory.soften_organization(&member(2).organization_id);
    world.clock.advance(Duration::from_secs(1));
    *world.below.as_of.lock().unwrap() = Duration::from_secs(2);
    let settled = memory.active_sessions(&SessionQuery { now: world.clock.now(), ..other }).wait().await;
    assert_eq!(settled.unwrap().fetched_at(), world.clock.now());
}

#[tokio::test]
async fn whoever_asks_because_something_changed_gets_nothing_stale_but_bridges_an_outage() {
    let world = World::new();
    let memory = world.memory();
    memory.active_sessions(&world.query()).wait().await.unwrap();
    world.clock.advance(Duration::from_secs(20));
    let settled = || SessionQuery { settled: true, ..world.query() };
    let answer = memory.active_sessions(&settled()).wait().await.unwrap();
    assert_eq!(answer.fetched_at(), world.clock.now());
    world.fail(Some(DirectoryError::Unreachable));
    world.clock.advance(Duration::from_secs(200));
    assert!(memory.active_sessions(&settled()).wait().await.is_ok());
    // However short evidence is fresh: an answer that was asked for since is new enough.
    world.fail(None);
    world.clock.advance(Duration::from_secs(1));
    let mut strict = settled();
    strict.freshness.fresh_for = Duration::ZERO;
    memory.active_sessions(&strict).wait().await.unwrap();
    let calls = world.calls();
    world.clock.advance(Duration::from_millis(50));
    for _ in 0..10 {
        memory.active_sessions(&strict).wait().await.unwrap();
    }
    assert_eq!(world.calls(), calls, "one answer for all streams of a member");
}

#[tokio::test]
async fn lists_are_bounded_by_their_number_and_by_what_they_take() {
    let world = World::new();
    for (entries, bytes) in [(100, 64 << 20), (100_000, 64 << 10)] {
        let memory = world.memory_of(MemorySettings { max_entries: entries, max_bytes: bytes, ..settings() });
        for number in 0..5_000 {
            let query = SessionQuery { member: member(number), ..world.query() };
            memory.active_sessions(&query).wait().await.unwrap();
        }
        let (kept, taken) = memory.size();
        assert!(kept > 0 && kept <= entries && taken <= bytes, "{kept} entries, {taken} bytes");
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_is_asked_for_twice_within_a_budget_and_a_token_never() {
    let world = World::new();
    let guard = world.guard();
    world.fail(Some(DirectoryError::Failed { status: 500, retry_after: None }));
    assert!(guard.active_sessions(&world.query()).wait().await.is_err());
    assert_eq!(world.calls(), 2);
    let token = TokenQuery {
        token: Secret::new("t".to_owned()),
        digest: CredentialDigest::of("t"),
        peer: Default::default(),
        member: None,
        newer_than: None,
        now: world.clock.now(),
    };
    assert!(guard.resolve(&token).wait().await.is_err());
    assert_eq!(world.below.tokens.load(Ordering::SeqCst), 1);

    // A far end that fails now and then, never so often that the breaker opens: second tries are a tenth of the calls.
    let guard = world.guard();
    let before = world.calls();
    for _ in 0..200 {
        for fault in [true, false, false, false, false, false] {
            let failed = DirectoryError::Failed { status: 500, retry_after: None };
            world.fail(fault.then_some(failed));
            drop(guard.active_sessions(&world.query()).wait().await);
            world.clock.advance(Duration::from_millis(200));
        }
    }
    let extra = world.calls() - before - 1_200;
    assert!((100..=150).contains(&extra), "{extra} second tries for 1,200 calls");
}

#[tokio::test(start_paused = true)]
async fn a_far_end_that_asks_to_be_left_alone_is() {
    // A limit is for everybody; one failed call of many is not, whatever it says.
    for (fault, calls) in [
        (DirectoryError::RateLimited { retry_after: Some(Duration::from_secs(7)) }, 1),
        (DirectoryError::Failed { status: 503, retry_after: Some(Duration::from_secs(7)) }, 5),
    ] {
        let world = World::new();
        let guard = world.guard();
        world.fail(Some(fault));
        for _ in 0..calls {
            let told = guard.active_sessions(&world.query()).wait().await.unwrap_err();
            assert_eq!(told.refusal().retry_after, Some(Duration::from_secs(7)));
        }
        assert_eq!(world.calls(), calls, "none is tried again");
        world.fail(None);
        world.clock.advance(Duration::from_millis(6_900));
        let open = guard.active_sessions(&world.query()).wait().await;
        assert!(
            matches!(open, Err(DirectoryError::CircuitOpen { .. })) && world.calls() == calls,
            "{open:?}"
        );
        world.clock.advance(Duration::from_millis(100));
        assert!(guard.active_sessions(&world.query()).wait().await.is_ok());
    }
}
