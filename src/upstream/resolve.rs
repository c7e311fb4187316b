//! From configured addresses to endpoints: names are looked up again and again, and each address is a server.
//!
//! Must not forget addresses because a look-up failed.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;

use super::connect::{Endpoint, Place};
use super::settings::{OriginAddress, Transport};

/// One configured address.
#[derive(Debug, Clone)]
pub(super) struct Configured {
    transport: Transport,
    /// The name under TLS; none in the clear.
    name: Option<ServerName<'static>>,
    authority: Arc<str>,
}

impl Configured {
    /// `server_name` outranks the host of the address. Nothing where neither is a name for TLS.
    pub(super) fn new(address: &OriginAddress, server_name: Option<&str>) -> Option<Self> {
        let transport = address.0.clone();
        let (name, authority) = match &transport {
            Transport::Unix(_) => (None, "localhost".to_owned()),
            Transport::Tcp { host, port, tls } => {
                let name = match tls {
                    true => Some(ServerName::try_from(server_name.unwrap_or(host).to_owned()).ok()?),
                    false => None,
                };
                let shown = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                (name, format!("{shown}:{port}"))
            }
        };
        Some(Self { transport, name, authority: Arc::from(authority) })
    }

    /// Whether its addresses are found by asking, and may change.
    pub(super) fn is_looked_up(&self) -> bool {
        self.endpoint().is_none()
    }

    /// Where it is, if that needs no looking up.
    pub(super) fn endpoint(&self) -> Option<Endpoint> {
        let place = match &self.transport {
            Transport::Unix(path) => Place::Unix(path.clone()),
            Transport::Tcp { host, port, .. } => match host.parse::<IpAddr>() {
                Ok(address) => Place::Address(SocketAddr::new(address, *port)),
                Err(_) if is_localhost(host) => Place::Name(host.clone(), *port),
                Err(_) => return None,
            },
        };
        Some(self.at(place))
    }

    /// Where it is now. Of a name with addresses of both families, those of the family the system puts first
    /// (RFC 6724): the other one mostly leads to the same servers, or nowhere.
    pub(super) async fn endpoints(&self, within: Duration) -> Option<Vec<Endpoint>> {
        if let Some(endpoint) = self.endpoint() {
            return Some(vec![endpoint]);
        }
        let Transport::Tcp { host, port, .. } = &self.transport else { return None };
        let found = tokio::time::timeout(within, tokio::net::lookup_host((host.as_str(), *port)));
        let mut addresses: Vec<SocketAddr> = found.await.ok()?.ok()?.collect();
        let first = *addresses.first()?;
        addresses.retain(|address| address.is_ipv4() == first.is_ipv4());
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(MOST_ADDRESSES);
        Some(addresses.into_iter().map(|address| self.at(Place::Address(address))).collect())
    }

    /// Whether the endpoint may have come from this address.
    pub(super) fn leads_to(&self, endpoint: &Endpoint) -> bool {
        endpoint.authority == self.authority && endpoint.name == self.name
    }

    fn at(&self, place: Place) -> Endpoint {
        Endpoint { place, name: self.name.clone(), authority: Arc::clone(&self.authority) }
    }
}

/// Servers behind one name: what is more is left out.
const MOST_ADDRESSES: usize = 64;

/// Always this machine (RFC 6761 section 6.3), in one family or the other.
fn is_localhost(host: &str) -> bool {
    host.trim_end_matches('.').eq_ignore_ascii_case("localhost")
}
