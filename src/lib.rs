//! x
pub mod identity;
pub mod policy;
pub mod session;
