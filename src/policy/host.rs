//! The host a request names, and the patterns routes name hosts with.
//!
//! Must not look at ports, trust any header, or compare letters by case.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// Not a host with an optional port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a host name or address with an optional port")]
pub struct InvalidHost;

/// A host in lower case, without port or trailing dot. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName(Arc<str>);

impl HostName {
    /// Reads an authority without user information: `host`, `host:port` or `[v6]:port` (RFC 9110 section 7.2).
    pub fn parse(authority: &str) -> Result<Self, InvalidHost> {
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']').ok_or(InvalidHost)?;
                let address: Ipv6Addr = address.parse().map_err(|_| InvalidHost)?;
                (format!("[{address}]"), port)
            }
            None => {
                let (host, port) = authority.find(':').map_or((authority, ""), |at| authority.split_at(at));
                (host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase(), port)
            }
        };
        let port = if port.is_empty() { Some("0") } else { port.strip_prefix(':') };
        // A port may be empty behind its colon (RFC 3986 section 3.2.3).
        let is_port = |port: &str| {
            port.is_empty() || port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
        };
        if !port.is_some_and(is_port) || !(host.starts_with('[') || is_name(&host)) {
            return Err(InvalidHost);
        }
        Ok(Self(host.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which hosts a route answers for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    Exact(HostName),
    /// `*.example.com`: any name below the suffix, kept with its leading dot.
    Below(String),
    /// `*`: any host, named by a route or not.
    Any,
    /// The route names no host.
    Unnamed,
}

impl HostPattern {
    pub fn parse(text: &str) -> Result<Self, InvalidHost> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(suffix) = text.strip_prefix("*.") {
            let suffix = HostName::parse(suffix)?;
            if suffix.0.parse::<IpAddr>().is_ok() || suffix.0.starts_with('[') || text.contains(':') {
                return Err(InvalidHost);
            }
            return Ok(Self::Below(format!(".{suffix}")));
        }
        if text.contains(':') && !text.starts_with('[') {
            return Err(InvalidHost);
        }
        Ok(Self::Exact(HostName::parse(text)?))
    }

    pub fn matches(&self, host: &HostName) -> bool {
        match self {
            Self::Exact(exact) => exact == host,
            Self::Below(suffix) => host.0.len() > suffix.len() && host.0.ends_with(suffix.as_str()),
            Self::Any | Self::Unnamed => true,
        }
    }

    /// Whether this names particular hosts, so that others are misdirected.
    pub fn is_named(&self) -> bool {
        matches!(self, Self::Exact(_) | Self::Below(_))
    }

    /// Exact before wildcard before none, longer literal first: smaller ranks higher.
    pub(super) fn rank(&self) -> (u8, usize) {
        match self {
            Self::Exact(host) => (0, usize::MAX - host.0.len()),
            Self::Below(suffix) => (1, usize::MAX - suffix.len()),
            Self::Any | Self::Unnamed => (2, 0),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(&host.0),
            Self::Below(suffix) => write!(f, "*{suffix}"),
            Self::Any => f.write_str("*"),
            Self::Unnamed => f.write_str("-"),
        }
    }
}

fn is_name(host: &str) -> bool {
    host.len() <= 253
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_compare_lower_case_and_without_port() {
        for (authority, expected) in [
            ("App.Example.COM:8443", "app.example.com"),
            ("app.example.com.", "app.example.com"),
            ("app.example.com.:", "app.example.com"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]:8080", "[::1]"),
            ("[0:0::1]", "[::1]"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(HostName::parse(authority).unwrap().as_str(), expected);
        }
        for bad in [
            "",
            ":80",
            "a b",
            "user@host",
            "host/path",
            "a,b",
            "host:port",
            "host:99999",
            "host:80:80",
            "a..b",
            "[::1",
            "[::g]",
            "[::1]x",
            "é.example",
            "a:+80",
        ] {
            assert_eq!(HostName::parse(bad), Err(InvalidHost), "{bad}");
        }
    }

    #[test]
    fn a_wildcard_covers_names_below_it_only() {
        let pattern = HostPattern::parse("*.example.com").unwrap();
        let matches = |host| pattern.matches(&HostName::parse(host).unwrap());
        assert!(matches("a.example.com") && matches("a.b.example.com"));
        assert!(!matches("example.com") && !matches("aexample.com") && !matches("a.example.com.evil.net"));
    }
}
