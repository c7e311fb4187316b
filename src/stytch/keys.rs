//! The project's verification keys: fetched ahead of need, once more for a key id nobody knows, last good set kept.
//!
//! Must not let strangers' key ids decide how often the endpoint is asked.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use serde::Deserialize;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::client::StytchClient;
use super::exchange::{ApiAnswer, Exchange, Operation};
use super::settings::StytchSettings;
use super::wire::ApiError;
use crate::directory::{Answer, Breaker, CallOutcome, Clock, DirectoryError, KeySource, KeyVault};
use crate::identity::{KeySet, VerificationKey};
use crate::telemetry::{Metrics, cause, caused_by};

/// The most often an unknown key id leads to a fetch.
const REFETCH_EVERY: Duration = Duration::from_secs(5);
/// The first pause after a failed fetch; it doubles up to half a minute.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Keys of one set; a rotation shows two.
const MAX_KEYS: usize = 64;

/// The key set and how it is kept. Cheap to clone.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

struct Inner {
    exchange: Exchange,
    path: String,
    deadline: Duration,
    every: Duration,
    current: ArcSwap<KeySet>,
    loaded: watch::Sender<bool>,
    fetching: Mutex<()>,
    /// When an unknown key id was last looked up, and whether that worked.
    refetched: Mutex<Option<(Instant, bool)>>,
    vault: Option<Arc<dyn KeyVault>>,
    /// Where the current set is from: what is fetched outranks what was kept, and that outranks the seed.
    origin: std::sync::Mutex<Option<KeyOrigin>>,
    breaker: Breaker,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum KeyOrigin {
    Seed,
    Vault,
    Fetched,
}

impl Keys {
    /// `vault` is where the last good set outlives the process. A seed of the settings is there at once.
    pub fn new(
        client: &StytchClient,
        settings: &StytchSettings,
        vault: Option<Arc<dyn KeyVault>>,
        metrics: Metrics,
    ) -> Self {
        let keys = Self(Arc::new(Inner {
            exchange: client.exchange().clone(),
            path: format!("/v1/b2b/sessions/jwks/{}", settings.project_id),
            deadline: settings.deadline,
            every: settings.refresh_keys_every,
            current: ArcSwap::default(),
            loaded: watch::Sender::new(false),
            fetching: Mutex::new(()),
            refetched: Mutex::new(None),
            vault,
            origin: std::sync::Mutex::new(None),
            breaker: Breaker::new("keys", metrics.directory_breaker_state.with_label_values(&["keys"])),
            clock: Arc::clone(client.clock()),
            metrics,
        }));
        if let Some(seed) = &settings.seed_keys {
            keys.0.begin_with(seed, KeyOrigin::Seed);
        }
        keys
    }

    /// Fetches now and from then on; ends only with the runtime.
    pub async fn keep_fresh(self) {
        let mut pause = RETRY_AFTER;
        loop {
            match self.0.fetch().await {
                Ok(()) => {
                    pause = RETRY_AFTER;
                    let jitter = self.0.every.mul_f64(fastrand::f64() * 0.1);
                    tokio::time::sleep(self.0.every.saturating_sub(jitter)).await;
                }
                Err(error) => {
                    self.0.look_into_vault().await;
                    tracing::warn!(%error, "the verification keys could not be fetched; the last good set is kept");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(30));
                }
            }
        }
    }

    /// Whether a set was ever loaded, and how to wait for it.
    pub fn loaded(&self) -> watch::Receiver<bool> {
        self.0.loaded.subscribe()
    }
}

impl KeySource for Keys {
    fn keys(&self) -> Arc<KeySet> {
        self.0.current.load_full()
    }

    fn refetch_for(&self, key_id: &str) -> Answer<Arc<KeySet>> {
        let inner = Arc::clone(&self.0);
        let key_id = key_id.to_owned();
        Answer::pending(async move {
            // In a task of its own: a client that leaves takes neither the fetch nor the note of it along.
            let refetching = Box::pin(async move { inner.refetch_for(&key_id).await });
            let refetch = tokio::spawn(caused_by(cause(), refetching));
            refetch.await.unwrap_or(Err(DirectoryError::NoKeys))
        })
    }
}

impl Inner {
    async fn refetch_for(&self, key_id: &str) -> Result<Arc<KeySet>, DirectoryError> {
        let mut refetched = self.refetched.lock().await;
        let current = self.current.load_full();
        if current.find(key_id).is_some() {
            return Ok(current);
        }
        match *refetched {
            Some((at, true)) if at.elapsed() < REFETCH_EVERY => return Ok(current),
            // Whether the key exists is not known: that is our trouble, not the caller's.
            Some((at, false)) if at.elapsed() < RETRY_AFTER => return Err(DirectoryError::NoKeys),
            _ => {}
        }
        let fetched = self.fetch().await;
        *refetched = Some((Instant::now(), fetched.is_ok()));
        fetched.map_err(|_| DirectoryError::NoKeys)?;
        Ok(self.current.load_full())
    }

    /// Takes the set that an earlier process or another replica kept, while none was fetched.
    async fn look_into_vault(&self) {
        let Some(vault) = &self.vault else { return };
        let fetched = *self.origin.lock().unwrap_or_else(PoisonError::into_inner);
        if fetched >= Some(KeyOrigin::Vault) {
            return;
        }
        if let Ok(Some(kept)) = vault.kept().wait().await {
            self.begin_with(&kept, KeyOrigin::Vault);
        }
    }

    fn begin_with(&self, key_set: &[u8], origin: KeyOrigin) {
        match keys_from_json(key_set) {
            Ok(keys) => self.install(keys, origin),
            Err(error) => tracing::warn!(?origin, %error, "the key set to begin with cannot be read"),
        }
    }

    /// Puts a set in force, unless the one there is from a better place.
    fn install(&self, keys: HashMap<String, VerificationKey>, origin: KeyOrigin) {
        let mut current = self.origin.lock().unwrap_or_else(PoisonError::into_inner);
        if *current > Some(origin) {
            return;
        }
        *current = Some(origin);
        let before = self.current.load();
        if !before.holds_exactly(&keys) {
            tracing::info!(keys = keys.len(), ?origin, "verification keys loaded");
            self.current.store(Arc::new(KeySet::new(keys, before.generation() + 1)));
        }
        self.loaded.send_replace(true);
    }

    async fn fetch(&self) -> Result<(), DirectoryError> {
        // One at a time, so that an older answer never replaces a newer one.
        let _turn = self.fetching.lock().await;
        let admission = self
            .breaker
            .admit(self.clock.now().monotonic)
            .map_err(|retry_after| DirectoryError::CircuitOpen { retry_after })?;
        let answer = self.ask().await;
        if let Some(outcome) = CallOutcome::of(&answer) {
            admission.settle(outcome, self.clock.now().monotonic);
        }
        let answer = answer?;
        let keys = keys_from_json(&answer.body)?;
        if let Some(vault) = &self.vault {
            vault.keep(answer.body.to_vec());
        }
        self.install(keys, KeyOrigin::Fetched);
        self.metrics.jwks_last_success.set(jiff::Timestamp::now().as_second() as f64);
        Ok(())
    }

    async fn ask(&self) -> Result<ApiAnswer, DirectoryError> {
        let call = self.exchange.call(Operation::Keys, Method::GET, &self.path, None);
        let answer =
            tokio::time::timeout(self.deadline, call).await.map_err(|_| DirectoryError::Timeout)??;
        if answer.status.is_success() {
            Ok(answer)
        } else {
            Err(answer.fault(ApiError::read(&answer.body).is_the_apis(), self.clock.now().wall))
        }
    }
}

/// Reads a JWK set (RFC 7517), keeping RSA keys meant for signatures; others are passed over.
///
/// An answer without one usable key is a fault: it would lock everybody out.
pub fn keys_from_json(body: &[u8]) -> Result<HashMap<String, VerificationKey>, DirectoryError> {
    let malformed = |what: &str| DirectoryError::Malformed(what.to_owned());
    let set: WireKeySet = serde_json::from_slice(body).map_err(|_| malformed("it is not a JWK set"))?;
    // A key of a kind or shape we do not know is no reason to lose the others (RFC 7517 section 5).
    let known = set.keys.into_iter().take(MAX_KEYS).filter_map(|key| serde_json::from_value(key).ok());
    let keys: HashMap<_, _> = known.filter_map(WireKey::into_key).collect();
    if keys.is_empty() { Err(malformed("it has no usable RSA key")) } else { Ok(keys) }
}

#[derive(Deserialize)]
struct WireKeySet {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct WireKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    n: Option<String>,
    e: Option<String>,
}

impl WireKey {
    fn into_key(self) -> Option<(String, VerificationKey)> {
        let meant = self.kty == "RSA"
            && self.alg.is_none_or(|alg| alg == "RS256")
            && self.usage.is_none_or(|usage| usage == "sig")
            && self.key_ops.is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
        let decode = |part: Option<String>| URL_SAFE_NO_PAD.decode(part?).ok();
        if !meant {
            return None;
        }
        let key = VerificationKey::from_components(&decode(self.n)?, &decode(self.e)?).ok()?;
        Some((self.kid?, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_not_meant_for_rs256_signatures_are_passed_over() {
        let modulus = URL_SAFE_NO_PAD.encode([0xff; 256]);
        let key = |extra: &str| format!(r#"{{"kid":"k","n":"{modulus}","e":"AQAB",{extra}}}"#);
        let count = |json: String| {
            keys_from_json(format!(r#"{{"keys":[{json}]}}"#).as_bytes()).map(|keys| keys.len())
        };
        assert_eq!(count(key(r#""kty":"RSA","use":"sig","key_ops":["verify"],"alg":"RS256""#)), Ok(1));
        assert_eq!(count(key(r#""kty":"RSA""#)), Ok(1));
        for unusable in [
            r#""kty":"EC""#,
            r#""kty":"RSA","use":"enc""#,
            r#""kty":"RSA","alg":"RS512""#,
            r#""kty":"RSA","key_ops":["encrypt"]"#,
        ] {
            assert!(count(key(unusable)).is_err(), "{unusable}");
        }
        let usable = key(r#""kty":"RSA""#);
        assert_eq!(count(format!(r#"{{"alg":7}},{usable}"#)), Ok(1));
        assert!(keys_from_json(b"{}").is_err() && keys_from_json(b"").is_err());
    }
}
