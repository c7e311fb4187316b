//! Listeners: accepting, limits, TLS, telling HTTP/1.1 from HTTP/2, and leaving in order.
//!
//! Must not know what is served, nor let a client hold a place without a bound in time.

mod activity;
mod client_certificate;
mod connection_slot;
mod drain;
mod forwarded;
mod listener;
mod peek;
mod peer;
mod peer_limit;
mod places;
mod protocol;
mod proxy_protocol;
mod settings;
mod stream;
mod tls;

pub use drain::Drain;
pub use forwarded::{Told, read_forwarded};
pub use listener::{BindError, Listener, ListenerControl, Listening, PreparedListener};
pub use peer::Peer;
pub use places::Places;
pub use protocol::Serve;
pub use proxy_protocol::{Proxied, ProxiedClient, parse_binary, parse_line};
pub use settings::{CertificateFiles, ForwardedTrust, ListenerSettings, ServerLimits, TlsSettings};
pub use tls::{ServerTls, TlsError, server_tls};
