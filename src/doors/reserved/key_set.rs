//! `GET /.portcullis/jwks.json`: the public keys that signed assertions are verified with (RFC 7517).
//!
//! Must not show a key that signs nothing, nor anything of a private one.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use jiff::Timestamp;

use super::{Refused, ReservedPages, ReservedRequest, answer};
use crate::policy::Reason;

impl ReservedPages {
    pub(super) fn key_set(&self, asked: &ReservedRequest<'_>) -> Result<Response<Bytes>, Refused> {
        let assertions = asked.rules.snapshot.assertions.as_ref().ok_or(Reason::ReservedPath)?;
        let keys = assertions.key_set(Timestamp::now()).to_string();
        let body = if asked.head.method == Method::HEAD { String::new() } else { keys };
        let mut response = answer(StatusCode::OK, "application/json", body);
        let age = format!("public, max-age={}", assertions.key_set_age().as_secs());
        if let Ok(age) = HeaderValue::try_from(age) {
            response.headers_mut().insert(header::CACHE_CONTROL, age);
        }
        Ok(response)
    }
}
