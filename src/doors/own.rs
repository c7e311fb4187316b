//! The reserved prefix `/.portcullis/`: ours on every host, tested before any route.
//!
//! Must not forward anything, whatever a route says.

use crate::policy::CanonicalPath;

/// Whether the path belongs to the gateway itself.
pub(super) fn is_reserved(path: &CanonicalPath) -> bool {
    let begins = |path: &CanonicalPath| {
        path.segments().next().is_some_and(|first| first.eq_ignore_ascii_case(".portcullis"))
    };
    // A reading that is no path at all is refused by the route; here only what might be ours matters.
    begins(path) || matches!(path.other_reading(), Ok(Some(other)) if begins(&other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_ours_in_every_spelling_that_is_canonical() {
        for (path, ours) in [
            ("/.portcullis", true),
            ("/.portcullis/", true),
            ("/.PORTCULLIS/x", true),
            ("/%2eportcullis/x", true),
            ("/a/../.portcullis/x", true),
            ("/.portcullis;x", true),
            ("/.portcullis%2Fwhoami", true),
            ("/.portcullisx", false),
            ("/a/.portcullis", false),
        ] {
            assert_eq!(is_reserved(&CanonicalPath::parse(path).unwrap()), ours, "{path}");
        }
    }
}
