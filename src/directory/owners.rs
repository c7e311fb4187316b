//! Whose an opaque token is, remembered by its digest: a fact that outlives the evidence about the session.
//!
//! Must not keep a token, nor let unknown ones push out those that are known.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use super::attempts::{Attempt, Attempts};
use super::flight::Flights;
use super::marks::Marks;
use super::shelf::bounded;
use super::{
    Answer, Clock, DirectoryError, MemorySettings, SessionDirectory, TokenBinding, TokenOwner, TokenQuery,
};
use crate::identity::{CredentialDigest, Now};

/// A token that was nobody's twice stays so: one that is made later is another. How much longer that is believed.
const STILL_NOBODY: u32 = 30;
/// Lookups one question may start because revocations kept landing in between.
const MAX_LANDINGS: usize = 3;

/// What is remembered of tokens.
pub(super) struct Owners {
    known: Cache<CredentialDigest, Arc<TokenBinding>>,
    nobodies: Cache<CredentialDigest, Nobody>,
    flights: Flights<CredentialDigest, TokenOwner>,
    attempts: Arc<Attempts>,
    negative_for: Duration,
    binding_for: Duration,
}

/// A token the directory did not know.
#[derive(Clone, Copy)]
struct Nobody {
    asked_at: Now,
    believed_for: Duration,
}

impl Owners {
    pub(super) fn new(settings: &MemorySettings, attempts: Arc<Attempts>, few: u64) -> Self {
        let second = Duration::from_secs(1);
        Self {
            // Longer than it is believed: a token that was good once is not counted among the unknown ones.
            known: bounded(settings.max_entries, settings.token_binding_for * 4 + second),
            nobodies: bounded(few, settings.negative_for * STILL_NOBODY + second),
            flights: Flights::new(),
            attempts,
            negative_for: settings.negative_for,
            binding_for: settings.token_binding_for,
        }
    }

    /// What is known of the token, unless it is too old or a mark outranks it.
    pub(super) fn remembered(&self, query: &TokenQuery, marks: &Marks) -> Option<TokenOwner> {
        let now = query.now;
        if let Some(binding) = self.known.get(&query.digest) {
            let valid = binding.expires_at > now.no_earlier_than(binding.resolved_at).wall
                && now.monotonic.since(binding.resolved_at.monotonic) <= self.binding_for
                && !is_outranked(&binding, marks);
            return valid.then_some(TokenOwner::Session(binding));
        }
        let Nobody { asked_at, believed_for } = self.nobodies.get(&query.digest)?;
        let believed = now.monotonic.since(asked_at.monotonic) <= believed_for;
        believed.then_some(TokenOwner::Nobody { asked_at })
    }

    /// Asks the next tier, one call per token however many ask.
    pub(super) fn ask(
        owners: &Arc<Self>,
        query: &TokenQuery,
        marks: impl AsRef<Marks> + Send + Sync + 'static,
        next: &Arc<dyn SessionDirectory>,
        clock: &Arc<dyn Clock>,
    ) -> Answer<TokenOwner> {
        // Junk is turned away before it costs anybody anything. One that was good once is none, nor is one more question
        // about the same.
        let free = owners.known.contains_key(&query.digest) || owners.flights.is_under_way(&query.digest);
        let attempt = if free { Ok(None) } else { owners.admit(query, clock).map(Some) };
        let attempt = match attempt {
            Ok(attempt) => attempt,
            Err(error) => return Answer::Ready(Err(error)),
        };
        let fetch = {
            let (owners, query, next, clock) =
                (Arc::clone(owners), query.clone(), Arc::clone(next), Arc::clone(clock));
            || async move { owners.fetch(query, attempt, marks.as_ref(), &next, &clock).await }
        };
        let (flight, _) = owners.flights.join(&query.digest, fetch, |lookup| drop(tokio::spawn(lookup)));
        Answer::pending(flight)
    }

    async fn fetch(
        &self,
        mut query: TokenQuery,
        mut attempt: Option<Attempt>,
        marks: &Marks,
        next: &Arc<dyn SessionDirectory>,
        clock: &Arc<dyn Clock>,
    ) -> Result<TokenOwner, DirectoryError> {
        for _ in 0..MAX_LANDINGS {
            query.now = clock.now();
            // A lookup may have landed between looking here and taking off.
            if let Some(owner) = self.remembered(&query, marks) {
                return Ok(owner);
            }
            if attempt.is_none() && !self.known.contains_key(&query.digest) {
                // What it was to join had just landed.
                attempt = Some(self.admit(&query, clock)?);
            }
            let owner = match next.resolve(&query).wait().await {
                Ok(owner) => owner,
                Err(error) => {
                    // What the directory cannot even read is as strange as what it does not know.
                    if let (DirectoryError::Refused { status: 400 }, Some(attempt)) = (&error, attempt) {
                        attempt.spend(clock.now().monotonic);
                    }
                    return Err(error);
                }
            };
            match &owner {
                // The session ended while the directory was being asked: what it said is from before.
                TokenOwner::Session(binding) if is_outranked(binding, marks) => {
                    query.newer_than = query.newer_than.max(Some(clock.now().monotonic));
                    continue;
                }
                TokenOwner::Session(binding) => {
                    // Somebody else's expired JWT paid for it.
                    if query.member.as_ref().is_some_and(|member| *member != binding.member)
                        && let Some(attempt) = attempt
                    {
                        attempt.spend(clock.now().monotonic);
                    }
                    self.nobodies.invalidate(&query.digest);
                    self.known.insert(query.digest, Arc::clone(binding));
                }
                TokenOwner::Nobody { asked_at } => {
                    self.known.invalidate(&query.digest);
                    let again = self.nobodies.contains_key(&query.digest);
                    let believed_for = self.negative_for * if again { STILL_NOBODY } else { 1 };
                    self.nobodies.insert(query.digest, Nobody { asked_at: *asked_at, believed_for });
                    if let Some(attempt) = attempt {
                        attempt.spend(clock.now().monotonic);
                    }
                }
            }
            return Ok(owner);
        }
        Err(DirectoryError::Busy)
    }

    fn admit(&self, query: &TokenQuery, clock: &Arc<dyn Clock>) -> Result<Attempt, DirectoryError> {
        let now = clock.now().monotonic;
        let admitted = match &query.member {
            Some(member) => self.attempts.admit_member(member, now),
            None => self.attempts.admit(query.peer, now),
        };
        admitted.map_err(|retry_after| DirectoryError::TooManyUnknown { retry_after })
    }
}

fn is_outranked(binding: &TokenBinding, marks: &Marks) -> bool {
    let sent = binding.resolved_at.monotonic;
    marks.outrank_session(&binding.session_id, sent) || marks.outrank_member(&binding.member, sent)
}

#[cfg(test)]
mod tests;
