//! One session answers, and nothing else does.

use jiff::Timestamp;

use super::*;
use crate::identity::{MemberId, MemberRef, Monotonic, OrganizationId, SessionId};
use crate::policy::{Freshness, RouteMatch};

const NOW: i64 = 1_800_000_000;

fn now() -> Now {
    Now { wall: Timestamp::from_second(NOW).unwrap(), monotonic: Monotonic::at(Duration::from_secs(100)) }
}

fn member() -> MemberRef {
    MemberRef {
        organization_id: OrganizationId::parse("organization-1").unwrap(),
        member_id: MemberId::parse("member-1").unwrap(),
    }
}

fn session(id: &str, role: &str, expires_in: i64) -> MemberSession {
    MemberSession {
        claims: Vec::new(),
        session_id: SessionId::parse(id).unwrap(),
        member: member(),
        organization_slug: None,
        started_at: None,
        expires_at: Timestamp::from_second(NOW + expires_in).unwrap(),
        roles: Some(vec![Arc::from(role)]),
        factors: Vec::new(),
    }
}

fn evidence(sessions: Vec<MemberSession>) -> Evidence {
    let fetched_at = Now { monotonic: Monotonic::at(Duration::from_secs(93)), ..now() };
    Evidence::Sessions(Arc::new(ActiveSessions::new(member(), &sessions, fetched_at)))
}

fn route(access: Access) -> Arc<Route> {
    Arc::new(Route {
        name: Arc::from("r"),
        matches: RouteMatch { hosts: Vec::new(), paths: Vec::new(), methods: Vec::new() },
        access,
        freshness: Freshness {
            fresh_for: Duration::ZERO,
            max_staleness: Duration::ZERO,
            stale_if_error: Duration::ZERO,
        },
        upstream: Arc::from("app"),
        case_insensitive: false,
        keep_encoded_slash: false,
        keep_path_parameters: false,
        websocket: false,
    })
}

fn admin_only(bound: Bound, sessions: Vec<MemberSession>) -> Result<String, Reason> {
    let principal = Principal { member: member(), bound, issued_at: None, seen_at: None };
    let route = route(Access::Require(Requirement::Role(Arc::from("admin"))));
    match decide(&route, Some((&principal, &evidence(sessions))), now()) {
        Decision::Allow(permit) => Ok(permit.caller().unwrap().session.session_id.to_string()),
        Decision::Refuse(refusal) => Err(refusal.reason),
    }
}

fn own(id: &str) -> Bound {
    Bound::Session(SessionId::parse(id).unwrap())
}

#[test]
fn a_session_is_judged_on_itself_and_never_on_the_members_others() {
    let sessions = || vec![session("s1", "viewer", 60), session("s2", "admin", 60)];
    assert_eq!(admin_only(own("s2"), sessions()), Ok("s2".into()));
    assert_eq!(admin_only(own("s1"), sessions()), Err(Reason::RoleMissing));
    assert_eq!(admin_only(own("s3"), sessions()), Err(Reason::SessionNotFound));
}

#[test]
fn a_listed_session_past_its_expiry_is_refused() {
    assert_eq!(admin_only(own("s1"), vec![session("s1", "admin", 0)]), Err(Reason::SessionExpired));
}

#[test]
fn a_caller_without_a_session_needs_one_that_meets_everything() {
    let sessions = vec![session("s1", "viewer", 60), session("s2", "admin", -1), session("s3", "admin", 60)];
    assert_eq!(admin_only(Bound::AnySession, sessions), Ok("s3".into()));
    let expired = vec![session("s1", "viewer", 60), session("s2", "admin", -1)];
    assert_eq!(admin_only(Bound::AnySession, expired), Err(Reason::RoleMissing));
    assert_eq!(admin_only(Bound::AnySession, vec![]), Err(Reason::SessionNotFound));
}

#[test]
fn nobody_passes_but_on_a_public_route() {
    let closed = decide(&route(Access::Require(Requirement::Authenticated)), None, now());
    assert!(matches!(closed, Decision::Refuse(refusal) if refusal.reason == Reason::CredentialMissing));
    let open = decide(&route(Access::Public), None, now());
    assert!(matches!(open, Decision::Allow(permit) if permit.caller().is_none()));
}

#[test]
fn the_permit_tells_the_age_of_its_evidence() {
    let principal = Principal { member: member(), bound: own("s1"), issued_at: None, seen_at: None };
    let route = route(Access::Require(Requirement::Authenticated));
    let evidence = evidence(vec![session("s1", "x", 60)]);
    let Decision::Allow(permit) = decide(&route, Some((&principal, &evidence)), now()) else {
        panic!("refused")
    };
    assert_eq!(permit.caller().unwrap().evidence_age, Duration::from_secs(7));
}
