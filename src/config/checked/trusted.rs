//! Checking who may name a member in two headers.
//!
//! Must not take a network for an address unless that is said.

use super::checker::Checker;
use super::leaves::network;
use crate::config::diagnostics::Code;
use crate::config::lint::wide_warning;
use crate::config::raw::RawTrustedIdentity;
use crate::config::tree::Path;
use crate::identity::{TrustedIdentity, TrustedPeers};

impl Checker<'_> {
    pub(super) fn trusted_identity(
        &mut self,
        raw: &RawTrustedIdentity,
        path: &Path,
    ) -> Option<TrustedIdentity> {
        let mut named = |text: &Option<String>, key: &str| match text {
            Some(text) => self.header_name(text, &path.key(key)),
            None => {
                self.note(
                    Code::Missing,
                    path,
                    format!("a trusted identity needs `{key}`"),
                    Some("such as `x-member`"),
                );
                None
            }
        };
        let organization_header = named(&raw.organization_header, "organization_header");
        let member_header = named(&raw.member_header, "member_header");
        if organization_header.is_some() && organization_header == member_header {
            let message = "the organization and the member come in two headers";
            self.note(Code::Conflict, &path.key("member_header"), message, None);
        }
        let wide = raw.allow_wide == Some(true);
        let mut networks = Vec::new();
        for (index, text) in raw.peers.iter().flatten().enumerate() {
            let path = path.key("peers").index(index);
            match network(text) {
                Some(network) if !wide && network.prefix_len() != network.max_prefix_len() => {
                    let message =
                        format!("`{text}` is more than one address, and any of them could name anybody");
                    let hint = "list addresses, use `client_certificate`, or say `allow_wide: true`";
                    self.note(Code::InvalidValue, &path, message, Some(hint));
                }
                Some(network) => {
                    if network.prefix_len() <= 1 {
                        self.push(wide_warning(path.clone(), text));
                    }
                    networks.push(network);
                }
                None => {
                    let message = format!("`{text}` is no address");
                    self.note(Code::InvalidValue, &path, message, Some("such as `10.0.0.7`"));
                }
            }
        }
        // DNS names have no case; URIs do.
        let lower =
            |name: &String| if name.contains("://") { name.clone() } else { name.to_ascii_lowercase() };
        let certificate_names: Vec<String> = raw.client_certificate.iter().flatten().map(lower).collect();
        if networks.is_empty() && certificate_names.is_empty() && raw.peers.as_ref().is_none_or(Vec::is_empty)
        {
            let message = "nobody is trusted to name a member";
            let hint = "add `client_certificate: [NAME]` or `peers: [ADDRESS]`";
            self.note(Code::Missing, path, message, Some(hint));
        }
        if certificate_names.iter().any(String::is_empty) {
            self.note(
                Code::InvalidValue,
                &path.key("client_certificate"),
                "a certificate's name is not empty",
                None,
            );
        }
        Some(TrustedIdentity {
            organization_header: organization_header?,
            member_header: member_header?,
            from: TrustedPeers { networks, certificate_names },
        })
    }
}
