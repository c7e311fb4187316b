//! Listeners: accepting, limits, TLS, telling HTTP/1.1 from HTTP/2, and leaving in order.
//!
//! Must not know what is served, nor let a client hold a place without a bound in time.

mod activity;
mod client_certificate;
mod drain;
mod listener;
mod protocol;
mod settings;
mod stream;
mod tls;

pub use drain::Drain;
pub use listener::{BindError, Listener};
pub use protocol::{Peer, Serve};
pub use settings::{CertificateFiles, ListenerSettings, ServerLimits};
pub use tls::{ServerTls, TlsError, server_tls};
