//! The slot that a client connection occupies on its listener.
//!
//! Must not outlive the connection and what came of it: the limits count it until it is dropped.

use std::net::IpAddr;
use std::sync::OnceLock;

use prometheus::IntGauge;
use tokio::sync::OwnedSemaphorePermit;

use super::ListenerSettings;
use super::peer_limit::{PeerConnection, PeerLimits};

/// A slot among the connections of a listener, counted against the client's address as well. Freed when it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    _permit: OwnedSemaphorePermit,
    _peer: PeerConnection,
    limits: PeerLimits,
    /// The client that a listed proxy named, counted like a peer.
    client: OnceLock<PeerConnection>,
    open: IntGauge,
}

impl ConnectionSlot {
    /// Counts the connection in `open` until it is dropped.
    pub(super) fn new(
        permit: OwnedSemaphorePermit,
        peer: PeerConnection,
        limits: PeerLimits,
        open: IntGauge,
    ) -> Self {
        open.inc();
        Self { _permit: permit, _peer: peer, limits, client: OnceLock::new(), open }
    }

    /// Counts the connection against the client that a listed proxy names. Returns false if that client is at its limit.
    pub(super) fn count_client(&self, client: IpAddr, settings: &ListenerSettings) -> bool {
        let counted = self.limits.admit(client, settings);
        counted.is_some_and(|counted| self.client.set(counted).is_ok())
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.open.dec();
    }
}
