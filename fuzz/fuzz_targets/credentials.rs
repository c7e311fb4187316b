//! A `Cookie` field from a stranger. Must not do more than call the parser.

#![no_main]

use http::{HeaderMap, HeaderValue, header};
use portcullis::identity::{CredentialSource, SocketPeer, find_credentials, remove_credential_cookies};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let sources = [CredentialSource::Cookie("s".to_owned()), CredentialSource::Bearer];
    let mut headers = HeaderMap::from_iter([(header::COOKIE, value)]);
    drop(find_credentials(&headers, &sources, SocketPeer::default()));
    remove_credential_cookies(&mut headers, &sources);
    assert!(find_credentials(&headers, &sources, SocketPeer::default()).candidates.is_empty());
});
