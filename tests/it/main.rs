//! One binary for everything that is tested from outside: the gateway with the API stand-in and real sockets.
//!
//! `tidy` holds the source against the design; the other files are one behaviour each.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    reason = "a test that meets what it did not expect should say so at once and end"
)]

mod admin;
mod advisories;
mod assertions;
mod authorization;
mod browser;
mod callers;
#[path = "../../fuzz/checks.rs"]
mod checks;
mod cli;
mod client_certificates;
mod configuration;
mod corpora;
mod credentials_forwarded;
mod cycles;
mod decisions;
mod directory_faults;
mod documents;
mod emulator;
mod evidence;
mod fact_ages;
mod field_names;
mod floods;
mod forwarding;
mod grpc;
mod grpc_troubles;
mod hostile_requests;
mod identity_headers;
mod ingress;
mod operations;
mod origin_answers;
mod origins;
mod outage;
mod overload;
mod path_readings;
mod peers;
mod policy_properties;
mod policy_tools;
mod process;
mod prometheus;
mod protocols;
mod records;
mod redis_troubles;
mod refusals;
mod reload;
mod remembered_tokens;
mod requirements;
mod reserved_pages;
mod resting;
mod revocation_bus;
mod rules;
mod secrets;
mod servers;
mod shared_tier;
mod shares;
mod shares_of_servers;
mod streams;
mod support;
mod svix;
mod tenants;
mod tidy;
mod tls;
mod traces;
mod true_peer;
mod tunnels;
mod warnings;
mod websocket_http2;
#[path = "../../fuzz/wire.rs"]
mod wire;
