//! What must hold for any bytes at all, one function for each parser of outside bytes: shared by the fuzz targets and by the
//! test that replays their corpora.
//!
//! Must not know where the bytes come from.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use portcullis::config::{LoadOptions, SecretPolicy, load_with_warnings};
use portcullis::directory::Spelling;
use portcullis::doors::FrameTracker;
use portcullis::identity::{
    CredentialSource, JwtRules, KeySet, MemberId, MemberRef, Monotonic, Now, OrganizationId, ProjectId,
    SocketPeer, find_credentials, other_cookies, verify_ended_or_not,
};
use portcullis::policy::CanonicalPath;
use portcullis::server::{ForwardedTrust, ProxiedClient, parse_binary, parse_line, read_forwarded};
use portcullis::session::ActiveSessions;
use portcullis::stytch::{keys_from_json, read_session_list, read_webhook_event};
use portcullis::upstream::{AnswerError, Piece, Reading, take_head};

/// A parser by the name of its corpus.
pub type Check = (&'static str, fn(&[u8]));

/// Every one of them.
pub const ALL: [Check; 12] = [
    ("answer", answer),
    ("canonical_path", canonical_path),
    ("configuration", configuration),
    ("credentials", credentials),
    ("forwarded", forwarded),
    ("jwt", jwt),
    ("key_set", key_set),
    ("proxy_protocol", proxy_protocol),
    ("session_list", session_list),
    ("session_record", session_record),
    ("webhook_event", webhook_event),
    ("websocket_frames", websocket_frames),
];

/// A path is canonical once, canonical for ever, and without dots.
pub fn canonical_path(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(path) = CanonicalPath::parse(text) {
        // What was odd about a part that the dots took away is remembered of the one, and not there in the other.
        let again = CanonicalPath::parse(path.as_str());
        assert_eq!(again.as_ref().map(CanonicalPath::as_str), Ok(path.as_str()), "{text}");
        assert!(!path.segments().any(|segment| matches!(segment, "." | "..")), "{text}");
        for reading in path.other_readings().unwrap_or_default() {
            let again = CanonicalPath::parse(reading.as_str());
            assert_eq!(again.as_ref().map(CanonicalPath::as_str), Ok(reading.as_str()), "{text}");
        }
    }
}

/// A configuration is taken or refused with mistakes that point into it.
pub fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let file = std::env::temp_dir().join(format!("portcullis-fuzz-{}.yaml", std::process::id()));
    std::fs::write(&file, text).expect("the text can be written down");
    let options = LoadOptions { file, overrides: Vec::new(), secrets: SecretPolicy::NotNeeded };
    if let Err(invalid) = load_with_warnings(&options) {
        assert!(!invalid.diagnostics.is_empty(), "refused without a reason");
        let lines = text.lines().count().max(1);
        for mistake in &invalid.diagnostics {
            assert!(mistake.line.is_none_or(|line| (1..=lines + 1).contains(&line)), "{mistake:?}");
        }
        drop(invalid.render(false));
    }
}

/// No credential is left behind once they are removed.
pub fn credentials(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let sources = [CredentialSource::Cookie("s".to_owned()), CredentialSource::Bearer];
    let headers = HeaderMap::from_iter([(header::COOKIE, value)]);
    drop(find_credentials(&headers, None, &sources, SocketPeer::default()));
    let left = HeaderMap::from_iter(other_cookies(&headers, &sources).map(|left| (header::COOKIE, left)));
    assert!(find_credentials(&left, None, &sources, SocketPeer::default()).candidates.is_empty());
}

/// An answer says the same however it arrives, and nothing behind it is taken for a part of it.
pub fn answer(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let (to_head, step) = (choice & 1 == 1, usize::from(choice >> 1).max(1));
    let whole = read_answer(bytes, bytes.len().max(1), to_head);
    let pieces = read_answer(bytes, step, to_head);
    match (&whole, &pieces) {
        (Ok(whole), Ok(pieces)) => assert_eq!(whole, pieces),
        // Which of two mistakes is seen first may depend on what is there.
        (Err(_), Err(_)) => {}
        _ => panic!("{whole:?} at once, {pieces:?} {step} bytes at a time"),
    }
    let Ok((.., used)) = whole else { return };
    let alone = read_answer(&bytes[..used], bytes.len().max(1), to_head);
    assert!(alone.is_ok_and(|(.., again)| again == used), "{used} bytes are not an answer by themselves");
}

/// Status, fields, body, trailers, and how many bytes those were.
type ReadAnswer = (u16, HeaderMap, Vec<u8>, HeaderMap, usize);

fn read_answer(bytes: &[u8], step: usize, to_head: bool) -> Result<ReadAnswer, AnswerError> {
    let (mut buffer, mut reading, mut arriving) = (BytesMut::new(), Reading::default(), bytes.chunks(step));
    let mut head = loop {
        if let Some(head) = take_head(&mut buffer, to_head, &mut reading)? {
            break head;
        }
        buffer.extend_from_slice(arriving.next().ok_or(AnswerError::CutOff)?);
    };
    let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
    loop {
        match head.framing.take_piece(&mut buffer)? {
            Piece::Data(data) => body.extend_from_slice(&data),
            Piece::Trailers(fields) => trailers = fields,
            Piece::End => break,
            Piece::Missing => match arriving.next() {
                Some(more) => buffer.extend_from_slice(more),
                None => head.framing.close()?,
            },
        }
    }
    let left = buffer.len() + arriving.map(<[u8]>::len).sum::<usize>();
    Ok((head.status.as_u16(), head.headers, body, trailers, bytes.len() - left))
}

/// Only listed proxies are followed, and what is told anew leads to the same client.
pub fn forwarded(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let fields = text.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value.trim()).ok()?))
    });
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(name, value);
    }
    let from: IpAddr = [10, 0, 0, 1].into();
    let listed = |address: &IpAddr| matches!(address, IpAddr::V4(four) if four.octets()[0] == 10);
    for standard in [false, true] {
        let networks = vec!["10.0.0.0/8".parse().expect("a network")];
        let trust = ForwardedTrust { networks, standard, host: true };
        let told = read_forwarded(&headers, from, &trust);
        assert!(told.hops.len() <= 16 && told.hops.iter().all(listed), "{told:?}");
        match told.hops.split_last() {
            None => assert_eq!(told.client, Some(from)),
            Some((nearest, between)) => {
                assert_eq!(*nearest, from);
                let Some(client) = told.client else { continue };
                let again: Vec<String> =
                    std::iter::once(&client).chain(between).map(ToString::to_string).collect();
                let again = HeaderMap::from_iter([(
                    HeaderName::from_static("x-forwarded-for"),
                    HeaderValue::try_from(again.join(", ")).expect("addresses"),
                )]);
                let trust = ForwardedTrust { standard: false, ..trust };
                assert_eq!(read_forwarded(&again, from, &trust).client, told.client);
            }
        }
    }
}

/// Of all tokens under this key, the two that were signed with it are genuine.
pub fn jwt(bytes: &[u8]) {
    const GENUINE: [&str; 2] = [include_str!("corpus/jwt/0"), include_str!("corpus/jwt/1")];
    static KEYS: LazyLock<KeySet> = LazyLock::new(|| {
        let keys = keys_from_json(include_bytes!("keys/jwks.json")).expect("a key set");
        KeySet::new(keys, 1)
    });
    let Ok(token) = std::str::from_utf8(bytes) else { return };
    let rules = JwtRules {
        issuers: vec!["stytch.com/project-test-1".to_owned()],
        audience: "project-test-1".to_owned(),
        leeway: std::time::Duration::from_secs(2),
    };
    let genuine = verify_ended_or_not(token, &KEYS, &rules);
    assert_eq!(genuine.is_ok(), GENUINE.contains(&token), "{token}: {:?}", genuine.err());
}

/// What is no key set is none.
pub fn key_set(bytes: &[u8]) {
    drop(keys_from_json(bytes));
}

/// A header names an address or nobody, and never more than it holds.
pub fn proxy_protocol(bytes: &[u8]) {
    if let Some(proxied) = std::str::from_utf8(bytes).ok().and_then(parse_line) {
        assert!(bytes.starts_with(b"PROXY ") && !proxied.under_tls);
    }
    if let [command, family, body @ ..] = bytes
        && let Some(proxied) = parse_binary(*command, *family, body)
    {
        assert!(!matches!(proxied.client, ProxiedClient::Address(_)) || body.len() >= 12);
    }
}

/// A list is about whoever was asked about.
pub fn session_list(bytes: &[u8]) {
    let (asked, sent) = asked();
    if let Ok(list) = read_session_list(bytes, &asked, Spelling::Canonical, sent, &[]) {
        assert!(list.sessions().all(|session| session.member == asked));
    }
}

/// What was packed comes back, and what comes back can be packed.
pub fn session_record(bytes: &[u8]) {
    let (member, at) = asked();
    let symbols = ["session-test-", "acme", "viewer", "saml-1"].map(Arc::from).to_vec();
    if let Ok(list) = ActiveSessions::from_parts(member.clone(), bytes, symbols, at) {
        let sessions: Vec<_> = list.sessions().collect();
        assert!(ActiveSessions::new(member, &sessions, at).sessions().eq(sessions));
    }
}

/// What is no event is none.
pub fn webhook_event(bytes: &[u8]) {
    let project = ProjectId::parse("project-test-1").expect("an id");
    drop(read_webhook_event(bytes, &project));
}

/// Frames are followed the same however the bytes are cut.
pub fn websocket_frames(bytes: &[u8]) {
    let mut whole = FrameTracker::default();
    whole.pass(bytes);
    for at in 0..=bytes.len().min(64) {
        let (first, second) = bytes.split_at(at);
        let mut parts = FrameTracker::default();
        parts.pass(first);
        parts.pass(second);
        assert_eq!(whole.is_between_frames(), parts.is_between_frames(), "cut at {at}");
    }
}

fn asked() -> (MemberRef, Now) {
    let member = MemberRef {
        organization_id: OrganizationId::parse("organization-1").expect("an id"),
        member_id: MemberId::parse("member-1").expect("an id"),
    };
    (member, Now { wall: jiff::Timestamp::UNIX_EPOCH, monotonic: Monotonic::default() })
}

/// Every file of a target's corpus, seen from the top of the project.
pub fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = std::fs::read_dir(Path::new("fuzz/corpus").join(target)).expect("a corpus");
    let files: Vec<Vec<u8>> =
        folder.map(|entry| std::fs::read(entry.expect("a file").path()).expect("bytes")).collect();
    assert!(!files.is_empty(), "{target} has no corpus");
    files
}
