//! What an origin may be told about its caller, and how it is written.
//!
//! Must not let a value break a list, a header field or a line.

use std::sync::Arc;

use serde_json::{Value, json};

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

    /// What it is of `caller`: a text, a number, a list of texts, or a claim as it stands. Nothing if there is none.
    pub fn of(&self, caller: &Caller) -> Option<Value> {
        let session = caller.subject.session();
        let member = caller.subject.member();
        let listed = |texts: &mut dyn Iterator<Item = &str>| Some(Value::from_iter(texts));
        match self {
            Self::Kind => Some(json!(caller.subject.kind())),
            Self::Subject => Some(json!(match &caller.subject {
                Subject::Machine(token) => token.client_id.as_str(),
                Subject::Member(session) => session.member.member_id.as_str(),
                Subject::App(token) => token.member.member_id.as_str(),
            })),
            Self::MemberId => member.map(|member| json!(member.member_id.as_str())),
            Self::OrganizationId => member.map(|member| json!(member.organization_id.as_str())),
            Self::OrganizationSlug => session?.organization_slug.as_deref().map(Value::from),
            Self::SessionId => session.map(|session| json!(session.session_id.as_str())),
            Self::SessionExpiresAt => session.map(|session| json!(session.expires_at.to_string())),
            Self::Roles => listed(&mut session?.roles.iter().flatten().map(|role| &**role)),
            Self::Factors => {
                let readable = session?.factors.iter().filter(|factor| factor.kind != FactorKind::Unreadable);
                listed(&mut readable.map(|factor| factor.kind.name()))
            }
            Self::Email => session?.email().map(Value::from),
            Self::Impersonator => session?.impersonator().map(Value::from),
            Self::EvidenceAge => Some(json!(caller.evidence_age.as_secs())),
            Self::ClientId => match &caller.subject {
                Subject::Machine(token) => Some(json!(token.client_id.as_str())),
                Subject::App(token) => Some(json!(token.client_id.as_str())),
                Subject::Member(_) => None,
            },
            Self::Scopes => match &caller.subject {
                Subject::Machine(token) => listed(&mut token.scopes.iter()),
                Subject::App(token) => listed(&mut token.scopes.iter()),
                Subject::Member(_) => None,
            },
            Self::Claim(pointer) => session?.claim(pointer)?.value.clone(),
        }
    }
}

impl AttributeFormat {
    /// The value of a header: visible ASCII and, in JSON, spaces.
    pub fn write(&self, value: &Value) -> String {
        match (self, value) {
            (Self::Json, value) => ascii_json(value),
            (Self::Joined(separator), Value::Array(parts)) => {
                let parts: Vec<String> = parts.iter().map(|part| encode_part(part, *separator)).collect();
                parts.join(separator.encode_utf8(&mut [0; 4]))
            }
            (Self::Joined(_), Value::Null) => String::new(),
            (Self::Joined(separator), other) => encode_part(other, *separator),
        }
    }
}

/// One part of a list: the separator is encoded in it as well.
fn encode_part(part: &Value, separator: char) -> String {
    let text = match part {
        Value::String(text) => encode_value(text),
        other => encode_value(&other.to_string()),
    };
    match u8::try_from(separator) {
        Ok(byte) if separator.is_ascii_graphic() && separator != ',' => {
            text.replace(separator, &format!("%{byte:02X}"))
        }
        _ => text,
    }
}

/// Percent-encodes `%`, `,` and everything outside visible ASCII, so that no value can break a list or a field.
pub fn encode_value(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' && byte != b',' {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
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
    use super::*;

    #[test]
    fn no_value_can_break_a_list_or_a_field() {
        let list = json!(["a,b", "50%", "é", "x\r\ny: z", "a b", "plain"]);
        assert_eq!(AttributeFormat::Joined(',').write(&list), "a%2Cb,50%25,%C3%A9,x%0D%0Ay:%20z,a%20b,plain");
        assert_eq!(AttributeFormat::Joined(' ').write(&list), "a%2Cb 50%25 %C3%A9 x%0D%0Ay:%20z a%20b plain");
        assert_eq!(AttributeFormat::Joined('|').write(&json!(["a|b", 7, true])), "a%7Cb|7|true");
        assert_eq!(AttributeFormat::Joined(',').write(&json!({ "a": "é" })), "{\"a\":\"%C3%A9\"}");
        assert_eq!(
            AttributeFormat::Json.write(&json!({ "name": "é\u{1f600}\r\n\u{7f}" })),
            r#"{"name":"\u00e9\ud83d\ude00\r\n\u007f"}"#
        );
        for format in [AttributeFormat::Joined(';'), AttributeFormat::Json] {
            let written = format.write(&json!(["\u{0}\r\n\t\u{7f}\u{85}", "ok"]));
            assert!(written.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{written:?}");
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
