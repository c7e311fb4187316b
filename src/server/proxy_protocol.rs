//! The PROXY protocol, versions 1 and 2: a listed proxy says whose connection this is, before its first byte.
//!
//! Must not guess whether a header is there: whoever is listed sends one, whoever is not does not
//! (<https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>, section 2).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::peek::peek_past;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, its end included (section 2.1).
const LONGEST_LINE: usize = 107;
/// Addresses take 216 bytes at most; the rest is room for what else a proxy has to say.
const LONGEST_BODY: usize = 4096;

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxiedClient {
    /// The proxy's own, such as a health check.
    Itself,
    /// Somebody's whose address the proxy does not know.
    Unknown,
    Address(IpAddr),
}

/// What the header said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proxied {
    pub client: ProxiedClient,
    /// The client's connection to the proxy was under TLS.
    pub under_tls: bool,
}

/// Takes the header off the stream.
pub(super) async fn read_header(stream: &mut TcpStream) -> io::Result<Proxied> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "no header of the PROXY protocol");
    let mut start = [0; SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    if start == SIGNATURE {
        let mut head = [0; 4];
        stream.read_exact(&mut head).await?;
        let [command, family, high, low] = head;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > LONGEST_BODY {
            return Err(malformed());
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        return parse_binary(command, family, &body).ok_or_else(malformed);
    }
    // Peeked at, so that nothing behind the line is taken.
    let mut line = [0; LONGEST_LINE];
    let (head, tail) = line.split_at_mut(start.len());
    head.copy_from_slice(&start);
    let mut count = 0;
    loop {
        let before = count;
        count = peek_past(stream, before, tail).await?;
        let seen = tail.get(..count).unwrap_or_default();
        if let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") {
            let mut taken = vec![0; end + 2];
            stream.read_exact(&mut taken).await?;
            let text = [&start[..], seen.get(..end).unwrap_or_default()].concat();
            return std::str::from_utf8(&text).ok().and_then(parse_line).ok_or_else(malformed);
        }
        if count <= before || seen.len() == LONGEST_LINE - SIGNATURE.len() || !start.starts_with(b"PROXY ") {
            return Err(malformed());
        }
    }
}

/// Version 1, without its end: `PROXY TCP4 192.0.2.1 192.0.2.2 4711 443`.
pub fn parse_line(line: &str) -> Option<Proxied> {
    let rest = line.strip_prefix("PROXY ")?;
    if rest == "UNKNOWN" || rest.starts_with("UNKNOWN ") {
        return Some(Proxied { client: ProxiedClient::Unknown, under_tls: false });
    }
    let mut words = rest.split(' ');
    let family = words.next()?;
    let mut address = || {
        let word = words.next()?;
        match family {
            "TCP4" => word.parse::<Ipv4Addr>().ok().map(IpAddr::from),
            "TCP6" => word.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            _ => None,
        }
    };
    let client = address()?;
    // Ours, as the client saw it: it must be one, and is of no further use.
    address()?;
    let mut port = || {
        let word = words.next()?;
        let plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
        if plain { word.parse::<u16>().ok() } else { None }
    };
    port()?;
    port()?;
    words.next().is_none().then_some(Proxied { client: ProxiedClient::Address(client), under_tls: false })
}

/// Version 2, behind its signature: version and command, family and protocol, and as much as the length said.
pub fn parse_binary(command: u8, family: u8, body: &[u8]) -> Option<Proxied> {
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    match command {
        LOCAL => return Some(Proxied { client: ProxiedClient::Itself, under_tls: false }),
        PROXY => {}
        _ => return None,
    }
    let (client, extras): (IpAddr, &[u8]) = match family {
        // TCP over IPv4: both addresses, both ports.
        0x11 => {
            let (addresses, extras) = body.split_first_chunk::<12>()?;
            let (client, _) = addresses.split_first_chunk::<4>()?;
            (Ipv4Addr::from(*client).into(), extras)
        }
        0x21 => {
            let (addresses, extras) = body.split_first_chunk::<36>()?;
            let (client, _) = addresses.split_first_chunk::<16>()?;
            (Ipv6Addr::from(*client).into(), extras)
        }
        // Unspecified, or a Unix socket: the proxy does not know either.
        0x00 | 0x31 => return Some(Proxied { client: ProxiedClient::Unknown, under_tls: false }),
        _ => return None,
    };
    Some(Proxied { client: ProxiedClient::Address(client), under_tls: came_under_tls(extras)? })
}

/// Reads the further fields (section 2.2.5 and 2.2.6). None where they do not fit their lengths.
fn came_under_tls(mut extras: &[u8]) -> Option<bool> {
    const SSL: u8 = 0x20;
    const CLIENT_SSL: u8 = 0x01;
    let mut under_tls = false;
    while let Some((head, rest)) = extras.split_first_chunk::<3>() {
        let [kind, high, low] = *head;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
        if kind == SSL {
            under_tls |= value.first().is_some_and(|flags| flags & CLIENT_SSL != 0);
        }
        extras = rest;
    }
    extras.is_empty().then_some(under_tls)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(text: &str) -> Option<Proxied> {
        Some(Proxied { client: ProxiedClient::Address(text.parse().unwrap()), under_tls: false })
    }

    #[test]
    fn a_line_is_exactly_as_written_down() {
        assert_eq!(parse_line("PROXY TCP4 203.0.113.7 10.0.0.1 4711 443"), client("203.0.113.7"));
        assert_eq!(parse_line("PROXY TCP6 2001:db8::1 ::1 4711 443"), client("2001:db8::1"));
        for unknown in ["PROXY UNKNOWN", "PROXY UNKNOWN ffff::1 ffff::2 1 2"] {
            assert_eq!(
                parse_line(unknown),
                Some(Proxied { client: ProxiedClient::Unknown, under_tls: false })
            );
        }
        for broken in [
            "",
            "PROXY",
            "PROXY ",
            "PROXY TCP5 1.2.3.4 1.2.3.4 1 2",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 65536",
            "PROXY TCP4 1.2.3.4 1.2.3.4 01 2",
            "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2",
            "PROXY TCP4  1.2.3.4 1.2.3.4 1 2",
            "PROXY TCP4 1.2.3.4 ::1 1 2",
            "PROXY TCP4 ::1 ::1 1 2",
            "PROXY TCP4 01.2.3.4 1.2.3.4 1 2",
            "proxy TCP4 1.2.3.4 1.2.3.4 1 2",
            "PROXY UNKNOWNX",
        ] {
            assert_eq!(parse_line(broken), None, "{broken}");
        }
    }

    #[test]
    fn version_two_is_read_with_its_lengths() {
        let four = [203, 0, 113, 7, 10, 0, 0, 1, 0x12, 0x34, 1, 187];
        assert_eq!(parse_binary(0x21, 0x11, &four), client("203.0.113.7"));
        let mut six = [0; 36];
        six[15] = 1;
        assert_eq!(parse_binary(0x21, 0x21, &six), client("::1"));
        let tls = [&four[..], &[0x20, 0, 5, 1, 0, 0, 0, 0, 0x04, 0, 1, 9]].concat();
        let under_tls = Proxied { under_tls: true, ..client("203.0.113.7").unwrap() };
        assert_eq!(parse_binary(0x21, 0x11, &tls), Some(under_tls));
        let nobody = |client| Some(Proxied { client, under_tls: false });
        assert_eq!(parse_binary(0x20, 0x11, &four), nobody(ProxiedClient::Itself));
        assert_eq!(parse_binary(0x21, 0x00, &[]), nobody(ProxiedClient::Unknown));
        let overlong = [&four[..], &[0x20, 0, 9, 1]].concat();
        let cut = [&four[..], &[0x20]].concat();
        let broken: [(u8, u8, &[u8]); 7] = [
            (0x21, 0x11, &four[..11]),
            (0x21, 0x21, &four),
            (0x11, 0x11, &four),
            (0x22, 0x11, &four),
            (0x21, 0x12, &four),
            (0x21, 0x11, &overlong),
            (0x21, 0x11, &cut),
        ];
        for (command, family, body) in broken {
            assert_eq!(parse_binary(command, family, body), None, "{command:x} {family:x} {body:?}");
        }
    }
}
