//! How many unknown opaque tokens may be asked about: from one address, from one network, and from all together.
//!
//! Must not count a token that turned out to be good, nor let the junk of one address or network use up what others need.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::sync::Cache;

use super::UnknownTokenSettings;
use crate::identity::{MemberRef, Monotonic, network_of};

/// Addresses remembered for asking about unknown tokens.
const MAX_PEERS: u64 = 10_000;
/// How long an address that sent unknown tokens is remembered.
const REMEMBER_FOR: Duration = Duration::from_secs(60);
/// How long an address that showed something genuine is remembered for it.
const PROVEN_FOR: Duration = Duration::from_secs(3_600);
/// The part of what is for all that are new which one network (IPv4: a /24, IPv6: a /48) may use up, and the least of it
/// in tokens a second.
const OF_NETWORK: f64 = 8.0;
const LEAST_OF_NETWORK: f64 = 0.4;
/// The part of all that is for members whose own expired JWT came beside the token, and of that for one member.
const OF_MEMBERS: f64 = 8.0;
const OF_MEMBER: f64 = 8.0;
/// How much more a token costs while the API limits the lookups that everybody needs.
const COST_WHILE_LIMITED: f64 = 8.0;
/// Seconds' worth that may be spent at once.
const BURST: f64 = 20.0;

/// The budgets of unknown tokens.
pub struct Attempts {
    settings: UnknownTokenSettings,
    /// Addresses that ask about tokens nothing is known of, or did lately.
    peers: Cache<IpAddr, Arc<Peer>>,
    /// Addresses that showed something genuine lately: whoever floods us from elsewhere takes nothing from them.
    proven: Cache<IpAddr, ()>,
    /// Wider networks that addresses nothing is known of ask from.
    wide: Cache<IpAddr, Arc<Mutex<Budget>>>,
    /// Members whose own expired JWT came beside the token.
    members: Cache<MemberRef, Arc<Mutex<Budget>>>,
    /// Until when unknown tokens cost more, in milliseconds of the monotonic clock.
    held_back_until: AtomicU64,
    for_suspects: Mutex<Budget>,
    /// For addresses nothing is known of, so that a flood from suspects does not shut out the first token of a new one.
    for_strangers: Mutex<Budget>,
    for_proven: Mutex<Budget>,
    /// For members whose own expired JWT came beside the token.
    for_members: Mutex<Budget>,
}

/// One address.
struct Peer {
    budget: Arc<Mutex<Budget>>,
    /// It sent a token that was nobody's.
    suspect: AtomicBool,
    /// Its questions that are not answered yet.
    under_way: AtomicU32,
}

/// Tokens left, and when that was so.
struct Budget {
    left: f64,
    at: Monotonic,
    per_second: f64,
}

/// What is known of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It sent unknown tokens lately.
    Suspect,
    /// Nothing.
    Stranger,
    /// It showed something genuine lately.
    Proven,
    /// A member's expired JWT came beside the token.
    Member,
}

impl Attempts {
    pub fn new(settings: UnknownTokenSettings) -> Self {
        let share = |of: f64| Mutex::new(Budget::full(f64::from(settings.in_total) / of));
        Self {
            peers: Cache::builder().max_capacity(MAX_PEERS).time_to_idle(REMEMBER_FOR).build(),
            proven: Cache::builder().max_capacity(MAX_PEERS).time_to_live(PROVEN_FOR).build(),
            wide: Cache::builder().max_capacity(MAX_PEERS).time_to_idle(REMEMBER_FOR).build(),
            members: Cache::builder().max_capacity(MAX_PEERS).time_to_idle(REMEMBER_FOR).build(),
            held_back_until: AtomicU64::new(0),
            for_suspects: share(4.0),
            for_strangers: share(4.0),
            for_proven: share(8.0 / 3.0),
            for_members: share(OF_MEMBERS),
            settings,
        }
    }

    /// Notes that somebody at `peer` showed a genuine credential that was not seen before. Of an address that sends junk
    /// as well, the junk counts.
    pub fn vouch(&self, peer: IpAddr, now: Monotonic) {
        let network = network_of(peer);
        if !self.peers.get(&network).is_some_and(|peer| peer.is_spent(now)) {
            self.proven.insert(network, ());
        }
    }

    /// Notes that the API limits session lists: until then, tokens of addresses that are not known for good are asked about
    /// an eighth as often, since the API counts all calls of a project together.
    pub(super) fn hold_back(&self, until: Monotonic) {
        let until = u64::try_from(until.since(Monotonic::default()).as_millis()).unwrap_or(u64::MAX);
        self.held_back_until.fetch_max(until, Ordering::Relaxed);
    }

    /// Leave to ask about a token that came beside a genuine JWT that expired lately: it draws on that member's own budget,
    /// and on what is for all such members, of which one may use an eighth.
    pub(super) fn admit_member(
        self: &Arc<Self>,
        member: &MemberRef,
        now: Monotonic,
    ) -> Result<Attempt, Duration> {
        let part = f64::from(self.settings.in_total) / OF_MEMBERS / OF_MEMBER;
        let per_second = f64::from(self.settings.per_peer).min(part.max(LEAST_OF_NETWORK));
        let budget = self.members.get_with_by_ref(member, || Arc::new(Mutex::new(Budget::full(per_second))));
        let wait = lock(&budget).wait(now).or_else(|| lock(&self.for_members).wait(now));
        if let Some(wait) = wait {
            return Err(wait);
        }
        let cost = self.cost(now);
        let charged = vec![(Charged::Own(budget), cost), (Charged::Pool(Standing::Member), cost)];
        for (budget, cost) in &charged {
            self.charge(budget, *cost);
        }
        Ok(Attempt { attempts: Arc::clone(self), network: None, peer: None, charged, spent: false })
    }

    /// Leave to ask about a token that nothing is known of, or how long to wait for it.
    pub(super) fn admit(self: &Arc<Self>, peer: Option<IpAddr>, now: Monotonic) -> Result<Attempt, Duration> {
        let network = peer.map(network_of);
        let peer = network.map(|network| {
            let budget = || Arc::new(Mutex::new(Budget::full(f64::from(self.settings.per_peer))));
            self.peers.get_with(network, || {
                let suspect = AtomicBool::new(false);
                let under_way = AtomicU32::new(0);
                Arc::new(Peer { budget: budget(), suspect, under_way })
            })
        });
        let is_proven = network.is_some_and(|network| self.proven.contains_key(&network));
        let under_way = peer.as_ref().map_or(0, |peer| peer.under_way.load(Ordering::Relaxed));
        let mut standing = match &peer {
            Some(_) if is_proven && f64::from(under_way) < self.most_under_way() => Standing::Proven,
            Some(peer) if is_proven || peer.suspect.load(Ordering::Relaxed) => Standing::Suspect,
            // One address must not use up at once what is for all that are new.
            _ if under_way >= 2 => Standing::Suspect,
            _ => Standing::Stranger,
        };
        // An address that is known for good may have many people behind it: only its junk is counted.
        let prepaid = peer.as_ref().filter(|_| !is_proven).map(|peer| Arc::clone(&peer.budget));
        if let Some(wait) = prepaid.as_ref().and_then(|own| lock(own).wait(now)) {
            return Err(wait);
        }
        let wide = network.filter(|_| standing == Standing::Stranger).map(|network| self.wide(network));
        if wide.as_ref().is_some_and(|wide| lock(wide).wait(now).is_some()) {
            standing = Standing::Suspect;
        }
        if let Some(wait) = lock(self.pool(standing)).wait(now) {
            if standing != Standing::Proven {
                return Err(wait);
            }
            standing = Standing::Suspect;
            if let Some(wait) = lock(self.pool(standing)).wait(now) {
                return Err(wait);
            }
        }
        // Taken before the answer is there: many at once must not all find the same one left.
        let cost = if standing == Standing::Proven { 1.0 } else { self.cost(now) };
        let mut charged = vec![(Charged::Pool(standing), cost)];
        charged
            .extend(wide.filter(|_| standing == Standing::Stranger).map(|wide| (Charged::Own(wide), cost)));
        charged.extend(prepaid.map(|own| (Charged::Own(own), 1.0)));
        for (budget, cost) in &charged {
            self.charge(budget, *cost);
        }
        if let Some(peer) = &peer {
            peer.under_way.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Attempt { attempts: Arc::clone(self), network, peer, charged, spent: false })
    }

    /// The budget of the wider network an address is in.
    fn wide(&self, network: IpAddr) -> Arc<Mutex<Budget>> {
        let per_second = f64::from(self.settings.in_total) / 4.0 / OF_NETWORK;
        let budget = || Arc::new(Mutex::new(Budget::full(per_second.max(LEAST_OF_NETWORK))));
        self.wide.get_with(wide_network_of(network), budget)
    }

    /// What one token costs that comes from nobody known for good.
    fn cost(&self, now: Monotonic) -> f64 {
        let until = u128::from(self.held_back_until.load(Ordering::Relaxed));
        if now.since(Monotonic::default()).as_millis() < until { COST_WHILE_LIMITED } else { 1.0 }
    }

    fn charge(&self, charged: &Charged, cost: f64) {
        match charged {
            Charged::Pool(standing) => lock(self.pool(*standing)).take(cost),
            Charged::Own(budget) => lock(budget).take(cost),
        }
    }

    /// Unanswered questions from which on even an address known for good draws on what is for suspects.
    fn most_under_way(&self) -> f64 {
        f64::from(self.settings.in_total) * BURST / 4.0
    }

    fn pool(&self, standing: Standing) -> &Mutex<Budget> {
        match standing {
            Standing::Suspect => &self.for_suspects,
            Standing::Stranger => &self.for_strangers,
            Standing::Proven => &self.for_proven,
            Standing::Member => &self.for_members,
        }
    }
}

impl Peer {
    /// Whether it sent more junk than one address may.
    fn is_spent(&self, now: Monotonic) -> bool {
        self.suspect.load(Ordering::Relaxed) && lock(&self.budget).wait(now).is_some()
    }
}

/// What an attempt was charged to.
enum Charged {
    Pool(Standing),
    Own(Arc<Mutex<Budget>>),
}

/// Leave to ask about one token. Given back when it is dropped, unless the token turned out to be nobody's.
pub(super) struct Attempt {
    attempts: Arc<Attempts>,
    network: Option<IpAddr>,
    peer: Option<Arc<Peer>>,
    charged: Vec<(Charged, f64)>,
    spent: bool,
}

impl Attempt {
    /// The token was nobody's.
    pub(super) fn spend(mut self, now: Monotonic) {
        self.spent = true;
        let Some((peer, network)) = self.peer.as_ref().zip(self.network) else { return };
        peer.suspect.store(true, Ordering::Relaxed);
        let is_charged = |(charged, _): &(Charged, f64)| match charged {
            Charged::Own(budget) => Arc::ptr_eq(budget, &peer.budget),
            Charged::Pool(_) => false,
        };
        if !self.charged.iter().any(is_charged) {
            lock(&peer.budget).take(1.0);
        }
        if peer.is_spent(now) {
            self.attempts.proven.invalidate(&network);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(peer) = &self.peer {
            peer.under_way.fetch_sub(1, Ordering::Relaxed);
        }
        if !self.spent {
            for (charged, cost) in &self.charged {
                self.attempts.charge(charged, -cost);
            }
        }
    }
}

/// The network that usually has one owner: of IPv4 the /24, of IPv6 the /48 (RFC 6177).
fn wide_network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            IpAddr::from([a, b, c, 0])
        }
        IpAddr::V6(address) => {
            let [a, b, c, ..] = address.segments();
            IpAddr::from([a, b, c, 0, 0, 0, 0, 0])
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
        (0..times).filter(|_| attempts.admit(peer, now).map(|attempt| attempt.spend(now)).is_ok()).count()
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
            |now| -> usize { (0..=255).map(|n| asked(&attempts, &format!("10.1.{n}.1"), 1, at(now))).sum() };
        assert_eq!(many(100), 100 - 11);
        assert!(many(101) <= 10);
    }

    #[test]
    fn an_address_known_for_good_keeps_its_own_share_whatever_others_send() {
        let attempts = Arc::new(Attempts::new(UnknownTokenSettings { per_peer: 10, in_total: 20 }));
        let office: IpAddr = "192.0.2.1".parse().unwrap();
        attempts.vouch(office, at(100));
        for n in 0..=255 {
            asked(&attempts, &format!("10.0.{n}.1"), 1_000, at(100));
        }
        assert!(attempts.admit(Some("192.0.2.2".parse().unwrap()), at(100)).is_err());
        // Many people behind it ask at once, and all their tokens are good.
        let many: Vec<_> = (0..100).map(|_| attempts.admit(Some(office), at(100)).ok().unwrap()).collect();
        drop(many);
        // Its junk costs it its good name, and a credential does not give that back while it goes on.
        assert_eq!(asked(&attempts, "192.0.2.1", 1_000, at(100)), 150);
        attempts.vouch(office, at(100));
        assert!(attempts.admit(Some(office), at(100)).is_err());
        // A little of it over hours is what every office has.
        let other: IpAddr = "192.0.2.3".parse().unwrap();
        attempts.vouch(other, at(200));
        for minute in 0..1_000 {
            assert_eq!(asked(&attempts, "192.0.2.3", 1, at(200 + 60 * minute)), 1);
        }
        assert!(attempts.proven.contains_key(&other));
    }

    #[test]
    fn one_address_cannot_use_up_at_once_what_is_for_all_that_are_new() {
        let attempts = Arc::new(Attempts::new(UnknownTokenSettings { per_peer: 2, in_total: 4 }));
        let held: Vec<_> =
            (0..40).map_while(|_| attempts.admit(Some("192.0.2.1".parse().unwrap()), at(100)).ok()).collect();
        assert_eq!(held.len(), 2 + 20, "two as a stranger, the rest out of what is for suspects");
        assert!(attempts.admit(Some("192.0.2.2".parse().unwrap()), at(100)).is_ok());
    }

    #[test]
    fn one_network_leaves_most_of_what_is_for_all_that_are_new() {
        let attempts = Arc::new(Attempts::new(UnknownTokenSettings { per_peer: 2, in_total: 50 }));
        // 420 addresses of two networks, all at once.
        let from = |n: usize| format!("198.51.{}.{}", 100 + n / 210, n % 210);
        let held: Vec<_> =
            (0..420).filter_map(|n| attempts.admit(Some(from(n).parse().unwrap()), at(100)).ok()).collect();
        let strangers =
            held.iter().filter(|held| matches!(held.charged[0].0, Charged::Pool(Standing::Stranger)));
        assert_eq!(
            strangers.count(),
            2 * 31,
            "an eighth of 250 each, and the rest out of what is for suspects"
        );
        held.into_iter().for_each(|attempt| attempt.spend(at(100)));
        for n in 0..180 {
            assert_eq!(asked(&attempts, &format!("203.0.{n}.1"), 1, at(100)), 1, "a new address elsewhere");
        }
        let six: Vec<_> = (0..300)
            .filter_map(|n| {
                attempts.admit(Some(format!("2001:db8:7:{n:x}::1").parse().unwrap()), at(200)).ok()
            })
            .filter(|held| matches!(held.charged[0].0, Charged::Pool(Standing::Stranger)))
            .collect();
        assert_eq!(six.len(), 31, "a /48 is one network");
    }

    #[test]
    fn a_members_expired_jwt_opens_its_own_budget_and_no_other() {
        let attempts = Arc::new(Attempts::new(UnknownTokenSettings { per_peer: 1, in_total: 20 }));
        for n in 0..=255 {
            asked(&attempts, &format!("10.0.{n}.1"), 100, at(100));
        }
        let peer = Some("192.0.2.1".parse().unwrap());
        assert!(attempts.admit(peer, at(100)).is_err());
        let member = |id: &str| {
            let member_id = crate::identity::MemberId::parse(id).unwrap();
            let organization_id = crate::identity::OrganizationId::parse("organization-test-1").unwrap();
            MemberRef { organization_id, member_id }
        };
        let tries = |id: &str| {
            (0..100)
                .filter(|_| attempts.admit_member(&member(id), at(100)).map(|one| one.spend(at(100))).is_ok())
                .count()
        };
        assert_eq!((tries("member-test-1"), tries("member-test-1"), tries("member-test-2")), (8, 0, 8));
        let others: usize = (3..20).map(|n| tries(&format!("member-test-{n}"))).sum();
        assert_eq!(others, 50 - 16, "an eighth of all for all members");
        assert!(attempts.admit(peer, at(100)).is_err());
    }

    #[test]
    fn while_lists_are_limited_unknown_tokens_cost_eight_times_as_much() {
        let attempts = Arc::new(Attempts::new(UnknownTokenSettings { per_peer: 50, in_total: 64 }));
        attempts.hold_back(at(110));
        let flood = |net: usize, now| -> usize {
            (0..64).map(|n| asked(&attempts, &format!("10.{net}.{n}.1"), 50, at(now))).sum()
        };
        assert_eq!(flood(1, 100), 2 * 320 / 8, "an eighth of what is for strangers and for suspects");
        let member = |n: usize| {
            let member_id = crate::identity::MemberId::parse(&format!("member-test-{n}")).unwrap();
            let organization_id = crate::identity::OrganizationId::parse("organization-test-1").unwrap();
            MemberRef { organization_id, member_id }
        };
        let members = (0..200)
            .filter(|n| attempts.admit_member(&member(*n), at(100)).map(|one| one.spend(at(100))).is_ok());
        assert_eq!(members.count(), 160 / 8, "of what is for members too");
        assert_eq!(flood(2, 1_000), 64 + 320, "and afterwards as before");
    }

    #[test]
    fn what_turned_out_to_be_good_or_our_own_trouble_leaves_no_trace() {
        let attempts = Arc::new(Attempts::new(UnknownTokenSettings { per_peer: 1, in_total: 20 }));
        for n in 0..=255 {
            asked(&attempts, &format!("10.0.0.{}", n % 8), 1_000, at(100));
        }
        // The suspects have nothing left; a new address whose lookups fail stays a stranger.
        for _ in 0..500 {
            drop(attempts.admit(Some("192.0.2.1".parse().unwrap()), at(100)).ok().unwrap());
        }
    }
}
