//! How many unknown opaque tokens may be asked about: from one address, and from all together.
//!
//! Must not count a token that turned out to be good, nor let one address's junk use up what others need.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::sync::Cache;

use super::UnknownTokenSettings;
use crate::identity::Monotonic;

/// Addresses remembered for having sent unknown tokens.
const MAX_PEERS: u64 = 10_000;
/// How long an address that sent unknown tokens is remembered.
const REMEMBER_FOR: Duration = Duration::from_secs(60);
/// How long an address that showed something genuine is remembered for it.
const PROVEN_FOR: Duration = Duration::from_secs(3_600);
/// Seconds' worth that may be spent at once.
const BURST: f64 = 20.0;

/// The budgets of unknown tokens.
pub struct Attempts {
    settings: UnknownTokenSettings,
    /// Addresses that sent unknown tokens lately.
    suspects: Peers,
    /// Addresses that showed something genuine lately: whoever floods us from elsewhere takes nothing from them.
    proven: Peers,
    for_suspects: Mutex<Budget>,
    /// For addresses nothing is known of, so that a flood from suspects does not shut out the first token of a new one.
    for_strangers: Mutex<Budget>,
    for_proven: Mutex<Budget>,
}

type Peers = Cache<IpAddr, Arc<Mutex<Budget>>>;

/// Tokens left, and when that was so.
struct Budget {
    left: f64,
    at: Monotonic,
    per_second: f64,
}

impl Attempts {
    pub fn new(settings: UnknownTokenSettings) -> Self {
        let share = |of: f64| Mutex::new(Budget::full(f64::from(settings.in_total) / of));
        Self {
            suspects: Cache::builder().max_capacity(MAX_PEERS).time_to_idle(REMEMBER_FOR).build(),
            proven: Cache::builder().max_capacity(MAX_PEERS).time_to_live(PROVEN_FOR).build(),
            for_suspects: share(4.0),
            for_strangers: share(4.0),
            for_proven: share(2.0),
            settings,
        }
    }

    /// Notes that somebody at `peer` showed a genuine credential that was not seen before.
    pub fn vouch(&self, peer: IpAddr) {
        // Many people may sit behind one address that is known for good.
        let share = f64::from(self.settings.in_total) / 4.0;
        self.proven.get_with(network(peer), || Arc::new(Mutex::new(Budget::full(share))));
    }

    /// Leave to ask about a token that nothing is known of, or how long to wait for it.
    pub(super) fn admit(self: &Arc<Self>, peer: Option<IpAddr>, now: Monotonic) -> Result<Attempt, Duration> {
        let (standing, own) = self.standing(peer.map(network));
        let wait = own.as_ref().and_then(|own| lock(own).wait(now));
        if let Some(wait) = wait.or_else(|| lock(self.pool(standing)).wait(now)) {
            return Err(wait);
        }
        let attempt = Attempt { attempts: Arc::clone(self), standing, own, spent: false };
        // Taken before the answer is there: many at once must not all find the same one left.
        attempt.take(1.0);
        Ok(attempt)
    }

    fn standing(&self, network: Option<IpAddr>) -> (Standing, Option<Arc<Mutex<Budget>>>) {
        let Some(network) = network else { return (Standing::Stranger, None) };
        if let Some(own) = self.proven.get(&network) {
            return (Standing::Proven, Some(own));
        }
        if let Some(own) = self.suspects.get(&network) {
            return (Standing::Suspect, Some(own));
        }
        // The first of a stranger; a second one before it is answered for is no stranger's any more.
        let full = || Arc::new(Mutex::new(Budget::full(f64::from(self.settings.per_peer))));
        (Standing::Stranger, Some(self.suspects.get_with(network, full)))
    }

    fn pool(&self, standing: Standing) -> &Mutex<Budget> {
        match standing {
            Standing::Suspect => &self.for_suspects,
            Standing::Stranger => &self.for_strangers,
            Standing::Proven => &self.for_proven,
        }
    }
}

/// What is known of an address.
#[derive(Debug, Clone, Copy)]
enum Standing {
    /// It sent unknown tokens lately, or is about to have.
    Suspect,
    /// Nothing.
    Stranger,
    /// It showed something genuine lately.
    Proven,
}

/// Leave to ask about one token. Given back when it is dropped, unless the token turned out to be nobody's.
pub(super) struct Attempt {
    attempts: Arc<Attempts>,
    standing: Standing,
    own: Option<Arc<Mutex<Budget>>>,
    spent: bool,
}

impl Attempt {
    /// The token was nobody's.
    pub(super) fn spend(mut self) {
        self.spent = true;
    }

    fn take(&self, count: f64) {
        lock(self.attempts.pool(self.standing)).take(count);
        if let Some(own) = &self.own {
            lock(own).take(count);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.spent {
            self.take(-1.0);
        }
    }
}

impl Budget {
    fn full(per_second: f64) -> Self {
        Self { left: per_second * BURST, at: Monotonic::default(), per_second }
    }

    fn refill(&mut self, now: Monotonic) {
        let passed = now.since(self.at).as_secs_f64();
        self.left = (self.left + passed * self.per_second).min(self.per_second * BURST);
        self.at = self.at.max(now);
    }

    fn wait(&mut self, now: Monotonic) -> Option<Duration> {
        self.refill(now);
        (self.left < 1.0).then(|| {
            Duration::try_from_secs_f64((1.0 - self.left) / self.per_second.max(0.001)).unwrap_or_default()
        })
    }

    fn take(&mut self, count: f64) {
        self.left = (self.left - count).min(self.per_second * BURST);
    }
}

/// One address, or the /64 that one subscriber has of IPv6 (RFC 6177).
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

fn lock(budget: &Mutex<Budget>) -> std::sync::MutexGuard<'_, Budget> {
    budget.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic::at(Duration::from_secs(seconds))
    }

    fn asked(attempts: &Arc<Attempts>, peer: &str, times: usize, now: Monotonic) -> usize {
        let peer = Some(peer.parse().unwrap());
        (0..times).filter(|_| attempts.admit(peer, now).map(Attempt::spend).is_ok()).count()
    }

    #[test]
    fn one_address_is_bounded_and_its_neighbour_is_not() {
        let attempts = Arc::new(Attempts::new(UnknownTokenSettings { per_peer: 1, in_total: 50 }));
        assert_eq!(asked(&attempts, "192.0.2.1", 1_000, at(100)), 20);
        assert_eq!(asked(&attempts, "192.0.2.1", 1_000, at(105)), 5);
        assert_eq!(asked(&attempts, "192.0.2.2", 3, at(105)), 3);
        let six = |last: u16| format!("2001:db8::{last:x}");
        assert_eq!((0..1_000).map(|n| asked(&attempts, &six(n), 1, at(100))).sum::<usize>(), 20);
    }

    #[test]
    fn all_together_are_bounded_and_a_new_address_still_gets_its_first_try() {
        let attempts = Arc::new(Attempts::new(UnknownTokenSettings { per_peer: 10, in_total: 20 }));
        // A quarter of the total is for addresses nothing is known of, a quarter for those that sent unknown tokens.
        let few: usize = (0..10).map(|n| asked(&attempts, &format!("10.0.0.{n}"), 1_000, at(100))).sum();
        assert_eq!(few, 10 + 100);
        assert_eq!(asked(&attempts, "192.0.2.9", 1, at(100)), 1);
        let many =
            |now| -> usize { (0..=255).map(|n| asked(&attempts, &format!("10.1.0.{n}"), 1, at(now))).sum() };
        assert_eq!(many(100), 100 - 11);
        assert!(many(101) <= 10);
    }

    #[test]
    fn an_address_known_for_good_keeps_its_own_share_whatever_others_send() {
        let attempts = Arc::new(Attempts::new(UnknownTokenSettings { per_peer: 10, in_total: 20 }));
        attempts.vouch("192.0.2.1".parse().unwrap());
        for n in 0..=255 {
            asked(&attempts, &format!("10.0.0.{n}"), 1_000, at(100));
        }
        assert!(attempts.admit(Some("192.0.2.2".parse().unwrap()), at(100)).is_err());
        assert_eq!(asked(&attempts, "192.0.2.1", 1_000, at(100)), 100, "and no more than that");
    }
}
