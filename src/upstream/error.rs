//! Why there is no answer from an origin.
//!
//! Must not guess whether a request arrived: what cannot be known is an exchange that failed.

use super::answer::AnswerError;
use super::slots::NoSlot;
use super::wire::WireError;

/// Why a body cannot be read or written: the error of any type of body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    #[error("no server's address is known")]
    Unresolved,
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    #[error("no TLS with it: {0}")]
    Untrusted(std::io::Error),
    #[error("it does not speak HTTP/2")]
    Protocol,
    #[error("connecting took too long")]
    ConnectTimeout,
    #[error("all connections are in use")]
    Busy,
    #[error("the caller holds its share of the connections")]
    CallerShare,
    #[error("as many tunnels and event streams are open as may be")]
    NoStream(NoSlot),
    #[error("no answer came in time")]
    ResponseTimeout,
    #[error("the connection ended before the answer: {0}")]
    Closed(BoxError),
    #[error("the answer cannot be read: {0}")]
    Malformed(BoxError),
}

/// A request without an answer, and the server that was asked last.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct OriginFailure {
    pub error: OriginError,
    /// As it is connected to; none where none is known.
    pub server: Option<String>,
}

impl From<NoSlot> for OriginError {
    fn from(none: NoSlot) -> Self {
        match none {
            NoSlot::Full => Self::Busy,
            NoSlot::CallerShare => Self::CallerShare,
        }
    }
}

impl From<WireError> for OriginError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Io(_) | WireError::Closed | WireError::Answer(AnswerError::CutOff) => {
                Self::Closed(error.into())
            }
            WireError::Answer(_) => Self::Malformed(error.into()),
        }
    }
}

impl OriginError {
    /// What hyper said of an exchange: whether nothing came, or nothing that makes sense.
    pub(super) fn of_exchange(error: hyper::Error) -> Self {
        let malformed = error.is_parse() || error.is_user();
        if malformed { Self::Malformed(error.into()) } else { Self::Closed(error.into()) }
    }

    /// Whether the server is to blame: one that is busy has done nothing wrong.
    pub(super) fn is_failure(&self) -> bool {
        !matches!(self, Self::Busy | Self::CallerShare | Self::NoStream(_) | Self::Unresolved)
    }

    /// Whether no connection was made: a fault that goes on, and not one request's.
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Unresolved | Self::Connect(_) | Self::Untrusted(_) | Self::Protocol | Self::ConnectTimeout
        )
    }

    /// Whether another try of a request that may have arrived can help.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Closed(_) | Self::ResponseTimeout)
    }
}
