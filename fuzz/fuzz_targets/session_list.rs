//! An answer of the directory. Must not do more than call the parser.

#![no_main]

use portcullis::directory::Spelling;
use portcullis::identity::{MemberId, MemberRef, Monotonic, Now, OrganizationId};
use portcullis::stytch::read_session_list;

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    let (Ok(organization_id), Ok(member_id)) = (OrganizationId::parse("organization-1"), MemberId::parse("member-1"))
    else {
        return;
    };
    let asked = MemberRef { organization_id, member_id };
    let sent = Now { wall: jiff::Timestamp::UNIX_EPOCH, monotonic: Monotonic::default() };
    if let Ok(list) = read_session_list(body, &asked, Spelling::Canonical, sent, &[]) {
        assert!(list.sessions().all(|session| session.member == asked));
    }
});
