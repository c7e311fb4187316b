//! What replicas tell each other over Redis: that something was revoked, and that they are there.
//!
//! Must not act on a message; whoever listens does. A message that does not open is none.

use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use redis::aio::PubSubStream;

use super::link::RedisLink;
use super::record::{BusEvent, BusMessage, read_message, write_message};

/// Revocations kept in the log for those who were away.
const MAX_LOGGED: isize = 10_000;

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

    /// Tells every replica that listens. True if Redis took it.
    pub async fn publish(&self, message: &SealedMessage) -> bool {
        let mut command = redis::cmd("PUBLISH");
        command.arg(self.channel()).arg(&message.sealed);
        self.on_bus::<i64>(command).await.is_some()
    }

    /// Writes a message into the log, which those read who were away. A full Redis keeps none, and the age of what is
    /// known bounds what they miss.
    pub async fn log(&self, message: &SealedMessage, horizon: Duration) {
        let (log, at) = (self.log_name(), message.published_at.as_millisecond());
        let oldest = at - i64::try_from(horizon.as_millis()).unwrap_or(i64::MAX);
        let life = u64::try_from(horizon.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut pipe = redis::pipe();
        pipe.cmd("ZADD").arg(&log).arg(at).arg(&message.sealed).ignore();
        pipe.cmd("ZREMRANGEBYSCORE").arg(&log).arg("-inf").arg(format!("({oldest}")).ignore();
        pipe.cmd("ZREMRANGEBYRANK").arg(&log).arg(0).arg(-MAX_LOGGED - 1).ignore();
        pipe.cmd("PEXPIRE").arg(&log).arg(life).ignore();
        self.several_on_bus(pipe).await;
    }

    /// A sign of life that comes back to whoever listens, ourselves included.
    pub async fn tick(&self) -> bool {
        match self.seal_message(BusEvent::Tick, self.0.clock.now().wall) {
            Some(message) => self.publish(&message).await,
            None => false,
        }
    }

    /// What was announced since `horizon` ago, and whether that is all of it. `None` if Redis did not answer.
    pub async fn announced(&self, horizon: Duration) -> Option<(Vec<BusMessage>, bool)> {
        let since = self.0.clock.now().minus(horizon).wall.as_millisecond();
        let mut command = redis::cmd("ZRANGEBYSCORE");
        command.arg(self.log_name()).arg(since).arg("+inf");
        let sealed: Vec<Vec<u8>> = self.on_bus(command).await?;
        let whole = isize::try_from(sealed.len()).is_ok_and(|count| count < MAX_LOGGED);
        Some((sealed.iter().filter_map(|sealed| self.opened(sealed)).collect(), whole))
    }

    /// Begins to listen. `None` if Redis cannot be reached.
    pub async fn subscribe(&self) -> Option<Subscription> {
        let begin = async {
            let mut pubsub = self.0.client.get_async_pubsub().await.ok()?;
            pubsub.subscribe(self.channel()).await.ok()?;
            Some(Subscription { link: self.clone(), messages: pubsub.into_on_message() })
        };
        tokio::time::timeout(Duration::from_secs(2), begin).await.ok().flatten()
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

impl Subscription {
    /// The next message that opens; `None` once the connection ended.
    pub async fn next(&mut self) -> Option<BusMessage> {
        loop {
            let message = self.messages.next().await?;
            if let Some(message) = self.link.opened(message.get_payload_bytes()) {
                return Some(message);
            }
        }
    }
}
