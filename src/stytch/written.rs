//! A session list that was written down, in place of the directory, for explaining decisions.
//!
//! Must not be wired into a gateway that serves: what was written down has no age.

use std::sync::Arc;

use super::wire::read_session_list;
use crate::directory::{Answer, Clock, SessionDirectory, SessionQuery, Spelling, TokenOwner, TokenQuery};
use crate::session::{Evidence, Revocation};

/// Answers every question for a list with the same one; tokens are resolved by the directory below.
pub struct WrittenList {
    body: Vec<u8>,
    spelling: Spelling,
    below: Arc<dyn SessionDirectory>,
    clock: Arc<dyn Clock>,
    pointers: Arc<[Arc<str>]>,
}

impl WrittenList {
    /// `body` is an answer of `GET /v1/b2b/sessions`.
    pub fn new(
        body: Vec<u8>,
        spelling: Spelling,
        below: Arc<dyn SessionDirectory>,
        clock: Arc<dyn Clock>,
        pointers: Arc<[Arc<str>]>,
    ) -> Self {
        Self { body, spelling, below, clock, pointers }
    }
}

impl SessionDirectory for WrittenList {
    fn active_sessions(&self, query: &SessionQuery) -> Answer<Evidence> {
        let read =
            read_session_list(&self.body, &query.member, self.spelling, self.clock.now(), &self.pointers);
        Answer::Ready(read.map(Evidence::Sessions))
    }

    fn resolve(&self, query: &TokenQuery) -> Answer<TokenOwner> {
        self.below.resolve(query)
    }

    fn forget(&self, _revocation: &Revocation) {}
}
