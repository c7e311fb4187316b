//! Identifiers of the directory, each its own type so that one can never stand where another belongs.
//!
//! Must not know where an identifier came from or what it allows.

use std::fmt;
use std::sync::Arc;

/// The longest identifier accepted, in bytes. External ids of the directory end at 128.
const MAX_BYTES: usize = 128;

/// The text is not an identifier: empty, too long, or with a character outside `A-Z a-z 0-9 . _ - | :`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an identifier: 1 to 128 letters, digits or any of `. _ - | :` are expected")]
pub struct InvalidIdentifier;

fn is_identifier(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_BYTES
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'|' | b':'))
}

macro_rules! identifier {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the text if it is safe to put into a URL, a header and a log as it stands.
            pub fn parse(text: &str) -> Result<Self, InvalidIdentifier> {
                if is_identifier(text) { Ok(Self(Arc::from(text))) } else { Err(InvalidIdentifier) }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Whether the text is held elsewhere as well.
            pub fn is_shared(&self) -> bool {
                Arc::strong_count(&self.0) > 1
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

identifier! {
    /// An organization, by the id the directory gives it; never a slug.
    OrganizationId
}
identifier! {
    /// A member of one organization.
    MemberId
}
identifier! {
    /// One session of one member (`member_session_id`).
    SessionId
}
identifier! {
    /// An OAuth client: a machine, or a connected app.
    ClientId
}
identifier! {
    /// The project whose keys sign the tokens and whose secret we hold.
    ProjectId
}

/// One member of one organization: what session lists are asked for and cached by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberRef {
    pub organization_id: OrganizationId,
    pub member_id: MemberId,
}

impl MemberRef {
    /// Reads `ORGANIZATION/MEMBER`.
    pub fn parse(text: &str) -> Result<Self, InvalidIdentifier> {
        let (organization, member) = text.split_once('/').ok_or(InvalidIdentifier)?;
        Ok(Self {
            organization_id: OrganizationId::parse(organization)?,
            member_id: MemberId::parse(member)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_break_a_url_or_a_header_is_no_identifier() {
        for good in ["member-test-1f2e", "ext|42", "a", "A.b_c-d:e"] {
            assert!(MemberId::parse(good).is_ok(), "{good}");
        }
        let long = "x".repeat(129);
        for bad in ["", " ", "a b", "a/b", "a?b", "a&b", "a%20", "a\r\nb", "é", "a,b", long.as_str()] {
            assert!(MemberId::parse(bad).is_err(), "{bad:?}");
        }
    }
}
