//! The marks by themselves, apart from their file, which a model checker compiles as well; and where clocks begin.

use std::sync::Arc;
use std::time::Duration;

use super::marks::{MAX_MARKS, Marks};
use super::{Clock as _, SystemClock};
use crate::identity::{MemberId, MemberRef, Monotonic, Now, OrganizationId, SessionId};
use crate::session::{ActiveSessions, Evidence, Revocation, RevocationTarget};

fn mark(kind: &str, number: u64, second: u64) -> Revocation {
    let id = format!("{kind}-{number}");
    let target = match kind {
        "session" => RevocationTarget::Session(SessionId::parse(&id).unwrap()),
        "member" => RevocationTarget::Member(MemberId::parse(&id).unwrap()),
        _ => RevocationTarget::Organization(OrganizationId::parse(&id).unwrap()),
    };
    Revocation { target, at: Now { wall: jiff::Timestamp::UNIX_EPOCH, monotonic: at(second) } }
}

fn at(second: u64) -> Monotonic {
    Monotonic::at(Duration::from_secs(second))
}

fn member(number: u64) -> MemberRef {
    MemberRef {
        organization_id: OrganizationId::parse("organization-0").unwrap(),
        member_id: MemberId::parse(&format!("member-{number}")).unwrap(),
    }
}

fn session(number: u64) -> SessionId {
    SessionId::parse(&format!("session-{number}")).unwrap()
}

#[test]
fn a_mark_is_kept_as_long_as_what_it_outranks_could_be_served_and_the_newest_counts() {
    let marks = Marks::new(Duration::from_secs(100));
    marks.leave(&mark("session", 1, 1_000));
    marks.leave(&mark("session", 1, 1_050));
    // Out of a log, and late.
    marks.leave(&mark("session", 1, 1_020));
    marks.leave(&mark("member", 1, 1_040));
    assert!(marks.outrank_session(&session(1), at(1_050)) && !marks.outrank_session(&session(1), at(1_051)));
    marks.leave(&mark("session", 2, 1_120));
    assert!(marks.outrank_session(&session(1), at(1_050)), "the newer of two outlives the older");
    assert!(marks.outrank_member(&member(1), at(1_040)));
    marks.leave(&mark("session", 3, 1_160));
    assert!(!marks.outrank_session(&session(1), at(1_050)), "nothing that old can be served any more");
    assert!(!marks.outrank_member(&member(1), at(1_040)));
    assert_eq!(marks.len(), 2);
}

#[test]
fn more_marks_than_can_be_kept_come_to_more_not_to_less() {
    let marks = Marks::new(Duration::from_secs(100));
    for number in 0..=MAX_MARKS as u64 {
        marks.leave(&mark("session", number, 1_000 + number / 1_000));
    }
    assert!(marks.len() < MAX_MARKS);
    for number in [0, 1, MAX_MARKS as u64 - 1] {
        assert!(marks.outrank_member(&member(number), at(1_000)), "everybody is asked about anew");
    }
    assert!(!marks.outrank_member(&member(1), at(2_000)));
}

#[test]
fn a_mark_that_is_left_again_and_again_is_one() {
    let marks = Marks::new(Duration::from_secs(100));
    for second in 0..50 {
        marks.leave(&mark("session", 1, 1_000 + second));
        marks.leave(&mark("session", 2, 1_000));
    }
    assert_eq!(marks.len(), 2);
}

#[test]
fn a_mark_over_an_organization_is_over_all_of_its_members() {
    let marks = Marks::new(Duration::from_secs(100));
    assert_eq!(marks.floor(&member(1)), None);
    marks.leave(&mark("organization", 0, 1_000));
    assert_eq!(marks.floor(&member(1)), Some(at(1_000)));
    let list = ActiveSessions::new(member(1), &[], mark("session", 0, 1_001).at);
    let evidence = Evidence::Sessions(Arc::new(list));
    assert!(!marks.outrank(&member(1), &evidence, Duration::ZERO));
    assert!(marks.outrank(&member(1), &evidence, Duration::from_secs(2)), "another clock may be ahead");
}

/// Evidence that is older than the process is as old as it is.
#[test]
fn a_process_that_was_just_started_tells_the_age_of_what_came_before() {
    let now = SystemClock::start().now();
    let before = now.minus(Duration::from_secs(7 * 24 * 3600));
    assert_eq!(now.monotonic.since(before.monotonic), Duration::from_secs(7 * 24 * 3600));
    assert!(before.monotonic > Monotonic::default());
}
