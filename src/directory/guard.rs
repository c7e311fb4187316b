//! The tier in front of the network: a deadline for every call and a bound on how many run and wait, per operation.
//!
//! Must not remember answers, and must not let one operation's trouble close another.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::{Answer, DirectoryError, GuardSettings, SessionDirectory, SessionQuery, TokenOwner, TokenQuery};
use crate::session::{Evidence, Revocation};

/// Bounds the calls to the next tier.
pub struct Guard {
    next: Arc<dyn SessionDirectory>,
    list: Gate,
    authenticate: Gate,
}

/// The bounds of one operation.
#[derive(Clone)]
struct Gate {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    deadline: Duration,
}

impl Guard {
    pub fn new(next: Arc<dyn SessionDirectory>, settings: &GuardSettings) -> Self {
        Self { next, list: Gate::new(settings), authenticate: Gate::new(settings) }
    }
}

impl SessionDirectory for Guard {
    fn active_sessions(&self, query: &SessionQuery) -> Answer<Evidence> {
        let (next, query) = (Arc::clone(&self.next), query.clone());
        self.list.pass(async move { next.active_sessions(&query).wait().await })
    }

    fn resolve(&self, query: &TokenQuery) -> Answer<TokenOwner> {
        let (next, query) = (Arc::clone(&self.next), query.clone());
        self.authenticate.pass(async move { next.resolve(&query).wait().await })
    }

    fn forget(&self, revocation: &Revocation) {
        self.next.forget(revocation);
    }
}

impl Gate {
    fn new(settings: &GuardSettings) -> Self {
        Self {
            running: Arc::new(Semaphore::new(settings.max_in_flight)),
            waiting: Arc::new(Semaphore::new(settings.max_in_flight + settings.max_waiting)),
            deadline: settings.deadline,
        }
    }

    fn pass<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, DirectoryError>> + Send + 'static,
    ) -> Answer<T> {
        let Ok(place) = Arc::clone(&self.waiting).try_acquire_owned() else {
            return Answer::Ready(Err(DirectoryError::Busy));
        };
        let running = Arc::clone(&self.running);
        let deadline = tokio::time::Instant::now() + self.deadline;
        Answer::pending(async move {
            let _place = place;
            // Closed never; a wait that lasts the whole deadline means the calls before it are stuck.
            let turn = tokio::time::timeout_at(deadline, running.acquire()).await;
            let Ok(Ok(_turn)) = turn else {
                return Err(DirectoryError::Busy);
            };
            tokio::time::timeout_at(deadline, call).await.unwrap_or(Err(DirectoryError::Timeout))
        })
    }
}
