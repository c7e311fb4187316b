//! The reserved prefix `/.portcullis/`: ours on every host, tested before any route.
//!
//! Must not forward anything, whatever a route says.

use http::Method;

use crate::policy::{CanonicalPath, Reason};

/// What no route is asked about: a method that is not offered, or a path of our own.
pub fn refused_at_the_door(method: &Method, path: &CanonicalPath) -> Option<Reason> {
    match *method {
        Method::CONNECT => Some(Reason::ConnectRefused),
        _ => is_reserved(path).then_some(Reason::ReservedPath),
    }
}

/// Whether the path belongs to the gateway itself.
fn is_reserved(path: &CanonicalPath) -> bool {
    let begins = |path: &CanonicalPath| {
        path.segments().next().is_some_and(|first| first.eq_ignore_ascii_case(".portcullis"))
    };
    // A reading that is no path at all is refused by the route; here only what might be ours matters.
    begins(path) || path.other_readings().is_ok_and(|others| others.iter().any(begins))
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
