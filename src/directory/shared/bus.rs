//! What replicas tell each other over Redis: that something was revoked, and that they are there.
//!
//! Must not act on a message; whoever listens does. A message that does not open is none.

use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use redis::aio::PubSubStream;

use super::link::{BusFault, RedisLink};
use super::record::{BusEvent, BusMessage, read_message, write_message};

/// Revocations kept in the log for those who were away.
const MAX_LOGGED: isize = 10_000;

/// Why nothing can be heard.
#[derive(Debug, thiserror::Error)]
pub enum Deaf {
    #[error(transparent)]
    Refused(#[from] redis::RedisError),
    #[error("no answer came in time")]
    Silent,
}

/// An open ear on the bus.
pub struct Subscription {
    link: RedisLink,
    messages: PubSubStream,
}

/// A message ready to be published, as often as it takes: its copies are one message.
pub struct SealedMessage {
    sealed: Vec<u8>,
    published_at: Timestamp,
}

impl RedisLink {
    /// Seals `event` for the other replicas.
    pub fn seal_message(&self, event: BusEvent, published_at: Timestamp) -> Option<SealedMessage> {
        let message = BusMessage { replica: self.0.replica, id: fastrand::u64(..), published_at, event };
        let sealed = self.0.seal.seal(&self.channel(), &write_message(&message))?;
        Some(SealedMessage { sealed, published_at })
    }

    /// Tells every replica that listens, and those who come within `horizon`. True if it is also in the log, which those read
    /// who were away.
    pub async fn announce(&self, message: &SealedMessage, horizon: Duration) -> Result<bool, BusFault> {
        self.publish(message, horizon, false).await
    }

    /// Sends a sign of life on the way that revocations take; it comes back to every subscriber, this replica included. True if a
    /// revocation would be kept in the log.
    pub async fn tick(&self) -> Result<bool, BusFault> {
        let message = self.seal_message(BusEvent::Tick, self.0.clock.now().wall);
        self.publish(&message.ok_or(BusFault::Unsealed)?, Duration::ZERO, true).await
    }

    async fn publish(
        &self,
        message: &SealedMessage,
        horizon: Duration,
        is_tick: bool,
    ) -> Result<bool, BusFault> {
        let at = message.published_at.as_millisecond();
        let kept = i64::try_from(horizon.as_millis()).unwrap_or(i64::MAX);
        let mut call = self.0.announce.prepare_invoke();
        call.key(self.log_name()).arg(at).arg(&message.sealed).arg(at.saturating_sub(kept));
        call.arg(-MAX_LOGGED - 1).arg(kept.max(1)).arg(self.channel()).arg(u8::from(is_tick));
        let told =
            self.on_bus(|mut connection| async move { call.invoke_async::<u8>(&mut connection).await });
        told.await.map(|logged| logged == 1)
    }

    /// What was announced since `horizon` ago, and whether that is all of it. `None` if Redis did not answer.
    pub async fn announced(&self, horizon: Duration) -> Option<(Vec<BusMessage>, bool)> {
        let since = self.0.clock.now().minus(horizon).wall.as_millisecond();
        let mut command = redis::cmd("ZRANGEBYSCORE");
        command.arg(self.log_name()).arg(since).arg("+inf");
        let read = self.on_bus(|mut connection| async move { command.query_async(&mut connection).await });
        let sealed: Vec<Vec<u8>> = read.await.ok()?;
        let whole = isize::try_from(sealed.len()).is_ok_and(|count| count < MAX_LOGGED);
        let messages: Vec<BusMessage> = sealed.iter().filter_map(|sealed| self.opened(sealed)).collect();
        let whole = whole && messages.len() == sealed.len();
        Some((messages, whole))
    }

    /// Begins to listen.
    pub async fn subscribe(&self) -> Result<Subscription, Deaf> {
        let begin = async {
            let mut pubsub = self.0.client.get_async_pubsub().await?;
            pubsub.subscribe(self.channel()).await?;
            Ok(Subscription { link: self.clone(), messages: pubsub.into_on_message() })
        };
        tokio::time::timeout(Duration::from_secs(2), begin).await.unwrap_or(Err(Deaf::Silent))
    }

    fn opened(&self, sealed: &[u8]) -> Option<BusMessage> {
        let opened = self.0.seal.open(&self.channel(), sealed);
        if opened.is_none() {
            tracing::warn!("a message on the bus was not sealed by this deployment");
        }
        read_message(&opened?)
    }

    fn channel(&self) -> String {
        self.name("bus", &[])
    }

    fn log_name(&self) -> String {
        self.name("log", &[])
    }
}

/// What was heard.
pub enum Heard {
    Message(BusMessage),
    /// Something that does not open: said under a key that is not known here, or by nobody of this deployment.
    Unreadable,
}

impl Subscription {
    /// What is heard next; nothing once the connection ended.
    pub async fn next(&mut self) -> Option<Heard> {
        let message = self.messages.next().await?;
        Some(self.link.opened(message.get_payload_bytes()).map_or(Heard::Unreadable, Heard::Message))
    }
}
