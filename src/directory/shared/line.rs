//! One connection to Redis that is made when it is needed, and made anew when it is of no use.
//!
//! Must not wait: how long an exchange may take is for whoever makes it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, RedisError, RedisResult};

/// Refusals in a row after which the connection is given up. A connection that was refused while it was set up (a user
/// who is not there yet, too many clients) is never tried again by the library.
const REFUSALS: u32 = 5;

/// The connection.
pub(super) struct Line {
    client: Client,
    config: ConnectionManagerConfig,
    manager: ArcSwap<ConnectionManager>,
    refusals: AtomicU32,
}

impl Line {
    /// Must be called inside a runtime.
    pub(super) fn new(client: &Client, connect: Duration, response: Duration) -> RedisResult<Self> {
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(connect))
            .set_response_timeout(Some(response))
            .set_number_of_retries(1);
        let manager = ConnectionManager::new_lazy_with_config(client.clone(), config.clone())?;
        let (client, refusals) = (client.clone(), AtomicU32::new(0));
        Ok(Self { client, config, manager: ArcSwap::from_pointee(manager), refusals })
    }

    pub(super) fn connection(&self) -> ConnectionManager {
        ConnectionManager::clone(&self.manager.load())
    }

    /// Notes what an exchange over it came to. True if the far end answered, be it with an error of its own.
    pub(super) fn note<T>(&self, result: &RedisResult<T>) -> bool {
        let Err(error) = result else {
            self.refusals.store(0, Ordering::Relaxed);
            return true;
        };
        tracing::debug!(%error, "redis failed");
        if is_lost(error) {
            return false;
        }
        if self.refusals.fetch_add(1, Ordering::Relaxed) + 1 >= REFUSALS {
            self.refusals.store(0, Ordering::Relaxed);
            if let Ok(manager) =
                ConnectionManager::new_lazy_with_config(self.client.clone(), self.config.clone())
            {
                tracing::warn!(%error, "redis refuses everything; connecting anew");
                self.manager.store(std::sync::Arc::new(manager));
            }
        }
        true
    }
}

/// Whether nothing came back.
fn is_lost(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_connection_refusal()
}
