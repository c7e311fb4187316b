//! The packed sessions of a member as the shared tier holds them. Must not do more than read and pack again.

#![no_main]

use std::sync::Arc;

use portcullis::identity::{MemberId, MemberRef, Monotonic, Now, OrganizationId};
use portcullis::session::ActiveSessions;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (Ok(organization_id), Ok(member_id)) = (OrganizationId::parse("organization-1"), MemberId::parse("member-1"))
    else {
        return;
    };
    let member = MemberRef { organization_id, member_id };
    let at = Now { wall: jiff::Timestamp::UNIX_EPOCH, monotonic: Monotonic::default() };
    let symbols = ["session-test-", "acme", "viewer", "saml-1"].map(Arc::from).to_vec();
    if let Ok(list) = ActiveSessions::from_parts(member.clone(), bytes, symbols, at) {
        let sessions: Vec<_> = list.sessions().collect();
        assert!(ActiveSessions::new(member, &sessions, at).sessions().eq(sessions));
    }
});
