//! `POST /.portcullis/webhooks/stytch`: takes deliveries of Stytch's webhooks.
//!
//! Must not act on a delivery that is not genuine, nor let strangers who begin deliveries keep genuine ones waiting.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use moka::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Refused, ReservedPages, ReservedRequest, answer};
use crate::identity::network_of;
use crate::policy::Reason;
use crate::revocation::{Signature, WebhookError};

/// The largest delivery read, in bytes: one entity and what is around it.
const MAX_DELIVERY_BYTES: usize = 256 * 1024;
/// How long a delivery may wait before it is read: its sender gives up after fifteen seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to arrive: genuine ones are sent in one go.
const ARRIVES_WITHIN: Duration = Duration::from_secs(2);
/// The same while others wait.
const ARRIVES_IN_A_CROWD: Duration = Duration::from_millis(250);
/// Deliveries read at once, and of those, from one address.
const AT_ONCE: usize = 64;
const AT_ONCE_FROM_ONE: usize = 32;
const MAX_PEERS: u64 = 10_000;

/// The places where deliveries are read.
pub(super) struct Deliveries {
    all: Arc<Semaphore>,
    peers: Cache<IpAddr, Arc<Semaphore>>,
}

impl Deliveries {
    pub(super) fn new() -> Self {
        let peers = Cache::builder().max_capacity(MAX_PEERS).time_to_idle(PATIENCE * 4).build();
        Self { all: Arc::new(Semaphore::new(AT_ONCE)), peers }
    }

    /// A place for one delivery of `peer`.
    async fn place(&self, peer: IpAddr) -> Result<[OwnedSemaphorePermit; 2], Reason> {
        let own = self.peers.get_with(network_of(peer), || Arc::new(Semaphore::new(AT_ONCE_FROM_ONE)));
        let places = async {
            // One's own first: whoever waits for that takes no place from others.
            let own = own.acquire_owned().await.ok()?;
            Some([own, Arc::clone(&self.all).acquire_owned().await.ok()?])
        };
        let places = tokio::time::timeout(PATIENCE, places).await;
        places.ok().flatten().ok_or(Reason::WebhookBusy)
    }

    /// How long the delivery of `peer` that has its place may take.
    fn patience(&self, peer: IpAddr) -> Duration {
        let own = self.peers.get(&network_of(peer)).map_or(AT_ONCE_FROM_ONE, |own| own.available_permits());
        let crowded = own < AT_ONCE_FROM_ONE / 2 || self.all.available_permits() < AT_ONCE / 2;
        if crowded { ARRIVES_IN_A_CROWD } else { ARRIVES_WITHIN }
    }
}

impl ReservedPages {
    pub(super) async fn webhook(&self, asked: &mut ReservedRequest<'_>) -> Result<Response<Bytes>, Refused> {
        let signature = signature(&asked.head.headers).ok_or(Reason::WebhookInvalid)?;
        if !self.revocations.is_timely(&signature) {
            return Err(Reason::WebhookInvalid.into());
        }
        // Where the sender is not known, whoever brought it counts.
        let peer = asked.peer.address.unwrap_or(asked.peer.socket);
        let _places = self.deliveries.place(peer).await?;
        let body = match asked.body.take() {
            Some(body) => read(body, self.deliveries.patience(peer)).await?,
            None => Bytes::new(),
        };
        self.revocations.deliver(&body, &signature).map_err(|error| {
            if error != WebhookError::Signature {
                tracing::warn!(%error, "a genuine webhook delivery was not taken");
            }
            Refused::from(Reason::WebhookInvalid)
        })?;
        Ok(answer(StatusCode::OK, "application/json", "{}"))
    }
}

/// The body, if it is no larger than a delivery may be.
async fn read(body: Incoming, patience: Duration) -> Result<Bytes, Reason> {
    let read = tokio::time::timeout(patience, Limited::new(body, MAX_DELIVERY_BYTES).collect()).await;
    match read {
        Err(_) => Err(Reason::RequestTimeout),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Reason::BodyTooLarge),
        Ok(Err(_)) => Err(Reason::RequestIncomplete),
    }
}

/// The three headers, under either of their names.
fn signature(headers: &HeaderMap) -> Option<Signature<'_>> {
    let either = |names: [&str; 2]| names.iter().find_map(|name| headers.get(*name))?.to_str().ok();
    Some(Signature {
        id: either(["svix-id", "webhook-id"])?,
        timestamp: either(["svix-timestamp", "webhook-timestamp"])?,
        signatures: either(["svix-signature", "webhook-signature"])?,
    })
}
