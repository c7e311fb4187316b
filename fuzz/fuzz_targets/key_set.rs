//! A JWK set of the directory. Must not do more than call the parser.

#![no_main]

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    if let Ok(keys) = portcullis::stytch::keys_from_json(body) {
        assert!(!keys.is_empty());
    }
});
