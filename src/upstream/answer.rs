//! The answer of a server that speaks HTTP/1.1, in bytes: its head, how its body is framed, its chunks (RFC 9112).
//!
//! Must not read anything in one of several ways: what two readers could take differently is no answer.

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// Fields of a head, or of trailers.
pub(super) const MAX_FIELDS: usize = 200;
/// Bytes of a head, or of trailers.
const MAX_HEAD_BYTES: usize = 256 * 1024;
/// Bytes of the line that begins a chunk, its extensions included.
const MAX_CHUNK_LINE: usize = 1024;
/// Interim answers before the one that counts.
const MAX_INTERIM: usize = 32;

/// Why what came is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    #[error("the head is not HTTP: {0}")]
    Head(#[from] httparse::Error),
    #[error("the head has no status that there is, or a field that is none")]
    Field,
    #[error("the head is longer than {MAX_HEAD_BYTES} bytes")]
    TooLong,
    #[error("there are more than {MAX_INTERIM} interim answers")]
    TooManyInterim,
    #[error("it switches protocols, and was not asked to")]
    Switches,
    #[error("it is not clear how long the body is")]
    Framing,
    #[error("a chunk is not framed as it must be")]
    Chunk,
    #[error("it ended before its body was whole")]
    CutOff,
}

/// The head of an answer.
#[derive(Debug)]
pub struct AnswerHead {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub framing: Framing,
    /// The server takes another request on this connection afterwards.
    pub keeps: bool,
}

/// How a body is framed, and how much of it is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked(Chunk),
    /// It is over when the connection is.
    UntilClose,
    Over,
}

/// Where in a chunked body the next byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    Size,
    Data(u64),
    DataEnd,
    /// With how much of them was looked at.
    Trailers(usize),
}

/// How far a head has been read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// Bytes that were looked at: no end is in them.
    looked_at: usize,
    /// Interim answers that were passed over.
    interim: usize,
}

/// What comes next of a body.
#[derive(Debug)]
pub enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    /// More must be read first.
    Missing,
    End,
}

/// Takes the head of an answer off the front of `buffer`; nothing while it is not there whole. Interim answers are passed
/// over. `to_head` tells that the request was `HEAD`, whose answer has no body.
pub fn take_head(
    buffer: &mut BytesMut,
    to_head: bool,
    reading: &mut Reading,
) -> Result<Option<AnswerHead>, AnswerError> {
    loop {
        // Read only once it can be whole: what arrives byte by byte is not read again with every byte.
        if !may_be_whole(buffer, &mut reading.looked_at) {
            return if buffer.len() > MAX_HEAD_BYTES { Err(AnswerError::TooLong) } else { Ok(None) };
        }
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut head = httparse::Response::new(&mut []);
        let parser = httparse::ParserConfig::default();
        let parsed = parser.parse_response_with_uninit_headers(&mut head, buffer, &mut fields)?;
        let httparse::Status::Complete(length) = parsed else {
            reading.looked_at = buffer.len();
            return Ok(None);
        };
        let code = head.code.unwrap_or_default();
        let version = head.version.unwrap_or_default();
        let status = StatusCode::from_u16(code).map_err(|_| AnswerError::Field)?;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(AnswerError::Switches);
        }
        if status.is_informational() {
            reading.interim += 1;
            if reading.interim > MAX_INTERIM {
                return Err(AnswerError::TooManyInterim);
            }
            buffer.advance(length);
            reading.looked_at = 0;
            continue;
        }
        let places = places(buffer, head.headers)?;
        let mut headers = fields_at(&buffer.split_to(length).freeze(), places)?;
        let bodiless = to_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let framing = if bodiless { Framing::Over } else { framing(&mut headers, version == 1)? };
        // One that says two things may mean to say where the next begins (RFC 9112 section 6.3).
        let says_two = headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH);
        let keeps = keeps(&headers, version == 1) && framing != Framing::UntilClose && !says_two;
        return Ok(Some(AnswerHead { status, headers, framing, keeps }));
    }
}

impl Framing {
    pub fn is_over(self) -> bool {
        matches!(self, Self::Over | Self::Length(0))
    }

    /// Takes the next piece off the front of `buffer`.
    pub fn take_piece(&mut self, buffer: &mut BytesMut) -> Result<Piece, AnswerError> {
        match self {
            Self::Over | Self::Length(0) => Ok(Piece::End),
            _ if buffer.is_empty() => Ok(Piece::Missing),
            Self::Length(left) => Ok(Piece::Data(take_data(left, buffer))),
            Self::UntilClose => Ok(Piece::Data(buffer.split().freeze())),
            Self::Chunked(chunk) => {
                let piece = chunk.take_piece(buffer)?;
                if matches!(piece, Piece::End | Piece::Trailers(_)) {
                    *self = Self::Over;
                }
                Ok(piece)
            }
        }
    }

    /// Nothing more will come. An error if something should have.
    pub fn close(&mut self) -> Result<(), AnswerError> {
        match self {
            Self::UntilClose | Self::Over | Self::Length(0) => {
                *self = Self::Over;
                Ok(())
            }
            Self::Length(_) | Self::Chunked(_) => Err(AnswerError::CutOff),
        }
    }
}

impl Chunk {
    fn take_piece(&mut self, buffer: &mut BytesMut) -> Result<Piece, AnswerError> {
        loop {
            match self {
                Self::Size => {
                    let Some(end) = buffer.iter().take(MAX_CHUNK_LINE).position(|byte| *byte == b'\n') else {
                        let long = buffer.len() >= MAX_CHUNK_LINE;
                        return if long { Err(AnswerError::Chunk) } else { Ok(Piece::Missing) };
                    };
                    let line = buffer.split_to(end + 1);
                    *self = match chunk_size(&line).ok_or(AnswerError::Chunk)? {
                        0 => Self::Trailers(0),
                        size => Self::Data(size),
                    };
                }
                Self::Data(0) => *self = Self::DataEnd,
                Self::Data(_) if buffer.is_empty() => return Ok(Piece::Missing),
                Self::Data(left) => return Ok(Piece::Data(take_data(left, buffer))),
                Self::DataEnd => {
                    match (buffer.first(), buffer.get(1)) {
                        (Some(b'\r'), Some(b'\n')) => buffer.advance(2),
                        (Some(b'\r'), None) | (None, _) => return Ok(Piece::Missing),
                        _ => return Err(AnswerError::Chunk),
                    }
                    *self = Self::Size;
                }
                Self::Trailers(looked_at) => return take_trailers(buffer, looked_at),
            }
        }
    }
}

/// At most `left` bytes, and no fewer than are there.
fn take_data(left: &mut u64, buffer: &mut BytesMut) -> Bytes {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    *left -= u64::try_from(length).unwrap_or_default();
    buffer.split_to(length).freeze()
}

/// The size in the line that begins a chunk, which ends in CRLF and nothing else; extensions say nothing to us
/// (RFC 9112 section 7.1).
fn chunk_size(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\r\n")?;
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (size, rest) = line.split_at_checked(digits)?;
    let rest_is_extension = match trim_blanks(rest).first() {
        // Some pad the size with blanks.
        None => true,
        Some(first) => *first == b';' && !rest.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t'),
    };
    // Fifteen digits leave room for what is added up.
    if !rest_is_extension || !(1..=15).contains(&size.len()) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()
}

fn trim_blanks(bytes: &[u8]) -> &[u8] {
    let blanks = bytes.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    bytes.get(blanks..).unwrap_or_default()
}

fn take_trailers(buffer: &mut BytesMut, looked_at: &mut usize) -> Result<Piece, AnswerError> {
    // What reads fields takes this for their end, and others for the end of a line before them.
    if buffer.first() == Some(&b'\n') {
        return Err(AnswerError::Chunk);
    }
    // None at all, which is the usual, is an empty line by itself.
    let none = buffer.starts_with(b"\r\n");
    if !none && !may_be_whole(buffer, looked_at) {
        let long = buffer.len() > MAX_HEAD_BYTES;
        return if long { Err(AnswerError::TooLong) } else { Ok(Piece::Missing) };
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let httparse::Status::Complete((length, fields)) = httparse::parse_headers(buffer, &mut fields)? else {
        *looked_at = buffer.len();
        return Ok(Piece::Missing);
    };
    let places = places(buffer, fields)?;
    let trailers = fields_at(&buffer.split_to(length).freeze(), places)?;
    Ok(if trailers.is_empty() { Piece::End } else { Piece::Trailers(trailers) })
}

/// Whether there is an empty line in what was not looked at before.
fn may_be_whole(buffer: &[u8], looked_at: &mut usize) -> bool {
    // The line may have begun in what was looked at.
    let from = looked_at.saturating_sub(3);
    let fresh = buffer.get(from..).unwrap_or_default();
    let mut ends = fresh.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    let empty = ends.find(|end| {
        let next = fresh.get(*end..).unwrap_or_default();
        next.starts_with(b"\r\n") || next.starts_with(b"\n")
    });
    if empty.is_none() {
        *looked_at = buffer.len();
    }
    empty.is_some()
}

/// A name, and where its value is.
type Place = (HeaderName, usize, usize);

fn places(buffer: &[u8], fields: &[httparse::Header<'_>]) -> Result<Vec<Place>, AnswerError> {
    let start = buffer.as_ptr().addr();
    let place = |field: &httparse::Header<'_>| {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| AnswerError::Field)?;
        let from = field.value.as_ptr().addr().checked_sub(start).ok_or(AnswerError::Field)?;
        Ok((name, from, from + field.value.len()))
    };
    fields.iter().map(place).collect()
}

/// The fields, which share what they were read from.
fn fields_at(head: &Bytes, places: Vec<Place>) -> Result<HeaderMap, AnswerError> {
    let mut headers = HeaderMap::with_capacity(places.len());
    for (name, from, until) in places {
        let within = from <= until && until <= head.len();
        let value = within.then(|| HeaderValue::from_maybe_shared(head.slice(from..until)));
        headers.append(name, value.and_then(Result::ok).ok_or(AnswerError::Field)?);
    }
    Ok(headers)
}

/// RFC 9112 section 6.3, and where that says what to make of a message that says two things, it is no answer.
fn framing(headers: &mut HeaderMap, is_http11: bool) -> Result<Framing, AnswerError> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        let chunked = coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
        let only = chunked && is_http11 && codings.next().is_none();
        return if only { Ok(Framing::Chunked(Chunk::Size)) } else { Err(AnswerError::Framing) };
    }
    let Some(length) = headers.get(CONTENT_LENGTH).cloned() else { return Ok(Framing::UntilClose) };
    // Several that say the same are one.
    let said =
        headers.get_all(CONTENT_LENGTH).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut said = said.map(<[u8]>::trim_ascii);
    let digits = said.next().unwrap_or_default();
    let is_number = (1..=19).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let several = length.as_bytes() != digits || headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some();
    if !is_number || !said.all(|other| other == digits) {
        return Err(AnswerError::Framing);
    }
    let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    let number: u64 = number.ok_or(AnswerError::Framing)?;
    if several {
        headers.insert(CONTENT_LENGTH, number.into());
    }
    Ok(Framing::Length(number))
}

/// Whether the connection stays (RFC 9112 section 9.3).
fn keeps(headers: &HeaderMap, is_http11: bool) -> bool {
    let says = |token: &[u8]| {
        let mut tokens =
            headers.get_all(CONNECTION).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        tokens.any(|said| said.trim_ascii().eq_ignore_ascii_case(token))
    };
    if is_http11 { !says(b"close") } else { says(b"keep-alive") && !says(b"close") }
}

#[cfg(test)]
mod tests;
