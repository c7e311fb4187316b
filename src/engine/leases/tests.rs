//! Who is due when, and what each event wakes.

use std::time::Duration;

use http::{HeaderMap, Method};

use super::*;
use crate::engine::{AccessRequest, Waits};
use crate::identity::{Bound, MemberId, MemberPrincipal, MemberRef, Principal, SocketPeer};
use crate::policy::{
    Access, CanonicalPath, ForwardedCredentials, Freshness, HostName, LetterCase, Requirement, Route,
    RouteMatch, Subject,
};
use crate::session::MemberSession;
use crate::telemetry::{RequestId, TraceContext};

const BOTH: (usize, usize) = (10, 10);

fn at(seconds: u64) -> Monotonic {
    Monotonic::at(Duration::from_secs(seconds))
}

fn leases() -> Leases {
    Leases::new(IntGauge::new("streams", "streams").unwrap())
}

fn member(organization: &str, member: &str) -> MemberRef {
    MemberRef {
        organization_id: OrganizationId::parse(organization).unwrap(),
        member_id: MemberId::parse(member).unwrap(),
    }
}

/// A stream of the member's session `s-<member>`.
fn open(leases: &Leases, member: &MemberRef, ticket: u64, due: Monotonic) -> Lease {
    let session_id = SessionId::parse(&format!("s-{}", member.member_id)).unwrap();
    let route = Route {
        name: Arc::from("r"),
        matches: RouteMatch { hosts: Vec::new(), paths: Vec::new(), methods: Vec::new() },
        access: Access::Require(Requirement::Authenticated),
        shadow: None,
        audience: None,
        freshness: Freshness {
            fresh_for: Duration::ZERO,
            max_staleness: Duration::ZERO,
            stale_if_error: Duration::ZERO,
        },
        upstream: Arc::from("u"),
        letter_case: LetterCase::Refuse,
        keep_encoded_slash: false,
        keep_path_parameters: false,
        websocket: None,
        forwards: ForwardedCredentials::default(),
    };
    let request_id = RequestId::new();
    let request = AccessRequest {
        method: &Method::GET,
        host: &HostName::parse("a").unwrap(),
        path: &CanonicalPath::parse("/").unwrap(),
        headers: &HeaderMap::new(),
        peer: SocketPeer::default(),
        client_ip: None,
        page: crate::engine::Page::None,
        request_id: &request_id,
        trace: &TraceContext::begin(&request_id),
        waits: Waits::default(),
    };
    let principal = Principal::from(MemberPrincipal {
        member: member.clone(),
        bound: Bound::Session(session_id.clone()),
        issued_at: None,
        seen_at: None,
    });
    let session = MemberSession {
        session_id,
        member: member.clone(),
        organization_slug: None,
        started_at: None,
        expires_at: Timestamp::MAX,
        roles: None,
        factors: Vec::new(),
        claims: Vec::new(),
    };
    let subject = Subject::Member(Arc::new(session));
    let stream = Stream::new(&request, Arc::new(route), principal, subject, None);
    leases.open(stream, ticket, at(100), due)
}

fn due(leases: &Leases, now: Monotonic) -> Vec<String> {
    let again = || now.plus(Duration::from_secs(30));
    let taken = leases.take_due(now, again, BOTH).unwrap_or_default();
    taken
        .into_iter()
        .map(|(member_id, streams)| match member_id {
            HolderId::Member(id) => format!("{id}:{}", streams.len()),
            HolderId::Machine(id) => format!("machine {id}:{}", streams.len()),
        })
        .collect()
}

#[test]
fn an_event_between_the_decision_and_the_registration_is_not_missed() {
    let leases = leases();
    let a = member("o", "a");
    let ticket = leases.ticket();
    leases.revisit(&RevocationTarget::Session(SessionId::parse("s-a").unwrap()));
    let _late = open(&leases, &a, ticket, at(130));
    assert_eq!(due(&leases, at(100)), ["a:1"]);
    let _early = open(&leases, &member("o", "b"), leases.ticket(), at(130));
    assert!(due(&leases, at(100)).is_empty());
}

#[test]
fn an_event_makes_due_whom_it_touches_and_all_streams_of_a_member_are_one_look() {
    let leases = leases();
    let a = member("o", "a");
    let b = member("o", "b");
    let c = member("p", "c");
    let ticket = leases.ticket();
    let open: Vec<Lease> =
        [&a, &a, &a, &b, &c].into_iter().map(|member| open(&leases, member, ticket, at(130))).collect();
    assert!(due(&leases, at(100)).is_empty());
    leases.revisit(&RevocationTarget::Session(SessionId::parse("s-a").unwrap()));
    assert_eq!(due(&leases, at(100)), ["a:3"]);
    leases.revisit(&RevocationTarget::Member(b.member_id));
    assert_eq!(due(&leases, at(100)), ["b:1"]);
    leases.revisit(&RevocationTarget::Organization(OrganizationId::parse("o").unwrap()));
    assert_eq!(due(&leases, at(100)), ["a:3", "b:1"]);
    leases.revisit_all();
    assert_eq!(due(&leases, at(100)), ["a:3", "b:1", "c:1"]);
    assert_eq!(due(&leases, at(131)).len(), 3, "again after the usual time");
    drop(open);
    leases.revisit_all();
    assert!(due(&leases, at(200)).is_empty(), "what is closed is looked at no more");
    assert!(leases.lock().due.is_empty() && leases.lock().sessions.is_empty());
}

#[test]
fn whom_an_event_names_comes_before_those_it_is_about_in_general() {
    let leases = leases();
    let ticket = leases.ticket();
    let members: Vec<MemberRef> = (0..9).map(|number| member("o", &format!("m{number}"))).collect();
    let _open: Vec<Lease> = members.iter().map(|member| open(&leases, member, ticket, at(130))).collect();
    leases.revisit_all();
    leases.revisit(&RevocationTarget::Member(members[7].member_id.clone()));
    let few = leases.take_due(at(100), || at(130), (1, 0)).unwrap();
    assert_eq!(few[0].0, HolderId::Member(members[7].member_id.clone()));
    assert!(leases.take_due(at(100), || at(130), (1, 0)).unwrap().is_empty(), "the others wait for a place");
    assert_eq!(leases.take_due(at(100), || at(130), (8, 4)).unwrap().len(), 4);
}

#[tokio::test]
async fn nobody_is_woken_for_a_stream_that_is_due_after_the_next_look() {
    let leases = leases();
    let woken = |leases: Leases| async move {
        tokio::time::timeout(Duration::from_millis(1), leases.sooner()).await.is_ok()
    };
    assert!(leases.take_due(at(100), || at(130), BOTH).is_err());
    let first = open(&leases, &member("o", "a"), leases.ticket(), at(130));
    assert!(!woken(leases.clone()).await, "what is young is looked at soon");
    assert_eq!(leases.take_due(at(101), || at(130), BOTH).err(), Some(Some(at(130))));
    drop(first);
    for number in 0..3 {
        drop(open(&leases, &member("o", &format!("b{number}")), leases.ticket(), at(131)));
    }
    assert!(!woken(leases.clone()).await, "short requests wake nobody");
    let _sooner = open(&leases, &member("o", "c"), leases.ticket(), at(101));
    assert!(woken(leases).await, "a session that is about to end");
}

#[test]
fn a_stream_is_found_by_an_event_whether_it_is_young_or_not() {
    let leases = leases();
    let a = member("o", "a");
    let young = |number: usize| -> Vec<Lease> {
        (0..number).map(|_| open(&leases, &a, leases.ticket(), at(130))).collect()
    };
    let mut early = young(300);
    assert!(due(&leases, at(100)).is_empty());
    let late = young(300);
    drop(early.split_off(100));
    assert_eq!(leases.lock().holders.values().map(|known| known.streams.len()).sum::<usize>(), 100);
    let between = young(5);
    drop(late);
    leases.revisit(&RevocationTarget::Member(a.member_id.clone()));
    assert_eq!(due(&leases, at(100)), ["a:105"]);
    drop((early, between));
    assert!(leases.lock().holders.is_empty() && leases.lock().sessions.is_empty());
    assert_eq!(leases.0.streams.get(), 0);
}
