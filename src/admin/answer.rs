//! What the admin API answers with.
//!
//! Must not know a request: it is made of what came of one.

use bytes::Bytes;
use http::StatusCode;

pub(super) const JSON: &str = "application/json";

/// Status and words of an answer that is no success.
pub(super) type Failure = (StatusCode, String);

/// What a success is answered with.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) kind: &'static str,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn json(value: &impl serde::Serialize) -> Result<Self, Failure> {
        let failed = |error: serde_json::Error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
        let mut body = serde_json::to_vec(value).map_err(failed)?;
        body.push(b'\n');
        Ok(Self { status: StatusCode::OK, kind: JSON, body: body.into() })
    }
}
