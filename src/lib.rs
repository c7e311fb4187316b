//! Portcullis: an authenticating reverse proxy and sidecar for teams that sign in with Stytch B2B.
//!
//! The modules in reading order. Who may import whom is a table in `tests/it/tidy.rs`, which fails when it is broken.
//!
//! | module | what it is |
//! |---|---|
//! | [`identity`] | who is calling: ids, credentials, JWT verification (pure) |
//! | [`session`] | what the directory knows: factors, sessions, revocations (pure) |
//! | [`policy`] | what a route asks, and the decision (pure) |
//! | [`telemetry`] | logs, metrics, trace context |
//! | [`directory`] | asking for active sessions: the trait and its tiers |
//! | [`stytch`] | the upstream API |
//! | [`engine`] | the decision point |
//! | [`revocation`] | who is told that a session ended |
//! | [`server`], [`upstream`] | listeners and origins |
//! | [`doors`] | enforcement points |
//! | [`admin`] | metrics, probes, the admin API |
//! | [`config`] | from a file to settings |
//! | [`emulator`] | a stand-in of the API; shares no code with the rest |
//! | [`app`] | builds and wires everything |
//! | [`cli`] | the commands |
//!
//! The walk of one request: `server` accepts it; `doors::proxy` reads it strictly into an `AccessRequest`;
//! `Engine::check` finds the route, the caller and the evidence and has `policy` decide; the door forwards it to
//! `upstream` with a `Permit`, or answers the `Refusal`.

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod directory;
pub mod doors;
pub mod emulator;
pub mod engine;
pub mod identity;
pub mod policy;
pub mod revocation;
pub mod server;
pub mod session;
pub mod stytch;
pub mod telemetry;
pub mod upstream;
