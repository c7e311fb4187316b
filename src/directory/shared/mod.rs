//! The tier in Redis, which replicas share: one asks the directory, the others read what it learnt.
//!
//! Must not fail a request, nor believe Redis: what does not open, is too old, or is older than asked for is not there.

mod bus;
mod link;
mod record;
mod seal;

use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounterVec;

use super::{
    Answer, Clock, DirectoryError, KeyVault, SessionDirectory, SessionQuery, Spelling, TokenOwner, TokenQuery,
};
use crate::identity::Now;
use crate::session::{ActiveSessions, Evidence, Revocation};
use crate::telemetry::Metrics;

pub use bus::Subscription;
pub use link::{RedisLink, SharedError};
pub use record::{BusEvent, BusMessage};
pub use seal::UnusableKey;

use link::Read;

/// How often a record is looked for while another replica asks.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// What the dates of two replicas may be apart where Redis's own clock vouches for the age, and where it does not.
const MARGIN: Duration = Duration::from_millis(100);
const SKEW: Duration = Duration::from_secs(2);
/// How long verification keys are kept for replicas that start during an outage.
const KEEP_KEYS_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// The shared tier. Cheap to clone.
#[derive(Clone)]
pub struct Shared(Arc<Inner>);

struct Inner {
    link: RedisLink,
    next: Arc<dyn SessionDirectory>,
    clock: Arc<dyn Clock>,
    /// How long lists are kept: past this no route could be served.
    horizon: Duration,
    binding_for: Duration,
    /// How long one lookup may take, and so how long others wait for it.
    deadline: Duration,
    lookups: IntCounterVec,
}

/// What was found in Redis, with the margin of its date.
struct Found {
    list: ActiveSessions,
    margin: Duration,
}

impl Shared {
    pub fn new(
        link: RedisLink,
        next: Arc<dyn SessionDirectory>,
        clock: Arc<dyn Clock>,
        horizon: Duration,
        binding_for: Duration,
        deadline: Duration,
        metrics: &Metrics,
    ) -> Self {
        let lookups = metrics.session_lookups.clone();
        Self(Arc::new(Inner { link, next, clock, horizon, binding_for, deadline, lookups }))
    }
}

impl SessionDirectory for Shared {
    fn active_sessions(&self, query: &SessionQuery) -> Answer<Evidence> {
        let (inner, query) = (Arc::clone(&self.0), query.clone());
        Answer::pending(async move { inner.list(query).await })
    }

    fn resolve(&self, query: &TokenQuery) -> Answer<TokenOwner> {
        let (inner, query) = (Arc::clone(&self.0), query.clone());
        Answer::pending(async move { inner.owner(query).await })
    }

    /// Marks are held above and told over the bus; records older than a mark are not asked for any more.
    fn forget(&self, revocation: &Revocation) {
        self.0.next.forget(revocation);
    }
}

impl Inner {
    async fn list(&self, query: SessionQuery) -> Result<Evidence, DirectoryError> {
        // What is spelled as somebody wrote it may stand for another member's record.
        if query.spelling == Spelling::AsWritten {
            return self.next.active_sessions(&query).wait().await;
        }
        let member = &query.member;
        let name = self.link.name("list", &[member.organization_id.as_str(), member.member_id.as_str()]);
        match self.look(&name, &query).await {
            Some(list) => return Ok(Evidence::Sessions(Arc::new(list))),
            None => self.count("miss"),
        }
        // A lookup of another replica may be under way since before what is asked for here: then waiting is in vain.
        let now = self.clock.now().monotonic;
        let may_wait = query.newer_than.is_none_or(|than| now.since(than) > self.deadline + MARGIN);
        let leased = if may_wait { self.link.lease(&name, self.deadline).await } else { None };
        if leased == Some(false)
            && let Some(list) = self.wait_for_other(&name, &query).await
        {
            return Ok(Evidence::Sessions(Arc::new(list)));
        }
        let answer = self.next.active_sessions(&query).wait().await;
        match &answer {
            Ok(Evidence::Sessions(list)) => self.keep(&name, list),
            _ if leased == Some(true) => self.let_go(&name),
            _ => {}
        }
        match answer {
            Err(error) if error.is_outage() => self.bridge(&name, &query).await.ok_or(error),
            answer => answer,
        }
    }

    /// A record that is fresh enough to be served without asking.
    async fn look(&self, name: &str, query: &SessionQuery) -> Option<ActiveSessions> {
        let found = self.found(name, query).await?;
        let bound = query.freshness.fresh_for.min(query.freshness.max_staleness);
        let young = found.list.age(self.clock.now().monotonic) <= bound;
        young.then(|| {
            self.count("hit");
            found.list
        })
    }

    /// Waits until another replica's lookup landed, at most as long as a lookup may take.
    async fn wait_for_other(&self, name: &str, query: &SessionQuery) -> Option<ActiveSessions> {
        let patience = tokio::time::Instant::now() + self.deadline / 2;
        let mut pause = LOOK_EVERY;
        while tokio::time::Instant::now() < patience {
            tokio::time::sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
            if let Some(list) = self.look(name, query).await {
                return Some(list);
            }
            pause = (pause * 2).min(LOOK_EVERY * 8);
        }
        None
    }

    /// While the directory fails: what a route still allows, though it is too old to be served otherwise.
    async fn bridge(&self, name: &str, query: &SessionQuery) -> Option<Evidence> {
        let found = self.found(name, query).await?;
        let bound = query.freshness.max_staleness.saturating_add(query.freshness.stale_if_error);
        let served = found.list.age(self.clock.now().monotonic) <= bound;
        served.then(|| {
            self.count("stale_error");
            Evidence::Sessions(Arc::new(found.list))
        })
    }

    /// The record of that name, if it is about the member asked for and newer than asked for.
    async fn found(&self, name: &str, query: &SessionQuery) -> Option<Found> {
        let opened = match self.link.read(name).await {
            Read::Found(opened) => opened,
            Read::Nothing => return None,
            Read::Forged => {
                tracing::warn!(
                    "a record in the shared tier was not sealed by this deployment; it is ignored"
                );
                self.count("forged");
                return None;
            }
            Read::Unavailable => {
                self.count("error");
                return None;
            }
        };
        let margin = if opened.left.is_some() { MARGIN } else { SKEW };
        let list = record::read_list(&opened.plain, opened.left, self.clock.now())?;
        let found = Found { list, margin };
        let new_enough =
            query.newer_than.is_none_or(|than| found.list.fetched_at.monotonic > than.plus(found.margin));
        (found.list.member == query.member && new_enough).then_some(found)
    }

    /// Leaves a list for the others, behind the back of whoever waits for it here.
    fn keep(&self, name: &str, list: &Arc<ActiveSessions>) {
        let (link, name, list) = (self.link.clone(), name.to_owned(), Arc::clone(list));
        let life = self.life(self.horizon, list.fetched_at);
        let plain = record::write_list(&list, self.horizon);
        tokio::spawn(async move { link.write(&name, list.fetched_at.wall, &plain, life).await });
    }

    fn let_go(&self, name: &str) {
        let (link, name) = (self.link.clone(), name.to_owned());
        tokio::spawn(async move { link.release(&name).await });
    }

    async fn owner(&self, query: TokenQuery) -> Result<TokenOwner, DirectoryError> {
        let digest = query.digest.to_hex();
        let name = self.link.name("owner", &[&digest]);
        if let Read::Found(opened) = self.link.read(&name).await
            && let Some(binding) = record::read_owner(&opened.plain, opened.left, self.clock.now())
            && binding.expires_at > query.now.wall
            && self.clock.now().monotonic.since(binding.resolved_at.monotonic) <= self.binding_for
            && query.newer_than.is_none_or(|than| binding.resolved_at.monotonic > than.plus(SKEW))
        {
            return Ok(TokenOwner::Session(Arc::new(binding)));
        }
        let owner = self.next.resolve(&query).wait().await?;
        if let TokenOwner::Session(binding) = &owner {
            let (link, binding) = (self.link.clone(), Arc::clone(binding));
            let life = self.life(self.binding_for, binding.resolved_at);
            let plain = record::write_owner(&binding, self.binding_for);
            tokio::spawn(async move { link.write(&name, binding.resolved_at.wall, &plain, life).await });
        }
        Ok(owner)
    }

    /// What is left of `life` for something that was asked for at `sent`.
    fn life(&self, life: Duration, sent: Now) -> Duration {
        life.saturating_sub(self.clock.now().monotonic.since(sent.monotonic))
    }

    fn count(&self, result: &str) {
        self.lookups.with_label_values(&["shared", result]).inc();
    }
}

impl KeyVault for RedisLink {
    fn keep(&self, key_set: Vec<u8>) {
        let link = self.clone();
        tokio::spawn(async move {
            let now = link.0.clock.now();
            let name = link.name("keys", &[]);
            link.write(&name, now.wall, &key_set, KEEP_KEYS_FOR).await;
        });
    }

    fn kept(&self) -> Answer<Option<Vec<u8>>> {
        let link = self.clone();
        Answer::pending(async move {
            Ok(match link.read(&link.name("keys", &[])).await {
                Read::Found(opened) => Some(opened.plain),
                _ => None,
            })
        })
    }
}
