//! What is written into the shared tier: session lists, owners of tokens, revocations, each with its date.
//!
//! Must not believe a date ahead of the clock, nor a length that the bytes do not bear out.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::directory::TokenBinding;
use crate::identity::{MemberId, MemberRef, Now, OrganizationId, SessionId};
use crate::session::{ActiveSessions, RevocationTarget};

/// How far ahead of our clock a date may lie and still be believed (section 4.3).
const SKEW: Duration = Duration::from_secs(2);

/// A list as it is written. `life` is how long Redis was told to keep it.
pub(super) fn write_list(list: &ActiveSessions, life: Duration) -> Vec<u8> {
    let (bytes, symbols) = list.parts();
    let mut writer = Writer::dated(list.fetched_at.wall, life);
    writer.text(list.member.organization_id.as_str()).text(list.member.member_id.as_str());
    writer.number(u64::try_from(symbols.len()).unwrap_or(u64::MAX));
    for symbol in symbols.iter() {
        writer.text(symbol);
    }
    writer.bytes(bytes);
    writer.0
}

/// A list that was read back, dated by our own clocks. `left` is how long Redis says it will keep it.
pub(super) fn read_list(written: &[u8], left: Option<Duration>, now: Now) -> Option<ActiveSessions> {
    let mut reader = Reader(written);
    let fetched_at = reader.date(left, now)?;
    let member = reader.member()?;
    let count = usize::try_from(reader.number()?).ok()?;
    let symbols = (0..count).map(|_| reader.text().map(Arc::from)).collect::<Option<Vec<Arc<str>>>>()?;
    let bytes = reader.bytes()?;
    if !reader.0.is_empty() {
        return None;
    }
    ActiveSessions::from_parts(member, bytes, symbols, fetched_at).ok()
}

pub(super) fn write_owner(binding: &TokenBinding, life: Duration) -> Vec<u8> {
    let mut writer = Writer::dated(binding.resolved_at.wall, life);
    writer.time(binding.expires_at);
    writer.text(binding.member.organization_id.as_str()).text(binding.member.member_id.as_str());
    writer.text(binding.session_id.as_str());
    writer.0
}

/// A key set as it is written, with the date it was fetched.
pub(super) fn write_keys(key_set: &[u8], fetched_at: Timestamp, life: Duration) -> Vec<u8> {
    let mut writer = Writer::dated(fetched_at, life);
    writer.bytes(key_set);
    writer.0
}

/// A key set that was read back, unless it is older than it was to be kept.
pub(super) fn read_keys(written: &[u8], left: Option<Duration>, now: Now) -> Option<Vec<u8>> {
    let mut reader = Reader(written);
    let life = Duration::from_millis(u64::from_be_bytes(written.get(8..16)?.try_into().ok()?));
    // The process may be younger than the record: only the wall clock can say how old it is.
    let age = now.age_of(reader.date(left, now)?.wall, SKEW)?;
    let keys = reader.bytes()?.to_vec();
    (age <= life && reader.0.is_empty()).then_some(keys)
}

pub(super) fn read_owner(written: &[u8], left: Option<Duration>, now: Now) -> Option<TokenBinding> {
    let mut reader = Reader(written);
    let resolved_at = reader.date(left, now)?;
    let expires_at = reader.time()?;
    let member = reader.member()?;
    let session_id = SessionId::parse(reader.text()?).ok()?;
    reader.0.is_empty().then_some(TokenBinding { member, session_id, expires_at, resolved_at })
}

/// What replicas tell each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusMessage {
    /// Who published it.
    pub replica: u64,
    /// Tells one announcement from its copies.
    pub id: u64,
    pub published_at: Timestamp,
    pub event: BusEvent,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusEvent {
    /// Nothing: a sign of life.
    Tick,
    Revoked(RevocationTarget),
    /// Something about an organization changed that ends nothing.
    Changed(OrganizationId),
    /// Something, and nobody knows to whom.
    ChangedSomewhere,
}

pub(super) fn write_message(message: &BusMessage) -> Vec<u8> {
    let mut writer = Writer(Vec::new());
    writer.number(message.replica);
    writer.number(message.id);
    writer.time(message.published_at);
    let (kind, id) = match &message.event {
        BusEvent::Tick => (0, ""),
        BusEvent::Revoked(RevocationTarget::Session(id)) => (1, id.as_str()),
        BusEvent::Revoked(RevocationTarget::Member(id)) => (2, id.as_str()),
        BusEvent::Revoked(RevocationTarget::Organization(id)) => (3, id.as_str()),
        BusEvent::ChangedSomewhere => (4, ""),
        BusEvent::Changed(id) => (5, id.as_str()),
    };
    writer.number(kind);
    writer.text(id);
    writer.0
}

pub(super) fn read_message(written: &[u8]) -> Option<BusMessage> {
    let mut reader = Reader(written);
    let replica = reader.number()?;
    let id_of_message = reader.number()?;
    let published_at = reader.time()?;
    let kind = reader.number()?;
    let id = reader.text()?;
    let event = match kind {
        0 => BusEvent::Tick,
        1 => BusEvent::Revoked(RevocationTarget::Session(SessionId::parse(id).ok()?)),
        2 => BusEvent::Revoked(RevocationTarget::Member(MemberId::parse(id).ok()?)),
        3 => BusEvent::Revoked(RevocationTarget::Organization(OrganizationId::parse(id).ok()?)),
        4 => BusEvent::ChangedSomewhere,
        5 => BusEvent::Changed(OrganizationId::parse(id).ok()?),
        _ => return None,
    };
    reader.0.is_empty().then_some(BusMessage { replica, id: id_of_message, published_at, event })
}

struct Writer(Vec<u8>);

impl Writer {
    fn dated(date: Timestamp, life: Duration) -> Self {
        let mut writer = Self(Vec::new());
        writer.time(date);
        writer.number(u64::try_from(life.as_millis()).unwrap_or(u64::MAX));
        writer
    }

    fn number(&mut self, number: u64) -> &mut Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    fn time(&mut self, time: Timestamp) -> &mut Self {
        let nanoseconds = time.as_nanosecond().clamp(i64::MIN.into(), i64::MAX.into());
        self.0.extend_from_slice(&i64::try_from(nanoseconds).unwrap_or(i64::MAX).to_be_bytes());
        self
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.0.extend_from_slice(bytes);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    fn time(&mut self) -> Option<Timestamp> {
        let nanoseconds = i64::from_be_bytes(self.take(8)?.try_into().ok()?);
        Timestamp::from_nanosecond(nanoseconds.into()).ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn member(&mut self) -> Option<MemberRef> {
        Some(MemberRef {
            organization_id: OrganizationId::parse(self.text()?).ok()?,
            member_id: MemberId::parse(self.text()?).ok()?,
        })
    }

    /// When the lookup was sent, by our own clocks: as old as the wall clocks or Redis's own clock say, whichever is
    /// more.
    fn date(&mut self, left: Option<Duration>, now: Now) -> Option<Now> {
        let date = self.time()?;
        let life = Duration::from_millis(self.number()?);
        let by_wall = now.age_of(date, SKEW)?;
        let by_redis = left.map(|left| life.saturating_sub(left)).unwrap_or_default();
        Some(now.minus(by_wall.max(by_redis)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Monotonic;

    fn now() -> Now {
        Now {
            wall: "2026-01-01T00:01:00Z".parse().unwrap(),
            monotonic: Monotonic::at(Duration::from_secs(1000)),
        }
    }

    fn list_dated(wall: &str) -> ActiveSessions {
        let member = MemberRef {
            organization_id: OrganizationId::parse("o").unwrap(),
            member_id: MemberId::parse("m").unwrap(),
        };
        ActiveSessions::new(member, &[], Now { wall: wall.parse().unwrap(), ..now() })
    }

    #[test]
    fn a_list_is_as_old_as_the_more_pessimistic_clock_says() {
        let life = Duration::from_secs(300);
        let written = write_list(&list_dated("2026-01-01T00:00:50Z"), life);
        let age = |left: Option<u64>| {
            let list = read_list(&written, left.map(Duration::from_secs), now()).unwrap();
            list.age(now().monotonic).as_secs()
        };
        assert_eq!(age(None), 10);
        assert_eq!(age(Some(299)), 10, "its own clock says one second");
        assert_eq!(age(Some(280)), 20);
    }

    #[test]
    fn a_date_ahead_of_the_clock_is_not_believed_and_half_a_record_is_none() {
        let written = |date| write_list(&list_dated(date), Duration::from_secs(300));
        assert!(read_list(&written("2026-01-01T00:01:02Z"), None, now()).is_some());
        assert!(read_list(&written("2026-01-01T00:01:03Z"), None, now()).is_none());
        let whole = written("2026-01-01T00:00:50Z");
        for length in 0..whole.len() {
            assert!(read_list(&whole[..length], None, now()).is_none(), "cut at {length}");
        }
    }

    #[test]
    fn a_message_comes_back_as_it_was() {
        for event in [
            BusEvent::Tick,
            BusEvent::Revoked(RevocationTarget::Session(SessionId::parse("s").unwrap())),
            BusEvent::Revoked(RevocationTarget::Member(MemberId::parse("m").unwrap())),
            BusEvent::Revoked(RevocationTarget::Organization(OrganizationId::parse("o").unwrap())),
            BusEvent::ChangedSomewhere,
            BusEvent::Changed(OrganizationId::parse("o").unwrap()),
        ] {
            let message = BusMessage { replica: 7, id: 9, published_at: now().wall, event };
            assert_eq!(read_message(&write_message(&message)), Some(message));
        }
        assert_eq!(read_message(b"junk"), None);
    }
}
