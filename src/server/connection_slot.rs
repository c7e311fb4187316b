//! The slot that a client connection occupies on its listener.
//!
//! Must not outlive the connection and what came of it: the limits count it until it is dropped.

use std::net::IpAddr;
use std::sync::OnceLock;

use prometheus::IntGauge;
use tokio::sync::OwnedSemaphorePermit;

use super::ListenerSettings;
use super::peer_shares::{Share, Shares};

/// A slot among the connections of a listener, and its part of the client's share. Given back when it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    _permit: OwnedSemaphorePermit,
    _share: Share,
    shares: Shares,
    /// The share it counts against where a listed proxy names the client.
    client_share: OnceLock<Share>,
    open: IntGauge,
}

impl ConnectionSlot {
    /// Counts one more connection in `open` until it is dropped.
    pub(super) fn new(permit: OwnedSemaphorePermit, share: Share, shares: Shares, open: IntGauge) -> Self {
        open.inc();
        Self { _permit: permit, _share: share, shares, client_share: OnceLock::new(), open }
    }

    /// Counts the connection against the share of the client that a listed proxy names; false where that is used up.
    pub(super) fn count_client(&self, client: IpAddr, settings: &ListenerSettings) -> bool {
        let share = self.shares.admit(client, settings);
        share.is_some_and(|share| self.client_share.set(share).is_ok())
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.open.dec();
    }
}
