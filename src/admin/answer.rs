//! Answers of the admin API.
//!
//! Must not depend on a request: an answer is made from its result alone.

use bytes::Bytes;
use http::StatusCode;

pub(super) const JSON: &str = "application/json";

/// Status and message of a failed call.
pub(super) type Failure = (StatusCode, String);

/// A successful answer.
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
