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

impl RedisLink {
    /// Tells every replica, and writes it into the log that those read who come back. True if Redis took it.
    pub async fn announce(&self, event: &BusEvent, published_at: Timestamp, horizon: Duration) -> bool {
        let Some(sealed) = self.sealed(event.clone(), published_at) else { return false };
        let (log, channel) = (self.log(), self.channel());
        let oldest = published_at.as_millisecond() - i64::try_from(horizon.as_millis()).unwrap_or(i64::MAX);
        let life = u64::try_from(horizon.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut pipe = redis::pipe();
        pipe.cmd("ZADD").arg(&log).arg(published_at.as_millisecond()).arg(&sealed).ignore();
        pipe.cmd("ZREMRANGEBYSCORE").arg(&log).arg("-inf").arg(format!("({oldest}")).ignore();
        pipe.cmd("ZREMRANGEBYRANK").arg(&log).arg(0).arg(-MAX_LOGGED - 1).ignore();
        pipe.cmd("PEXPIRE").arg(&log).arg(life).ignore();
        pipe.cmd("PUBLISH").arg(&channel).arg(&sealed).ignore();
        self.run(pipe).await
    }

    /// A sign of life that comes back to whoever listens, ourselves included.
    pub async fn tick(&self) -> bool {
        let Some(sealed) = self.sealed(BusEvent::Tick, self.0.clock.now().wall) else { return false };
        let mut pipe = redis::pipe();
        pipe.cmd("PUBLISH").arg(self.channel()).arg(sealed).ignore();
        self.run(pipe).await
    }

    /// What was announced since `horizon` ago. `None` if Redis did not answer.
    pub async fn announced(&self, horizon: Duration) -> Option<Vec<BusMessage>> {
        let since = self.0.clock.now().minus(horizon).wall.as_millisecond();
        let log = self.log();
        let sealed = self.range_since(&log, since).await?;
        Some(sealed.iter().filter_map(|sealed| self.opened(sealed)).collect())
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

    fn sealed(&self, event: BusEvent, published_at: Timestamp) -> Option<Vec<u8>> {
        let message = BusMessage { replica: self.0.replica, published_at, event };
        self.0.seal.seal(&self.channel(), &write_message(&message))
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

    fn log(&self) -> String {
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
