//! The upstream: the Stytch B2B API over HTTP, its wire shapes, and its keys.
//!
//! Must not cache a session list or decide what one means; it asks, reads and says what came of it.

mod client;
mod credentials;
mod exchange;
mod facts;
mod keys;
mod policy_wire;
mod settings;
mod webhook;
mod wire;
mod written;

pub use client::{Revoked, StytchClient};
pub use facts::ProjectFacts;
pub use keys::{Keys, keys_from_json};
pub use policy_wire::{read_organization_roles, read_policy};
pub use settings::{AppCredentials, RbacSettings, StytchSettings};
pub use webhook::{Signature, WebhookError, WebhookEvent, WebhookSecret, read_webhook_event, verify_webhook};
pub use wire::{read_session_list, read_token_owner};
pub use written::{WrittenCase, WrittenFacts, WrittenList, WrittenPolicy};
