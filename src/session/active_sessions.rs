//! The list of a member's active sessions, with the moment its lookup was sent: one compact record per member.
//!
//! Must not merge sessions: whoever reads the list picks one.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use jiff::Timestamp;

use super::MemberSession;
use super::packed::{self, Symbols};
use crate::identity::{MemberRef, Monotonic, Now, SessionId};

/// One answer of the directory about one member, packed: sessions are unpacked one at a time as they are asked for.
#[derive(Clone, PartialEq, Eq)]
pub struct ActiveSessions {
    pub member: MemberRef,
    /// When the lookup was sent, on both clocks.
    pub fetched_at: Now,
    bytes: Box<[u8]>,
    symbols: Symbols,
    unpacked: LastUnpacked,
    superseded: Superseded,
}

/// Set once something newer is known of the member: whoever holds this elsewhere looks again.
#[derive(Debug, Default)]
struct Superseded(AtomicBool);

/// The session that was asked for last, for as long as somebody else holds it: unpacking is work, and so is keeping
/// everybody's sessions unpacked.
#[derive(Default)]
struct LastUnpacked(Mutex<Weak<MemberSession>>);

impl LastUnpacked {
    fn get(&self, session_id: &SessionId) -> Option<Arc<MemberSession>> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        held.filter(|session| session.session_id == *session_id)
    }

    fn put(&self, session: &Arc<MemberSession>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(session);
    }
}

/// What became of a record is no part of what it says.
impl PartialEq for Superseded {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Superseded {}

impl Clone for Superseded {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// What was unpacked is no part of what a record says.
impl PartialEq for LastUnpacked {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for LastUnpacked {}

impl Clone for LastUnpacked {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// The bytes are no session list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the record of a session list cannot be read")]
pub struct UnreadableRecord;

impl ActiveSessions {
    /// Packs `sessions`, which must all be the member's.
    pub fn new(member: MemberRef, sessions: &[MemberSession], fetched_at: Now) -> Self {
        let (bytes, symbols) = packed::pack(sessions);
        let (unpacked, superseded) = Default::default();
        Self { member, fetched_at, bytes, symbols, unpacked, superseded }
    }

    /// What [`parts`](Self::parts) gave, read back.
    pub fn from_parts(
        member: MemberRef,
        bytes: &[u8],
        symbols: Vec<Arc<str>>,
        fetched_at: Now,
    ) -> Result<Self, UnreadableRecord> {
        let symbols: Symbols = symbols.into();
        if !packed::is_whole(bytes, &symbols, &member) {
            return Err(UnreadableRecord);
        }
        let (unpacked, superseded) = Default::default();
        Ok(Self { member, fetched_at, bytes: bytes.into(), symbols, unpacked, superseded })
    }

    /// The record's bytes and the words they refer to.
    pub fn parts(&self) -> (&[u8], &Arc<[Arc<str>]>) {
        (&self.bytes, &self.symbols)
    }

    /// The same record with words that others hold as well.
    pub fn sharing(self, member: MemberRef, symbols: Arc<[Arc<str>]>) -> Self {
        // What was unpacked before holds its own words.
        Self { member, symbols, unpacked: LastUnpacked::default(), ..self }
    }

    /// Something newer is known of the member.
    pub fn supersede(&self) {
        self.superseded.0.store(true, Ordering::Release);
    }

    pub fn is_superseded(&self) -> bool {
        self.superseded.0.load(Ordering::Acquire)
    }

    /// What the record takes in memory at the most, in bytes: its words are counted as if no other record held them.
    pub fn weight(&self) -> usize {
        let words: usize = self.symbols.iter().map(|word| word.len() + 2 * size_of::<Arc<str>>()).sum();
        size_of::<Self>() + self.bytes.len() + self.member.member_id.as_str().len() + words + 48
    }

    pub fn find(&self, session_id: &SessionId) -> Option<Arc<MemberSession>> {
        self.unpacked.get(session_id).or_else(|| {
            let session = Arc::new(self.packed().find(|packed| packed.is(session_id))?.unpack()?);
            self.unpacked.put(&session);
            Some(session)
        })
    }

    pub fn contains(&self, session_id: &SessionId) -> bool {
        self.packed().any(|packed| packed.is(session_id))
    }

    pub fn ids(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.packed().filter_map(|packed| packed.id())
    }

    pub fn sessions(&self) -> impl Iterator<Item = MemberSession> + '_ {
        self.packed().filter_map(|packed| packed.unpack())
    }

    /// The list without the sessions that `ended` names.
    pub fn without(&self, ended: impl Fn(&SessionId) -> bool) -> Self {
        let remaining: Vec<_> = self.sessions().filter(|session| !ended(&session.session_id)).collect();
        Self::new(self.member.clone(), &remaining, self.fetched_at)
    }

    pub fn age(&self, now: Monotonic) -> Duration {
        now.since(self.fetched_at.monotonic)
    }

    fn packed(&self) -> impl Iterator<Item = packed::Packed<'_>> {
        packed::packed(&self.bytes, &self.symbols, &self.member)
    }
}

impl fmt::Debug for ActiveSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sessions: Vec<_> = self.sessions().collect();
        f.debug_struct("ActiveSessions")
            .field("member", &self.member)
            .field("fetched_at", &self.fetched_at)
            .field("sessions", &sessions)
            .finish()
    }
}

/// What a decision may rest on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// The directory's list.
    Sessions(Arc<ActiveSessions>),
    /// The directory's word that there is no such member or organization, with the moment of the lookup.
    NoSuchMember(Now),
    /// What a verified JWT says of its own session, dated when it was made, in place of a list while the directory
    /// fails (section 4.8).
    Vouched(Arc<ActiveSessions>),
}

impl Evidence {
    pub fn fetched_at(&self) -> Now {
        match self {
            Self::Sessions(list) | Self::Vouched(list) => list.fetched_at,
            Self::NoSuchMember(at) => *at,
        }
    }

    pub fn age(&self, now: Monotonic) -> Duration {
        now.since(self.fetched_at().monotonic)
    }

    pub fn list(&self) -> Option<&Arc<ActiveSessions>> {
        match self {
            Self::Sessions(list) | Self::Vouched(list) => Some(list),
            Self::NoSuchMember(_) => None,
        }
    }

    /// Whether a credential made at `issued_at` may postdate this evidence (section 4.3: `iat` is truncated to whole
    /// seconds and clocks differ by up to `skew`).
    ///
    /// The evidence's age is taken from the monotonic clock, so that a step of the wall clock since the lookup moves
    /// neither.
    pub fn may_predate(&self, issued_at: Timestamp, skew: Duration, now: Now) -> bool {
        let margin = skew + Duration::from_secs(1);
        match Duration::try_from(now.wall.duration_since(issued_at)) {
            Ok(credential_age) => credential_age <= self.age(now.monotonic).saturating_add(margin),
            // Dated ahead of our clock: newer than anything fetched.
            Err(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{MemberId, OrganizationId};
    use crate::session::{Claim, DeliveryMethod, Factor, FactorKind};

    fn member() -> MemberRef {
        MemberRef {
            organization_id: OrganizationId::parse("organization-1").unwrap(),
            member_id: MemberId::parse("member-1").unwrap(),
        }
    }

    fn session(id: &str) -> MemberSession {
        let factor = |kind: &str, delivery: &str| Factor {
            kind: FactorKind::from_name(kind),
            delivery: DeliveryMethod::new(delivery),
            last_authenticated_at: Some("2026-01-02T03:04:05.678901234Z".parse().unwrap()),
            connection_id: None,
            email: None,
            impersonator: None,
        };
        MemberSession {
            session_id: SessionId::parse(id).unwrap(),
            member: member(),
            organization_slug: Some(Arc::from("acme")),
            started_at: Some("2026-01-02T03:04:05Z".parse().unwrap()),
            expires_at: "2026-01-03T03:04:05.5Z".parse().unwrap(),
            roles: Some(vec![Arc::from("viewer"), Arc::from("stytch_member")]),
            factors: vec![
                Factor { email: Some(Arc::from("a@example.com")), ..factor("email_otp", "email") },
                Factor { connection_id: Some(Arc::from("saml-1")), ..factor("sso", "sso_saml") },
                Factor { impersonator: Some(Arc::from("x")), ..factor("impersonated", "impersonation") },
                Factor { last_authenticated_at: None, ..factor("retina_scan", "camera") },
                Factor {
                    kind: FactorKind::Unreadable,
                    delivery: DeliveryMethod::untold(),
                    ..factor("otp", "sms")
                },
            ],
            claims: vec![
                Claim { pointer: Arc::from("/tier"), value: Some(serde_json::json!({ "a": [1, null] })) },
                Claim { pointer: Arc::from("/none"), value: None },
                Claim { pointer: Arc::from("/null"), value: Some(serde_json::Value::Null) },
            ],
        }
    }

    fn now(wall: &str, elapsed: u64) -> Now {
        Now { wall: wall.parse().unwrap(), monotonic: Monotonic::at(Duration::from_secs(elapsed)) }
    }

    #[test]
    fn what_is_packed_comes_back_whole_and_nothing_less_is_taken() {
        let at = now("2026-01-02T04:00:00Z", 100);
        let mut bare = session("session-test-01234567-89ab-cdef-0123-456789abcdef");
        (bare.roles, bare.organization_slug, bare.started_at) = (None, None, None);
        let sessions = [session("session-1"), bare];
        let list = ActiveSessions::new(member(), &sessions, at);
        assert_eq!(list.sessions().collect::<Vec<_>>(), sessions);
        assert_eq!(list.find(&sessions[1].session_id).as_deref(), Some(&sessions[1]));
        assert!(!list.contains(&SessionId::parse("session-2").unwrap()));
        let left = list.without(|id| id.as_str() == "session-1");
        assert_eq!(left.sessions().collect::<Vec<_>>(), sessions[1..]);

        let (bytes, symbols) = list.parts();
        let read = |bytes: &[u8], symbols: &[Arc<str>]| {
            ActiveSessions::from_parts(member(), bytes, symbols.to_vec(), at)
        };
        assert_eq!(read(bytes, symbols).unwrap(), list);
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length], symbols).is_err(), "cut at {length}");
        }
        assert!(read(&[bytes, &[0]].concat(), symbols).is_err());
        assert!(read(bytes, &symbols[..1]).is_err());
    }

    #[test]
    fn a_credential_is_newer_by_ages_whatever_the_wall_clock_did_since() {
        let skew = Duration::from_secs(2);
        let fetched = Evidence::NoSuchMember(now("2026-01-01T12:00:00Z", 1000));
        let issued = |date: &str| date.parse::<Timestamp>().unwrap();
        let later = now("2026-01-01T12:00:10Z", 1010);
        assert!(!fetched.may_predate(issued("2026-01-01T11:59:56Z"), skew, later));
        assert!(fetched.may_predate(issued("2026-01-01T11:59:57Z"), skew, later));
        assert!(fetched.may_predate(issued("2026-01-01T12:00:11Z"), skew, later));
        // The clock went back an hour after the lookup; the caller signed in just now.
        let stepped = now("2026-01-01T11:00:10Z", 1010);
        assert!(fetched.may_predate(issued("2026-01-01T11:00:08Z"), skew, stepped));
        assert!(!fetched.may_predate(issued("2026-01-01T10:59:00Z"), skew, stepped));
    }
}
