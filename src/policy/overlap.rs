//! How path patterns and hosts of routes lie to each other, for finding routes that take what another was meant for.
//!
//! Must not be used to decide a request: `route` does, path by path.

use super::pattern::{PathPattern, Segment, Shape};
use super::{HostPattern, RouteMatch};

impl PathPattern {
    /// Whether this pattern takes every path `other` does. When in doubt it does not.
    pub fn covers(&self, other: &Self) -> bool {
        match (self.shape(), other.shape()) {
            (Shape::Prefix(prefix), Shape::Exact(exact)) => is_under(exact, prefix),
            (Shape::Prefix(prefix), Shape::Prefix(inner)) => is_under(inner, prefix),
            (Shape::Prefix(prefix), Shape::Glob(_)) => {
                other.as_str().strip_prefix(prefix.as_str()).is_some_and(|rest| rest.starts_with('/'))
            }
            (Shape::Glob(one), Shape::Glob(two)) => {
                // A parameter's name makes no difference to what is matched.
                one.len() == two.len() && one.iter().zip(two).all(|(one, two)| one.takes_as_much_as(two))
            }
            _ => self.as_str() == other.as_str(),
        }
    }

    /// Whether any path is taken by both.
    pub fn overlaps(&self, other: &Self) -> bool {
        meet(&self.as_segments(), &other.as_segments())
    }

    /// Whether it is the catch-all `/**`.
    pub fn is_catch_all(&self) -> bool {
        matches!(self.shape(), Shape::Prefix(prefix) if prefix.is_empty())
    }

    fn as_segments(&self) -> Vec<Segment> {
        let literal =
            |text: &str| text.split('/').skip(1).map(|part| Segment::Literal(part.to_owned())).collect();
        match self.shape() {
            Shape::Exact(text) => literal(text),
            Shape::Glob(segments) => segments.clone(),
            Shape::Prefix(prefix) => {
                let mut segments: Vec<Segment> = if prefix.is_empty() { Vec::new() } else { literal(prefix) };
                segments.push(Segment::Deep);
                segments
            }
        }
    }
}

impl Segment {
    /// Whether it takes every segment `other` takes.
    fn takes_as_much_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Deep, Self::Deep) | (Self::Parameter(_), Self::Parameter(_)) => true,
            (Self::Parameter(_), Self::Wild(_)) => true,
            (Self::Wild(pieces), Self::Parameter(_)) => pieces.iter().all(String::is_empty),
            (one, other) => one == other,
        }
    }

    /// Whether some text is taken by both.
    fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Literal(_), Self::Literal(_)) => self == other,
            (Self::Literal(text), pattern) | (pattern, Self::Literal(text)) => pattern.takes(text),
            // Two patterns with stars nearly always meet somewhere.
            _ => true,
        }
    }
}

fn is_under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn meet(one: &[Segment], other: &[Segment]) -> bool {
    match (one, other) {
        ([], []) => true,
        ([Segment::Deep, rest @ ..], whole) | (whole, [Segment::Deep, rest @ ..]) => {
            (0..=whole.len()).any(|taken| whole.get(taken..).is_some_and(|left| meet(rest, left)))
        }
        ([first, rest @ ..], [second, others @ ..]) => first.meets(second) && meet(rest, others),
        _ => false,
    }
}

impl HostPattern {
    /// Whether any host is matched by both.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any | Self::Unnamed, _) | (_, Self::Any | Self::Unnamed) => true,
            (Self::Exact(one), Self::Exact(two)) => one == two,
            (Self::Exact(host), pattern) | (pattern, Self::Exact(host)) => pattern.matches(host),
            (Self::Below(one), Self::Below(two)) => one.ends_with(two) || two.ends_with(one),
        }
    }
}

impl RouteMatch {
    /// Whether every method `other` takes is taken.
    pub fn takes_methods_of(&self, other: &Self) -> bool {
        self.methods.is_empty()
            || (!other.methods.is_empty() && other.methods.iter().all(|method| self.takes(method)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> PathPattern {
        PathPattern::parse(text).unwrap()
    }

    #[test]
    fn patterns_cover_and_overlap_as_their_paths_do() {
        for (one, other, covers, overlaps) in [
            ("/**", "/a", true, true),
            ("/**", "/a/*/b", true, true),
            ("/a/**", "/a", true, true),
            ("/a/**", "/a/b", true, true),
            ("/a/**", "/ab", false, false),
            ("/a/**", "/a/b/**", true, true),
            ("/a/b/**", "/a/**", false, true),
            ("/a/*/c", "/a/b/c", false, true),
            ("/a/*/c", "/a/b/d", false, false),
            ("/a/{x}/c", "/a/{y}/c", true, true),
            ("/a/{x}/c", "/a/*/c", true, true),
            ("/a/*.png", "/a/{x}", false, true),
            ("/*/admin/**", "/a/**", false, true),
            ("/a", "/b", false, false),
            ("/a", "/a", true, true),
        ] {
            let one = pattern(one);
            let other = pattern(other);
            assert_eq!(one.covers(&other), covers, "{one} covers {other}");
            assert_eq!(one.overlaps(&other), overlaps, "{one} overlaps {other}");
            assert_eq!(other.overlaps(&one), overlaps, "{other} overlaps {one}");
        }
    }
}
