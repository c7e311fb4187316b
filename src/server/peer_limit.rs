//! Limits how many connections each address holds.
//!
//! Must not grow past the open connections: it forgets an address that has none.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use super::ListenerSettings;

type Held = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// The connections of every address. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct PeerLimits(Held);

/// One connection counted against its address until it is dropped.
#[derive(Debug)]
pub(super) struct PeerConnection(Option<(Held, IpAddr)>);

impl PeerLimits {
    /// Counts a connection against the address that it comes from, or that a listed proxy names. Returns none, and logs a
    /// line, if the address is at its limit.
    pub(super) fn admit(&self, address: IpAddr, settings: &ListenerSettings) -> Option<PeerConnection> {
        if settings.lists(address) {
            return Some(PeerConnection::exempt());
        }
        let most = settings.limits.max_connections_per_peer;
        let connection = self.take(address, most);
        if connection.is_none() {
            tracing::warn!(
                listener = %settings.name,
                %address,
                limit = most,
                "a connection was refused: its address holds all that `limits.max_connections_per_peer` allows; list it under `forwarded` or `proxy_protocol` if it is a proxy"
            );
        }
        connection
    }

    /// Returns none if the address already holds `most`.
    fn take(&self, address: IpAddr, most: usize) -> Option<PeerConnection> {
        let address = network(address.to_canonical());
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(PeerConnection(Some((Arc::clone(&self.0), address))))
    }
}

impl PeerConnection {
    /// A connection of a listed proxy, which has no limit.
    pub(super) fn exempt() -> Self {
        Self(None)
    }
}

impl Drop for PeerConnection {
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

/// The address that the limit counts: of IPv6 the /64, since one host may use all of it.
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
    fn an_address_is_held_to_its_limit() {
        let shares = PeerLimits::default();
        let take = |text: &str| shares.take(text.parse().unwrap(), 2);
        let held = [take("2001:db8::1").unwrap(), take("2001:db8::2").unwrap()];
        assert!(take("2001:db8::3").is_none(), "one /64 is one peer");
        assert!(take("2001:db8:0:1::1").is_some() && take("192.0.2.1").is_some());
        drop(held);
        assert!(take("2001:db8::3").is_some());
        assert!(shares.0.lock().unwrap().is_empty());
    }
}
