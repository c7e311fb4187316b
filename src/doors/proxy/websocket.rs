//! As much of WebSocket (RFC 6455) as it takes to open a tunnel for a client over HTTP/2, and to close any properly: the key,
//! and where frames end.
//!
//! Must not look at a payload, nor keep one.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use crate::policy::Reason;

/// Where in a stream of frames a tunnel is.
#[derive(Debug, Clone, Default)]
pub struct FrameTracker {
    /// The header of a frame that has not arrived whole.
    header: Vec<u8>,
    /// Payload of the frame still to come.
    left: u64,
}

/// A close frame from a server, with the reason in words (RFC 6455 sections 5.5.1 and 7.4.1): the session may not go on,
/// or whether it may cannot be found out now.
pub(super) fn close_frame(reason: Reason) -> Vec<u8> {
    const POLICY_VIOLATION: u16 = 1008;
    // IANA, WebSocket close code number registry.
    const TRY_AGAIN_LATER: u16 = 1013;
    let code = if reason.status().is_server_error() { TRY_AGAIN_LATER } else { POLICY_VIOLATION };
    close(code, reason.title())
}

/// The same of a gateway that leaves.
pub(super) fn going_away() -> Vec<u8> {
    const GOING_AWAY: u16 = 1001;
    close(GOING_AWAY, "the gateway leaves")
}

fn close(code: u16, words: &str) -> Vec<u8> {
    let words = words.get(..words.len().min(120)).unwrap_or_default();
    let mut frame = vec![0x88, u8::try_from(words.len() + 2).unwrap_or(2)];
    frame.extend_from_slice(&code.to_be_bytes());
    frame.extend_from_slice(words.as_bytes());
    frame
}

impl FrameTracker {
    /// Whether the next byte begins a frame.
    pub fn is_between_frames(&self) -> bool {
        self.left == 0 && self.header.is_empty()
    }

    /// Passes over `bytes` as far as the end of the first frame that ends in them. How many those are.
    pub fn pass_frame(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        let mut begun = !self.is_between_frames();
        while let Some(rest) = bytes.get(passed..).filter(|rest| !rest.is_empty()) {
            if self.left > 0 {
                let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
                self.left -= u64::try_from(taken).unwrap_or(u64::MAX);
                passed += taken;
            } else {
                self.header.extend(rest.first());
                passed += 1;
                if let Some(payload) = payload_length(&self.header) {
                    self.left = payload;
                    self.header.clear();
                }
                begun = true;
            }
            if begun && self.is_between_frames() {
                break;
            }
        }
        passed
    }

    /// Passes over all of `bytes`.
    pub fn pass(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let passed = self.pass_frame(rest);
            rest = rest.get(passed..).unwrap_or_default();
        }
    }
}

/// The length of the payload behind a whole header; the header's own length depends on its second byte.
fn payload_length(header: &[u8]) -> Option<u64> {
    let second = *header.get(1)?;
    let mask = if second & 0x80 != 0 { 4 } else { 0 };
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    if header.len() < 2 + extended + mask {
        return None;
    }
    let bytes = header.get(2..2 + extended)?;
    Some(match extended {
        0 => u64::from(second & 0x7f),
        _ => bytes.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
    })
}

/// The proof that an origin speaks WebSocket (RFC 6455 section 1.3), asked for in place of a client over HTTP/2, which
/// does without.
pub(super) struct WebSocketKey(String);

impl WebSocketKey {
    pub(super) fn new() -> Self {
        Self(STANDARD.encode(fastrand::u128(..).to_be_bytes()))
    }

    /// Puts the question into a request.
    pub(super) fn ask(&self, headers: &mut HeaderMap) {
        if let Ok(key) = HeaderValue::from_str(&self.0) {
            headers.insert(header::SEC_WEBSOCKET_KEY, key);
        }
        headers.remove(header::SEC_WEBSOCKET_ACCEPT);
    }

    /// Whether the answer proves it.
    pub(super) fn is_answered(&self, headers: &HeaderMap) -> bool {
        const FIXED: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
        let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, [self.0.as_str(), FIXED].concat().as_bytes());
        let expected = STANDARD.encode(digest);
        let mut answers = headers.get_all(header::SEC_WEBSOCKET_ACCEPT).iter();
        answers.next().is_some_and(|answer| answer.as_bytes() == expected.as_bytes())
            && answers.next().is_none()
    }

    /// Makes the answer that opens a tunnel over HTTP/2 of the one that switched.
    pub(super) fn settle<B>(response: &mut Response<B>) {
        *response.status_mut() = StatusCode::OK;
        response.headers_mut().remove(header::SEC_WEBSOCKET_ACCEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A masked or plain frame with a payload of this length.
    fn frame(length: usize, masked: bool) -> Vec<u8> {
        let mut frame = vec![0x82];
        let mask = if masked { 0x80 } else { 0 };
        match length {
            0..=125 => frame.push(mask | u8::try_from(length).unwrap()),
            126..=0xffff => {
                frame.push(mask | 126);
                frame.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend_from_slice(&u64::try_from(length).unwrap().to_be_bytes());
            }
        }
        if masked {
            frame.extend_from_slice(&[1, 2, 3, 4]);
        }
        frame.resize(frame.len() + length, b'x');
        frame
    }

    #[test]
    fn frames_end_where_they_end_however_they_are_cut() {
        let frames: Vec<Vec<u8>> = [0, 1, 125, 126, 65_535, 65_536]
            .into_iter()
            .flat_map(|length| [frame(length, false), frame(length, true)])
            .collect();
        let all = frames.concat();
        let mut ends = vec![0];
        for frame in &frames {
            ends.push(ends.last().unwrap() + frame.len());
        }
        for piece in [1, 3, 1000, all.len()] {
            let mut tracker = FrameTracker::default();
            let mut at = 0;
            for bytes in all.chunks(piece) {
                tracker.pass(bytes);
                at += bytes.len();
                assert_eq!(tracker.is_between_frames(), ends.contains(&at), "at {at} in pieces of {piece}");
            }
        }
        let mut tracker = FrameTracker::default();
        assert_eq!(tracker.pass_frame(&all), frames[0].len());
        tracker.pass(&frames[4][..5]);
        assert_eq!(tracker.pass_frame(&[&frames[4][5..], &frames[3]].concat()), frames[4].len() - 5);
    }

    #[test]
    fn the_close_frame_is_one_whole_frame_and_says_whose_trouble_it_is() {
        for (reason, code) in [(Reason::SessionNotFound, 1008_u16), (Reason::DirectoryFailed, 1013)] {
            let close = close_frame(reason);
            let mut tracker = FrameTracker::default();
            tracker.pass(&close);
            assert!(tracker.is_between_frames());
            assert_eq!(close[0], 0x88);
            assert_eq!(close[2..4], code.to_be_bytes());
        }
    }
}
