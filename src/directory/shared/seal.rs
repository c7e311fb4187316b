//! Sealing what is left in Redis: encrypted and authenticated under a key of the deployment, bound to its name.
//!
//! Must not return a byte that was not sealed for exactly this name by a holder of the key.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{digest, hmac, rand};

use crate::identity::Secret;

/// What the layout of sealed records and messages is called. Another layout is another name, and unreadable here.
const VERSION: &[u8] = b"portcullis shared tier 1";

/// The keys of a deployment: the first seals, all open.
pub(super) struct Seal {
    keys: Vec<LessSafeKey>,
}

/// The keys cannot be made.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the key of the shared tier cannot be used")]
pub struct UnusableKey;

impl Seal {
    pub(super) fn new(key: &Secret, previous: Option<&Secret>) -> Result<Self, UnusableKey> {
        let keys = std::iter::once(key).chain(previous).map(|secret| {
            let derived = derive(secret);
            let key = UnboundKey::new(&AES_256_GCM_SIV, derived.as_ref()).map_err(|_| UnusableKey)?;
            Ok(LessSafeKey::new(key))
        });
        Ok(Self { keys: keys.collect::<Result<_, _>>()? })
    }

    /// Nonce, ciphertext, tag.
    pub(super) fn seal(&self, name: &str, plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let key = self.keys.first()?;
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad(name), &mut sealed).ok()?;
        Some([nonce.as_slice(), &sealed].concat())
    }

    pub(super) fn open(&self, name: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, ciphertext) = sealed.split_at_checked(NONCE_LEN)?;
        self.keys.iter().find_map(|key| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut opened = ciphertext.to_vec();
            let length = key.open_in_place(nonce, aad(name), &mut opened).ok()?.len();
            opened.truncate(length);
            Some(opened)
        })
    }
}

/// What a record is called: a digest, so that names are of one length and no id stands in them. `parts` are told apart
/// by their lengths, so that no two lists of parts make one name. It does not depend on a key: replicas that change
/// from one to another must still find each other.
pub(super) fn name_of(parts: &[&str]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(VERSION);
    for part in parts {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part.as_bytes());
    }
    context.finish().as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn derive(secret: &Secret) -> hmac::Tag {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
    hmac::sign(&key, VERSION)
}

fn aad(name: &str) -> Aad<Vec<u8>> {
    Aad::from([VERSION, name.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(key: &str, previous: Option<&str>) -> Seal {
        let secret = |text: &str| Secret::new(text.to_owned());
        Seal::new(&secret(key), previous.map(secret).as_ref()).unwrap()
    }

    #[test]
    fn only_what_was_sealed_under_the_key_and_the_name_opens() {
        let one = seal("k1", None);
        let sealed = one.seal("a", b"list").unwrap();
        assert_eq!(one.open("a", &sealed).as_deref(), Some(&b"list"[..]));
        assert_eq!(one.open("b", &sealed), None, "moved to another name");
        assert_eq!(seal("k2", None).open("a", &sealed), None, "another deployment");
        assert_eq!(seal("k2", Some("k1")).open("a", &sealed).as_deref(), Some(&b"list"[..]));
        for at in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[at] ^= 1;
            assert_eq!(one.open("a", &bent), None, "bit of byte {at}");
            assert_eq!(one.open("a", &sealed[..at]), None);
        }
    }

    #[test]
    fn names_tell_lists_of_parts_apart() {
        assert_ne!(name_of(&["ab", "c"]), name_of(&["a", "bc"]));
        assert_eq!(name_of(&["a"]), name_of(&["a"]));
    }
}
