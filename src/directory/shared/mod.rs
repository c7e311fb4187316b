//! The tier in Redis, which replicas share: one asks the directory, the others read what it learnt.
//!
//! Must not fail a request, nor believe Redis: what does not open, is too old, or is older than asked for is not there.

mod bus;
mod line;
mod link;
mod record;
mod seal;

use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;

use super::{
    Answer, Clock, DirectoryError, KeyVault, MemorySettings, SessionDirectory, SessionQuery, Spelling,
    TokenOwner, TokenQuery,
};
use crate::identity::Now;
use crate::session::{ActiveSessions, Evidence, Revocation};
use crate::telemetry::Metrics;

pub use bus::{Deaf, Heard, SealedMessage, Subscription};
pub use link::{BusFault, RedisLink, SharedError};
pub use record::{BusEvent, BusMessage};
pub use seal::UnusableKey;

use link::{Opened, Read};

/// How often a record is looked for while another replica asks.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The longest wait for another replica's lookup.
const LONGEST_WAIT: Duration = Duration::from_millis(500);
/// What the dates of two replicas may be apart (section 4.3).
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
    lookups: Lookups,
}

/// How lookups ended, counted.
struct Lookups {
    hit: IntCounter,
    miss: IntCounter,
    forged: IntCounter,
    error: IntCounter,
}

/// What looking for a record came to.
enum Look {
    Fresh(ActiveSessions),
    Nothing,
    Unavailable,
}

/// Redis did not answer.
struct Unavailable;

impl Shared {
    /// `deadline` is that of one lookup of the tier below. `memory` says how long what is shared may matter.
    pub fn new(
        link: RedisLink,
        next: Arc<dyn SessionDirectory>,
        deadline: Duration,
        clock: Arc<dyn Clock>,
        memory: &MemorySettings,
        metrics: &Metrics,
    ) -> Self {
        let result = |result| metrics.session_lookups.with_label_values(&["shared", result]);
        let lookups = Lookups {
            hit: result("hit"),
            miss: result("miss"),
            forged: result("forged"),
            error: result("error"),
        };
        Self(Arc::new(Inner {
            link,
            next,
            clock,
            horizon: memory.horizon,
            binding_for: memory.token_binding_for,
            deadline,
            lookups,
        }))
    }
}

impl SessionDirectory for Shared {
    fn active_sessions(&self, query: &SessionQuery) -> Answer<Evidence> {
        let inner = Arc::clone(&self.0);
        let query = query.clone();
        Answer::pending(async move { inner.list(query).await })
    }

    fn resolve(&self, query: &TokenQuery) -> Answer<TokenOwner> {
        let inner = Arc::clone(&self.0);
        let query = query.clone();
        Answer::pending(async move { inner.owner(query).await })
    }

    fn last_known(&self, query: &SessionQuery) -> Answer<Option<Evidence>> {
        let inner = Arc::clone(&self.0);
        let query = query.clone();
        Answer::pending(async move {
            if query.spelling == Spelling::AsWritten {
                return Ok(None);
            }
            let found = inner.found(&inner.name_of(&query), &query).await.unwrap_or_default();
            Ok(found.map(|list| Evidence::Sessions(Arc::new(list))))
        })
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
        let name = self.name_of(&query);
        // What must be newer than a moment ago cannot be there, nor come of a lookup that began before.
        let now = self.clock.now().monotonic;
        let may_share = query.newer_than.is_none_or(|than| now.since(than) > SKEW);
        let mut leased = None;
        if may_share {
            match self.look(&name, &query).await {
                Look::Fresh(list) => return Ok(Evidence::Sessions(Arc::new(list))),
                Look::Nothing => {
                    self.lookups.miss.inc();
                    leased = self.link.lease(&name, self.deadline).await;
                    if leased == Some(false)
                        && let Some(list) = self.wait_for_other(&name, &query).await
                    {
                        return Ok(Evidence::Sessions(Arc::new(list)));
                    }
                }
                Look::Unavailable => {}
            }
        }
        let answer = self.next.active_sessions(&query).wait().await;
        match &answer {
            Ok(Evidence::Sessions(list)) => self.keep(&name, list),
            Ok(Evidence::NoSuchMember(_)) => self.remove(&name),
            _ if leased == Some(true) => self.let_go(&name),
            _ => {}
        }
        answer
    }

    fn name_of(&self, query: &SessionQuery) -> String {
        let member = &query.member;
        self.link.name_with_claims("list", &[member.organization_id.as_str(), member.member_id.as_str()])
    }

    /// A record that is fresh enough to be served without asking.
    async fn look(&self, name: &str, query: &SessionQuery) -> Look {
        let bound = query.freshness.fresh_for.min(query.freshness.max_staleness);
        match self.found(name, query).await {
            Ok(Some(found)) if found.age(self.clock.now().monotonic) <= bound => {
                self.lookups.hit.inc();
                Look::Fresh(found)
            }
            Ok(_) => Look::Nothing,
            Err(Unavailable) => Look::Unavailable,
        }
    }

    /// Waits until another replica's lookup landed, or was given up.
    async fn wait_for_other(&self, name: &str, query: &SessionQuery) -> Option<ActiveSessions> {
        let patience = tokio::time::Instant::now() + (self.deadline / 2).min(LONGEST_WAIT);
        let mut pause = LOOK_EVERY;
        while tokio::time::Instant::now() < patience {
            tokio::time::sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
            let leased = self.link.is_leased(name).await?;
            // Looked at after the lease: whoever writes a record gives the lease back with it.
            if let Look::Fresh(list) = self.look(name, query).await {
                return Some(list);
            }
            if !leased {
                return None;
            }
            pause = (pause * 2).min(LOOK_EVERY * 8);
        }
        None
    }

    /// The record of that name, if it is about the member asked for and newer than asked for.
    async fn found(&self, name: &str, query: &SessionQuery) -> Result<Option<ActiveSessions>, Unavailable> {
        let Some(opened) = self.read(name).await? else { return Ok(None) };
        let mut list = record::read_list(&opened.plain, opened.left, self.clock.now());
        if let Some(list) = &mut list {
            // It was there before it was asked for, whatever the clock of its writer says.
            let before = query.now.monotonic.minus(Duration::from_nanos(1));
            list.fetched_at.monotonic = list.fetched_at.monotonic.min(before);
        }
        Ok(list.filter(|list| {
            // Two clocks dated the record and what it must be newer than.
            let new_enough = query.newer_than.is_none_or(|than| list.fetched_at.monotonic > than.plus(SKEW));
            list.member == query.member && new_enough
        }))
    }

    /// What is under that name, if it was sealed by this deployment.
    async fn read(&self, name: &str) -> Result<Option<Opened>, Unavailable> {
        match self.link.read(name).await {
            Read::Found(opened) => Ok(Some(opened)),
            Read::Nothing => Ok(None),
            Read::Forged => {
                self.lookups.forged.inc();
                Ok(None)
            }
            Read::Unavailable => {
                self.lookups.error.inc();
                Err(Unavailable)
            }
        }
    }

    /// Leaves a list for the others, behind the back of whoever waits for it here.
    fn keep(&self, name: &str, list: &Arc<ActiveSessions>) {
        let link = self.link.clone();
        let name = name.to_owned();
        let list = Arc::clone(list);
        let life = self.life(self.horizon, list.fetched_at);
        let plain = record::write_list(&list, self.horizon);
        tokio::spawn(async move { link.write(&name, list.fetched_at.wall, &plain, life).await });
    }

    fn remove(&self, name: &str) {
        let link = self.link.clone();
        let name = name.to_owned();
        tokio::spawn(async move { link.remove(&name).await });
    }

    fn let_go(&self, name: &str) {
        let link = self.link.clone();
        let name = name.to_owned();
        tokio::spawn(async move { link.release(&name).await });
    }

    async fn owner(&self, query: TokenQuery) -> Result<TokenOwner, DirectoryError> {
        let digest = query.digest.to_hex();
        let name = self.link.name("owner", &[&digest]);
        if let Ok(Some(opened)) = self.read(&name).await
            && let Some(binding) = record::read_owner(&opened.plain, opened.left, self.clock.now())
            && binding.expires_at > query.now.no_earlier_than(binding.resolved_at).wall
            && self.clock.now().monotonic.since(binding.resolved_at.monotonic) <= self.binding_for
            && query.newer_than.is_none_or(|than| binding.resolved_at.monotonic > than.plus(SKEW))
        {
            return Ok(TokenOwner::Session(Arc::new(binding)));
        }
        let owner = self.next.resolve(&query).wait().await?;
        if let TokenOwner::Session(binding) = &owner {
            let link = self.link.clone();
            let binding = Arc::clone(binding);
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
}

impl KeyVault for RedisLink {
    fn keep(&self, key_set: Vec<u8>) {
        let link = self.clone();
        tokio::spawn(async move {
            let now = link.0.clock.now();
            let plain = record::write_keys(&key_set, now.wall, KEEP_KEYS_FOR);
            link.write(&link.name("keys", &[]), now.wall, &plain, KEEP_KEYS_FOR).await;
        });
    }

    fn kept(&self) -> Answer<Option<Vec<u8>>> {
        let link = self.clone();
        Answer::pending(async move {
            Ok(match link.read(&link.name("keys", &[])).await {
                Read::Found(opened) => record::read_keys(&opened.plain, opened.left, link.0.clock.now()),
                _ => None,
            })
        })
    }
}
