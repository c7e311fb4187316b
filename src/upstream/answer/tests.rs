//! Heads, framings and chunks: what is taken, and what is no answer.

use super::*;

/// All of an answer that arrives `step` bytes at a time: its head, its body, its trailers; and what is left.
fn read(
    bytes: &[u8],
    step: usize,
    to_head: bool,
) -> Result<(AnswerHead, Vec<u8>, HeaderMap, Vec<u8>), AnswerError> {
    let mut buffer = BytesMut::new();
    let mut reading = Reading::default();
    let mut arriving = bytes.chunks(step);
    let mut head = loop {
        if let Some(head) = take_head(&mut buffer, to_head, &mut reading)? {
            break head;
        }
        buffer.extend_from_slice(arriving.next().ok_or(AnswerError::CutOff)?);
    };
    let mut body = Vec::new();
    let mut trailers = HeaderMap::new();
    loop {
        match head.framing.take_piece(&mut buffer)? {
            Piece::Data(data) => body.extend_from_slice(&data),
            Piece::Trailers(fields) => trailers = fields,
            Piece::End => break,
            Piece::Missing => match arriving.next() {
                Some(more) => buffer.extend_from_slice(more),
                None => head.framing.close()?,
            },
        }
    }
    let rest = buffer.iter().copied().chain(arriving.flatten().copied()).collect();
    Ok((head, body, trailers, rest))
}

/// The same however it arrives.
fn read_anyhow(text: &str) -> Result<(AnswerHead, String, HeaderMap, String), AnswerError> {
    let mut told = None;
    for step in [1, 2, 3, 7, text.len().max(1)] {
        let read = read(text.as_bytes(), step, false);
        let summary = read.as_ref().map(|(head, body, trailers, rest)| {
            (head.status, head.headers.clone(), head.keeps, body.clone(), trailers.clone(), rest.clone())
        });
        let summary = summary.map_err(|error| *error);
        assert_eq!(*told.get_or_insert_with(|| summary.clone()), summary, "{step} bytes at a time: {text:?}");
        if step == text.len() {
            let text = |bytes| String::from_utf8(bytes).unwrap();
            return read.map(|(head, body, trailers, rest)| (head, text(body), trailers, text(rest)));
        }
    }
    Err(AnswerError::CutOff)
}

#[test]
fn a_body_is_as_long_as_its_framing_says() {
    for (text, body, rest, keeps) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcHTTP", "abc", "HTTP", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP", "", "HTTP", true),
        ("HTTP/1.1 204 No Content\r\n\r\nHTTP", "", "HTTP", true),
        ("HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", "", "", true),
        ("HTTP/1.1 200 OK\r\n\r\nto the end", "to the end", "", false),
        ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na", "a", "", false),
        ("HTTP/1.0 200 OK\r\nconnection: Keep-Alive\r\ncontent-length: 1\r\n\r\na", "a", "", true),
        ("HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 1\r\n\r\na", "a", "", false),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n3\r\nabc\r\nA;x=\"y\"\r\n0123456789\r\n0\r\n\r\nHTTP",
            "abc0123456789",
            "HTTP",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n1\r\na\r\n000\r\n\r\n",
            "a",
            "",
            false,
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na",
            "a",
            "",
            true,
        ),
    ] {
        let (head, read, _, left) = read_anyhow(text).unwrap();
        assert_eq!((read.as_str(), left.as_str(), head.keeps), (body, rest, keeps), "{text:?}");
    }
}

#[test]
fn trailers_come_after_the_last_chunk() {
    let text = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\nx-two: 2\r\n\r\nrest";
    let (_, body, trailers, rest) = read_anyhow(text).unwrap();
    assert_eq!((body.as_str(), rest.as_str()), ("a", "rest"));
    assert_eq!((trailers["x-sum"].as_bytes(), trailers["x-two"].as_bytes()), (&b"1"[..], &b"2"[..]));
}

#[test]
fn an_answer_to_head_has_no_body_whatever_it_says() {
    for framing in ["content-length: 5", "transfer-encoding: chunked", "x: y"] {
        let text = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\nnext");
        let (head, body, _, rest) = read(text.as_bytes(), 4, true).unwrap();
        assert!(head.keeps && body.is_empty() && rest == b"next", "{text:?}");
    }
}

#[test]
fn what_two_readers_could_take_differently_is_no_answer() {
    let framed = |fields: &str| read_anyhow(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n0\r\n\r\n")).err();
    for fields in [
        "content-length: 1\r\ncontent-length: 2",
        "content-length: 1, 2",
        "content-length: 1,",
        "content-length: +1",
        "content-length: 0x1",
        "content-length: ",
        "content-length: 99999999999999999999",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "transfer-encoding: identity",
        "transfer-encoding: xchunked",
    ] {
        assert_eq!(framed(fields), Some(AnswerError::Framing), "{fields}");
    }
    let old = "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(read_anyhow(old).err(), Some(AnswerError::Framing));
    let chunks = |chunks: &str| {
        read_anyhow(&format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}")).err()
    };
    for wrong in [
        "1\na\r\n0\r\n\r\n",
        "\r\n0\r\n\r\n",
        " 1\r\na\r\n0\r\n\r\n",
        "0x1\r\na\r\n0\r\n\r\n",
        "-1\r\na\r\n0\r\n\r\n",
        "1 x\r\na\r\n0\r\n\r\n",
        "1;\u{b}\r\na\r\n0\r\n\r\n",
        "1\r\nab\r\n0\r\n\r\n",
        "1\r\na\r\n0\r\n\n",
        "1\r\na\n0\r\n\r\n",
        "1\r\na\rx",
        "1000000000000000\r\na",
    ] {
        assert_eq!(chunks(wrong), Some(AnswerError::Chunk), "{wrong:?}");
    }
    assert_eq!(
        chunks(&format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(MAX_CHUNK_LINE))),
        Some(AnswerError::Chunk)
    );
    assert_eq!(read_anyhow("HTTP/1.1 101 Switching Protocols\r\n\r\n").err(), Some(AnswerError::Switches));
    let patient = "HTTP/1.1 102 Processing\r\n\r\n".repeat(MAX_INTERIM + 1);
    assert_eq!(read_anyhow(&patient).err(), Some(AnswerError::TooManyInterim));
}

#[test]
fn what_ends_early_was_cut_off() {
    for text in [
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nab",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length",
    ] {
        assert_eq!(read_anyhow(text).err(), Some(AnswerError::CutOff), "{text:?}");
    }
}
