//! Session lists as bytes: what a member's sessions take in memory and in a shared cache.
//!
//! Must not trust the bytes it reads back: a record that does not read whole is no record.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Claim, DeliveryMethod, Factor, FactorKind, MemberSession};
use crate::identity::{MemberRef, SessionId};

/// Words that many members share: slugs, roles, connections, what ids begin with.
pub(super) type Symbols = Arc<[Arc<str>]>;

const HAS_TIME: u8 = 1;
const HAS_CONNECTION: u8 = 2;
const HAS_EMAIL: u8 = 4;
const HAS_IMPERSONATOR: u8 = 8;
const HAS_ROLES: u8 = 1;
const HAS_SLUG: u8 = 2;
const HAS_START: u8 = 4;
/// Codes past the known names.
const OTHER: u8 = 255;
const UNREADABLE: u8 = 254;
const UNTOLD: u8 = 253;

/// Packs sessions into bytes that refer to the returned symbols.
pub(super) fn pack(sessions: &[MemberSession]) -> (Box<[u8]>, Symbols) {
    let mut writer = Writer::default();
    writer.count(sessions.len());
    for session in sessions {
        let outer = std::mem::take(&mut writer.bytes);
        writer.session(session);
        let inner = std::mem::replace(&mut writer.bytes, outer);
        writer.text_bytes(&inner);
    }
    (writer.bytes.into_boxed_slice(), writer.symbols.into())
}

/// Whether the bytes read whole, session by session.
pub(super) fn is_whole(bytes: &[u8], symbols: &Symbols, member: &MemberRef) -> bool {
    let mut reader = Reader { bytes, symbols };
    let Some(count) = reader.count() else { return false };
    for _ in 0..count {
        let read = reader.text_bytes().and_then(|inner| Packed { inner, symbols, member }.unpack());
        if read.is_none() {
            return false;
        }
    }
    reader.bytes.is_empty()
}

/// The sessions of a record, each still packed.
pub(super) fn packed<'a>(
    bytes: &'a [u8],
    symbols: &'a Symbols,
    member: &'a MemberRef,
) -> impl Iterator<Item = Packed<'a>> {
    let mut reader = Reader { bytes, symbols };
    let count = reader.count().unwrap_or_default();
    (0..count).map_while(move |_| Some(Packed { inner: reader.text_bytes()?, symbols, member }))
}

/// One session that was not unpacked.
#[derive(Clone, Copy)]
pub(super) struct Packed<'a> {
    inner: &'a [u8],
    symbols: &'a Symbols,
    member: &'a MemberRef,
}

impl Packed<'_> {
    /// Whether it is the session of this id, found out without unpacking anything.
    pub(super) fn is(&self, wanted: &SessionId) -> bool {
        let mut reader = Reader { bytes: self.inner, symbols: self.symbols };
        reader.is_id(wanted.as_str()).unwrap_or_default()
    }

    pub(super) fn id(&self) -> Option<SessionId> {
        let mut reader = Reader { bytes: self.inner, symbols: self.symbols };
        SessionId::parse(&reader.id()?).ok()
    }

    pub(super) fn unpack(&self) -> Option<MemberSession> {
        let mut reader = Reader { bytes: self.inner, symbols: self.symbols };
        let session_id = SessionId::parse(&reader.id()?).ok()?;
        let flags = reader.byte()?;
        let expires_at = reader.time()?;
        let started_at = if flags & HAS_START != 0 { Some(reader.time()?) } else { None };
        let organization_slug = if flags & HAS_SLUG != 0 { Some(reader.symbol()?) } else { None };
        let roles = if flags & HAS_ROLES != 0 {
            let count = reader.count()?;
            Some((0..count).map(|_| reader.symbol()).collect::<Option<Vec<_>>>()?)
        } else {
            None
        };
        let count = reader.count()?;
        let factors = (0..count).map(|_| reader.factor()).collect::<Option<Vec<_>>>()?;
        let count = reader.count()?;
        let claims = (0..count).map(|_| reader.claim()).collect::<Option<Vec<_>>>()?;
        reader.bytes.is_empty().then_some(MemberSession {
            session_id,
            member: self.member.clone(),
            organization_slug,
            started_at,
            expires_at,
            roles,
            factors,
            claims,
        })
    }
}

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    symbols: Vec<Arc<str>>,
}

impl Writer {
    fn session(&mut self, session: &MemberSession) {
        self.id(session.session_id.as_str());
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        self.bytes.push(
            flag(session.roles.is_some(), HAS_ROLES)
                | flag(session.organization_slug.is_some(), HAS_SLUG)
                | flag(session.started_at.is_some(), HAS_START),
        );
        self.time(session.expires_at);
        if let Some(started_at) = session.started_at {
            self.time(started_at);
        }
        if let Some(slug) = &session.organization_slug {
            self.symbol(slug);
        }
        if let Some(roles) = &session.roles {
            self.count(roles.len());
            for role in roles {
                self.symbol(role);
            }
        }
        self.count(session.factors.len());
        for factor in &session.factors {
            self.factor(factor);
        }
        self.count(session.claims.len());
        for claim in &session.claims {
            self.symbol(&claim.pointer);
            self.text_bytes(claim.value.as_ref().map(ToString::to_string).unwrap_or_default().as_bytes());
        }
    }

    fn factor(&mut self, factor: &Factor) {
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        self.bytes.push(
            flag(factor.last_authenticated_at.is_some(), HAS_TIME)
                | flag(factor.connection_id.is_some(), HAS_CONNECTION)
                | flag(factor.email.is_some(), HAS_EMAIL)
                | flag(factor.impersonator.is_some(), HAS_IMPERSONATOR),
        );
        match (&factor.kind, factor.kind.code()) {
            (FactorKind::Unreadable, _) => self.bytes.push(UNREADABLE),
            (_, Some(code)) => self.bytes.push(code),
            (kind, None) => {
                self.bytes.push(OTHER);
                self.symbol(&Arc::from(kind.name()));
            }
        }
        match factor.delivery.code() {
            Some(code) => self.bytes.push(code),
            None if !factor.delivery.is_told() => self.bytes.push(UNTOLD),
            None => {
                self.bytes.push(OTHER);
                self.symbol(&Arc::from(factor.delivery.name()));
            }
        }
        if let Some(time) = factor.last_authenticated_at {
            self.time(time);
        }
        if let Some(connection) = &factor.connection_id {
            self.symbol(connection);
        }
        for text in [&factor.email, &factor.impersonator].into_iter().flatten() {
            self.text_bytes(text.as_bytes());
        }
    }

    /// An id that ends in a UUID takes sixteen bytes and a shared beginning; any other stays text.
    fn id(&mut self, id: &str) {
        let split = id.len().checked_sub(UUID_LENGTH).and_then(|at| id.split_at_checked(at));
        match split.and_then(|(prefix, uuid)| Some((prefix, read_uuid(uuid)?))) {
            Some((prefix, uuid)) => {
                self.bytes.push(1);
                self.symbol(&Arc::from(prefix));
                self.bytes.extend_from_slice(&uuid);
            }
            None => {
                self.bytes.push(0);
                self.text_bytes(id.as_bytes());
            }
        }
    }

    fn symbol(&mut self, text: &Arc<str>) {
        let found = self.symbols.iter().position(|known| known == text);
        let index = found.unwrap_or_else(|| {
            self.symbols.push(Arc::clone(text));
            self.symbols.len() - 1
        });
        self.count(index);
    }

    fn text_bytes(&mut self, text: &[u8]) {
        self.count(text.len());
        self.bytes.extend_from_slice(text);
    }

    /// Nanoseconds since the epoch; they last until the year 2262, and what lies past that is held at the end.
    fn time(&mut self, time: Timestamp) {
        let nanoseconds = time.as_nanosecond().clamp(i64::MIN.into(), i64::MAX.into());
        self.bytes.extend_from_slice(&i64::try_from(nanoseconds).unwrap_or(i64::MAX).to_le_bytes());
    }

    /// Seven bits a byte, low ones first.
    fn count(&mut self, mut count: usize) {
        loop {
            let low = u8::try_from(count & 0x7f).unwrap_or_default();
            count >>= 7;
            if count == 0 {
                self.bytes.push(low);
                return;
            }
            self.bytes.push(low | 0x80);
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    symbols: &'a Symbols,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn count(&mut self) -> Option<usize> {
        let mut count = 0_usize;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            count |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(count);
            }
        }
        None
    }

    fn symbol(&mut self) -> Option<Arc<str>> {
        let index = self.count()?;
        self.symbols.get(index).cloned()
    }

    fn text_bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.count()?;
        self.take(length)
    }

    fn text(&mut self) -> Option<Arc<str>> {
        std::str::from_utf8(self.text_bytes()?).ok().map(Arc::from)
    }

    fn time(&mut self) -> Option<Timestamp> {
        let nanoseconds = i64::from_le_bytes(self.take(8)?.try_into().ok()?);
        Timestamp::from_nanosecond(nanoseconds.into()).ok()
    }

    fn id(&mut self) -> Option<String> {
        if self.byte()? == 0 {
            return std::str::from_utf8(self.text_bytes()?).ok().map(str::to_owned);
        }
        let prefix = self.symbol()?;
        let written = write_uuid(self.take(16)?.try_into().ok()?);
        Some(format!("{prefix}{}", std::str::from_utf8(&written).ok()?))
    }

    fn is_id(&mut self, wanted: &str) -> Option<bool> {
        if self.byte()? == 0 {
            return Some(self.text_bytes()? == wanted.as_bytes());
        }
        let index = self.count()?;
        let prefix = self.symbols.get(index)?;
        let rest = wanted.strip_prefix(&**prefix);
        let uuid = self.take(16)?;
        Some(rest.is_some_and(|rest| read_uuid(rest).is_some_and(|rest| rest == *uuid)))
    }

    fn factor(&mut self) -> Option<Factor> {
        let flags = self.byte()?;
        let kind = match self.byte()? {
            OTHER => FactorKind::Other(self.symbol()?),
            UNREADABLE => FactorKind::Unreadable,
            code => FactorKind::from_code(code)?,
        };
        let delivery = match self.byte()? {
            OTHER => DeliveryMethod::new(&self.symbol()?),
            UNTOLD => DeliveryMethod::untold(),
            code => DeliveryMethod::from_code(code)?,
        };
        let last_authenticated_at = if flags & HAS_TIME != 0 { Some(self.time()?) } else { None };
        let connection_id = if flags & HAS_CONNECTION != 0 { Some(self.symbol()?) } else { None };
        let email = if flags & HAS_EMAIL != 0 { Some(self.text()?) } else { None };
        let impersonator = if flags & HAS_IMPERSONATOR != 0 { Some(self.text()?) } else { None };
        Some(Factor { kind, delivery, last_authenticated_at, connection_id, email, impersonator })
    }

    fn claim(&mut self) -> Option<Claim> {
        let pointer = self.symbol()?;
        let json = self.text_bytes()?;
        let value = if json.is_empty() { None } else { Some(serde_json::from_slice(json).ok()?) };
        Some(Claim { pointer, value })
    }
}

const UUID_LENGTH: usize = 36;
const DASHES: [usize; 4] = [8, 13, 18, 23];

/// Sixteen bytes out of the usual text, lower case only: what is written back must be what was read.
fn read_uuid(text: &str) -> Option<[u8; 16]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != UUID_LENGTH || DASHES.iter().any(|at| text.as_bytes().get(*at) != Some(&b'-')) {
        return None;
    }
    let mut digits = text.bytes().enumerate().filter(|(at, _)| !DASHES.contains(at)).map(|(_, byte)| byte);
    let mut uuid = [0; 16];
    for byte in &mut uuid {
        *byte = digit(digits.next()?)? << 4 | digit(digits.next()?)?;
    }
    Some(uuid)
}

fn write_uuid(uuid: [u8; 16]) -> [u8; UUID_LENGTH] {
    let mut text = [b'-'; UUID_LENGTH];
    let nibble = |value: u8| if value < 10 { b'0' + value } else { b'a' + value - 10 };
    let digits = uuid.iter().flat_map(|byte| [nibble(byte >> 4), nibble(byte & 15)]);
    let places = text.iter_mut().enumerate().filter(|(at, _)| !DASHES.contains(at));
    for ((_, place), digit) in places.zip(digits) {
        *place = digit;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_comes_back_as_it_was_whatever_its_form() {
        let uuid = "01234567-89ab-cdef-0123-456789abcdef";
        for id in [
            format!("session-test-{uuid}"),
            uuid.to_owned(),
            uuid.to_uppercase(),
            "ext|42".to_owned(),
            "s".to_owned(),
            format!("{uuid}-more"),
            "session-test-01234567+89ab-cdef-0123-456789abcdef".replace('+', "-x"),
        ] {
            let mut writer = Writer::default();
            writer.id(&id);
            let symbols: Symbols = writer.symbols.into();
            let read = Reader { bytes: &writer.bytes, symbols: &symbols }.id();
            assert_eq!(read.as_deref(), Some(id.as_str()));
            assert_eq!(Reader { bytes: &writer.bytes, symbols: &symbols }.is_id(&id), Some(true));
            assert_eq!(Reader { bytes: &writer.bytes, symbols: &symbols }.is_id("other"), Some(false));
        }
    }

    #[test]
    fn counts_survive_at_every_width() {
        let symbols: Symbols = Arc::from([]);
        for count in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455] {
            let mut writer = Writer::default();
            writer.count(count);
            assert_eq!(Reader { bytes: &writer.bytes, symbols: &symbols }.count(), Some(count));
        }
    }
}
