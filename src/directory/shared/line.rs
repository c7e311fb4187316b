//! One connection to Redis that is made when it is needed, and made anew when it is of no use.
//!
//! Must not wait: how long an exchange may take is for whoever makes it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, RedisError, RedisResult};

/// Refusals in a row after which the connection is given up. A connection that was refused while it was set up (a user
/// who is not there yet, too many clients) is never tried again by the library.
const REFUSALS: u32 = 5;
/// The least time between two connections made for that.
const PAUSE: Duration = Duration::from_secs(1);

/// The connection.
pub(super) struct Line {
    client: Client,
    config: ConnectionManagerConfig,
    manager: ArcSwap<ConnectionManager>,
    refusals: AtomicU32,
    renewed: Mutex<Instant>,
}

impl Line {
    /// Must be called inside a runtime.
    pub(super) fn new(client: &Client, connect: Duration, response: Duration) -> RedisResult<Self> {
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(connect))
            .set_response_timeout(Some(response))
            .set_number_of_retries(1);
        let manager = ConnectionManager::new_lazy_with_config(client.clone(), config.clone())?;
        Ok(Self {
            client: client.clone(),
            config,
            manager: ArcSwap::from_pointee(manager),
            refusals: AtomicU32::new(0),
            renewed: Mutex::new(Instant::now()),
        })
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
        // A server that was made another's replica is the wrong one from now on, though it still answers.
        let wrong = error.code() == Some("READONLY");
        if self.refusals.fetch_add(1, Ordering::Relaxed) + 1 >= REFUSALS || wrong {
            self.renew(error);
        }
        true
    }

    fn renew(&self, error: &RedisError) {
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        if renewed.elapsed() < PAUSE {
            return;
        }
        *renewed = Instant::now();
        self.refusals.store(0, Ordering::Relaxed);
        if let Ok(manager) = ConnectionManager::new_lazy_with_config(self.client.clone(), self.config.clone())
        {
            tracing::warn!(%error, "redis refuses what it is asked; connecting anew");
            self.manager.store(Arc::new(manager));
        }
    }
}

/// Whether nothing came back.
fn is_lost(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_connection_refusal()
}
