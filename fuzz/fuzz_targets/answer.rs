//! The answer of an application, in bytes. Must not do more than call the check.

#![no_main]

#[allow(dead_code)]
#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::answer(bytes));
