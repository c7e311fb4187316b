//! One session answers, and nothing else does.

use jiff::Timestamp;

use super::*;
use crate::identity::{ClientId, MemberId, MemberRef, Monotonic, OrganizationId, Scopes, SessionId};
use crate::policy::{
    CanonicalPath, Fact, Facts, ForwardedCredentials, Freshness, Grants, HostName, LetterCase,
    OrganizationNames, OrganizationRoles, Permission, PermissionRequirement, RbacPolicy, RouteMatch,
};

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
        shadow: None,
        audience: None,
        freshness: Freshness {
            fresh_for: Duration::ZERO,
            max_staleness: Duration::ZERO,
            stale_if_error: Duration::ZERO,
        },
        upstream: Arc::from("app"),
        letter_case: LetterCase::Refuse,
        keep_encoded_slash: false,
        keep_path_parameters: false,
        websocket: None,
        forwards: ForwardedCredentials::default(),
    })
}

fn decided(route: &Arc<Route>, presented: Presented<'_>) -> Decision {
    let (host, path, facts) =
        (HostName::parse("a").unwrap(), CanonicalPath::parse("/").unwrap(), Facts::default());
    let environment = Environment {
        client_ip: None,
        certificate_names: &[],
        host: &host,
        path: &path,
        patterns: &[],
        facts: &facts,
    };
    decide(route, presented, environment, now())
}

fn principal(bound: Bound) -> MemberPrincipal {
    MemberPrincipal { member: member(), bound, issued_at: None, seen_at: None }
}

fn admin_only(bound: Bound, sessions: Vec<MemberSession>) -> Result<String, Reason> {
    let route = route(Access::Require(Requirement::Role(Arc::from("admin"))));
    match decided(&route, Presented::Member(&principal(bound), &evidence(sessions))) {
        Decision::Allow(permit) => {
            Ok(permit.caller().unwrap().subject.session().unwrap().session_id.to_string())
        }
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
    let closed = decided(&route(Access::Require(Requirement::Authenticated)), Presented::Nothing);
    assert!(matches!(closed, Decision::Refuse(refusal) if refusal.reason == Reason::CredentialMissing));
    let open = decided(&route(Access::Public), Presented::Nothing);
    assert!(matches!(open, Decision::Allow(permit) if permit.caller().is_none()));
}

#[test]
fn the_permit_tells_the_age_of_its_evidence() {
    let route = route(Access::Require(Requirement::Authenticated));
    let evidence = evidence(vec![session("s1", "x", 60)]);
    let Decision::Allow(permit) = decided(&route, Presented::Member(&principal(own("s1")), &evidence)) else {
        panic!("refused")
    };
    assert_eq!(permit.caller().unwrap().evidence_age, Duration::from_secs(7));
}

fn machine(scopes: &[&str]) -> Requirement {
    Requirement::Machine { scopes: scopes.iter().map(|scope| Arc::from(*scope)).collect() }
}

fn machine_on(requirement: Requirement, held: &str, expires_in: i64) -> Result<(), Reason> {
    let at = |second| Timestamp::from_second(NOW + second).unwrap();
    let token = Arc::new(MachineToken {
        client_id: ClientId::parse("m2m-client-1").unwrap(),
        scopes: Scopes::parse(held),
        issued_at: at(-10),
        expires_at: at(expires_in),
    });
    match decided(&route(Access::Require(requirement)), Presented::Machine(&token)) {
        Decision::Allow(_) => Ok(()),
        Decision::Refuse(refusal) => Err(refusal.reason),
    }
}

#[test]
fn a_machine_passes_only_where_a_part_that_asks_for_machines_is_met() {
    let not = |part| Requirement::Not(Box::new(part));
    let banned = || Requirement::Role(Arc::from("banned"));
    assert_eq!(machine_on(machine(&["a"]), "a b", 60), Ok(()));
    assert_eq!(machine_on(machine(&["a", "c"]), "a b", 60), Err(Reason::ScopeMissing));
    assert_eq!(machine_on(Requirement::Authenticated, "a", 60), Err(Reason::CredentialKind));
    assert_eq!(machine_on(not(banned()), "a", 60), Err(Reason::CredentialKind));
    assert_eq!(machine_on(not(machine(&["x"])), "a", 60), Err(Reason::CredentialKind));
    assert_eq!(
        machine_on(Requirement::Any(vec![machine(&["x"]), not(banned())]), "a", 60),
        Err(Reason::ScopeMissing)
    );
    assert_eq!(machine_on(Requirement::All(vec![machine(&["a"]), not(banned())]), "a", 60), Ok(()));
    assert_eq!(machine_on(Requirement::Any(vec![Requirement::Authenticated, machine(&[])]), "", 60), Ok(()));
    assert_eq!(
        machine_on(Requirement::All(vec![machine(&[]), Requirement::Authenticated]), "", 60),
        Err(Reason::CredentialKind)
    );
}

#[test]
fn a_machines_token_ends_when_it_says() {
    assert_eq!(machine_on(machine(&[]), "", 1), Ok(()));
    assert_eq!(machine_on(machine(&[]), "", 0), Err(Reason::CredentialExpired));
}

/// A fact that was looked up so many seconds ago and is good for as many more.
fn fact<V>(value: V, ago: u64, good_for: u64) -> Fact<V> {
    let sent = now().minus(Duration::from_secs(ago));
    Fact { value, sent, good_until: sent.monotonic.plus(Duration::from_secs(good_for)) }
}

fn facts(policy_ago: u64, roles_ago: u64) -> Facts {
    let permission = Permission { resource_id: Arc::from("reports"), actions: vec![Arc::from("read")] };
    let policy =
        RbacPolicy { roles: Grants::new([(Arc::from("viewer"), vec![permission])]), ..RbacPolicy::default() };
    Facts {
        policy: Some(fact(Arc::new(policy), policy_ago, 30)),
        organization_roles: Some(fact(Arc::new(OrganizationRoles::default()), roles_ago, 30)),
        organization_names: Some(fact(Arc::new(OrganizationNames::default()), 80, 90)),
        owners: Vec::new(),
    }
}

fn permission() -> Requirement {
    Requirement::Permission(PermissionRequirement {
        resource: Arc::from("reports"),
        action: Arc::from("read"),
        organization: None,
    })
}

#[test]
fn the_age_of_an_allow_is_that_of_its_oldest_fact() {
    let list = evidence(vec![session("s", "viewer", 60)]);
    let principal = principal(Bound::Session(SessionId::parse("s").unwrap()));
    let age = |requirement, facts: &Facts| {
        let host = HostName::parse("a").unwrap();
        let path = CanonicalPath::parse("/").unwrap();
        let environment = Environment {
            client_ip: None,
            certificate_names: &[],
            host: &host,
            path: &path,
            patterns: &[],
            facts,
        };
        judge(&requirement, Presented::Member(&principal, &list), environment, now())
            .map(|caller| caller.evidence_age.as_secs())
            .map_err(|refusal| refusal.reason)
    };
    // The list itself is 7 s old.
    assert_eq!(age(permission(), &facts(20, 3)), Ok(20));
    assert_eq!(age(permission(), &facts(2, 12)), Ok(12));
    assert_eq!(age(permission(), &facts(2, 3)), Ok(7));
    // A fact that the requirement does not ask about makes nothing older.
    assert_eq!(age(Requirement::Authenticated, &facts(20, 20)), Ok(7));
    assert_eq!(age(Requirement::All(vec![permission()]), &facts(20, 3)), Ok(20));
    let mut grown = facts(31, 3);
    grown.expire(now().monotonic);
    assert_eq!(age(permission(), &grown), Err(Reason::PolicyUnavailable));
}
