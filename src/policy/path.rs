//! The one canonical form of a request path: what is matched is, byte for byte, what is forwarded (RFC 3986 section 6.2).
//!
//! Must not guess: a path that two readers could understand differently is refused.

use std::fmt;
use std::sync::Arc;

/// A path in canonical form. It begins with `/` and holds visible ASCII only. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalPath {
    text: Arc<str>,
    encoded_slash: bool,
    parameters: bool,
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
    #[error("the path has a dot segment with a parameter or an encoded slash")]
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
        if is_plain(bytes) {
            return Ok(Self { text: raw.into(), encoded_slash: false, parameters: false });
        }
        let mut decoding =
            Decoding { text: String::with_capacity(raw.len()), encoded_slash: false, parameters: false };
        decoding.decode(bytes)?;
        let Decoding { text, encoded_slash, parameters } = decoding;
        Ok(Self { text: resolve_dots(&text)?.into(), encoded_slash, parameters })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Holds the noted ambiguities against what the route allows.
    pub fn check_allowed(&self, keep_encoded_slash: bool, keep_parameters: bool) -> Result<(), PathError> {
        if self.encoded_slash && !keep_encoded_slash {
            return Err(PathError::EncodedSlash);
        }
        if self.parameters && !keep_parameters {
            return Err(PathError::Parameter);
        }
        Ok(())
    }

    /// The path as origins might read it: that decode before they split, that drop parameters, or both in either
    /// order. A route must answer every reading alike, or the path is refused.
    pub fn other_readings(&self) -> Result<Vec<Self>, PathError> {
        if !self.text.contains(['%', ';']) {
            return Ok(Vec::new());
        }
        let decoded = decode_reserved(&self.text)?;
        let bare = drop_parameters(&self.text);
        let mut readings = [drop_parameters(&decoded), decode_reserved(&bare)?, decoded, bare].to_vec();
        readings.sort_unstable();
        readings.dedup();
        readings
            .iter()
            .filter(|reading| ***reading != *self.text)
            .map(|reading| Self::parse(reading))
            .collect()
    }

    /// The segments after the leading slash; a trailing slash gives a last empty one.
    pub fn segments(&self) -> Segments<'_> {
        Segments(self.text.get(1..))
    }
}

/// A path while its encoding is brought into form.
struct Decoding {
    text: String,
    encoded_slash: bool,
    parameters: bool,
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
                    self.parameters |= byte == b';';
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
            b'/' => self.encoded_slash = true,
            b';' => self.parameters = true,
            _ => {}
        }
        const HEX: [char; 16] =
            ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
        let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or('0');
        self.text.extend(['%', digit(value >> 4), digit(value & 0xf)]);
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

/// Whether the path is canonical as it stands: the common case, copied without a second look.
fn is_plain(bytes: &[u8]) -> bool {
    let mut previous = 0;
    bytes.iter().all(|&byte| {
        let doubtful = (previous == b'/' && matches!(byte, b'/' | b'.'))
            || !matches!(byte, b'/' | b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z'
                | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@');
        previous = byte;
        !doubtful
    })
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
        let (high, low) = (letters.next(), letters.next());
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

/// `..;x` and, where an encoded slash is kept, `..%2Fx`: dots to one reader, a name to another.
fn has_disguised_dots(segment: &str) -> bool {
    (segment.contains(';') || segment.contains("%2F") || segment.contains("%3B"))
        && segment
            .split("%2F")
            .flat_map(|piece| piece.split("%3B"))
            .flat_map(|piece| piece.split(';'))
            .any(|piece| matches!(piece, "." | ".."))
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
