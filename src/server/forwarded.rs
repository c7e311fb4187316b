//! What listed proxies say of a request: `X-Forwarded-*`, or `Forwarded` (RFC 7239), read from the right.
//!
//! Must not read past the first address that is not a listed proxy: whatever stands left of it, anybody may have written.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, header};

use super::settings::ForwardedTrust;

/// The most proxies that are followed.
const MOST_HOPS: usize = 16;

/// What is believed of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    /// None where a listed proxy did say, but nothing that names an address: then nobody knows.
    pub client: Option<IpAddr>,
    /// Listed proxies, the client's end first; the one that spoke to us is the last.
    pub hops: Vec<IpAddr>,
    pub secure: Option<bool>,
    pub host: Option<String>,
}

/// One hop as a proxy described it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Hop {
    client: Option<IpAddr>,
    secure: Option<bool>,
    host: Option<String>,
}

/// Follows the proxies back to the first that is not listed. `from` is listed, and spoke to us.
pub fn read_forwarded(headers: &HeaderMap, from: IpAddr, trust: &ForwardedTrust) -> Told {
    let mut told = Told { client: Some(from), hops: Vec::new(), secure: None, host: None };
    let described = if trust.standard { standard_hops(headers) } else { usual_hops(headers) };
    for hop in described.into_iter().rev().take(MOST_HOPS) {
        let Some(nearer) = told.client.filter(|client| trust.covers(*client)) else { break };
        told.hops.insert(0, nearer);
        // Where a proxy hides or misspells who it spoke to, it was not itself.
        told.client = hop.client;
        told.secure = hop.secure.or(told.secure);
        told.host = hop.host.or(told.host);
    }
    if !trust.standard {
        let last = |name: &str| last_item(headers, name);
        told.secure = last("x-forwarded-proto").and_then(|scheme| is_https(&scheme));
        told.host = last("x-forwarded-host");
    }
    if !trust.host {
        told.host = None;
    }
    told
}

/// The addresses of `X-Forwarded-For`, all its lines as one list. Split as bytes: an item that is no text is one item that
/// cannot be read, and takes no other with it.
fn usual_hops(headers: &HeaderMap) -> Vec<Hop> {
    let values = headers.get_all("x-forwarded-for").iter();
    let items = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let client = |item: &[u8]| address(std::str::from_utf8(item.trim_ascii()).ok()?);
    items.map(|item| Hop { client: client(item), ..Hop::default() }).collect()
}

/// The last of a list: what the proxy said that spoke to us.
fn last_item(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get_all(name).iter().next_back()?.to_str().ok()?;
    let item = value.rsplit(',').next()?.trim();
    (!item.is_empty()).then(|| item.to_owned())
}

/// The elements of `Forwarded`. After one that breaks the grammar nothing to its left is believed, since where the next
/// begins cannot be known.
fn standard_hops(headers: &HeaderMap) -> Vec<Hop> {
    let mut hops = Vec::new();
    for value in headers.get_all(header::FORWARDED) {
        let parsed = value.to_str().ok().and_then(elements);
        match parsed {
            Some(elements) => hops.extend(elements),
            // Stands for whatever it was, and ends the walk where it is reached.
            None => hops.push(Hop::default()),
        }
    }
    hops
}

/// `for=192.0.2.1;proto=https, for="[2001:db8::1]:80"` (RFC 7239 section 4).
fn elements(text: &str) -> Option<Vec<Hop>> {
    let mut hops = Vec::new();
    let mut hop = Hop::default();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t']);
        if let Some((name, behind)) = rest.split_once('=').filter(|(name, _)| is_token(name)) {
            let (value, behind) = value(behind)?;
            match name.to_ascii_lowercase().as_str() {
                "for" => hop.client = address(&value),
                "proto" => hop.secure = is_https(&value),
                "host" => hop.host = Some(value),
                _ => {}
            }
            rest = behind.trim_start_matches([' ', '\t']);
        }
        match rest.split_at_checked(1) {
            None => {
                hops.push(hop);
                return Some(hops);
            }
            Some((";", behind)) => rest = behind,
            Some((",", behind)) => {
                hops.push(std::mem::take(&mut hop));
                rest = behind;
            }
            Some(_) => return None,
        }
    }
}

/// A token or a quoted string, and what stands behind it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|letter: char| !is_token_letter(letter)).unwrap_or(text.len());
        let (token, behind) = text.split_at_checked(end)?;
        return (!token.is_empty()).then(|| (token.to_owned(), behind));
    };
    let mut value = String::new();
    let mut letters = quoted.chars();
    loop {
        match letters.next()? {
            '"' => return Some((value, letters.as_str())),
            '\\' => value.push(letters.next()?),
            letter => value.push(letter),
        }
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_token_letter)
}

/// RFC 9110 section 5.6.2.
fn is_token_letter(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(letter)
}

/// An address, with or without a port; an IPv6 one with or without brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let parsed = bare.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
    parsed.ok().map(|address| address.to_canonical())
}

fn is_https(scheme: &str) -> Option<bool> {
    match () {
        () if scheme.eq_ignore_ascii_case("https") => Some(true),
        () if scheme.eq_ignore_ascii_case("http") => Some(false),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn told(standard: bool, fields: &[(&str, &str)]) -> Told {
        let trust = ForwardedTrust {
            networks: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
            standard,
            host: true,
        };
        let headers: HeaderMap = fields
            .iter()
            .map(|(name, value)| {
                (
                    name.parse::<HeaderName>().unwrap(),
                    http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
                )
            })
            .collect();
        read_forwarded(&headers, "10.0.0.1".parse().unwrap(), &trust)
    }

    /// The client, and how many proxies lie between.
    fn client(standard: bool, value: &str) -> (String, usize) {
        let name = if standard { "forwarded" } else { "x-forwarded-for" };
        let told = told(standard, &[(name, value)]);
        (told.client.map_or_else(|| "unknown".to_owned(), |client| client.to_string()), told.hops.len())
    }

    #[test]
    fn the_list_is_followed_from_the_right_to_the_first_stranger() {
        let rows = [
            ("203.0.113.7", "203.0.113.7", 1),
            ("203.0.113.7, 10.0.0.2", "203.0.113.7", 2),
            // What the client wrote itself stands left of its own address.
            ("10.0.0.9, 127.0.0.1, 203.0.113.7, 10.0.0.2", "203.0.113.7", 2),
            ("10.0.0.9, 203.0.113.7", "203.0.113.7", 1),
            ("10.0.0.3, 10.0.0.2", "10.0.0.3", 2),
            ("junk, 10.0.0.2", "unknown", 2),
            ("203.0.113.7, unknown", "unknown", 1),
            ("203.0.113.7,", "unknown", 1),
            ("203.0.113.7:4711", "203.0.113.7", 1),
            ("[2001:db8::1]:4711", "2001:db8::1", 1),
            ("2001:db8::1", "2001:db8::1", 1),
            ("::ffff:203.0.113.7", "203.0.113.7", 1),
            ("203.0.113.7.example", "unknown", 1),
            ("", "unknown", 1),
            ("\u{e9}, 203.0.113.7", "203.0.113.7", 1),
            ("\u{e9}, 10.0.0.2", "unknown", 2),
        ];
        for (value, expected, hops) in rows {
            assert_eq!(client(false, value), (expected.to_owned(), hops), "{value}");
        }
    }

    #[test]
    fn the_standard_field_is_read_with_its_quotes() {
        let rows = [
            ("for=203.0.113.7", "203.0.113.7", 1),
            ("For=\"203.0.113.7:80\";proto=https;by=10.0.0.1", "203.0.113.7", 1),
            ("for=\"[2001:db8::1]\", for=10.0.0.2", "2001:db8::1", 2),
            ("for=10.0.0.9, for=203.0.113.7 , for=10.0.0.2", "203.0.113.7", 2),
            // A comma or a semicolon in quotes separates nothing.
            ("for=203.0.113.7;host=\"a, for=10.0.0.9\"", "203.0.113.7", 1),
            ("for=203.0.113.7;host=\"a\\\", for=10.0.0.9\"", "203.0.113.7", 1),
            ("for=_hidden, for=10.0.0.2", "unknown", 2),
            ("for=203.0.113.7;;proto=https", "203.0.113.7", 1),
            ("for=\"203.0.113.7", "unknown", 1),
            ("for=203.0.113.7 nonsense", "unknown", 1),
            ("proto=https", "unknown", 1),
        ];
        for (value, expected, hops) in rows {
            assert_eq!(client(true, value), (expected.to_owned(), hops), "{value}");
        }
    }

    #[test]
    fn lines_are_one_list_and_only_the_chosen_field_is_read() {
        let lines = [("x-forwarded-for", "10.9.9.9, 203.0.113.7"), ("x-forwarded-for", "10.0.0.2")];
        let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        assert_eq!(told(false, &lines).client, address("203.0.113.7"));
        assert_eq!(told(true, &lines).client, address("10.0.0.1"));
        let other = [("forwarded", "for=203.0.113.7;proto=https;host=evil")];
        assert_eq!(
            told(false, &other),
            Told { client: address("10.0.0.1"), hops: vec![], secure: None, host: None }
        );
    }

    #[test]
    fn scheme_and_host_are_those_of_the_nearest_proxy_that_says_so() {
        let usual = told(
            false,
            &[
                ("x-forwarded-for", "203.0.113.7"),
                ("x-forwarded-proto", "http, HTTPS"),
                ("x-forwarded-host", "evil.example, app.example"),
            ],
        );
        assert_eq!((usual.secure, usual.host.as_deref()), (Some(true), Some("app.example")));
        let odd = told(false, &[("x-forwarded-proto", "wss")]);
        assert_eq!(odd.secure, None);
        let standard = told(
            true,
            &[(
                "forwarded",
                "for=10.0.0.9;proto=https;host=evil, for=203.0.113.7;proto=https;host=app.example, for=10.0.0.2;proto=http",
            )],
        );
        assert_eq!((standard.secure, standard.host.as_deref()), (Some(true), Some("app.example")));
    }

    #[test]
    fn there_is_an_end_to_proxies() {
        let long = vec!["10.0.0.3"; 500].join(",");
        assert_eq!(client(false, &long).1, MOST_HOPS);
    }
}
