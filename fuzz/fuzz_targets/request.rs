//! What a stranger sends to a running gateway, against what its origin reads. Must not do more than call the check.

#![no_main]

#[path = "../wire.rs"]
mod wire;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    wire::request(bytes);
});
