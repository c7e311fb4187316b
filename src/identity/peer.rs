//! Whom an address belongs to, as far as it can be told.
//!
//! Must not take an address out of a header.

use std::net::{IpAddr, Ipv6Addr};

/// The address itself, or the /64 that one subscriber has of IPv6 (RFC 6177): what bounds on one caller are kept by.
pub fn network_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}
