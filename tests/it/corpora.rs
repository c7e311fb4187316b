//! The corpora of the fuzz targets, replayed: what was once found stays found.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};
use portcullis::directory::Spelling;
use portcullis::doors::FrameTracker;
use portcullis::identity::{
    CredentialSource, MemberId, MemberRef, Monotonic, Now, OrganizationId, ProjectId, SocketPeer,
    find_credentials, remove_credential_cookies,
};
use portcullis::policy::CanonicalPath;
use portcullis::session::ActiveSessions;
use portcullis::stytch::{keys_from_json, read_session_list, read_webhook_event};

/// Every file of a target's corpus.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = std::fs::read_dir(format!("fuzz/corpus/{target}")).unwrap();
    let files: Vec<Vec<u8>> = folder.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect();
    assert!(!files.is_empty(), "{target} has no corpus");
    files
}

#[test]
fn paths() {
    for bytes in corpus("canonical_path") {
        let text = String::from_utf8(bytes).unwrap();
        if let Ok(path) = CanonicalPath::parse(&text) {
            assert_eq!(CanonicalPath::parse(path.as_str()).as_ref(), Ok(&path), "{text}");
            assert!(!path.segments().any(|segment| matches!(segment, "." | "..")), "{text}");
            drop(path.other_readings());
        }
    }
}

#[test]
fn credentials() {
    let sources = [CredentialSource::Cookie("s".to_owned()), CredentialSource::Bearer];
    for bytes in corpus("credentials") {
        let value = HeaderValue::from_bytes(&bytes).unwrap();
        let mut headers = HeaderMap::from_iter([(header::COOKIE, value)]);
        drop(find_credentials(&headers, &sources, SocketPeer::default()));
        remove_credential_cookies(&mut headers, &sources);
        assert!(
            find_credentials(&headers, &sources, SocketPeer::default()).candidates.is_empty(),
            "{bytes:?}"
        );
    }
}

fn asked() -> (MemberRef, Now) {
    let member = MemberRef {
        organization_id: OrganizationId::parse("organization-1").unwrap(),
        member_id: MemberId::parse("member-1").unwrap(),
    };
    (member, Now { wall: jiff::Timestamp::UNIX_EPOCH, monotonic: Monotonic::default() })
}

#[test]
fn session_lists_and_key_sets() {
    let (asked, sent) = asked();
    for body in corpus("session_list") {
        if let Ok(list) = read_session_list(&body, &asked, Spelling::Canonical, sent, &[]) {
            assert!(list.sessions().all(|session| session.member == asked));
        }
    }
    for body in corpus("key_set") {
        assert!(keys_from_json(&body).is_err(), "no key of the corpus can be used");
    }
}

#[test]
fn session_records() {
    let (member, at) = asked();
    let symbols = ["session-test-", "acme", "viewer", "saml-1"].map(Arc::from).to_vec();
    let mut whole = 0;
    for bytes in corpus("session_record") {
        let Ok(list) = ActiveSessions::from_parts(member.clone(), &bytes, symbols.clone(), at) else {
            continue;
        };
        let sessions: Vec<_> = list.sessions().collect();
        assert!(ActiveSessions::new(member.clone(), &sessions, at).sessions().eq(sessions));
        whole += 1;
    }
    assert!(whole > 0, "no record of the corpus reads whole");
}

#[test]
fn webhook_events() {
    let project = ProjectId::parse("project-test-1").unwrap();
    for body in corpus("webhook_event") {
        drop(read_webhook_event(&body, &project));
    }
}

#[test]
fn websocket_frames() {
    for bytes in corpus("websocket_frames") {
        let mut whole = FrameTracker::default();
        whole.pass(&bytes);
        for at in 0..=bytes.len() {
            let mut parts = FrameTracker::default();
            parts.pass(&bytes[..at]);
            parts.pass(&bytes[at..]);
            assert_eq!(whole.is_between_frames(), parts.is_between_frames(), "cut at {at}");
        }
    }
}
