//! A faithful stand-in of the Stytch B2B API on one port, for the demo, tests, benches and users' own tests.
//!
//! Must not share a line with the client that reads it: a mistake in one must not hide in the other.

mod api;
mod control;
mod echo;
mod faults;
mod objects;
mod seed;
mod serve;
mod signing;
mod state;
mod tokens;

pub use echo::EchoOrigin;
pub use seed::SeedError;
pub use serve::{Emulator, EmulatorSettings, Persona};
