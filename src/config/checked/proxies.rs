//! Checking which proxies in front are believed.
//!
//! Must not let everybody be one.

use ipnet::IpNet;

use super::checker::Checker;
use super::leaves::network;
use crate::config::diagnostics::Code;
use crate::config::raw::{RawForwarded, RawProxyProtocol};
use crate::config::tree::Path;
use crate::server::ForwardedTrust;

impl Checker<'_> {
    pub(super) fn proxy_protocol(&mut self, raw: Option<&RawProxyProtocol>, path: &Path) -> Vec<IpNet> {
        raw.map(|raw| self.proxies(raw.from.as_deref(), path)).unwrap_or_default()
    }

    pub(super) fn forwarded(&mut self, raw: &RawForwarded, path: &Path) -> Option<ForwardedTrust> {
        let networks = self.proxies(raw.from.as_deref(), &path.key("from"));
        let standard = match raw.header.as_deref() {
            None | Some("x-forwarded") => false,
            Some("forwarded") => true,
            Some(other) => {
                let message = format!("`{other}` is not how proxies tell of the client");
                let hint = "`x-forwarded` or `forwarded`, whichever they write";
                self.note(Code::InvalidValue, &path.key("header"), message, Some(hint));
                return None;
            }
        };
        Some(ForwardedTrust { networks, standard, host: raw.host.unwrap_or_default() })
    }

    fn proxies(&mut self, written: Option<&[String]>, path: &Path) -> Vec<IpNet> {
        let written = written.unwrap_or_default();
        if written.is_empty() {
            let hint = "add the networks of your load balancers, such as `from: [10.0.0.0/24]`";
            self.note(Code::Missing, path, "nobody is believed", Some(hint));
        }
        let mut networks = Vec::new();
        for (index, text) in written.iter().enumerate() {
            let path = path.index(index);
            match network(text) {
                Some(network) if network.prefix_len() <= 1 => {
                    let message = format!("`{text}` is everybody, and anybody could be whoever they say");
                    self.note(Code::InvalidValue, &path, message, Some("list the proxies' own networks"));
                }
                Some(network) => networks.push(network),
                None => {
                    let message = format!("`{text}` is neither a network nor an address");
                    self.note(
                        Code::InvalidValue,
                        &path,
                        message,
                        Some("such as `10.0.0.0/24` or `192.0.2.7`"),
                    );
                }
            }
        }
        networks
    }
}
