//! Origins: connecting, keeping connections, sending one request and reading one answer.
//!
//! Must not know who is calling, and must not send a request twice.

mod origin;
mod pool;
mod settings;

pub use origin::{Origin, OriginBody, OriginError, OriginResponse, Progress, UploadFailure};
pub use settings::{OriginAddress, OriginSettings};
