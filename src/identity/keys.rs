//! The set of public keys that session JWTs are verified with.
//!
//! Must not fetch anything: keys arrive parsed, and a key that is not a usable RSA key never gets in.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};

/// The numbers do not make an RSA key of 2048 to 8192 bits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an RSA public key of 2048 to 8192 bits")]
pub struct InvalidKey;

/// An RSA public key, parsed once, that verifies RS256 and nothing else.
#[derive(Clone)]
pub struct VerificationKey {
    parsed: Arc<ParsedPublicKey>,
    modulus: Arc<[u8]>,
    exponent: Arc<[u8]>,
}

impl VerificationKey {
    /// Makes a key from big-endian modulus and exponent (RFC 7518 section 6.3.1).
    pub fn from_components(modulus: &[u8], exponent: &[u8]) -> Result<Self, InvalidKey> {
        let modulus = strip_zeros(modulus);
        let exponent = strip_zeros(exponent);
        let bits = modulus.len() * 8;
        if !(2048..=8192).contains(&bits) || exponent.is_empty() || exponent.len() > 8 {
            return Err(InvalidKey);
        }
        RsaPublicKeyComponents { n: modulus, e: exponent }
            .to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
            .map(|parsed| Self {
                parsed: Arc::new(parsed),
                modulus: Arc::from(modulus),
                exponent: Arc::from(exponent),
            })
            .map_err(|_| InvalidKey)
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.parsed.verify_sig(message, signature).is_ok()
    }
}

impl PartialEq for VerificationKey {
    fn eq(&self, other: &Self) -> bool {
        self.modulus == other.modulus && self.exponent == other.exponent
    }
}

impl fmt::Debug for VerificationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerificationKey(RS256)")
    }
}

fn strip_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

/// The keys of one fetch, by key id. The generation grows with every fetch that changed them.
#[derive(Debug, Clone, Default)]
pub struct KeySet {
    keys: HashMap<String, VerificationKey>,
    generation: u64,
}

impl KeySet {
    pub fn new(keys: HashMap<String, VerificationKey>, generation: u64) -> Self {
        Self { keys, generation }
    }

    pub fn find(&self, key_id: &str) -> Option<&VerificationKey> {
        self.keys.get(key_id)
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether these are the same keys under the same ids.
    pub fn holds_exactly(&self, keys: &HashMap<String, VerificationKey>) -> bool {
        self.keys == *keys
    }
}
