//! The one canonical form of a request path: what is matched is, byte for byte, what is forwarded (RFC 3986 section 6.2).
//!
//! Must not guess: a path that two readers could understand differently is refused.

use std::fmt;
use std::sync::Arc;

/// A path in canonical form. It begins with `/` and holds visible ASCII only. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalPath {
    text: Arc<str>,
    /// Nothing for the plain paths that have one reading.
    odd: Option<Arc<Odd>>,
    /// The text with letter case folded, where that makes a difference.
    folded: Option<Arc<str>>,
}

/// How a path could be read in another way.
#[derive(Debug, PartialEq, Eq)]
struct Odd {
    encoded_slash: bool,
    parameters: bool,
    readings: Result<Box<[PathReading]>, PathError>,
}

/// A path as some origin might read it. It is looked up in the route table, and never forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathReading {
    text: String,
    folded: Option<String>,
}

/// A path's text in two forms: as it is, and with letter case folded.
#[derive(Debug, Clone, Copy)]
pub struct PathText<'a> {
    pub(super) exact: &'a str,
    pub(super) folded: &'a str,
}

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path does not begin with a slash")]
    NoLeadingSlash,
    #[error("the path passes above the root")]
    AboveRoot,
    #[error("the path has an empty segment")]
    EmptySegment,
    #[error("the path has a backslash")]
    Backslash,
    #[error("the path has a control character")]
    Control,
    #[error("the path has a fragment")]
    Fragment,
    #[error("the path has a character that must be encoded")]
    NotAscii,
    #[error("the path is not UTF-8 once decoded")]
    NotUtf8,
    #[error("the path has a broken percent-encoding")]
    BrokenEncoding,
    #[error("the path is encoded twice")]
    EncodedTwice,
    #[error("the path has a segment that some reader takes for dots")]
    DisguisedDots,
    #[error("the path has an encoded slash")]
    EncodedSlash,
    #[error("the path has a parameter")]
    Parameter,
}

impl CanonicalPath {
    /// Brings `raw` (without the query) into canonical form.
    ///
    /// Encoded unreserved characters are decoded, hex digits upper-cased, dot segments resolved (RFC 3986 sections
    /// 6.2.2 and 5.2.4). Encoded slashes and parameters are only noted: whether they pass is for the route to say.
    pub fn parse(raw: &str) -> Result<Self, PathError> {
        let bytes = raw.as_bytes();
        if bytes.first() != Some(&b'/') {
            return Err(PathError::NoLeadingSlash);
        }
        if let Some(case) = plain_case(bytes) {
            // Nothing is encoded, so folding is for ASCII alone.
            let folded = (case == Case::Upper).then(|| raw.to_ascii_lowercase().into());
            return Ok(Self { text: raw.into(), odd: None, folded });
        }
        let (text, Marks { encoded_slash, parameters }) = canonical(raw)?;
        let folded = fold(&text).map(Arc::from);
        let readings = readings_of(&text);
        let is_odd = encoded_slash || parameters || readings != Ok(Box::default());
        let odd = is_odd.then(|| Arc::new(Odd { encoded_slash, parameters, readings }));
        Ok(Self { text: text.into(), odd, folded })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Holds the noted ambiguities against what the route allows.
    pub fn check_allowed(&self, keep_encoded_slash: bool, keep_parameters: bool) -> Result<(), PathError> {
        let Some(odd) = &self.odd else { return Ok(()) };
        if odd.encoded_slash && !keep_encoded_slash {
            return Err(PathError::EncodedSlash);
        }
        if odd.parameters && !keep_parameters {
            return Err(PathError::Parameter);
        }
        Ok(())
    }

    /// The text alone, for what outlives the decision.
    pub fn shared_text(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }

    /// The path as origins might read it: that decode before they split, drop parameters, end it at an encoded `#` or `?`,
    /// trim dots and blanks from the end of a segment, or do several of these. A route must answer every reading alike, or
    /// the path is refused (decisions/002). They were found once, when the path was parsed.
    pub fn other_readings(&self) -> Result<&[PathReading], PathError> {
        match &self.odd {
            None => Ok(&[]),
            Some(odd) => odd.readings.as_deref().map_err(|error| *error),
        }
    }

    pub fn text(&self) -> PathText<'_> {
        PathText { exact: &self.text, folded: self.folded.as_deref().unwrap_or(&self.text) }
    }

    /// Whether ignoring letter case makes the path another.
    pub fn has_case(&self) -> bool {
        self.folded.is_some()
    }

    /// The segments after the leading slash; a trailing slash gives a last empty one.
    pub fn segments(&self) -> Segments<'_> {
        Segments::of(&self.text)
    }
}

impl PathReading {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn text(&self) -> PathText<'_> {
        PathText { exact: &self.text, folded: self.folded.as_deref().unwrap_or(&self.text) }
    }

    pub fn has_case(&self) -> bool {
        self.folded.is_some()
    }
}

/// What was seen in a path that only some routes take.
struct Marks {
    encoded_slash: bool,
    parameters: bool,
}

/// The canonical text of a path.
fn canonical(raw: &str) -> Result<(String, Marks), PathError> {
    let marks = Marks { encoded_slash: false, parameters: false };
    let mut decoding = Decoding { text: String::with_capacity(raw.len()), marks };
    decoding.decode(raw.as_bytes())?;
    Ok((resolve_dots(&decoding.text)?, decoding.marks))
}

/// A path while its encoding is brought into form.
struct Decoding {
    text: String,
    marks: Marks,
}

impl Decoding {
    fn decode(&mut self, raw: &[u8]) -> Result<(), PathError> {
        let mut decoded = Vec::with_capacity(raw.len());
        let mut bytes = raw.iter().copied();
        while let Some(byte) = bytes.next() {
            match byte {
                b'%' => {
                    let value = hex(bytes.next())? << 4 | hex(bytes.next())?;
                    decoded.push(value);
                    self.push_encoded(value)?;
                }
                b'\\' => return Err(PathError::Backslash),
                b'#' => return Err(PathError::Fragment),
                0..=0x1f | 0x7f => return Err(PathError::Control),
                b' ' | 0x80.. => return Err(PathError::NotAscii),
                // Not allowed bare in a path (RFC 3986 section 3.3), so that `|` and `%7C` are one spelling.
                b'"' | b'<' | b'>' | b'[' | b']' | b'^' | b'`' | b'{' | b'|' | b'}' => {
                    decoded.push(byte);
                    self.push_encoded(byte)?;
                }
                _ => {
                    self.marks.parameters |= byte == b';';
                    decoded.push(byte);
                    self.text.push(char::from(byte));
                }
            }
        }
        if std::str::from_utf8(&decoded).is_err() {
            return Err(PathError::NotUtf8);
        }
        // Looked for in the result: `%25%32%66` only becomes `%252f` once its digits are decoded.
        let doubled = self.text.as_bytes().windows(5).any(|window| {
            matches!(window, [b'%', b'2', b'5', high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())
        });
        if doubled { Err(PathError::EncodedTwice) } else { Ok(()) }
    }

    fn push_encoded(&mut self, value: u8) -> Result<(), PathError> {
        match value {
            b'\\' => return Err(PathError::Backslash),
            0..=0x1f | 0x7f => return Err(PathError::Control),
            b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                self.text.push(char::from(value));
                return Ok(());
            }
            b'/' => self.marks.encoded_slash = true,
            b';' => self.marks.parameters = true,
            _ => {}
        }
        push_encoded(value, &mut self.text);
        Ok(())
    }
}

fn resolve_dots(text: &str) -> Result<String, PathError> {
    if text.contains("//") {
        return Err(PathError::EmptySegment);
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_directory = false;
    for segment in text.split('/').skip(1) {
        ends_in_directory = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                kept.pop().ok_or(PathError::AboveRoot)?;
            }
            _ if has_disguised_dots(segment) => return Err(PathError::DisguisedDots),
            _ => kept.push(segment),
        }
    }
    if ends_in_directory {
        kept.push("");
    }
    Ok(kept.iter().flat_map(|segment| ["/", segment]).collect())
}

/// What is left of a path to be read, segment by segment. Patterns return to an earlier place by keeping a copy.
#[derive(Debug, Clone, Copy)]
pub struct Segments<'a>(Option<&'a str>);

impl<'a> Segments<'a> {
    /// Those of a path that begins with a slash.
    pub(super) fn of(path: &'a str) -> Self {
        Self(path.get(1..))
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.0?;
        // Segments are short: counting bytes is quicker than setting up a search.
        match text.bytes().position(|byte| byte == b'/') {
            Some(at) => {
                let (segment, rest) = text.split_at_checked(at)?;
                self.0 = rest.get(1..);
                Some(segment)
            }
            None => self.0.take(),
        }
    }
}

impl fmt::Display for CanonicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether a plain path has upper-case letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Lower,
    Upper,
}

/// What a byte of a path may mean for its canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ByteClass {
    /// Not plain wherever it stands: an encoding, a parameter, or no byte of a path.
    Doubtful,
    Slash,
    Dot,
    Upper,
    Plain,
}

/// The class of every byte, for one look at each byte of nearly every path.
static CLASSES: [ByteClass; 256] = {
    let mut classes = [ByteClass::Doubtful; 256];
    let mut byte: u8 = 0;
    while byte < 128 {
        #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, with a byte as the index")]
        let class = &mut classes[byte as usize];
        *class = match byte {
            b'/' => ByteClass::Slash,
            b'.' => ByteClass::Dot,
            b'A'..=b'Z' => ByteClass::Upper,
            b'-'
            | b'_'
            | b'~'
            | b'0'..=b'9'
            | b'a'..=b'z'
            | b'!'
            | b'$'
            | b'&'
            | b'\''
            | b'('
            | b')'
            | b'*'
            | b'+'
            | b','
            | b'='
            | b':'
            | b'@' => ByteClass::Plain,
            _ => ByteClass::Doubtful,
        };
        byte += 1;
    }
    classes
};

/// The letter case of a path that is canonical as it stands and has one reading, which is the common case; nothing for any
/// other path.
fn plain_case(bytes: &[u8]) -> Option<Case> {
    let mut previous = ByteClass::Plain;
    let mut case = Case::Lower;
    for &byte in bytes {
        let class = CLASSES.get(usize::from(byte)).copied().unwrap_or(ByteClass::Doubtful);
        match class {
            ByteClass::Plain => {}
            ByteClass::Upper => case = Case::Upper,
            ByteClass::Slash if !matches!(previous, ByteClass::Slash | ByteClass::Dot) => {}
            ByteClass::Dot if previous != ByteClass::Slash => {}
            ByteClass::Slash | ByteClass::Dot | ByteClass::Doubtful => return None,
        }
        previous = class;
    }
    (previous != ByteClass::Dot).then_some(case)
}

/// A segment that is nothing but dots and blanks once it is decoded, such as `...`, `.%20` or `%E3%80%80`; also one that is
/// so up to a parameter or an encoded slash (`..;x`, `..%2Fx`). Some reader takes it for `.` or `..`, or for no segment.
fn has_disguised_dots(segment: &str) -> bool {
    if !segment.contains(['.', '%']) {
        return false;
    }
    let mut letters = Letters(segment);
    // Whether the piece that is being read has anything in it, and anything but dots and blanks.
    let mut is_empty = true;
    let mut is_named = false;
    loop {
        match letters.next() {
            Some('/' | ';') if !is_empty && !is_named => return true,
            Some('/' | ';') => (is_empty, is_named) = (true, false),
            Some(letter) => {
                is_empty = false;
                is_named |= !is_dot(letter) && !is_blank(letter);
            }
            None => return !is_empty && !is_named,
        }
    }
}

/// The letters of a canonical text with every percent-encoding decoded.
struct Letters<'a>(&'a str);

impl Iterator for Letters<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        let mut taken = self.0.chars();
        let letter = taken.next()?;
        if letter != '%' {
            self.0 = taken.as_str();
            return Some(letter);
        }
        // The text is valid UTF-8 once decoded: the letter is whole with the first bytes that are.
        let mut bytes = [0; 4];
        let mut length = 0;
        let mut rest = self.0;
        let mut letter = None;
        while let (None, Some((byte, after)), Some(place)) =
            (letter, encoded_byte(rest), bytes.get_mut(length))
        {
            *place = byte;
            (length, rest) = (length + 1, after);
            let whole = bytes.get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok());
            letter = whole.and_then(|text| text.chars().next());
        }
        self.0 = if letter.is_some() { rest } else { taken.as_str() };
        Some(letter.unwrap_or(char::REPLACEMENT_CHARACTER))
    }
}

/// The byte that a percent-encoding at the beginning of `text` stands for, and what follows it.
fn encoded_byte(text: &str) -> Option<(u8, &str)> {
    let digits = text.strip_prefix('%')?.as_bytes();
    let byte = hex(digits.first().copied()).ok()? << 4 | hex(digits.get(1).copied()).ok()?;
    Some((byte, text.get(3..)?))
}

/// A full stop, and what compatibility normalization makes one of (Unicode NFKC).
fn is_dot(letter: char) -> bool {
    matches!(letter, '.' | '\u{2024}' | '\u{2025}' | '\u{2026}' | '\u{fe52}' | '\u{ff0e}')
}

/// White space, and what is shown as nothing (Unicode `White_Space` and `Default_Ignorable_Code_Point`).
fn is_blank(letter: char) -> bool {
    letter.is_whitespace()
        || matches!(letter,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}')
}

/// The text as a reader has it that ignores letter case, or nothing if that is the text itself. Only for comparing.
pub(super) fn fold(text: &str) -> Option<String> {
    if !text.bytes().any(|byte| byte.is_ascii_uppercase() || byte == b'%') {
        return None;
    }
    if !text.contains('%') {
        return Some(text.to_ascii_lowercase());
    }
    // Letters outside ASCII have case too, behind origins that fold it in all of Unicode.
    let mut folded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        match encoded_byte(rest) {
            Some((0x80.., _)) => {
                let mut letters = Letters(rest);
                let one_case =
                    letters.next().into_iter().flat_map(char::to_uppercase).flat_map(char::to_lowercase);
                one_case.for_each(|letter| push_letter(letter, &mut folded));
                rest = letters.0;
            }
            Some((_, after)) => {
                folded.push_str(rest.get(..3).unwrap_or_default());
                rest = after;
            }
            None => {
                folded.push(letter.to_ascii_lowercase());
                rest = rest.get(letter.len_utf8()..).unwrap_or_default();
            }
        }
    }
    (folded != text).then_some(folded)
}

/// A letter as a canonical text has it.
fn push_letter(letter: char, text: &mut String) {
    if letter.is_ascii() {
        text.push(letter);
        return;
    }
    let mut bytes = [0; 4];
    for byte in letter.encode_utf8(&mut bytes).bytes() {
        push_encoded(byte, text);
    }
}

fn push_encoded(byte: u8, text: &mut String) {
    const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or('0');
    text.extend(['%', digit(byte >> 4), digit(byte & 0xf)]);
}

/// Every further reading of a canonical text, in canonical form: what comes of decoding what is reserved, dropping
/// parameters and cutting at an encoded `#` or `?`, in any order, and of trimming at the end. Each step is linear, and none
/// finds more in a text that it was applied to already, so their number is bounded.
fn readings_of(text: &str) -> Result<Box<[PathReading]>, PathError> {
    let mut found: Vec<String> = vec![text.to_owned()];
    for _ in 0..2 {
        add(&mut found, |reading| Ok(cut(reading).to_owned()))?;
        add(&mut found, decode_reserved)?;
        add(&mut found, |reading| Ok(drop_parameters(reading)))?;
        add(&mut found, decode_reserved)?;
    }
    add(&mut found, |reading| Ok(cut(reading).to_owned()))?;
    add(&mut found, |reading| Ok(drop_parameters(reading)))?;
    add(&mut found, |reading| Ok(trim_segments(reading)))?;
    let readings = found.iter().filter(|reading| *reading != text).map(|reading| {
        let (text, _) = canonical(reading)?;
        Ok(PathReading { folded: fold(&text), text })
    });
    readings.collect()
}

/// Adds what `step` makes of every reading found so far.
fn add(found: &mut Vec<String>, step: impl Fn(&str) -> Result<String, PathError>) -> Result<(), PathError> {
    let more = found.iter().map(|reading| step(reading)).collect::<Result<Vec<_>, _>>()?;
    found.extend(more);
    distinct(found);
    Ok(())
}

fn distinct(readings: &mut Vec<String>) {
    readings.sort_unstable();
    readings.dedup();
}

/// Up to the first encoded `#` or `?`, where a proxy behind us that decodes would end the path.
fn cut(text: &str) -> &str {
    let at = text.find("%23").into_iter().chain(text.find("%3F")).min();
    // What is left of a first segment is still a path.
    at.and_then(|at| text.get(..at)).unwrap_or(text)
}

/// Every segment without the dots and blanks at its end, as file systems that ignore those have it.
fn trim_segments(text: &str) -> String {
    if !text.contains(['.', '%']) {
        return text.to_owned();
    }
    let trimmed: Vec<&str> = text.split('/').map(trim_segment).collect();
    trimmed.join("/")
}

fn trim_segment(segment: &str) -> &str {
    let mut letters = Letters(segment);
    let mut end = 0;
    while let Some(letter) = letters.next() {
        if !is_dot(letter) && !is_blank(letter) {
            end = segment.len() - letters.0.len();
        }
    }
    segment.get(..end).unwrap_or(segment)
}

/// Decodes what is reserved in a path but means itself to an origin that decodes first (RFC 3986 section 2.2).
fn decode_reserved(text: &str) -> Result<String, PathError> {
    const RESERVED: &[u8] = b"!$&'()*+,=:@/;";
    let mut read = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            read.push(letter);
            continue;
        }
        let high = letters.next();
        let low = letters.next();
        let digit = |letter: Option<char>| hex(letter.and_then(|letter| u8::try_from(letter).ok()));
        match digit(high)? << 4 | digit(low)? {
            value if RESERVED.contains(&value) => read.push(char::from(value)),
            _ => read.extend([Some('%'), high, low].into_iter().flatten()),
        }
    }
    Ok(read)
}

fn drop_parameters(text: &str) -> String {
    let bare: Vec<&str> =
        text.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
    bare.join("/")
}

fn hex(digit: Option<u8>) -> Result<u8, PathError> {
    match digit {
        Some(digit @ b'0'..=b'9') => Ok(digit - b'0'),
        Some(digit @ b'a'..=b'f') => Ok(digit - b'a' + 10),
        Some(digit @ b'A'..=b'F') => Ok(digit - b'A' + 10),
        _ => Err(PathError::BrokenEncoding),
    }
}

#[cfg(test)]
mod tests;
