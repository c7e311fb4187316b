//! The refusals of the last while, for whoever looks at the gateway and wonders.
//!
//! Must not hold a credential, a query, or all of an id.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;

/// How many are kept.
const KEPT: usize = 100;
/// How many are taken in a second: a flood must not push everything else out at once, nor cost anything.
const A_SECOND: u32 = 20;

/// What was refused, the newest last. Cheap to clone.
#[derive(Clone, Default)]
pub struct RecentRefusals(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    refusals: VecDeque<RefusalRecord>,
    second: Option<Instant>,
    taken: u32,
}

/// One refusal.
#[derive(Debug, Clone, Serialize)]
pub struct RefusalRecord {
    pub at: Timestamp,
    pub request_id: String,
    pub route: String,
    pub method: String,
    pub host: String,
    pub path: String,
    pub reason: &'static str,
    /// The network it came from: a /24, or a /48 of IPv6.
    pub from: Option<String>,
    /// The ends of the ids.
    pub organization: Option<String>,
    pub member: Option<String>,
    /// How old the evidence was, in seconds.
    pub evidence_age: Option<f64>,
}

impl RecentRefusals {
    /// Takes one, if there were not too many in this second.
    pub fn note(&self, refusal: impl FnOnce() -> RefusalRecord) {
        let mut kept = self.lock();
        if kept.second.is_none_or(|began| began.elapsed() >= Duration::from_secs(1)) {
            (kept.second, kept.taken) = (Some(Instant::now()), 0);
        }
        if kept.taken >= A_SECOND {
            return;
        }
        kept.taken += 1;
        if kept.refusals.len() >= KEPT {
            kept.refusals.pop_front();
        }
        kept.refusals.push_back(refusal());
    }

    /// All of them, the newest first.
    pub fn newest(&self) -> Vec<RefusalRecord> {
        self.lock().refusals.iter().rev().cloned().collect()
    }

    pub fn find(&self, request_id: &str) -> Option<RefusalRecord> {
        self.lock().refusals.iter().find(|refusal| refusal.request_id == request_id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RefusalRecord {
    /// The network of an address, coarse enough to name nobody.
    pub fn network(address: std::net::IpAddr) -> String {
        match address {
            std::net::IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                format!("{a}.{b}.{c}.0/24")
            }
            std::net::IpAddr::V6(address) => {
                let [a, b, c, ..] = address.segments();
                format!("{a:x}:{b:x}:{c:x}::/48")
            }
        }
    }

    /// The end of an id: enough to tell it from another, not to use it.
    pub fn tail(id: &str) -> String {
        let from = id.char_indices().rev().nth(5).map_or(0, |(at, _)| at);
        format!("…{}", id.get(from..).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(number: usize) -> RefusalRecord {
        RefusalRecord {
            at: Timestamp::UNIX_EPOCH,
            request_id: number.to_string(),
            route: String::new(),
            method: String::new(),
            host: String::new(),
            path: String::new(),
            reason: "role_missing",
            from: None,
            organization: None,
            member: None,
            evidence_age: None,
        }
    }

    #[test]
    fn a_flood_does_not_push_everything_out() {
        let refusals = RecentRefusals::default();
        (0..10_000).for_each(|number| refusals.note(|| refusal(number)));
        let newest = refusals.newest();
        assert!(newest.len() < KEPT, "{}", newest.len());
        assert_eq!(newest.last().unwrap().request_id, "0");
        assert!(refusals.find("0").is_some() && refusals.find("9999").is_none());
    }

    #[test]
    fn what_is_shown_of_ids_and_addresses_names_nobody() {
        assert_eq!(RefusalRecord::tail("member-live-0123456789abcdef"), "…abcdef");
        assert_eq!(RefusalRecord::tail("abc"), "…abc");
        assert_eq!(RefusalRecord::network("203.0.113.7".parse().unwrap()), "203.0.113.0/24");
        assert_eq!(RefusalRecord::network("2001:db8:1:2::3".parse().unwrap()), "2001:db8:1::/48");
    }
}
