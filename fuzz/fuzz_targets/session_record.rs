//! The packed sessions of a member as the shared tier holds them. Must not do more than call the check.

#![no_main]

#[allow(dead_code)]
#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::session_record(bytes));
