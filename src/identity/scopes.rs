//! Scopes of machine and app tokens, matched as the official SDKs match them.
//!
//! Must not read a wildcard anywhere but as the whole resource of a held scope.

use std::fmt;
use std::sync::Arc;

/// The scopes a token holds (RFC 6749 section 3.3: separated by spaces), in its order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scopes(Arc<[Arc<str>]>);

impl Scopes {
    pub fn parse(text: &str) -> Self {
        Self(text.split(' ').filter(|scope| !scope.is_empty()).map(Arc::from).collect())
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|scope| &**scope)
    }

    /// Whether `required` is held as it stands.
    pub fn contain(&self, required: &str) -> bool {
        self.iter().any(|held| held == required)
    }

    /// Those that `others` hold as well.
    pub fn shared_with(&self, others: &Self) -> Self {
        Self(self.0.iter().filter(|scope| others.contain(scope)).cloned().collect())
    }

    /// Whether `required` is held: itself, or `action:*` for `action:resource`. A lone `*` is a scope like any other.
    ///
    /// Source: `perform_authorization_check` of the official SDKs. A scope with more than one colon, over which they
    /// stumble, is only ever matched as a whole.
    pub fn allow(&self, required: &str) -> bool {
        let wanted = parts(required);
        self.iter().any(|held| match (parts(held), wanted) {
            (Some((action, resource)), Some((wanted_action, wanted_resource))) => {
                action == wanted_action && (resource == "*" || resource == wanted_resource)
            }
            _ => held == required,
        })
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, scope) in self.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { " " })?;
            f.write_str(scope)?;
        }
        Ok(())
    }
}

/// Action and resource; a bare scope stands for the resource `-`. Nothing for a scope of more than two parts.
fn parts(scope: &str) -> Option<(&str, &str)> {
    match scope.split_once(':') {
        None => Some((scope, "-")),
        Some((_, resource)) if resource.contains(':') => None,
        two => two,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_held_as_itself_or_through_its_resource_wildcard() {
        let held = Scopes::parse("read:reports  write:* plain * a:b:c");
        for yes in ["read:reports", "write:reports", "write:*", "write", "plain", "*", "a:b:c"] {
            assert!(held.allow(yes), "{yes}");
        }
        for no in [
            "read:*",
            "read:other",
            "read",
            "plain:x",
            "*:reports",
            "a:b",
            "a:b:d",
            "a:*",
            "",
            "Read:reports",
        ] {
            assert!(!held.allow(no), "{no}");
        }
        assert_eq!(held.to_string(), "read:reports write:* plain * a:b:c");
        assert!(!Scopes::parse("").allow("x"));
    }
}
