//! What an origin may be told about its caller, and how it is written.
//!
//! Must not let a value break a list, a header field or a line.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use super::{Caller, Subject};
use crate::session::FactorKind;

/// One thing known of a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityAttribute {
    /// `member`, `machine` or `app`.
    Kind,
    /// The member's id, for whom an app acts as well, or the machine's client id.
    Subject,
    MemberId,
    OrganizationId,
    OrganizationSlug,
    SessionId,
    SessionExpiresAt,
    Roles,
    Factors,
    Email,
    Impersonator,
    EvidenceAge,
    ClientId,
    Scopes,
    /// A custom claim of the session, by pointer (RFC 6901).
    Claim(Arc<str>),
}

/// How an attribute is written into a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttributeFormat {
    /// Texts as they are and lists joined by the separator, percent-encoded where they could be misread.
    Joined(char),
    /// JSON in ASCII: everything else is escaped.
    Json,
}

/// The attributes by the names the configuration calls them.
const NAMES: [(&str, IdentityAttribute); 14] = [
    ("kind", IdentityAttribute::Kind),
    ("subject", IdentityAttribute::Subject),
    ("member_id", IdentityAttribute::MemberId),
    ("organization_id", IdentityAttribute::OrganizationId),
    ("organization_slug", IdentityAttribute::OrganizationSlug),
    ("session_id", IdentityAttribute::SessionId),
    ("session_expires_at", IdentityAttribute::SessionExpiresAt),
    ("roles", IdentityAttribute::Roles),
    ("factors", IdentityAttribute::Factors),
    ("email", IdentityAttribute::Email),
    ("impersonator", IdentityAttribute::Impersonator),
    ("evidence_age", IdentityAttribute::EvidenceAge),
    ("client_id", IdentityAttribute::ClientId),
    ("scopes", IdentityAttribute::Scopes),
];

impl IdentityAttribute {
    pub fn from_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, attribute)| attribute.clone())
    }

    /// Every name, in the order of the documentation.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name)
    }

    /// What it is of `caller`, as JSON: a text, a number, a list of texts, or a claim as it stands. Nothing if there is none.
    pub fn of(&self, caller: &Caller) -> Option<Value> {
        Some(match self.told(caller)? {
            Told::Text(text) => Value::from(text),
            Told::Number(number) => Value::from(number),
            Told::List(texts) => Value::from_iter(texts),
            Told::Claim(claim) => claim.clone(),
        })
    }

    /// Writes it behind `into` for a header: visible ASCII and, in JSON, spaces. False if there is nothing to tell.
    pub fn write(&self, caller: &Caller, format: &AttributeFormat, into: &mut String) -> bool {
        let Some(told) = self.told(caller) else { return false };
        let separator = match format {
            AttributeFormat::Joined(separator) => *separator,
            AttributeFormat::Json => {
                into.push_str(&ascii_json(&self.of(caller).unwrap_or_default()));
                return true;
            }
        };
        let before = into.len();
        match told {
            Told::Text(text) => push_encoded(into, &text, separator),
            Told::Number(number) => into.push_str(&number.to_string()),
            Told::List(texts) => push_joined(into, texts.into_iter().map(Cow::from), separator),
            Told::Claim(Value::Array(parts)) => push_joined(into, parts.iter().map(text_of), separator),
            Told::Claim(Value::Null) => {}
            Told::Claim(claim) => push_encoded(into, &text_of(claim), separator),
        }
        // A header with nothing in it would say that there is nothing, which is not what an absent value means.
        into.len() > before
    }

    fn told<'a>(&self, caller: &'a Caller) -> Option<Told<'a>> {
        let session = caller.subject.session();
        let member = caller.subject.member();
        let text = |text: &'a str| Told::Text(Cow::from(text));
        Some(match self {
            Self::Kind => text(caller.subject.kind()),
            Self::Subject => text(match &caller.subject {
                Subject::Machine(token) => token.client_id.as_str(),
                Subject::Member(session) => session.member.member_id.as_str(),
                Subject::App(token) => token.member.member_id.as_str(),
            }),
            Self::MemberId => text(member?.member_id.as_str()),
            Self::OrganizationId => text(member?.organization_id.as_str()),
            Self::OrganizationSlug => text(session?.organization_slug.as_deref()?),
            Self::SessionId => text(session?.session_id.as_str()),
            Self::SessionExpiresAt => Told::Text(Cow::from(session?.expires_at.to_string())),
            Self::Roles => Told::List(session?.roles.as_ref()?.iter().map(|role| &**role).collect()),
            Self::Factors => {
                let readable = session?.factors.iter().filter(|factor| factor.kind != FactorKind::Unreadable);
                Told::List(readable.map(|factor| factor.kind.name()).collect())
            }
            Self::Email => text(session?.email()?),
            Self::Impersonator => text(session?.impersonator()?),
            Self::EvidenceAge => Told::Number(caller.evidence_age.as_secs()),
            Self::ClientId => text(match &caller.subject {
                Subject::Machine(token) => token.client_id.as_str(),
                Subject::App(token) => token.client_id.as_str(),
                Subject::Member(_) => return None,
            }),
            Self::Scopes => Told::List(match &caller.subject {
                Subject::Machine(token) => token.scopes.iter().collect(),
                Subject::App(token) => token.scopes.iter().collect(),
                Subject::Member(_) => return None,
            }),
            Self::Claim(pointer) => Told::Claim(session?.claim(pointer)?.value.as_ref()?),
        })
    }
}

/// An attribute's value, where it stands.
enum Told<'a> {
    Text(Cow<'a, str>),
    Number(u64),
    List(Vec<&'a str>),
    Claim(&'a Value),
}

/// The text of a part of a claim: itself, or its JSON.
fn text_of(part: &Value) -> Cow<'_, str> {
    match part {
        Value::String(text) => Cow::from(text.as_str()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            Cow::from(part.to_string())
        }
    }
}

fn push_joined<'a>(into: &mut String, parts: impl Iterator<Item = Cow<'a, str>>, separator: char) {
    for (index, part) in parts.enumerate() {
        if index > 0 {
            into.push(separator);
        }
        push_encoded(into, &part, separator);
    }
}

/// Percent-encodes `%`, `,`, the separator and everything outside visible ASCII, so that no value can break a list or a field.
fn push_encoded(into: &mut String, value: &str, separator: char) {
    let is_plain =
        |byte: u8| byte.is_ascii_graphic() && byte != b'%' && byte != b',' && char::from(byte) != separator;
    if value.bytes().all(is_plain) {
        into.push_str(value);
        return;
    }
    into.reserve(value.len());
    for byte in value.bytes() {
        if is_plain(byte) {
            into.push(char::from(byte));
        } else {
            const DIGITS: [char; 16] =
                ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
            let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or('0');
            into.extend(['%', digit(byte >> 4), digit(byte & 0xf)]);
        }
    }
}

/// JSON in which everything outside ASCII is escaped (RFC 8259 section 7). Control characters are escaped already.
fn ascii_json(value: &Value) -> String {
    let mut ascii = String::new();
    for letter in value.to_string().chars() {
        if letter.is_ascii() && letter != '\u{7f}' {
            ascii.push(letter);
        } else {
            let mut units = [0; 2];
            for unit in letter.encode_utf16(&mut units) {
                ascii.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::identity::{MemberRef, SessionId};
    use crate::session::{Claim, MemberSession};

    /// The claim as a header tells it.
    fn written(claim: Value, format: &AttributeFormat) -> String {
        let session = MemberSession {
            session_id: SessionId::parse("session-1").unwrap(),
            member: MemberRef::parse("organization-1/member-1").unwrap(),
            organization_slug: None,
            started_at: None,
            expires_at: Timestamp::UNIX_EPOCH,
            roles: None,
            factors: Vec::new(),
            claims: vec![Claim { pointer: Arc::from("/c"), value: Some(claim) }],
        };
        let subject = Subject::Member(Arc::new(session));
        let caller = Caller { subject, evidence_age: Duration::ZERO };
        let mut text = String::new();
        let is_told = IdentityAttribute::Claim(Arc::from("/c")).write(&caller, format, &mut text);
        assert_eq!(is_told, !text.is_empty(), "a header with nothing in it");
        text
    }

    #[test]
    fn no_value_can_break_a_list_or_a_field() {
        use AttributeFormat::{Joined, Json};
        let list = || json!(["a,b", "50%", "é", "x\r\ny: z", "a b", "plain"]);
        assert_eq!(written(list(), &Joined(',')), "a%2Cb,50%25,%C3%A9,x%0D%0Ay:%20z,a%20b,plain");
        assert_eq!(written(list(), &Joined(' ')), "a%2Cb 50%25 %C3%A9 x%0D%0Ay:%20z a%20b plain");
        assert_eq!(written(json!(["a|b", 7, true]), &Joined('|')), "a%7Cb|7|true");
        assert_eq!(written(json!({ "a": "é" }), &Joined(',')), "{\"a\":\"%C3%A9\"}");
        assert_eq!(written(json!(null), &Joined(',')), "");
        assert_eq!(
            written(json!({ "name": "é\u{1f600}\r\n\u{7f}" }), &Json),
            r#"{"name":"\u00e9\ud83d\ude00\r\n\u007f"}"#
        );
        for format in [Joined(';'), Json] {
            let text = written(json!(["\u{0}\r\n\t\u{7f}\u{85}", "ok"]), &format);
            assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{text:?}");
        }
    }

    #[test]
    fn what_is_not_told_gives_no_header() {
        for nothing in [json!(null), json!(""), json!([])] {
            assert_eq!(written(nothing, &AttributeFormat::Joined(',')), "");
        }
    }

    #[test]
    fn every_attribute_has_its_name() {
        for name in IdentityAttribute::names() {
            assert!(IdentityAttribute::from_name(name).is_some(), "{name}");
        }
        assert_eq!(IdentityAttribute::from_name("password"), None);
    }
}
