//! Frames of a tunnel, cut anywhere. Must not do more than follow them.

#![no_main]

use portcullis::doors::FrameTracker;

libfuzzer_sys::fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let (first, second) = bytes.split_at(usize::from(cut) % (bytes.len() + 1));
    let (mut whole, mut parts) = (FrameTracker::default(), FrameTracker::default());
    whole.pass(bytes);
    parts.pass(first);
    parts.pass(second);
    assert_eq!(whole.is_between_frames(), parts.is_between_frames());
});
