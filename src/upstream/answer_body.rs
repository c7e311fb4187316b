//! Where the body of an answer is read from.
//!
//! Must not give back a connection: `body` does.

use http_body::Body as _;
use hyper::body::Incoming;

use super::answer::Framing;

/// Where a body comes from.
pub(super) enum AnswerBody {
    /// From a connection with a task of its own.
    Incoming(Incoming),
    /// From the connection the answer came on, framed so.
    Wire(Framing),
}

impl AnswerBody {
    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Incoming(body) => body.is_end_stream(),
            Self::Wire(framing) => framing.is_over(),
        }
    }
}
