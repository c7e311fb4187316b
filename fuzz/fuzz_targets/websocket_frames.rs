//! Frames of a tunnel, cut anywhere. Must not do more than call the check.

#![no_main]

#[allow(dead_code)]
#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::websocket_frames(bytes));
