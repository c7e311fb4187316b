//! Whose a token is and for how long that is believed, on a clock that is moved by hand.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;

use super::*;
use crate::directory::{ManualClock, SessionQuery, UnknownTokenSettings};
use crate::identity::{MemberId, MemberRef, OrganizationId, Secret, SessionId};
use crate::session::{Evidence, Revocation, RevocationTarget};

/// A directory that answers as told and counts how often it is asked.
struct Scripted {
    clock: Arc<ManualClock>,
    calls: AtomicUsize,
    answer: Mutex<Result<Option<&'static str>, DirectoryError>>,
    /// A revocation that arrives while the next lookup is under way.
    meanwhile: Mutex<Option<(Arc<Marks>, Revocation)>>,
}

impl SessionDirectory for Scripted {
    fn active_sessions(&self, _query: &SessionQuery) -> Answer<Evidence> {
        Answer::Ready(Err(DirectoryError::Unreachable))
    }

    fn resolve(&self, _query: &TokenQuery) -> Answer<TokenOwner> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let sent = self.clock.now();
        let answer = self.answer.lock().unwrap().clone().map(|session| match session {
            None => TokenOwner::Nobody { asked_at: sent },
            Some(session) => TokenOwner::Session(Arc::new(TokenBinding {
                member: member(),
                session_id: SessionId::parse(session).unwrap(),
                expires_at: sent.wall + Duration::from_secs(if session == "short" { 60 } else { 3600 }),
                resolved_at: sent,
            })),
        });
        if let Some((marks, revocation)) = self.meanwhile.lock().unwrap().take() {
            marks.leave(&revocation);
            self.clock.advance(Duration::from_millis(1));
        }
        Answer::Ready(answer)
    }

    fn forget(&self, _revocation: &Revocation) {}
}

struct SharedMarks(Arc<Marks>);

impl AsRef<Marks> for SharedMarks {
    fn as_ref(&self) -> &Marks {
        &self.0
    }
}

struct World {
    clock: Arc<ManualClock>,
    next: Arc<Scripted>,
    owners: Arc<Owners>,
    marks: Arc<Marks>,
}

fn member() -> MemberRef {
    MemberRef {
        organization_id: OrganizationId::parse("organization-1").unwrap(),
        member_id: MemberId::parse("member-1").unwrap(),
    }
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::from_second(1_800_000_000).unwrap()));
        let next = Arc::new(Scripted {
            clock: Arc::clone(&clock),
            calls: AtomicUsize::new(0),
            answer: Mutex::new(Ok(Some("s1"))),
            meanwhile: Mutex::new(None),
        });
        let settings = MemorySettings {
            max_entries: 1_000,
            max_bytes: 1024 * 1024,
            max_refreshes: 32,
            negative_for: Duration::from_secs(2),
            token_binding_for: Duration::from_secs(900),
            horizon: Duration::from_secs(330),
        };
        let marks = Arc::new(Marks::new(Duration::from_secs(960)));
        let attempts = Arc::new(Attempts::new(UnknownTokenSettings { per_peer: 1, in_total: 4 }));
        Self { clock, next, owners: Arc::new(Owners::new(&settings, attempts, 1_000)), marks }
    }

    fn answer(&self, answer: Result<Option<&'static str>, DirectoryError>) {
        *self.next.answer.lock().unwrap() = answer;
    }

    fn calls(&self) -> usize {
        self.next.calls.load(Ordering::SeqCst)
    }

    fn revocation(&self, session: &str) -> Revocation {
        let target = RevocationTarget::Session(SessionId::parse(session).unwrap());
        Revocation { target, at: self.clock.now() }
    }

    async fn resolve(&self) -> Result<Option<String>, DirectoryError> {
        self.resolve_other("opaque").await
    }

    /// The session the token is of, if it is anybody's.
    async fn resolve_other(&self, token: &str) -> Result<Option<String>, DirectoryError> {
        let query = TokenQuery {
            token: Secret::new(token.into()),
            digest: CredentialDigest::of(token),
            peer: None,
            member: None,
            newer_than: None,
            now: self.clock.now(),
        };
        let owner = match self.owners.remembered(&query, &self.marks) {
            Some(owner) => owner,
            None => {
                let next: Arc<dyn SessionDirectory> = self.next.clone();
                let clock: Arc<dyn Clock> = self.clock.clone();
                let marks = SharedMarks(Arc::clone(&self.marks));
                Owners::ask(&self.owners, &query, marks, &next, &clock).wait().await?
            }
        };
        Ok(match owner {
            TokenOwner::Session(binding) => Some(binding.session_id.as_str().to_owned()),
            TokenOwner::Nobody { .. } => None,
        })
    }
}

#[tokio::test]
async fn a_token_is_resolved_once_and_again_when_its_binding_is_old() {
    let world = World::new();
    for _ in 0..3 {
        assert_eq!(world.resolve().await, Ok(Some("s1".to_owned())));
        world.clock.advance(Duration::from_secs(300));
    }
    assert_eq!(world.calls(), 1);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.resolve().await, Ok(Some("s1".to_owned())));
    assert_eq!(world.calls(), 2);
}

#[tokio::test]
async fn a_token_of_a_forgotten_session_is_asked_about_anew_and_an_unknown_one_not_at_once() {
    let world = World::new();
    world.resolve().await.unwrap();
    world.marks.leave(&world.revocation("s1"));
    world.answer(Ok(None));
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(world.resolve().await, Ok(None));
    assert_eq!(world.resolve().await, Ok(None));
    assert_eq!(world.calls(), 2);
    world.answer(Err(DirectoryError::Timeout));
    world.clock.advance(Duration::from_secs(3));
    assert_eq!(world.resolve().await, Err(DirectoryError::Timeout));
}

#[tokio::test]
async fn an_answer_from_before_a_revocation_that_overtook_it_is_asked_for_again() {
    let world = World::new();
    let revocation = world.revocation("s1");
    *world.next.meanwhile.lock().unwrap() = Some((Arc::clone(&world.marks), revocation));
    assert_eq!(world.resolve().await, Ok(Some("s1".to_owned())));
    assert_eq!(world.calls(), 2, "what the directory said after the revocation is what counts");
}

#[tokio::test]
async fn a_binding_ends_with_its_session() {
    let world = World::new();
    world.answer(Ok(Some("short")));
    assert_eq!(world.resolve().await, Ok(Some("short".to_owned())));
    world.answer(Ok(None));
    world.clock.advance(Duration::from_secs(59));
    assert_eq!(world.resolve().await, Ok(Some("short".to_owned())));
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.resolve().await, Ok(None));
}

#[tokio::test]
async fn a_token_that_was_nobodys_twice_is_not_asked_about_for_a_minute() {
    let world = World::new();
    world.answer(Ok(None));
    for (wait, calls) in [(0, 1), (3, 2), (59, 2), (2, 3)] {
        world.clock.advance(Duration::from_secs(wait));
        assert_eq!(world.resolve().await, Ok(None));
        assert_eq!(world.calls(), calls, "{wait} s later");
    }
}

/// Must show 3, in small: what the budget does not cover is not asked about, and takes nothing from what is known.
#[tokio::test]
async fn junk_spends_its_budget_and_nothing_else() {
    let world = World::new();
    world.resolve().await.unwrap();
    world.answer(Ok(None));
    let mut refused = 0;
    for number in 0..1_000 {
        refused += usize::from(world.resolve_other(&format!("junk-{number}")).await.is_err());
    }
    // A quarter of the total is for callers of whom nothing is known, twenty seconds' worth at once.
    assert_eq!((world.calls(), refused), (1 + 20, 980));
    world.clock.advance(Duration::from_secs(901));
    world.answer(Ok(Some("s1")));
    assert_eq!(world.resolve().await, Ok(Some("s1".to_owned())), "it was good once and is no junk");
    assert!(matches!(world.resolve_other("new").await, Ok(Some(_))), "15 minutes later there is room again");
}

#[tokio::test]
async fn good_tokens_and_our_own_trouble_are_given_back() {
    let world = World::new();
    for number in 0..100 {
        assert!(world.resolve_other(&format!("good-{number}")).await.is_ok());
    }
    world.answer(Err(DirectoryError::Timeout));
    for number in 0..100 {
        assert_eq!(world.resolve_other(&format!("slow-{number}")).await, Err(DirectoryError::Timeout));
    }
    world.answer(Err(DirectoryError::Refused { status: 400 }));
    let refused = |error| matches!(error, Err(DirectoryError::Refused { .. }));
    for number in 0..20 {
        assert!(refused(world.resolve_other(&format!("odd-{number}")).await), "{number}");
    }
    assert!(!refused(world.resolve_other("odd").await), "what the directory will not look at counts");
}
