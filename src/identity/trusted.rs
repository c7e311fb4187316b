//! Identities that another gateway of ours vouches for in two headers: an organization and a member.
//!
//! Must not believe them from anybody but the listed peers, nor from an address that a header names.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use super::{MemberId, MemberRef, OrganizationId};

/// Where a trusted identity is read, and from whom it is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedIdentity {
    pub organization_header: HeaderName,
    pub member_header: HeaderName,
    pub from: TrustedPeers,
}

/// Whose word counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrustedPeers {
    /// Addresses of the socket's other end.
    pub networks: Vec<IpNet>,
    /// Names of verified client certificates.
    pub certificate_names: Vec<String>,
}

impl TrustedPeers {
    /// Whether whoever is at the other end of the socket is one of them.
    pub fn include(&self, peer: Option<IpAddr>, certificate_names: &[String]) -> bool {
        let by_address = peer
            .map(|peer| peer.to_canonical())
            .is_some_and(|peer| self.networks.iter().any(|network| network.contains(&peer)));
        by_address || certificate_names.iter().any(|name| self.certificate_names.contains(name))
    }
}

impl TrustedIdentity {
    /// The member the headers name, if the peer may name one: nothing without the headers or from a stranger.
    /// An error if a trusted peer sent them in any way but each exactly once and well formed.
    pub fn read(
        &self,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
        certificate_names: &[String],
    ) -> Option<Result<MemberRef, MalformedIdentity>> {
        let present =
            headers.contains_key(&self.organization_header) || headers.contains_key(&self.member_header);
        if !present || !self.from.include(peer, certificate_names) {
            return None;
        }
        let once = |name: &HeaderName| {
            let mut values = headers.get_all(name).iter();
            match (values.next(), values.next()) {
                (Some(value), None) => value.to_str().ok().map(str::trim),
                _ => None,
            }
        };
        let member = once(&self.organization_header).zip(once(&self.member_header)).and_then(
            |(organization, member)| {
                Some(MemberRef {
                    organization_id: OrganizationId::parse(organization).ok()?,
                    member_id: MemberId::parse(member).ok()?,
                })
            },
        );
        Some(member.ok_or(MalformedIdentity))
    }
}

/// A trusted peer named nobody, more than one, or in a shape that is no identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the headers of a trusted identity are not there exactly once each")]
pub struct MalformedIdentity;

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn trusted() -> TrustedIdentity {
        TrustedIdentity {
            organization_header: HeaderName::from_static("x-org"),
            member_header: HeaderName::from_static("x-member"),
            from: TrustedPeers {
                networks: vec!["10.0.0.7/32".parse().unwrap()],
                certificate_names: vec!["gateway.internal".to_owned()],
            },
        }
    }

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn only_a_listed_peer_may_name_a_member() {
        let both = headers(&[("x-org", "acme"), ("x-member", "member-1")]);
        let read = |peer: &str, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            trusted().read(&both, peer.parse().ok(), &names)
        };
        assert_eq!(read("10.0.0.7", &[]).unwrap().unwrap().member_id.as_str(), "member-1");
        assert!(read("::ffff:10.0.0.7", &[]).is_some());
        assert!(read("192.0.2.1", &["gateway.internal"]).is_some());
        assert!(read("", &["gateway.internal"]).is_some());
        for (peer, names) in [("10.0.0.8", &[][..]), ("", &[]), ("192.0.2.1", &["evil.internal"])] {
            assert_eq!(read(peer, names), None, "{peer} {names:?}");
        }
    }

    #[test]
    fn each_header_must_be_there_exactly_once() {
        for fields in [
            &[("x-org", "acme")][..],
            &[("x-member", "member-1")],
            &[("x-org", "acme"), ("x-member", "member-1"), ("x-member", "member-2")],
            &[("x-org", "acme"), ("x-org", "acme"), ("x-member", "member-1")],
            &[("x-org", ""), ("x-member", "member-1")],
            &[("x-org", "a b"), ("x-member", "member-1")],
        ] {
            let read = trusted().read(&headers(fields), "10.0.0.7".parse().ok(), &[]);
            assert_eq!(read, Some(Err(MalformedIdentity)), "{fields:?}");
        }
        assert_eq!(trusted().read(&headers(&[]), "10.0.0.7".parse().ok(), &[]), None);
    }
}
