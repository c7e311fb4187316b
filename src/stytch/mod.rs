//! The upstream: the Stytch B2B API over HTTP, its wire shapes, and its keys.
//!
//! Must not cache a session list or decide what one means; it asks, reads and says what came of it.

mod client;
mod credentials;
mod exchange;
mod keys;
mod settings;
mod webhook;
mod wire;
mod written;

pub use client::{Revoked, StytchClient};
pub use keys::{Keys, keys_from_json};
pub use settings::StytchSettings;
pub use webhook::{Signature, WebhookError, WebhookEvent, WebhookSecret, read_webhook_event, verify_webhook};
pub use wire::{read_session_list, read_token_owner};
pub use written::WrittenList;
