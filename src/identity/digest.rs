//! What a credential is remembered by: its SHA-256, never the credential itself.
//!
//! Must not keep or print the bytes it was made from.

use std::fmt;

use aws_lc_rs::digest;

/// SHA-256 of a credential's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CredentialDigest([u8; 32]);

impl CredentialDigest {
    pub fn of(credential: &str) -> Self {
        let hash = digest::digest(&digest::SHA256, credential.as_bytes());
        let mut bytes = [0; 32];
        for (to, from) in bytes.iter_mut().zip(hash.as_ref()) {
            *to = *from;
        }
        Self(bytes)
    }
}

impl CredentialDigest {
    /// In lower-case hexadecimal digits.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for CredentialDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CredentialDigest(..)")
    }
}
