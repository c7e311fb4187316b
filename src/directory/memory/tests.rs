//! Ages, marks, single flight and fallbacks of the memory tier, on a clock that is moved by hand.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;
use tokio::sync::Semaphore;

use super::*;
use crate::directory::{ManualClock, Spelling, UnknownTokenSettings};
use crate::identity::{MemberId, Now, OrganizationId, SessionId};
use crate::policy::Freshness;
use crate::session::{ActiveSessions, MemberSession, RevocationTarget};

/// A directory that answers as told and counts how often it is asked.
struct Scripted {
    clock: Arc<ManualClock>,
    calls: AtomicUsize,
    answer: Mutex<Result<Vec<&'static str>, DirectoryError>>,
    /// Lookups wait here while it holds no permit.
    gate: Arc<Semaphore>,
}

impl SessionDirectory for Scripted {
    fn active_sessions(&self, query: &SessionQuery) -> Answer<Evidence> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let sent = self.clock.now();
        let gate = Arc::clone(&self.gate);
        let answer = self.answer.lock().unwrap().clone();
        let asked = query.member.clone();
        Answer::pending(async move {
            let _open = gate.acquire().await.unwrap();
            Ok(match answer? {
                none if none == ["nobody"] => Evidence::NoSuchMember(sent),
                ids => Evidence::Sessions(Arc::new(list(&asked, &ids, sent))),
            })
        })
    }

    fn resolve(&self, _query: &TokenQuery) -> Answer<TokenOwner> {
        Answer::Ready(Err(DirectoryError::Unreachable))
    }

    fn forget(&self, _revocation: &Revocation) {}
}

struct World {
    clock: Arc<ManualClock>,
    next: Arc<Scripted>,
    memory: Memory,
}

fn world() -> World {
    let clock = Arc::new(ManualClock::at(Timestamp::from_second(1_800_000_000).unwrap()));
    let next = Arc::new(Scripted {
        clock: Arc::clone(&clock),
        calls: AtomicUsize::new(0),
        answer: Mutex::new(Ok(vec!["s1"])),
        gate: Arc::new(Semaphore::new(1_000)),
    });
    let settings = MemorySettings {
        max_bytes: 1024 * 1024 * 1024,
        max_refreshes: 32,
        max_entries: 1_000,
        negative_for: Duration::from_secs(2),
        token_binding_for: Duration::from_secs(900),
        horizon: Duration::from_secs(330),
    };
    let shared: Arc<dyn Clock> = clock.clone();
    let attempts = Arc::new(Attempts::new(UnknownTokenSettings { per_peer: 2, in_total: 50 }));
    let memory = Memory::new(next.clone(), shared, settings, attempts, &Metrics::new().unwrap());
    World { clock, next, memory }
}

fn member() -> MemberRef {
    MemberRef {
        organization_id: OrganizationId::parse("organization-1").unwrap(),
        member_id: MemberId::parse("member-1").unwrap(),
    }
}

fn list(asked: &MemberRef, ids: &[&str], sent: Now) -> ActiveSessions {
    let member = if asked.organization_id.as_str() == "acme" { member() } else { asked.clone() };
    let session = |id: &&str| MemberSession {
        session_id: SessionId::parse(id).unwrap(),
        member: member.clone(),
        organization_slug: Some(Arc::from("acme")),
        started_at: None,
        expires_at: sent.wall + Duration::from_secs(3600),
        roles: None,
        factors: Vec::new(),
        claims: Vec::new(),
    };
    let sessions: Vec<_> = ids.iter().map(session).collect();
    ActiveSessions::new(member, &sessions, sent)
}

impl World {
    fn query(&self) -> SessionQuery {
        SessionQuery {
            member: member(),
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

    async fn ask(&self) -> Result<Vec<String>, DirectoryError> {
        self.ask_with(self.query()).await
    }

    async fn ask_with(&self, query: SessionQuery) -> Result<Vec<String>, DirectoryError> {
        match self.memory.active_sessions(&query).wait().await? {
            Evidence::Sessions(list) | Evidence::Vouched(list) => {
                Ok(list.sessions().map(|session| session.session_id.to_string()).collect())
            }
            Evidence::NoSuchMember(_) => Ok(vec!["nobody".to_owned()]),
        }
    }

    fn answer(&self, answer: Result<Vec<&'static str>, DirectoryError>) {
        *self.next.answer.lock().unwrap() = answer;
    }

    fn calls(&self) -> usize {
        self.next.calls.load(Ordering::SeqCst)
    }

    fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// Waits for background lookups.
    async fn settle(&self) {
        while self.memory.in_flight() > 0 {
            tokio::task::yield_now().await;
        }
    }

    fn revoke(&self, target: RevocationTarget) {
        self.memory.forget(&Revocation { target, at: self.clock.now() });
    }
}

#[tokio::test]
async fn a_fresh_list_is_served_without_asking() {
    let world = world();
    world.ask().await.unwrap();
    world.advance(10);
    world.ask().await.unwrap();
    assert_eq!(world.calls(), 1);
}

#[tokio::test]
async fn a_stale_list_is_served_while_one_refresh_runs() {
    let world = world();
    world.ask().await.unwrap();
    world.advance(11);
    world.answer(Ok(vec!["s2"]));
    assert_eq!(world.ask().await.unwrap(), ["s1"]);
    world.settle().await;
    assert_eq!(world.calls(), 2);
    assert_eq!(world.ask().await.unwrap(), ["s2"]);
    assert_eq!(world.calls(), 2);
}

#[tokio::test]
async fn past_the_bound_the_answer_is_waited_for() {
    let world = world();
    world.ask().await.unwrap();
    world.advance(31);
    world.answer(Ok(vec!["s2"]));
    assert_eq!(world.ask().await.unwrap(), ["s2"]);
}

#[tokio::test]
async fn a_route_that_wants_fresher_evidence_gets_it() {
    let world = world();
    world.ask().await.unwrap();
    world.advance(6);
    world.answer(Ok(vec!["s2"]));
    let mut strict = world.query();
    strict.freshness = Freshness {
        max_staleness: Duration::from_secs(5),
        stale_if_error: Duration::ZERO,
        ..strict.freshness
    };
    assert_eq!(world.ask_with(strict).await.unwrap(), ["s2"]);
}

#[tokio::test]
async fn a_failing_directory_is_bridged_up_to_the_bound_and_no_further() {
    let world = world();
    world.ask().await.unwrap();
    let failure = DirectoryError::Failed { status: 500, retry_after: None };
    world.answer(Err(failure.clone()));
    world.advance(330);
    assert_eq!(world.ask().await.unwrap(), ["s1"]);
    world.advance(1);
    assert_eq!(world.ask().await, Err(failure.clone()));
    world.answer(Ok(vec!["s2"]));
    assert_eq!(world.ask().await, Err(failure.clone()), "it failed a moment ago");
    world.advance(1);
    assert_eq!(world.ask().await.unwrap(), ["s2"]);

    world.answer(Err(failure.clone()));
    world.advance(6);
    let mut strict = world.query();
    strict.freshness = Freshness {
        max_staleness: Duration::from_secs(5),
        stale_if_error: Duration::ZERO,
        ..strict.freshness
    };
    assert_eq!(world.ask_with(strict).await, Err(failure));
}

#[tokio::test]
async fn a_failed_refresh_is_not_tried_again_at_once() {
    let world = world();
    world.ask().await.unwrap();
    world.answer(Err(DirectoryError::Unreachable));
    world.advance(11);
    for _ in 0..5 {
        world.ask().await.unwrap();
        world.settle().await;
    }
    assert_eq!(world.calls(), 2);
    world.advance(1);
    world.ask().await.unwrap();
    world.settle().await;
    assert_eq!(world.calls(), 3);
}

#[tokio::test]
async fn no_such_member_is_believed_for_a_moment() {
    let world = world();
    world.answer(Ok(vec!["nobody"]));
    assert_eq!(world.ask().await.unwrap(), ["nobody"]);
    world.advance(2);
    assert_eq!(world.ask().await.unwrap(), ["nobody"]);
    assert_eq!(world.calls(), 1);
    world.advance(1);
    world.answer(Ok(vec!["s1"]));
    assert_eq!(world.ask().await.unwrap(), ["s1"]);
}

#[tokio::test]
async fn however_many_ask_one_lookup_runs_and_outlives_those_who_leave() {
    let world = world();
    world.next.gate.forget_permits(1_000);
    let ask = |world: &World| {
        let answer = world.memory.active_sessions(&world.query());
        tokio::spawn(answer.wait())
    };
    let leavers: Vec<_> = (0..10).map(|_| ask(&world)).collect();
    let stayers: Vec<_> = (0..90).map(|_| ask(&world)).collect();
    tokio::task::yield_now().await;
    for leaver in &leavers {
        leaver.abort();
    }
    world.next.gate.add_permits(1_000);
    for stayer in stayers {
        assert!(stayer.await.unwrap().is_ok());
    }
    assert_eq!(world.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn evidence_that_would_refuse_is_asked_for_again_at_most_once_a_second() {
    let world = world();
    world.ask().await.unwrap();
    let first = world.clock.now().monotonic;
    world.advance(1);
    world.answer(Ok(vec!["s2"]));
    let newer = SessionQuery { newer_than: Some(first), ..world.query() };
    assert_eq!(world.ask_with(newer).await.unwrap(), ["s2"]);
    assert_eq!(world.calls(), 2);

    // Again within the second: the lookup waits for the second to pass, it is not skipped.
    world.clock.advance(Duration::from_millis(100));
    let second = SessionQuery { newer_than: Some(first.plus(Duration::from_millis(1_050))), ..world.query() };
    let began = tokio::time::Instant::now();
    world.ask_with(second).await.unwrap();
    assert_eq!(began.elapsed(), Duration::from_millis(900));
    assert_eq!(world.calls(), 3);
}

#[tokio::test]
async fn a_revoked_session_makes_older_evidence_about_it_worth_asking_again() {
    let world = world();
    world.answer(Ok(vec!["s1", "s2"]));
    world.ask().await.unwrap();
    world.revoke(RevocationTarget::Session(SessionId::parse("s3").unwrap()));
    world.ask().await.unwrap();
    assert_eq!(world.calls(), 1, "somebody else's session");
    world.revoke(RevocationTarget::Session(SessionId::parse("s1").unwrap()));
    world.advance(1);
    // While nothing newer can be had, what is left of it stands in for the member's other sessions.
    world.answer(Err(DirectoryError::Unreachable));
    assert_eq!(world.ask().await.unwrap(), ["s2"]);
    // Evidence fetched after the mark is believed again, whatever it says.
    world.answer(Ok(vec!["s1", "s2"]));
    world.advance(1);
    assert_eq!(world.ask().await.unwrap(), ["s1", "s2"]);
    world.ask().await.unwrap();
    assert_eq!(world.calls(), 3);
}

#[tokio::test]
async fn a_forgotten_member_or_organization_is_asked_about_anew() {
    for target in [
        RevocationTarget::Member(member().member_id),
        RevocationTarget::Organization(member().organization_id),
    ] {
        let world = world();
        world.ask().await.unwrap();
        world.revoke(target);
        world.advance(1);
        world.answer(Ok(vec![]));
        assert!(world.ask().await.unwrap().is_empty());
        // Nor does an outage bring the old list back.
        world.revoke(RevocationTarget::Member(member().member_id));
        world.answer(Err(DirectoryError::Unreachable));
        assert_eq!(world.ask().await, Err(DirectoryError::Unreachable));
    }
}

#[tokio::test]
async fn a_lookup_that_began_before_a_forget_never_lands_after_it() {
    let world = world();
    world.next.gate.forget_permits(1_000);
    let early = tokio::spawn(world.memory.active_sessions(&world.query()).wait());
    while world.calls() == 0 {
        tokio::task::yield_now().await;
    }
    world.revoke(RevocationTarget::Member(member().member_id));
    world.advance(1);
    world.answer(Ok(vec!["s2"]));
    world.next.gate.add_permits(1_000);
    let Evidence::Sessions(list) = early.await.unwrap().unwrap() else { panic!("nobody") };
    assert_eq!(list.sessions().next().unwrap().session_id.as_str(), "s2");
    assert_eq!(world.ask().await.unwrap(), ["s2"]);
    assert_eq!(world.calls(), 2);
}

#[tokio::test]
async fn every_spelling_of_a_member_shares_one_entry() {
    let world = world();
    world.ask().await.unwrap();
    let slug = MemberRef { organization_id: OrganizationId::parse("acme").unwrap(), ..member() };
    let written = || SessionQuery { member: slug.clone(), spelling: Spelling::AsWritten, ..world.query() };
    world.ask_with(written()).await.unwrap();
    assert_eq!(world.calls(), 2);
    world.ask_with(written()).await.unwrap();
    world.ask().await.unwrap();
    assert_eq!(world.calls(), 2);
    assert_eq!(world.memory.size().0, 1);
    world.revoke(RevocationTarget::Organization(member().organization_id));
    world.advance(1);
    world.ask_with(written()).await.unwrap();
    assert_eq!(world.calls(), 3);
}

#[tokio::test]
async fn a_known_list_answers_without_a_look_until_anything_happens() {
    let world = world();
    let known = async || {
        world.ask().await.unwrap();
        let generation = world.memory.generation();
        let evidence = world.memory.active_sessions(&world.query()).wait().await.unwrap();
        (Arc::clone(evidence.list().unwrap()), generation)
    };
    let answers = |(list, generation): &(Arc<ActiveSessions>, u64)| {
        let SessionQuery { freshness, now, .. } = world.query();
        world.memory.still_answers(list, *generation, freshness, now.monotonic)
    };
    let first = known().await;
    world.advance(7);
    assert!(answers(&first));
    world.advance(1);
    assert!(!answers(&first), "it may be time to refresh");
    let strict = SessionQuery { newer_than: Some(world.query().now.monotonic), ..world.query() };
    let second = known().await;
    world.advance(1);
    world.ask_with(strict).await.unwrap();
    assert!(!answers(&second), "something newer is known");
    let third = known().await;
    world.revoke(RevocationTarget::Session(SessionId::parse("s9").unwrap()));
    assert!(!answers(&third));
    let fourth = known().await;
    assert!(answers(&fourth));
    world.memory.soften();
    assert!(!answers(&fourth));
}
