//! Suggestions for names that are not known.
//!
//! Must not suggest a name that is not like the one written.

/// A known name that is much like the one written, as a hint.
pub fn did_you_mean<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let close = known
        .map(|name| (strsim::jaro_winkler(written, name), name))
        .filter(|(likeness, _)| *likeness > 0.75);
    let (_, name) = close.max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    Some(format!("did you mean `{name}`?"))
}
