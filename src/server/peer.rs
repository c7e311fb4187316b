//! The client of a connection: the peer of the socket, or the client that a listed proxy reports.
//!
//! Must not believe an address, a scheme or a host out of a header unless the socket's own address is listed.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;

use super::activity::Activity;
use super::client_certificate::ClientCertificate;
use super::connection_slot::ConnectionSlot;
use super::forwarded::{Told, read_forwarded};
use super::peer_limit::network;
use super::proxy_protocol::{Proxied, ProxiedClient};
use super::settings::ForwardedTrust;

/// The client that a request comes from.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The client's address: the socket's own, unless a listed proxy names another. None where one does not know it.
    pub address: Option<IpAddr>,
    /// The same as text: written once, sent with every request.
    pub address_value: HeaderValue,
    /// The address at the other end of the socket; nothing a header or a proxy says.
    pub socket: IpAddr,
    /// Listed proxies the request came through, the client's end first, without the client.
    pub hops: Vec<IpAddr>,
    /// The host a listed proxy says the client asked for, where that is to be believed.
    pub host: Option<String>,
    /// Whether a listed proxy sent it, whose request ids and traces are taken up.
    pub is_proxy: bool,
    pub listener: Arc<str>,
    /// The name the connection was made for under TLS, in lower case, if the client said one.
    pub server_name: Option<Arc<str>>,
    /// Whether the client's own connection was under TLS.
    pub secure: bool,
    pub(super) certificate: Option<Arc<ClientCertificate>>,
    /// Its slot among the connections of the listener, occupied as long as anything holds the peer, a tunnel included.
    pub(super) slot: Arc<ConnectionSlot>,
    pub(super) activity: Option<Arc<Activity>>,
}

impl Peer {
    pub(super) fn new(
        socket: SocketAddr,
        listener: Arc<str>,
        secure: bool,
        slot: Arc<ConnectionSlot>,
    ) -> Self {
        let address = socket.ip().to_canonical();
        Self {
            address: Some(address),
            address_value: value_of(Some(address)),
            socket: address,
            hops: Vec::new(),
            host: None,
            is_proxy: false,
            listener,
            server_name: None,
            secure,
            certificate: None,
            slot,
            activity: None,
        }
    }

    /// The names in its client certificate, which was verified and is valid; none if it showed none.
    pub fn certificate_names(&self) -> &[String] {
        self.certificate.as_deref().map(ClientCertificate::names).unwrap_or_default()
    }

    /// When that certificate ends.
    pub fn certificate_ends(&self) -> Option<Timestamp> {
        self.certificate.as_deref().and_then(ClientCertificate::ends)
    }

    /// Its connection counts as busy for as long as what comes back is held: for tunnels within a connection.
    pub fn stay_busy(&self) -> impl Send + use<> {
        self.activity.as_ref().map(|activity| Activity::begin(activity, false))
    }

    /// The client's address; of IPv6 the /64 it is in, all of which one host may use.
    pub fn network(&self) -> Option<IpAddr> {
        self.address.map(network)
    }

    /// The client and the proxies it came through, as `X-Forwarded-For` has them.
    pub fn forwarded_for(&self) -> HeaderValue {
        if self.hops.is_empty() {
            return self.address_value.clone();
        }
        let client = self.address_value.to_str().unwrap_or_default().to_owned();
        let all: Vec<String> =
            std::iter::once(client).chain(self.hops.iter().map(IpAddr::to_string)).collect();
        HeaderValue::try_from(all.join(", ")).unwrap_or_else(|_| self.address_value.clone())
    }

    /// What a listed proxy wrote before the connection's first byte.
    pub(super) fn is_proxied(&mut self, proxied: Proxied) {
        self.secure |= proxied.under_tls;
        let client = match proxied.client {
            ProxiedClient::Itself => return,
            ProxiedClient::Unknown => None,
            ProxiedClient::Address(client) => Some(client),
        };
        self.hops = vec![self.socket];
        self.set_address(client);
    }

    /// The client of one request, if the listener believes what its headers say.
    pub fn of(self: &Arc<Self>, headers: &HeaderMap, trust: Option<&ForwardedTrust>) -> Arc<Self> {
        let Some((trust, from)) = trust.zip(self.address).filter(|(trust, from)| trust.covers(*from)) else {
            return Arc::clone(self);
        };
        let Told { client, hops, secure, host } = read_forwarded(headers, from, trust);
        let mut told = Self::clone(self);
        told.is_proxy = true;
        told.secure = secure.unwrap_or(self.secure);
        told.host = host;
        // What was already known lies nearer to us.
        told.hops = hops.into_iter().chain(self.hops.iter().copied()).collect();
        told.set_address(client);
        Arc::new(told)
    }

    fn set_address(&mut self, address: Option<IpAddr>) {
        self.address = address.map(|address| address.to_canonical());
        self.address_value = value_of(self.address);
    }
}

fn value_of(address: Option<IpAddr>) -> HeaderValue {
    let text = address.and_then(|address| HeaderValue::from_str(&address.to_string()).ok());
    text.unwrap_or_else(|| HeaderValue::from_static("unknown"))
}
