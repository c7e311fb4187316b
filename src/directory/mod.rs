//! The policy information point: who has which active sessions. One trait; each tier holds the next.
//!
//! Must not decide anything, nor keep a verdict: only facts with their date pass through here.

mod app_tokens;
mod attempts;
mod breaker;
mod clock;
mod fact_cache;
mod facts;
mod flight;
mod floors;
mod guard;
mod ledger;
mod lookups;
mod marks;
mod memory;
mod owners;
mod settings;
mod shared;
mod shelf;
mod sync;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::identity::{CredentialDigest, KeySet, MemberRef, Monotonic, Now, Secret, SessionId};
use crate::policy::{Freshness, Reason, Refusal};
use crate::session::{ActiveSessions, Evidence, Revocation};

pub use app_tokens::{AppTokens, Standing};
pub use attempts::Attempts;
pub use breaker::{Breaker, CallOutcome};
pub use clock::{Clock, ManualClock, SystemClock};
pub use fact_cache::{FactBounds, FactCache};
pub use facts::{AppTokenSource, NoFacts, OrganizationSource, RbacSource};
pub use guard::Guard;
pub use memory::Memory;
pub use settings::{GuardSettings, MemorySettings, SharedSettings, UnknownTokenSettings};
pub use shared::{
    BusEvent, BusFault, BusMessage, Deaf, Heard, RedisLink, SealedMessage, Shared, SharedError, Subscription,
    UnusableKey,
};

/// A tier of the directory, or the directory itself.
pub trait SessionDirectory: Send + Sync + 'static {
    /// The member's active sessions, no older than the query allows.
    fn active_sessions(&self, query: &SessionQuery) -> Answer<Evidence>;

    /// Whose session an opaque token is.
    fn resolve(&self, query: &TokenQuery) -> Answer<TokenOwner>;

    /// Drops what `revocation` outranks, here and in every tier below. A lookup that began before it never lands after it.
    fn forget(&self, revocation: &Revocation);

    /// Read before a question. A list that was known then answers the next one as long as [it may](Self::still_answers).
    fn generation(&self) -> u64 {
        0
    }

    /// Whether `list`, known at `generation`, answers a question at `now` as it is, without a look: it is young enough,
    /// nothing newer is known, and nothing happened since. Counted as an answer then. From most it never does.
    fn still_answers(
        &self,
        _list: &ActiveSessions,
        _generation: u64,
        _freshness: Freshness,
        _now: Monotonic,
    ) -> bool {
        false
    }

    /// Whether `evidence` is served only while it is asked for again: something may have happened that it does not know of.
    fn is_soft(&self, _evidence: &Evidence) -> bool {
        false
    }

    /// What a tier still has of the member's list, however old, for while the directory fails. Most have nothing.
    fn last_known(&self, _query: &SessionQuery) -> Answer<Option<Evidence>> {
        Answer::Ready(Ok(None))
    }
}

/// Where verification keys come from.
pub trait KeySource: Send + Sync + 'static {
    /// The last good set; empty until the first fetch succeeded.
    fn keys(&self) -> Arc<KeySet>;

    /// Asks for a key the set does not have. The rate is bounded; the answer is the set afterwards.
    fn refetch_for(&self, key_id: &str) -> Answer<Arc<KeySet>>;
}

/// Where the last good key set outlives the process.
pub trait KeyVault: Send + Sync + 'static {
    /// Keeps `key_set`, a JWK set in JSON, in the background.
    fn keep(&self, key_set: Vec<u8>);

    /// The key set that was kept last, if it can be had.
    fn kept(&self) -> Answer<Option<Vec<u8>>>;
}

/// An answer that is here, or one to wait for.
pub enum Answer<T> {
    Ready(Result<T, DirectoryError>),
    Pending(Pin<Box<dyn Future<Output = Result<T, DirectoryError>> + Send>>),
}

impl<T> Answer<T> {
    pub fn pending(future: impl Future<Output = Result<T, DirectoryError>> + Send + 'static) -> Self {
        Self::Pending(Box::pin(future))
    }

    pub fn is_pending(&self) -> bool {
        matches!(self, Self::Pending(_))
    }

    /// The same answer with its value changed.
    pub fn map<U>(self, change: impl FnOnce(T) -> U + Send + 'static) -> Answer<U>
    where
        T: 'static,
    {
        match self {
            Self::Ready(result) => Answer::Ready(result.map(change)),
            Self::Pending(future) => Answer::pending(async move { future.await.map(change) }),
        }
    }

    pub async fn wait(self) -> Result<T, DirectoryError> {
        match self {
            Self::Ready(result) => result,
            Self::Pending(future) => future.await,
        }
    }
}

/// A question for a session list.
#[derive(Debug, Clone)]
pub struct SessionQuery {
    pub member: MemberRef,
    pub spelling: Spelling,
    pub freshness: Freshness,
    /// Evidence must be newer than this: set when older evidence would refuse.
    pub newer_than: Option<Monotonic>,
    /// Nothing will do that is only served while it is asked for again: for whoever asks because something changed.
    pub settled: bool,
    /// What the caller's own verified token says, dated when it was made: counts only while the directory fails.
    pub vouched: Option<Arc<ActiveSessions>>,
    /// When the question was put.
    pub now: Now,
}

/// How the ids of a query are spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// The directory's own ids, out of a token it signed or an answer it gave.
    Canonical,
    /// As somebody wrote them: a slug or an external id may stand for an id.
    AsWritten,
}

/// A question for the owner of an opaque token.
#[derive(Debug, Clone)]
pub struct TokenQuery {
    pub token: Secret,
    pub digest: CredentialDigest,
    /// Who sent it: unknown tokens are counted by address.
    pub peer: Option<IpAddr>,
    /// The member of a genuine JWT beside it, whose own budget it draws on.
    pub member: Option<MemberRef>,
    /// What is known must be newer than this: set once a mark outranked it.
    pub newer_than: Option<Monotonic>,
    pub now: Now,
}

/// Whose a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenOwner {
    Session(Arc<TokenBinding>),
    /// The directory knows no live session for it.
    Nobody {
        asked_at: Now,
    },
}

/// The session an opaque token belongs to; a fact that outlives the evidence about that session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBinding {
    pub member: MemberRef,
    pub session_id: SessionId,
    pub expires_at: Timestamp,
    pub resolved_at: Now,
}

/// Why the directory gave no answer, split by what the caller does next. Never the caller's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    #[error("the session directory cannot be reached")]
    Unreachable,
    #[error("the session directory did not answer in time")]
    Timeout,
    #[error("the session directory failed with status {status}")]
    Failed { status: u16, retry_after: Option<Duration> },
    #[error("the session directory is limiting requests")]
    RateLimited { retry_after: Option<Duration> },
    #[error("the session directory rejects our credentials")]
    CredentialsRejected,
    #[error("the session directory refused the call with status {status}")]
    Refused { status: u16 },
    #[error("the answer cannot be read: {0}")]
    Malformed(String),
    #[error("the answer is larger than {limit} bytes")]
    Oversized { limit: usize },
    #[error("the answer names another member or organization than asked")]
    Mismatched,
    #[error("the session directory failed and is left alone for another {retry_after:?}")]
    CircuitOpen { retry_after: Duration },
    #[error("too many unknown session tokens came from one place")]
    TooManyUnknown { retry_after: Duration },
    #[error("too many lookups are under way")]
    Busy,
    #[error("no verification keys are loaded")]
    NoKeys,
}

impl DirectoryError {
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unreachable => Reason::DirectoryUnreachable,
            Self::Timeout => Reason::DirectoryTimeout,
            Self::Failed { .. } => Reason::DirectoryFailed,
            Self::RateLimited { .. } => Reason::DirectoryRateLimited,
            Self::CredentialsRejected => Reason::DirectoryCredentialsRejected,
            Self::Refused { .. } => Reason::DirectoryRefused,
            Self::Malformed(_) => Reason::DirectoryMalformed,
            Self::Oversized { .. } => Reason::DirectoryOversized,
            Self::Mismatched => Reason::DirectoryMismatched,
            Self::CircuitOpen { .. } => Reason::DirectoryCircuitOpen,
            Self::TooManyUnknown { .. } => Reason::CredentialAttempts,
            Self::Busy => Reason::DirectoryBusy,
            Self::NoKeys => Reason::KeysUnavailable,
        }
    }

    /// Whether the directory itself is failing, so that older evidence may stand in (section 4.3). A refused call and
    /// our own crowd are no failure of the directory's.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable
            | Self::Timeout
            | Self::Failed { .. }
            | Self::RateLimited { .. }
            | Self::CredentialsRejected
            | Self::Malformed(_)
            | Self::Mismatched
            | Self::CircuitOpen { .. } => true,
            // A list past all bounds is one member's own, and no word about the directory.
            Self::Oversized { .. }
            | Self::Refused { .. }
            | Self::TooManyUnknown { .. }
            | Self::Busy
            | Self::NoKeys => false,
        }
    }

    /// The refusal a caller gets, with the moment to try again.
    pub fn refusal(&self) -> Refusal {
        let retry_after = match self {
            Self::RateLimited { retry_after: Some(wait) }
            | Self::Failed { retry_after: Some(wait), .. }
            | Self::CircuitOpen { retry_after: wait }
            | Self::TooManyUnknown { retry_after: wait } => *wait,
            Self::CredentialsRejected => Duration::from_secs(5),
            _ => Duration::from_secs(1),
        };
        Refusal { retry_after: Some(retry_after), ..Refusal::from(self.reason()) }
    }

    /// The outcome label of `portcullis_directory_requests_total`.
    pub fn label(&self) -> &'static str {
        let code = self.reason().code();
        code.strip_prefix("directory_").unwrap_or(code)
    }
}

#[cfg(test)]
mod tests;
