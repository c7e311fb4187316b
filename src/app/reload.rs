//! Another configuration for a gateway that runs: everything is made ready first, then all of it is put in force.
//!
//! Must not put a part of it in force when another cannot be, nor change what needs a restart.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::StartError;
use super::core::{Core, rules};
use super::traces::start_tracer;
use crate::admin::{AdminDoor, AdminSettings, OpsSettings, ProbeSettings};
use crate::config::Config;
use crate::directory::{MemorySettings, SharedSettings};
use crate::doors::{self, Origins, ProxyDoor, ProxySite};
use crate::engine::KeyFailure;
use crate::revocation::{RevocationSettings, Revocations};
use crate::server::{ListenerControl, ListenerSettings, PreparedListener, TlsError};
use crate::stytch::StytchSettings;
use crate::telemetry::{DecisionLog, LogSettings, Metrics, set_log_filter};
use crate::upstream::{Origin, OriginSettings, OriginTlsError};

/// Why a configuration cannot be put in force without a restart.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error("a restart is needed for {}", list(.0))]
    Fixed(Vec<String>),
    #[error(
        "evidence may be {wanted:?} old by it, and replicas that share a Redis remember what is forgotten for {kept:?}: restart them one by one"
    )]
    Horizon { wanted: Duration, kept: Duration },
    #[error(transparent)]
    Key(#[from] KeyFailure),
    #[error("the page of `refusals.page` cannot be made: {0}")]
    Page(String),
    #[error("upstream `{upstream}`: {error}")]
    Origin { upstream: Arc<str>, error: OriginTlsError },
    #[error("listener `{listener}`: {error}")]
    Listener { listener: Arc<str>, error: TlsError },
    #[error("{0}")]
    Traces(Box<StartError>),
}

fn list(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// What of a running gateway changes with its configuration.
pub(super) struct Running {
    pub(super) core: Core,
    pub(super) door: ProxyDoor,
    pub(super) admin: Option<AdminDoor>,
    pub(super) revocations: Revocations,
    pub(super) listeners: Vec<ListenerControl>,
    pub(super) probes: Arc<ArcSwap<Vec<ProbeSettings>>>,
    pub(super) metrics: Metrics,
    pub(super) records: DecisionLog,
    /// What is in force. Held while a change is made: they come one after another.
    pub(super) config: std::sync::Mutex<Config>,
}

impl Running {
    /// Puts `config` in force, whole or not at all. Requests under way end by what they began with; open streams are asked
    /// about again. Reads files, and may move a large cache: not for a thread that serves.
    pub(super) fn reload(&self, config: &Config) -> Result<(), ReloadError> {
        let mut current = self.config.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let fixed = fixed(&current, config);
        if !fixed.is_empty() {
            return Err(ReloadError::Fixed(fixed));
        }
        let wanted = config.memory.horizon;
        let kept = self.core.memory.horizon();
        if wanted > kept && self.core.link.is_some() {
            return Err(ReloadError::Horizon { wanted, kept });
        }
        if let Some(page) = &config.proxy.refusals.page {
            doors::try_page(page).map_err(ReloadError::Page)?;
        }
        let engine = &self.core.engine;
        let snapshot = Arc::new(rules(config, engine.snapshot().assertions.as_ref())?);
        let origins = self.origins(&current.upstreams, &config.upstreams)?;
        let listeners = self.prepare_listeners(&config.listeners)?;
        let tracer = if current.tracing == config.tracing {
            self.door.tracer()
        } else {
            let started = start_tracer(config, &self.core.roots, &self.metrics);
            started.map_err(|error| ReloadError::Traces(Box::new(error)))?
        };

        // From here on nothing can fail.
        set_log_filter(&config.log.filter);
        self.core.client.use_secret(&config.stytch.secret);
        self.core.apps.store(Arc::clone(&config.stytch.apps).into());
        self.revocations.use_webhook_secrets(&config.revocation.webhook_secrets);
        if let (Some(door), Some(settings)) = (&self.admin, &config.admin) {
            door.use_token(settings.token.clone());
        }
        self.probes.store(Arc::new(config.ops.probes.clone()));
        self.core.memory.resize(&config.memory);
        let claims = &config.stytch.claim_pointers;
        if self.core.client.keep_claims(claims) {
            if let Some(link) = &self.core.link {
                link.keep_claims(claims);
            }
            self.core.memory.soften();
        }
        for (control, prepared) in self.listeners.iter().zip(listeners) {
            control.replace(prepared);
        }
        self.door.replace(ProxySite {
            snapshot: Arc::clone(&snapshot),
            origins,
            settings: config.proxy.clone(),
            listeners: config.listeners.clone(),
            tracer,
        });
        let is_kept = |known: &OriginSettings| config.upstreams.iter().any(|one| one.name == known.name);
        for gone in current.upstreams.iter().filter(|known| !is_kept(known)) {
            self.metrics.forget_upstream(&gone.name);
        }
        // After the door: a request that is decided by the rules before is asked about again by these.
        engine.replace(snapshot);
        *current = config.clone();
        Ok(())
    }

    /// Those whose settings are the same keep their connections and what is known of their servers.
    fn origins(&self, before: &[OriginSettings], wanted: &[OriginSettings]) -> Result<Origins, ReloadError> {
        let known = self.door.origins();
        let mut origins = Origins::new();
        for settings in wanted {
            let name = &settings.name;
            let same = known.get(name).filter(|_| before.contains(settings));
            let origin = match same {
                Some(origin) => origin.clone(),
                None => Origin::new(settings.clone(), &self.core.roots, self.metrics.clone())
                    .map_err(|error| ReloadError::Origin { upstream: Arc::clone(name), error })?,
            };
            origins.insert(Arc::clone(name), origin);
        }
        Ok(origins)
    }

    fn prepare_listeners(&self, wanted: &[ListenerSettings]) -> Result<Vec<PreparedListener>, ReloadError> {
        let pairs = self.listeners.iter().zip(wanted);
        let prepared = pairs.map(|(control, settings)| {
            let listener = &settings.name;
            let failed = |error| ReloadError::Listener { listener: Arc::clone(listener), error };
            control.prepare(settings).map_err(failed)
        });
        prepared.collect()
    }
}

/// The keys that differ and need a restart. Every field of the configuration is named here, so that a new one does not
/// compile until it is either swapped at a reload or compared.
fn fixed(before: &Config, after: &Config) -> Vec<String> {
    let Config {
        listeners,
        ops,
        stytch,
        ca_file,
        memory,
        guard,
        unknown_tokens,
        shared,
        revocation,
        admin,
        recheck_every,
        log,
        // Swapped with the rules.
        jwt_rules: _,
        credentials: _,
        freshness: _,
        jwt_evidence: _,
        headers: _,
        routes: _,
        // Swapped with the door.
        upstreams: _,
        proxy: _,
        tracing: _,
        // Read when the gateway starts or stops.
        drain_delay: _,
        drain_timeout: _,
        start_patience: _,
    } = after;
    let mut names = Vec::new();
    let mut compare = |same: bool, name: &str| {
        if !same {
            names.push(name.to_owned());
        }
    };
    compare(same_listeners(&before.listeners, listeners), "listeners");
    let OpsSettings { address, probes: _ } = ops;
    compare(before.ops.address == *address, "ops.address");
    let address_of = |admin: &Option<AdminSettings>| {
        let AdminSettings { address, token: _ } = admin.as_ref()?;
        Some(*address)
    };
    compare(address_of(&before.admin) == address_of(admin), "admin.address");
    compare(before.ca_file == *ca_file, "stytch.ca_file");
    fixed_of_stytch(&before.stytch, stytch, &mut compare);
    // Custom claims come and go with the rules.
    let without_claims = |shared: &Option<SharedSettings>| {
        shared.clone().map(|shared| SharedSettings { claim_pointers: Vec::new(), ..shared })
    };
    compare(without_claims(&before.shared) == without_claims(shared), "sessions.shared");
    let MemorySettings {
        negative_for,
        token_binding_for,
        // Resized.
        max_entries: _,
        max_bytes: _,
        horizon: _,
        // Follows from `sessions.max_in_flight`, which is compared below.
        max_refreshes: _,
    } = memory;
    compare(before.memory.negative_for == *negative_for, "sessions.negative_for");
    compare(before.memory.token_binding_for == *token_binding_for, "sessions.token_binding_for");
    compare(before.guard == *guard, "sessions.deadline, sessions.max_in_flight or sessions.max_waiting");
    compare(before.unknown_tokens == *unknown_tokens, "sessions.unknown_tokens");
    let RevocationSettings {
        // Swapped.
        webhook_secrets: _,
        // Compared as `stytch.project_id`.
        project_id: _,
        // A longer one is refused where replicas share a Redis, and is of no use elsewhere.
        horizon: _,
    } = revocation;
    compare(before.recheck_every == *recheck_every, "streams.recheck");
    let LogSettings { json, access, audit, filter: _ } = log;
    let same_lines = (before.log.json, before.log.access) == (*json, *access);
    compare(same_lines, "log.format, log.access or log.access_format");
    compare(before.log.audit == *audit, "log.audit");
    names
}

/// Compares names, addresses and the use of TLS.
fn same_listeners(before: &[ListenerSettings], after: &[ListenerSettings]) -> bool {
    let place = |listener: &ListenerSettings| {
        let ListenerSettings {
            name,
            address,
            tls,
            // Swapped.
            proxy_protocol: _,
            forwarded: _,
            direct: _,
            redirect_to_https: _,
            hsts: _,
            limits: _,
        } = listener;
        (Arc::clone(name), *address, tls.is_some())
    };
    before.iter().map(place).eq(after.iter().map(place))
}

fn fixed_of_stytch(before: &StytchSettings, after: &StytchSettings, compare: &mut impl FnMut(bool, &str)) {
    let StytchSettings {
        project_id,
        base_url,
        deadline,
        refresh_keys_every,
        seed_keys,
        rbac,
        // Swapped.
        secret: _,
        apps: _,
        claim_pointers: _,
    } = after;
    compare(before.project_id == *project_id, "stytch.project_id");
    compare(before.base_url == *base_url, "stytch.base_url");
    let same_keys = (before.deadline, before.refresh_keys_every, &before.seed_keys, before.rbac)
        == (*deadline, *refresh_keys_every, seed_keys, *rbac);
    compare(same_keys, "stytch");
}
