//! Hiding secrets in a configuration that is about to be shown, mistakes and all.
//!
//! Must not change a length: what points into the text must still point at the same place.

use std::ops::Range;

use super::locate::Places;
use super::tree::{Path, Step};

/// The text with every value masked that is a secret, sounds like one, or stands under a key nobody knows.
pub(super) fn mask(text: &str, places: &Places, unknown: &[&Path]) -> String {
    let hidden = places.iter().filter(|(path, place)| {
        place.is_scalar && (path.is_secret() || unknown.iter().any(|key| path.starts_with(key)))
    });
    let hidden = hidden.map(|(_, place)| place.value.clone());
    cover(text, hidden.chain(credentials_in_urls(text)).collect())
}

/// As `mask`, for a text that cannot be read: line by line, by what a line looks like.
pub(super) fn mask_unreadable(text: &str) -> String {
    let mut hidden: Vec<Range<usize>> = credentials_in_urls(text).collect();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let words = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        let doubtful = words.into_iter().any(|word| sounds_secret(word) || BARE_SECRETS.contains(&word));
        if let Some(at) = line.find([':', '=']).filter(|_| doubtful) {
            hidden.push(start + at + 1..start + line.len());
        }
        start += line.len();
    }
    cover(text, hidden)
}

/// Words in front of a secret that do not sound like one.
const BARE_SECRETS: [&str; 4] = ["value", "token", "key", "previous_key"];

/// The text of a URL without the password somebody wrote into it.
pub(super) fn without_credentials(text: &str) -> String {
    cover(text, credentials_in_urls(text).collect())
}

impl Path {
    /// Whether a secret stands here: under a key that is one or sounds like one, and not the name of where it is kept.
    pub(super) fn is_secret(&self) -> bool {
        let key = |step: &Step| match step {
            Step::Key(key) => Some(key.clone()),
            Step::Index(_) => None,
        };
        let names_a_place = self.0.last().and_then(key).is_some_and(|last| last == "env" || last == "file");
        let is_value = self.last_key() == Some("value");
        !names_a_place
            && (is_value
                || HOLD_SECRETS.iter().any(|path| self.starts_with_keys(path))
                || self.0.iter().filter_map(key).any(|key| sounds_secret(&key)))
    }

    fn starts_with_keys(&self, keys: &[&str]) -> bool {
        self.0.len() >= keys.len()
            && self.0.iter().zip(keys).all(|(step, key)| matches!(step, Step::Key(step) if step == key))
    }
}

/// Keys of secrets that do not sound like one. A key of claims to compare with, `value` stands nowhere else.
const HOLD_SECRETS: [&[&str]; 4] = [
    &["admin", "token"],
    &["sessions", "shared", "key"],
    &["sessions", "shared", "previous_key"],
    &["tracing", "headers"],
];

fn sounds_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key.contains("secret") || key.contains("passw") || strsim::jaro_winkler(&key, "secret") > 0.85
}

/// What stands between `://` and `@`.
fn credentials_in_urls(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    text.match_indices("://").filter_map(|(at, _)| {
        let start = at + 3;
        // A password may hold a slash that should have been encoded.
        let rest = text.get(start..)?;
        let word = rest.split(|letter: char| letter.is_whitespace() || "\"'".contains(letter)).next()?;
        word.rfind('@').map(|length| start..start + length)
    })
}

fn cover(text: &str, hidden: Vec<Range<usize>>) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for range in hidden {
        for byte in bytes.get_mut(range).unwrap_or_default() {
            if !matches!(byte, b'\n' | b'\r' | b' ' | b'\t') {
                *byte = b'*';
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_and_everything_else_stays_where_it_is() {
        let text =
            "stytch:\n  secret: { value: hush, env: NAME }\n  base_url: https://me:hush@api\nother: 1\n";
        let masked = mask(text, &Places::of_yaml(text), &[]);
        assert_eq!(
            masked,
            "stytch:\n  secret: { value: ****, env: NAME }\n  base_url: https://*******@api\nother: 1\n"
        );
        let block = "stytch:\n  secert:\n    env: X\n    vaule: hush\n";
        assert!(!mask(block, &Places::of_yaml(block), &[]).contains("hush"));
        for bare in [
            "admin:\n  token: hush\n",
            "admin: { token: { value: hush } }\n",
            "sessions:\n  shared:\n    key: hush\n    previous_key: { value: hush }\n",
            "webhooks: { secrets: [ { value: hush } ] }\n",
            "tracing: { headers: { authorization: hush } }\n",
        ] {
            assert!(!mask(bare, &Places::of_yaml(bare), &[]).contains("hush"), "{bare}");
        }
        let unknown = "stytch:\n  key: hush\n";
        let path = Path::default().key("stytch").key("key");
        assert!(!mask(unknown, &Places::of_yaml(unknown), &[&path]).contains("hush"));
    }

    #[test]
    fn a_text_that_cannot_be_read_is_masked_by_its_looks() {
        for text in [
            "secret: { value: hush: x",
            "  value: hush: x\nb: 1",
            "admin:\n  token: @hush\n",
            "shared: { key: @hush }",
            "redis: redis://:a/hush@h:1",
            "redis: redis://:a,hush@h:1",
            "{\"stytch\":{\"secret\":{\"value\":\"hush\"}",
        ] {
            let masked = mask_unreadable(text);
            assert!(!masked.contains("hush") && masked.len() == text.len(), "{masked}");
        }
    }
}
