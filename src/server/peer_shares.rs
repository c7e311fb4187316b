//! How many connections each address holds, and the bound on that.
//!
//! Must not grow past the connections there are: an address without one is forgotten.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use super::ListenerSettings;

type Held = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// The shares of all addresses. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Shares(Held);

/// One connection's part of its address's share, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share(Option<(Held, IpAddr)>);

impl Shares {
    /// A share of the address a connection comes from, or is made for by a listed proxy. None, and a line in the log, where
    /// the address has as many as it may.
    pub(super) fn admit(&self, address: IpAddr, settings: &ListenerSettings) -> Option<Share> {
        if settings.lists(address) {
            return Some(Share::exempt());
        }
        let most = settings.limits.max_connections_per_peer;
        let share = self.take(address, most);
        if share.is_none() {
            tracing::warn!(
                listener = %settings.name,
                %address,
                limit = most,
                "a connection was refused: its address holds all that `limits.max_connections_per_peer` allows; list it under `forwarded` or `proxy_protocol` if it is a proxy"
            );
        }
        share
    }

    /// None where the address holds `most` already.
    fn take(&self, address: IpAddr, most: usize) -> Option<Share> {
        let address = network(address.to_canonical());
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Share(Some((Arc::clone(&self.0), address))))
    }
}

impl Share {
    /// Of a listed proxy, which has no bound of its own.
    pub(super) fn exempt() -> Self {
        Self(None)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some((held, address)) = &self.0 else { return };
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(address) {
            *count -= 1;
            if *count == 0 {
                held.remove(address);
            }
        }
    }
}

/// The address itself; of IPv6 the /64 it is in, all of which one host may use.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_taken_and_given_back() {
        let shares = Shares::default();
        let take = |text: &str| shares.take(text.parse().unwrap(), 2);
        let held = [take("2001:db8::1").unwrap(), take("2001:db8::2").unwrap()];
        assert!(take("2001:db8::3").is_none(), "one /64 is one peer");
        assert!(take("2001:db8:0:1::1").is_some() && take("192.0.2.1").is_some());
        drop(held);
        assert!(take("2001:db8::3").is_some());
        assert!(shares.0.lock().unwrap().is_empty());
    }
}
