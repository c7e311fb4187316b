//! Asking the directory for evidence, or doing without a look where the last one still answers.
//!
//! Must not judge evidence, nor serve a list that anything outranks: whether it still answers is for the directory to say.

use super::Waits;
use super::check::Engine;
use super::record::Findings;
use crate::directory::SessionQuery;
use crate::identity::Now;
use crate::policy::Refusal;
use crate::session::{ActiveSessions, Evidence};

impl Engine {
    /// The same as [`evidence`](Self::evidence), without a look where what their token's last request found still answers.
    pub(super) async fn known_evidence(
        &self,
        query: &SessionQuery,
        findings: &Findings,
        waits: Waits<'_>,
    ) -> Result<(Evidence, Now), Refusal> {
        let recent = findings.recent.as_ref().filter(|_| !query.settled && query.newer_than.is_none());
        let Some(recent) = recent else { return self.evidence(query, waits).await };
        let directory = &self.sources.directory;
        let still_answers = |list: &ActiveSessions, generation| {
            list.member == query.member
                && directory.still_answers(list, generation, query.freshness, query.now.monotonic)
        };
        if let Some(list) = recent.listed(still_answers) {
            return Ok((Evidence::Sessions(list), query.now));
        }
        let generation = directory.generation();
        let (evidence, waited) = self.ask(query, waits).await?;
        // What was waited for is another copy than the one that is superseded by what comes next, and what is served while
        // it is asked for again must not do for the requests after this one.
        if let (Evidence::Sessions(list), None) = (&evidence, waited)
            && !directory.is_soft(&evidence)
        {
            recent.list(list, generation);
        }
        Ok((evidence, waited.unwrap_or(query.now)))
    }

    /// The evidence, and the time it is once it is there: another one only if it was waited for.
    pub(super) async fn evidence(
        &self,
        query: &SessionQuery,
        waits: Waits<'_>,
    ) -> Result<(Evidence, Now), Refusal> {
        let (evidence, waited) = self.ask(query, waits).await?;
        Ok((evidence, waited.unwrap_or(query.now)))
    }

    /// The evidence, and the time it is if it was waited for.
    async fn ask(&self, query: &SessionQuery, waits: Waits<'_>) -> Result<(Evidence, Option<Now>), Refusal> {
        let answer = self.sources.directory.active_sessions(query);
        waits.check(&answer, &query.member)?;
        let waited = answer.is_pending();
        let evidence = answer.wait().await.map_err(|error| error.refusal())?;
        Ok((evidence, waited.then(|| self.clock.now())))
    }
}
