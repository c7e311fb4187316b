//! Path patterns of routes: exact, segment prefix, glob.
//!
//! Must not build a regular expression from configuration, nor match anything but canonical segments.

use std::cmp::Reverse;
use std::fmt;

use super::path::fold;
use super::{CanonicalPath, PathError, PathText, Segments};

/// The pattern cannot match any canonical path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    #[error("a path pattern begins with a slash")]
    NoLeadingSlash,
    #[error("`**` stands alone in its segment")]
    PartialDeep,
    #[error("no request could match it: {0}")]
    NotCanonical(PathError),
    #[error("no request could match it: the canonical spelling is `{0}`")]
    Spelling(String),
    #[error("`{{` and `}}` enclose a name that is a whole segment, each name once")]
    Parameter,
    #[error(
        "some origins read it as another path: it encodes a character, or a segment ends in a dot or a blank"
    )]
    Encoded,
}

/// Which paths a route answers for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    text: String,
    shape: Shape,
    /// The shape with letter case folded, where that is another.
    folded: Option<Shape>,
    literal_bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    Exact(String),
    /// `/x/**`: `/x`, `/x/` and everything below, never `/xy`. Kept without the trailing slash.
    Prefix(String),
    Glob(Vec<Segment>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    Literal(String),
    /// `*` within one segment: the pieces between the stars.
    Wild(Vec<String>),
    /// `{name}`: any one segment, known by its name.
    Parameter(String),
    /// `**`: any number of segments, none included.
    Deep,
}

impl PathPattern {
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        if !text.starts_with('/') {
            return Err(InvalidPattern::NoLeadingSlash);
        }
        let names = parameters(text)?;
        // A parameter stands for a segment, so a star in its place is canonical if it is.
        let mut plain = text.to_owned();
        for name in &names {
            plain = plain.replace(&format!("{{{name}}}"), "*");
        }
        let canonical = CanonicalPath::parse(&plain).map_err(InvalidPattern::NotCanonical)?;
        if canonical.as_str() != plain {
            return Err(InvalidPattern::Spelling(canonical.as_str().to_owned()));
        }
        let shape = match plain.strip_suffix("/**") {
            Some(prefix) if !prefix.contains('*') => Shape::Prefix(prefix.to_owned()),
            _ if !plain.contains('*') => Shape::Exact(plain.clone()),
            _ => Shape::Glob(text.split('/').skip(1).map(Segment::parse).collect::<Result<_, _>>()?),
        };
        if canonical.other_readings() != Ok(&[]) {
            return Err(InvalidPattern::Encoded);
        }
        let folded = shape.folded();
        let literal_bytes = plain.bytes().filter(|byte| *byte != b'*').count();
        Ok(Self { text: text.to_owned(), shape, folded, literal_bytes })
    }

    /// Whether `path` is covered, with or without regard to letter case.
    pub fn matches(&self, path: PathText<'_>, ignore_case: bool) -> bool {
        match (&self.folded, ignore_case) {
            (Some(folded), true) => folded.matches(path.folded),
            (None, true) => self.shape.matches(path.folded),
            (_, false) => self.shape.matches(path.exact),
        }
    }

    /// Whether it has letters that are others with case folded.
    pub(super) fn has_case(&self) -> bool {
        self.folded.is_some()
    }

    /// Whether it is the same pattern as `other` once letter case is ignored.
    pub fn is_same_ignoring_case(&self, other: &Self) -> bool {
        let folded = |pattern: &Self| pattern.folded.clone().unwrap_or_else(|| pattern.shape.clone());
        self.shape == other.shape || (self.has_case() || other.has_case()) && folded(self) == folded(other)
    }

    /// The pattern of the same paths with one last slash added or removed. A prefix takes both by itself.
    pub(super) fn with_other_slash(&self) -> Option<Self> {
        let shape = self.shape.with_other_slash()?;
        let text = match self.text.strip_suffix('/') {
            Some(bare) => bare.to_owned(),
            None => format!("{}/", self.text),
        };
        Some(Self { text, folded: shape.folded(), shape, literal_bytes: self.literal_bytes })
    }

    /// The same text for patterns that match the same paths, whatever the names of their parameters and whether they are
    /// written as a prefix or as a glob.
    pub(super) fn skeleton(&self, fold_case: bool) -> String {
        let segments = match self.folded.as_ref().filter(|_| fold_case).unwrap_or(&self.shape) {
            Shape::Exact(text) => return text.clone(),
            Shape::Prefix(text) => return format!("{text}/**"),
            Shape::Glob(segments) => segments,
        };
        let text = |segment: &Segment| match segment {
            Segment::Literal(text) => format!("/{text}"),
            Segment::Wild(pieces) => format!("/{}", pieces.join("*")),
            Segment::Parameter(_) => "/*".to_owned(),
            Segment::Deep => "/**".to_owned(),
        };
        segments.iter().map(text).collect()
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The segment of `path` that the parameter `name` stands for, if the pattern has it and covers the path.
    ///
    /// Letter case is ignored in what is matched and kept in what is captured: one name is compared with another by whoever
    /// asks. A parameter after `**` could stand for any of several segments, so `**` comes last where there is one.
    pub fn capture<'a>(&self, path: PathText<'a>, name: &str) -> Option<&'a str> {
        let Shape::Glob(segments) = &self.shape else { return None };
        let at = segments
            .iter()
            .position(|segment| matches!(segment, Segment::Parameter(known) if known == name))?;
        let matches = self.matches(path, true)
            || self.with_other_slash().is_some_and(|pattern| pattern.matches(path, true));
        matches.then(|| Segments::of(path.exact).nth(at)).flatten()
    }

    /// The segment that every path it covers begins with, if that is always the same.
    pub(super) fn first_segment(&self) -> Option<&str> {
        self.shape.first_segment()
    }

    /// The same with letter case folded.
    pub(super) fn first_folded_segment(&self) -> Option<&str> {
        self.folded.as_ref().unwrap_or(&self.shape).first_segment()
    }

    pub(super) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The one path it names, if it names one.
    pub fn exact(&self) -> Option<&str> {
        match &self.shape {
            Shape::Exact(text) => Some(text),
            Shape::Prefix(_) | Shape::Glob(_) => None,
        }
    }

    /// The parameters, in their order.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        let segments: &[Segment] = match &self.shape {
            Shape::Glob(segments) => segments,
            Shape::Exact(_) | Shape::Prefix(_) => &[],
        };
        segments.iter().filter_map(|segment| match segment {
            Segment::Parameter(name) => Some(name.as_str()),
            Segment::Literal(_) | Segment::Wild(_) | Segment::Deep => None,
        })
    }

    /// Exact first; then by the literal segments it begins with, longer first; at the same length a glob, which takes
    /// less, before the prefix that would silence it; then by all its letters. Smaller ranks higher.
    ///
    /// So `/v1/orgs/{org}/**` comes before `/v1/**`, `/admin/**` before `/*/admin/**`, and `/**` last of all.
    pub(super) fn rank(&self) -> (bool, Reverse<usize>, bool, Reverse<usize>) {
        let (is_exact, is_prefix) =
            (matches!(self.shape, Shape::Exact(_)), matches!(self.shape, Shape::Prefix(_)));
        (!is_exact, Reverse(self.begins_with()), is_prefix, Reverse(self.literal_bytes))
    }

    /// How many bytes of whole literal segments it begins with.
    fn begins_with(&self) -> usize {
        match &self.shape {
            Shape::Exact(text) | Shape::Prefix(text) => text.len(),
            Shape::Glob(segments) => segments
                .iter()
                .map_while(|segment| match segment {
                    Segment::Literal(text) => Some(text.len() + 1),
                    Segment::Wild(_) | Segment::Parameter(_) | Segment::Deep => None,
                })
                .sum(),
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, InvalidPattern> {
        match text {
            "**" => Ok(Self::Deep),
            _ if text.starts_with('{') => Ok(Self::Parameter(text.trim_matches(['{', '}']).to_owned())),
            _ if text.contains("**") => Err(InvalidPattern::PartialDeep),
            _ if text.contains('*') => Ok(Self::Wild(text.split('*').map(str::to_owned).collect())),
            _ => Ok(Self::Literal(text.to_owned())),
        }
    }

    /// Whether it takes the segment `text`, letter by letter.
    pub(super) fn takes(&self, text: &str) -> bool {
        self.matches(text)
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Literal(literal) => literal == text,
            Self::Wild(pieces) => !text.is_empty() && wild(pieces, text),
            Self::Parameter(_) => !text.is_empty(),
            Self::Deep => true,
        }
    }
}

impl Shape {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Glob(segments) => glob(segments, path),
        }
    }

    fn first_segment(&self) -> Option<&str> {
        match self {
            Self::Exact(text) | Self::Prefix(text) => text.split('/').nth(1),
            Self::Glob(segments) => match segments.first() {
                Some(Segment::Literal(text)) => Some(text),
                _ => None,
            },
        }
    }

    /// Nothing where letter case makes no difference.
    fn folded(&self) -> Option<Self> {
        let fold_text = |text: &String| fold(text).unwrap_or_else(|| text.clone());
        let folded = match self {
            Self::Exact(text) => Self::Exact(fold_text(text)),
            Self::Prefix(text) => Self::Prefix(fold_text(text)),
            Self::Glob(segments) => {
                let segments = segments.iter().map(|segment| match segment {
                    Segment::Literal(text) => Segment::Literal(fold_text(text)),
                    Segment::Wild(pieces) => Segment::Wild(pieces.iter().map(fold_text).collect()),
                    // Known by its name, which matches nothing.
                    Segment::Parameter(_) | Segment::Deep => segment.clone(),
                });
                Self::Glob(segments.collect())
            }
        };
        (folded != *self).then_some(folded)
    }

    fn with_other_slash(&self) -> Option<Self> {
        match self {
            Self::Prefix(_) => None,
            Self::Exact(text) if text == "/" => None,
            Self::Exact(text) => {
                let bare = text.strip_suffix('/').map(str::to_owned);
                Some(Self::Exact(bare.unwrap_or_else(|| format!("{text}/"))))
            }
            Self::Glob(segments) => match segments.as_slice() {
                [.., Segment::Deep] => None,
                [before @ .., Segment::Literal(last)] if last.is_empty() => Some(Self::Glob(before.to_vec())),
                whole => Some(Self::Glob([whole, &[Segment::Literal(String::new())]].concat())),
            },
        }
    }
}

/// The names of `{name}` segments: each a whole segment, named once, and none after a `**`.
fn parameters(text: &str) -> Result<Vec<String>, InvalidPattern> {
    let mut names: Vec<String> = Vec::new();
    let mut deep = false;
    for segment in text.split('/') {
        deep |= segment == "**";
        if !segment.contains(['{', '}']) {
            continue;
        }
        let name = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or_default();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || !name.bytes().all(plain) || names.iter().any(|known| known == name) || deep {
            return Err(InvalidPattern::Parameter);
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

/// Matches the pieces between stars, leftmost first; the outer pieces are anchored.
fn wild(pieces: &[String], text: &str) -> bool {
    let [first, middle @ .., last] = pieces else {
        return false;
    };
    let Some(rest) = text.strip_prefix(first.as_str()) else {
        return false;
    };
    let Some(mut rest) = rest.strip_suffix(last.as_str()) else {
        return false;
    };
    middle.iter().all(|piece| match rest.split_once(piece.as_str()) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

/// Linear walk with one remembered `**`: the latest one is the only one worth returning to.
fn glob(pattern: &[Segment], path: &str) -> bool {
    let mut at = 0;
    let mut rest = Segments::of(path);
    let mut retry = None;
    loop {
        let mut ahead = rest;
        let Some(segment) = ahead.next() else { break };
        match pattern.get(at) {
            Some(Segment::Deep) => {
                retry = Some((at, rest));
                at += 1;
            }
            Some(part) if part.matches(segment) => {
                at += 1;
                rest = ahead;
            }
            _ => match &mut retry {
                Some((deep, from)) => {
                    from.next();
                    at = *deep + 1;
                    rest = *from;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(at).all(|part| *part == Segment::Deep)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        PathPattern::parse(pattern).unwrap().matches(CanonicalPath::parse(path).unwrap().text(), false)
    }

    #[test]
    fn patterns_cover_what_they_say() {
        for (pattern, inside, outside) in [
            ("/x", &["/x"][..], &["/x/", "/xy", "/X", "/"][..]),
            ("/x/**", &["/x", "/x/", "/x/y", "/x/y/z"], &["/xy", "/", "/y/x"]),
            ("/**", &["/", "/a", "/a/b/"], &[]),
            ("/a/*/c", &["/a/b/c"], &["/a/c", "/a/b/b/c", "/a//c"]),
            ("/a/**/c", &["/a/c", "/a/b/c", "/a/b/b/c"], &["/a/b", "/a/c/d"]),
            ("/img/*.png", &["/img/a.png"], &["/img/a.jpg", "/img/a/b.png", "/img/.pngx"]),
            ("/*/users/**", &["/v1/users", "/v1/users/7"], &["/users/7", "/v1/x/users"]),
        ] {
            for path in inside {
                assert!(matches(pattern, path), "{pattern} {path}");
            }
            for path in outside.iter().filter(|path| CanonicalPath::parse(path).is_ok()) {
                assert!(!matches(pattern, path), "{pattern} {path}");
            }
        }
    }

    #[test]
    fn a_pattern_that_could_never_match_is_refused() {
        assert_eq!(PathPattern::parse("x"), Err(InvalidPattern::NoLeadingSlash));
        assert_eq!(PathPattern::parse("/a/x**"), Err(InvalidPattern::PartialDeep));
        assert_eq!(PathPattern::parse("/a//b"), Err(InvalidPattern::NotCanonical(PathError::EmptySegment)));
        assert_eq!(PathPattern::parse("/%61"), Err(InvalidPattern::Spelling("/a".into())));
    }

    #[test]
    fn a_parameter_is_one_whole_segment_with_a_name() {
        let pattern = PathPattern::parse("/orgs/{org}/users/{user}/**").unwrap();
        let path = CanonicalPath::parse("/orgs/acme/users/7/edit").unwrap();
        assert_eq!(pattern.capture(path.text(), "org"), Some("acme"));
        assert_eq!(pattern.capture(path.text(), "user"), Some("7"));
        assert_eq!(pattern.capture(path.text(), "other"), None);
        let outside = CanonicalPath::parse("/orgs/acme/groups/7").unwrap();
        assert_eq!(pattern.capture(outside.text(), "org"), None);
        assert_eq!(pattern.parameters().collect::<Vec<_>>(), ["org", "user"]);
        assert!(!matches("/orgs/{org}", "/orgs/"));
        for bad in ["/orgs/{}", "/orgs/x{org}", "/orgs/{org}x", "/{a}/{a}", "/**/{org}", "/{o-r-g}", "/}{"] {
            assert_eq!(PathPattern::parse(bad), Err(InvalidPattern::Parameter), "{bad}");
        }
    }

    #[test]
    fn case_is_ignored_only_where_the_origin_ignores_it() {
        let admin = PathPattern::parse("/admin/**").unwrap();
        let shouted = CanonicalPath::parse("/ADMIN/users").unwrap();
        assert!(!admin.matches(shouted.text(), false));
        assert!(admin.matches(shouted.text(), true));
        // Letters outside ASCII have case as well.
        let named = PathPattern::parse("/%C3%84rger/*.PNG").unwrap();
        let whispered = CanonicalPath::parse("/%c3%a4RGER/x.png").unwrap();
        assert!(!named.matches(whispered.text(), false));
        assert!(named.matches(whispered.text(), true));
        assert!(!CanonicalPath::parse("/%E6%97%A5/%2Fx").unwrap().has_case());
    }
}
