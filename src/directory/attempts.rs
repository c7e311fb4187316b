//! How many unknown opaque tokens may be asked about: from one address, and from all together.
//!
//! Must not count a token that turned out to be good, nor let one address's junk use up what others need.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use moka::sync::Cache;

use super::UnknownTokenSettings;
use crate::identity::Monotonic;

/// Addresses remembered for having sent unknown tokens.
const MAX_PEERS: u64 = 10_000;
/// How long an address that sent unknown tokens is remembered.
const REMEMBER_FOR: Duration = Duration::from_secs(60);
/// Seconds' worth that may be spent at once.
const BURST: f64 = 20.0;

/// The budgets.
pub(super) struct Attempts {
    settings: UnknownTokenSettings,
    peers: Cache<IpAddr, std::sync::Arc<Mutex<Budget>>>,
    /// For addresses that sent unknown tokens before.
    known: Mutex<Budget>,
    /// For addresses that did not, so that a flood from many does not shut out the first token of a new one.
    new: Mutex<Budget>,
}

/// Tokens left, and when that was so.
struct Budget {
    left: f64,
    at: Monotonic,
    per_second: f64,
}

impl Attempts {
    pub(super) fn new(settings: UnknownTokenSettings) -> Self {
        let half = f64::from(settings.in_total) / 2.0;
        Self {
            peers: Cache::builder().max_capacity(MAX_PEERS).time_to_idle(REMEMBER_FOR).build(),
            known: Mutex::new(Budget::full(half)),
            new: Mutex::new(Budget::full(half)),
            settings,
        }
    }

    /// Whether a token that nothing is known of may be asked about. The wait until one may, if not.
    pub(super) fn admit(&self, peer: Option<IpAddr>, now: Monotonic) -> Result<(), Duration> {
        let own = peer.and_then(|peer| self.peers.get(&network(peer)));
        let wait = match own {
            Some(own) => lock(&own).wait(now).or_else(|| lock(&self.known).wait(now)),
            None => lock(&self.new).wait(now),
        };
        wait.map_or(Ok(()), Err)
    }

    /// Counts a token the directory does not know.
    pub(super) fn charge(&self, peer: Option<IpAddr>, now: Monotonic) {
        let Some(peer) = peer else {
            lock(&self.new).take(now);
            return;
        };
        let network = network(peer);
        let common = if self.peers.contains_key(&network) { &self.known } else { &self.new };
        lock(common).take(now);
        let full = || std::sync::Arc::new(Mutex::new(Budget::full(f64::from(self.settings.per_peer))));
        lock(&self.peers.get_with(network, full)).take(now);
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

    /// May go below nothing: calls under way at once are only counted when they come back.
    fn take(&mut self, now: Monotonic) {
        self.refill(now);
        self.left -= 1.0;
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
        Monotonic::after_start(Duration::from_secs(seconds))
    }

    fn asked(attempts: &Attempts, peer: &str, times: usize, now: Monotonic) -> usize {
        let peer = Some(peer.parse().unwrap());
        (0..times)
            .filter(|_| attempts.admit(peer, now).is_ok())
            .inspect(|_| attempts.charge(peer, now))
            .count()
    }

    #[test]
    fn one_address_is_bounded_and_its_neighbour_is_not() {
        let attempts = Attempts::new(UnknownTokenSettings { per_peer: 1, in_total: 50 });
        assert_eq!(asked(&attempts, "192.0.2.1", 1_000, at(100)), 20);
        assert_eq!(asked(&attempts, "192.0.2.1", 1_000, at(105)), 5);
        assert_eq!(asked(&attempts, "192.0.2.2", 3, at(105)), 3);
        let six = |last: u16| format!("2001:db8::{last:x}");
        assert_eq!((0..1_000).map(|n| asked(&attempts, &six(n), 1, at(100))).sum::<usize>(), 20);
    }

    #[test]
    fn all_together_are_bounded_and_a_new_address_still_gets_its_first_try() {
        let attempts = Attempts::new(UnknownTokenSettings { per_peer: 10, in_total: 10 });
        // Half of the total is for addresses never seen with an unknown token, half for the rest.
        let few: usize = (0..10).map(|n| asked(&attempts, &format!("10.0.0.{n}"), 1_000, at(100))).sum();
        assert_eq!(few, 10 + 100);
        assert_eq!(asked(&attempts, "192.0.2.9", 1, at(100)), 1);
        let many =
            |now| -> usize { (0..=255).map(|n| asked(&attempts, &format!("10.1.0.{n}"), 1, at(now))).sum() };
        assert_eq!(many(100), 100 - 11);
        assert!(many(101) <= 10);
    }
}
