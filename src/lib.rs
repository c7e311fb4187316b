//! x
pub mod identity;
pub mod policy;
pub mod session;
pub mod telemetry;
pub mod directory;
pub mod stytch;
pub mod engine;
pub mod server;
pub mod upstream;
pub mod doors;
pub mod emulator;
