//! The corpora of the fuzz targets, replayed: what was once found stays found.

use crate::checks::{ALL, corpus};
use crate::wire;

#[test]
fn parsers_hold_what_they_promise() {
    for (target, check) in ALL {
        for bytes in corpus(target) {
            check(&bytes);
        }
    }
}

/// A target that nobody replays is one nobody keeps.
#[test]
fn every_target_is_replayed() {
    let mut targets: Vec<String> = std::fs::read_dir("fuzz/fuzz_targets")
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|target| target != "request")
        .collect();
    targets.sort();
    assert_eq!(targets, ALL.map(|(target, _)| target));
}

#[test]
fn what_is_forwarded_is_one_thing_to_every_reader() {
    let forwarded: usize = corpus("request").iter().map(|bytes| wire::request(bytes)).sum();
    assert!(forwarded >= 6, "only {forwarded} reached the origin");
}
