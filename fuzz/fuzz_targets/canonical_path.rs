//! A path from a stranger: canonical once, canonical for ever, and without dots. Must not do more than call the parser.

#![no_main]

use portcullis::policy::CanonicalPath;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(path) = CanonicalPath::parse(text) {
        assert_eq!(CanonicalPath::parse(path.as_str()).as_ref(), Ok(&path));
        assert!(!path.segments().any(|segment| matches!(segment, "." | "..")));
        drop(path.other_readings());
    }
});
