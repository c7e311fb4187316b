//! The project's signing keys: RSA, rotated on demand, published as a JWK set.
//!
//! Must not sign with a key the set does not show.

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};

/// One key with what the JWK set says of it.
pub(super) struct SigningKey {
    pub(super) key_id: String,
    pair: RsaKeyPair,
    certificate: Vec<u8>,
}

impl SigningKey {
    pub(super) fn generate() -> Result<Self, String> {
        let pair =
            KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).map_err(|e| e.to_string())?;
        let params =
            CertificateParams::new(vec!["emulator.invalid".to_owned()]).map_err(|e| e.to_string())?;
        let certificate = params.self_signed(&pair).map_err(|e| e.to_string())?;
        let signer = RsaKeyPair::from_pkcs8(&pair.serialize_der()).map_err(|e| e.to_string())?;
        Ok(Self {
            key_id: format!("jwk-test-{}", super::tokens::uuid()),
            pair: signer,
            certificate: certificate.der().to_vec(),
        })
    }

    /// A JWT in compact form, RS256.
    pub(super) fn sign(&self, claims: &Value) -> String {
        let header = json!({ "alg": "RS256", "kid": self.key_id, "typ": "JWT" });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        let done = self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature);
        if done.is_err() {
            signature.clear();
        }
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The nine fields the API publishes.
    pub(super) fn jwk(&self) -> Value {
        let public = self.pair.public_key();
        let thumbprint = digest::digest(&digest::SHA256, &self.certificate);
        json!({
            "kty": "RSA",
            "use": "sig",
            "key_ops": ["verify"],
            "alg": "RS256",
            "kid": self.key_id,
            "x5c": [STANDARD.encode(&self.certificate)],
            "x5tS256": URL_SAFE_NO_PAD.encode(thumbprint),
            "n": URL_SAFE_NO_PAD.encode(public.modulus().big_endian_without_leading_zero()),
            "e": URL_SAFE_NO_PAD.encode(public.exponent().big_endian_without_leading_zero()),
        })
    }
}
