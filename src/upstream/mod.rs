//! Origins: choosing a server, connecting, keeping connections, sending one request and reading one answer.
//!
//! Must not know who is calling, and must not send a request's body twice.

mod answer;
mod answer_body;
mod balance;
mod body;
mod choice;
mod connect;
mod error;
mod health;
mod multiplex;
mod origin;
mod pool;
mod progress;
mod request;
mod resolve;
mod retry;
mod settings;
mod slots;
mod standing;
mod stream;
mod timer;
mod tls;
mod wire;

pub use answer::{AnswerError, AnswerHead, Framing, Piece, Reading, take_head};
pub use body::OriginBody;
pub use error::{BoxError, OriginError, OriginFailure};
pub use origin::{Origin, OriginResponse, lasts};
pub use progress::{UploadFailure, UploadProgress};
pub use request::{OriginRequest, RequestHead};
pub use settings::{
    CallerShare, EjectionSettings, HealthSettings, MaySet, OriginAddress, OriginSettings, OriginTls,
    RetrySettings,
};
pub use slots::{Caller, NoSlot, Slot, Slots};
pub use tls::{OriginTlsError, origin_tls};
