//! The signed assertion: who the caller is, as a JWT the origin can verify without trusting the network (RFC 7519).
//!
//! Must not sign anything a permit does not say, nor with a key that is not published yet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use aws_lc_rs::{digest, hkdf};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use jiff::Timestamp;
use moka::sync::Cache;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::AssertionSettings;
use crate::policy::{Caller, IdentityAttribute};

/// Assertions kept, one per caller, audience and key.
const MAX_KEPT: u64 = 100_000;
/// Keys of former settings that stay known.
const MAX_LEFT_BEHIND: usize = 24;
/// How far an origin's clock may be behind ours.
const SKEW_SECONDS: i64 = 2;
/// What an assertion tells besides who made it, for whom, of whom, and when.
const CLAIMS: [(&str, IdentityAttribute); 12] = [
    ("kind", IdentityAttribute::Kind),
    ("member_id", IdentityAttribute::MemberId),
    ("organization_id", IdentityAttribute::OrganizationId),
    ("organization_slug", IdentityAttribute::OrganizationSlug),
    ("session_id", IdentityAttribute::SessionId),
    ("session_expires_at", IdentityAttribute::SessionExpiresAt),
    ("roles", IdentityAttribute::Roles),
    ("factors", IdentityAttribute::Factors),
    ("email", IdentityAttribute::Email),
    ("impersonator", IdentityAttribute::Impersonator),
    ("client_id", IdentityAttribute::ClientId),
    ("scopes", IdentityAttribute::Scopes),
];

/// Makes assertions and publishes the keys they are verified with.
pub struct Assertions {
    settings: AssertionSettings,
    seed: Zeroizing<Vec<u8>>,
    /// The keys of the last, the present and the next period, made when a period begins.
    ring: ArcSwap<Ring>,
    kept: Cache<[u8; 32], Kept>,
    /// The keys of the settings before these, published until then: what they signed may still be on its way.
    before: Vec<(Arc<Key>, Timestamp)>,
}

#[derive(Clone)]
struct Kept {
    value: HeaderValue,
    /// From when on another is made, so that the origin never gets one that is about to end.
    until: Timestamp,
}

struct Ring {
    period: i64,
    keys: [Option<Arc<Key>>; 3],
}

/// The keys could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key to sign assertions with cannot be made")]
pub struct KeyFailure;

enum Pair {
    Ed25519(Ed25519KeyPair),
    Es256(EcdsaKeyPair),
}

struct Key {
    pair: Pair,
    id: String,
}

impl Assertions {
    pub fn new(settings: AssertionSettings, now: Timestamp) -> Result<Self, KeyFailure> {
        Self::succeeding(settings, now, None)
    }

    /// In place of `before`, whose keys stay known for as long as a verifier may keep the set, and whose made-up secret
    /// stays if none is given.
    pub fn succeeding(
        settings: AssertionSettings,
        now: Timestamp,
        before: Option<&Arc<Self>>,
    ) -> Result<Self, KeyFailure> {
        let made_up = before.filter(|before| before.settings.seed.is_none());
        let seed = match (&settings.seed, made_up) {
            (Some(secret), _) => Zeroizing::new(secret.expose().as_bytes().to_vec()),
            (None, Some(before)) => before.seed.clone(),
            (None, None) => {
                let mut bytes = Zeroizing::new(vec![0; 32]);
                aws_lc_rs::rand::fill(&mut bytes).map_err(|_| KeyFailure)?;
                bytes
            }
        };
        let kept = Cache::builder().max_capacity(MAX_KEPT).time_to_live(settings.lifetime).build();
        let ring = ArcSwap::from_pointee(Ring { period: i64::MIN, keys: [None, None, None] });
        let before = before.map(|before| before.left_behind(now)).unwrap_or_default();
        let assertions = Self { settings, seed, ring, kept, before };
        let ring = assertions.ring_at(now);
        if ring.keys.iter().all(Option::is_some) { Ok(assertions) } else { Err(KeyFailure) }
    }

    pub fn settings(&self) -> &AssertionSettings {
        &self.settings
    }

    /// The assertion about `caller` for `audience`. Made anew when half its time is over, what it says is different, or
    /// another key signs.
    pub fn assert(&self, caller: &Caller, audience: &str, now: Timestamp) -> Result<HeaderValue, KeyFailure> {
        let ring = self.ring_at(now);
        let [_, Some(key), _] = &ring.keys else { return Err(KeyFailure) };
        let mut claims = Map::new();
        let mut put = |name: &str, value: Value| claims.insert(name.to_owned(), value);
        put("iss", json!(self.settings.issuer));
        put("aud", json!(audience));
        put("sub", IdentityAttribute::Subject.of(caller).unwrap_or_default());
        for (name, attribute) in &CLAIMS {
            if let Some(value) = attribute.of(caller) {
                put(name, value);
            }
        }
        let said = Value::Object(claims.clone()).to_string();
        let index = index_of(&key.id, &said);
        if let Some(kept) = self.kept.get(&index).filter(|kept| now < kept.until) {
            return Ok(kept.value);
        }
        let lifetime = i64::try_from(self.settings.lifetime.as_secs()).unwrap_or(60).max(1);
        // Never longer than the session or token it rests on.
        let expires = (now.as_second() + lifetime)
            .min(caller.subject.expires_at().as_second().max(now.as_second() + 1));
        // A little back: the origin's clock may be behind ours, and libraries refuse what is dated ahead.
        claims.insert("iat".to_owned(), json!(now.as_second() - SKEW_SECONDS));
        claims.insert("exp".to_owned(), json!(expires));
        let value = key.sign(&Value::Object(claims))?;
        let left = Timestamp::from_second(expires).unwrap_or(now).duration_since(now);
        let until = now.saturating_add(left / 2).unwrap_or(now);
        self.kept.insert(index, Kept { value: value.clone(), until });
        Ok(value)
    }

    /// The JWK set (RFC 7517): the last key, the present one, and the next, so that it is known before it signs.
    pub fn key_set(&self, now: Timestamp) -> Value {
        json!({ "keys": self.keys(now).values().map(|key| key.to_jwk()).collect::<Vec<_>>() })
    }

    /// By id, each once.
    fn keys(&self, now: Timestamp) -> BTreeMap<String, Arc<Key>> {
        let before = self.before.iter().filter(|(_, until)| now < *until).map(|(key, _)| key);
        let ring = self.ring_at(now);
        before.chain(ring.keys.iter().flatten()).map(|key| (key.id.clone(), Arc::clone(key))).collect()
    }

    /// The keys that must stay known once other settings take over, each once, with its date; the latest if there are many.
    fn left_behind(&self, now: Timestamp) -> Vec<(Arc<Key>, Timestamp)> {
        let until = now.saturating_add(self.settings.rotate_every).unwrap_or(now);
        let ring = self.ring_at(now);
        let own = ring.keys.iter().flatten().map(|key| (Arc::clone(key), until));
        let mut left: Vec<(Arc<Key>, Timestamp)> = own.collect();
        for (key, until) in self.before.iter().filter(|(_, until)| now < *until) {
            if left.len() < MAX_LEFT_BEHIND && left.iter().all(|(known, _)| known.id != key.id) {
                left.push((Arc::clone(key), *until));
            }
        }
        left
    }

    /// How long the key set may be kept by whoever reads it.
    pub fn key_set_age(&self) -> Duration {
        (self.settings.rotate_every / 4).min(Duration::from_secs(300))
    }

    fn ring_at(&self, now: Timestamp) -> Arc<Ring> {
        let length = i64::try_from(self.settings.rotate_every.as_secs()).unwrap_or(i64::MAX).max(1);
        let period = now.as_second().div_euclid(length);
        let ring = self.ring.load_full();
        if ring.period == period {
            return ring;
        }
        let keys = [period - 1, period, period + 1]
            .map(|period| Key::derive(&self.settings, &self.seed, period).map(Arc::new));
        let ring = Arc::new(Ring { period, keys });
        self.ring.store(Arc::clone(&ring));
        ring
    }
}

/// What an assertion is kept by: the key and every word it says but its dates.
fn index_of(key_id: &str, said: &str) -> [u8; 32] {
    let mut hashed = digest::Context::new(&digest::SHA256);
    hashed.update(key_id.as_bytes());
    hashed.update(said.as_bytes());
    let mut index = [0; 32];
    for (to, from) in index.iter_mut().zip(hashed.finish().as_ref()) {
        *to = *from;
    }
    index
}

impl Key {
    /// The key of one period. The same seed gives the same keys wherever it is known (RFC 5869).
    fn derive(settings: &AssertionSettings, seed: &[u8], period: i64) -> Option<Self> {
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, b"portcullis assertion").extract(seed);
        let algorithm: &[u8] = if settings.es256 { b"ES256" } else { b"EdDSA" };
        // Nearly every 32 bytes are a private key of P-256; those that are not are passed over.
        (0..16_u8).find_map(|attempt| {
            let length = settings.rotate_every.as_secs().to_be_bytes();
            let parts = [algorithm, &length, &period.to_be_bytes(), &[attempt]];
            let mut bytes = Zeroizing::new([0; 32]);
            secret.expand(&parts, hkdf::HKDF_SHA256).ok()?.fill(&mut *bytes).ok()?;
            let pair = if settings.es256 { Pair::es256(&*bytes)? } else { Pair::ed25519(&*bytes)? };
            let hash = digest::digest(&digest::SHA256, pair.public());
            let id = URL_SAFE_NO_PAD.encode(hash.as_ref().get(..12)?);
            Some(Self { pair, id })
        })
    }

    fn sign(&self, claims: &Value) -> Result<HeaderValue, KeyFailure> {
        let header = json!({ "alg": self.pair.algorithm(), "kid": self.id, "typ": "JWT" });
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encode(&header), encode(claims));
        let signature = match &self.pair {
            Pair::Ed25519(pair) => pair.sign(signed.as_bytes()).as_ref().to_vec(),
            Pair::Es256(pair) => {
                let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).map_err(|_| KeyFailure)?;
                signature.as_ref().to_vec()
            }
        };
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        let mut value = HeaderValue::try_from(token).map_err(|_| KeyFailure)?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn to_jwk(&self) -> Value {
        let public = self.pair.public();
        let part = |from: usize, to: usize| URL_SAFE_NO_PAD.encode(public.get(from..to).unwrap_or_default());
        match &self.pair {
            Pair::Ed25519(_) => json!({
                "kty": "OKP", "crv": "Ed25519", "x": part(0, 32), "kid": self.id, "alg": "EdDSA", "use": "sig",
            }),
            // The point uncompressed: a 4, then both coordinates.
            Pair::Es256(_) => json!({
                "kty": "EC", "crv": "P-256", "x": part(1, 33), "y": part(33, 65), "kid": self.id, "alg": "ES256",
                "use": "sig",
            }),
        }
    }
}

impl Pair {
    fn ed25519(bytes: &[u8]) -> Option<Self> {
        Ed25519KeyPair::from_seed_unchecked(bytes).ok().map(Self::Ed25519)
    }

    fn es256(bytes: &[u8]) -> Option<Self> {
        let private = PrivateKey::from_private_key(&ECDH_P256, bytes).ok()?;
        let public = private.compute_public_key().ok()?;
        EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            bytes,
            public.as_ref(),
        )
        .ok()
        .map(Self::Es256)
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "EdDSA",
            Self::Es256(_) => "ES256",
        }
    }

    fn public(&self) -> &[u8] {
        match self {
            Self::Ed25519(pair) => pair.public_key().as_ref(),
            Self::Es256(pair) => pair.public_key().as_ref(),
        }
    }
}

#[cfg(test)]
mod tests;
