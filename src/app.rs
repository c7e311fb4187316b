//! The composition root: a configuration in, a running gateway out. The only place that builds everything.
//!
//! Must not hold a rule of its own; it is a list, top to bottom: build, wire, start, wait, drain.

mod core;
mod records;
mod reload;
mod traces;
mod trust;
mod watch;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Method;
use rustls::RootCertStore;
use tokio::sync::mpsc;

use self::core::{Core, build_core};
use self::records::start_records;
use self::reload::Running;
use self::traces::start_tracer;
use self::trust::{trusted_roots, with_authorities};
use self::watch::keep_configuration;
use crate::admin::{
    AdminDoor, ConfigurationState, Controls, OpsDoor, Probe, ProbeSettings, Readiness, ReloadSender, Vitals,
};
use crate::config::{Config, LoadOptions};
use crate::directory::{Clock, SharedError, SystemClock};
use crate::doors::{self, Origins, ProxyDoor, ProxySite};
use crate::engine::KeyFailure;
use crate::policy::{Access, CanonicalPath, Reason, Requirement};
use crate::revocation::Revocations;
use crate::server::{BindError, Drain, Listener, ListenerSettings, ServerLimits, server_tls};
use crate::stytch::Keys;
use crate::telemetry::{Metrics, RecentRefusals, TracerError, tell_of_dropped_lines};
use crate::upstream::{Origin, OriginTlsError, origin_tls};

pub use self::core::{Explained, ask_for_policy, build_to_explain};
pub use self::reload::ReloadError;
pub use self::watch::ConfigurationSource;

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("the certificates of `{file}` cannot be used: {message}")]
    Authorities { file: String, message: String },
    #[error("TLS cannot be set up: {0}")]
    Tls(rustls::Error),
    #[error("metrics cannot be set up: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error(transparent)]
    Shared(#[from] SharedError),
    #[error(transparent)]
    Key(#[from] KeyFailure),
    #[error("the page of `refusals.page` cannot be made: {0}")]
    Page(String),
    #[error("upstream `{upstream}`: {error}")]
    Origin { upstream: Arc<str>, error: OriginTlsError },
    #[error(transparent)]
    Tracer(#[from] TracerError),
    #[error("the log cannot be set up: {0}")]
    Log(io::Error),
    #[error("the audit stream `{file}` cannot be written: {error}")]
    Audit { file: String, error: io::Error },
}

/// A gateway that serves.
pub struct Gateway {
    running: Arc<Running>,
    drain: Drain,
    ops_drain: Drain,
    traffic: Vec<(SocketAddr, bool)>,
    ops: SocketAddr,
    admin: Option<SocketAddr>,
    configuration: ConfigurationState,
    /// Where a change is asked for, once somebody keeps the configuration.
    reload: Arc<OnceLock<ReloadSender>>,
}

impl Gateway {
    /// As [`start_with`](Self::start_with), with sockets of its own.
    pub async fn start(config: Config, lines: impl io::Write + Send + 'static) -> Result<Self, StartError> {
        Self::start_with(config, lines, Vec::new()).await
    }

    /// Builds everything, opens the listeners and begins to serve. Must be called inside a runtime.
    ///
    /// Clients are let in once the verification keys are there, or the configured patience is over: until then they are
    /// turned away where somebody else can take them. `lines` takes access lines and decision records; `inherited` are
    /// sockets that somebody opened for us, used where their addresses are listened on.
    pub async fn start_with(
        config: Config,
        lines: impl io::Write + Send + 'static,
        mut inherited: Vec<std::net::TcpListener>,
    ) -> Result<Self, StartError> {
        let metrics = Metrics::new()?;
        let records = start_records(&config.log, lines, &metrics)?;
        if let Some(page) = &config.proxy.refusals.page {
            doors::try_page(page).map_err(StartError::Page)?;
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
        let core = build_core(&config, Arc::clone(&clock), &metrics, &records)?;
        let revocations = Revocations::start(
            config.revocation.clone(),
            core.memory.clone(),
            Arc::clone(&core.engine),
            core.client.clone(),
            core.link.clone(),
            clock,
            metrics.clone(),
        );

        let drain = Drain::default();
        let mut origins = Origins::new();
        for settings in &config.upstreams {
            let name = Arc::clone(&settings.name);
            let failed = |error| StartError::Origin { upstream: Arc::clone(&settings.name), error };
            let origin = Origin::new(settings.clone(), &core.roots, metrics.clone()).map_err(failed)?;
            origins.insert(name, origin);
        }
        let site = ProxySite {
            snapshot: core.engine.snapshot(),
            origins,
            settings: config.proxy.clone(),
            listeners: config.listeners.clone(),
            tracer: start_tracer(&config, &core.roots, &metrics)?,
        };
        let door = ProxyDoor::new(
            Arc::clone(&core.engine),
            revocations.clone(),
            site,
            drain.clone(),
            metrics.clone(),
            records.lines.clone(),
        );
        let mut bind = |settings| Listener::bind(settings, &mut inherited, metrics.clone());
        let listeners = config.listeners.iter().cloned().map(&mut bind).collect::<Result<Vec<_>, _>>()?;
        let ops_listener = bind(small_listener("ops", config.ops.address))?;
        let admin_listener = match &config.admin {
            Some(settings) => Some(bind(small_listener("admin", settings.address))?),
            None => None,
        };
        for socket in &inherited {
            let address = socket.local_addr().map(|address| address.to_string()).unwrap_or_default();
            tracing::warn!(address, "a socket was handed over and no listener has its address");
        }

        let configuration = ConfigurationState::new(metrics.clone());
        let reload = Arc::new(OnceLock::new());
        let ops_drain = Drain::default();
        let traffic = listeners.iter().map(|listener| (listener.address(), listener.is_secure())).collect();
        let ops = ops_listener.address();
        let admin = admin_listener.as_ref().map(Listener::address);
        let probes = Arc::new(ArcSwap::from_pointee(config.ops.probes.clone()));
        let asked = probe_of(Arc::clone(&probes), door.clone());
        let let_in = Arc::new(AtomicBool::new(false));
        let vitals = vitals(&metrics, &core, &drain, door.clone(), configuration.clone(), asked, &let_in);
        let admin_door = config.admin.clone().map(|settings| {
            let leaving = drain.clone();
            let left = drain.clone();
            let controls = Controls {
                reload: Arc::clone(&reload),
                drain: Box::new(move || leaving.announce()),
                is_leaving: Box::new(move || left.is_announced()),
            };
            AdminDoor::new(
                revocations.clone(),
                Arc::clone(&core.engine),
                doors::refused_at_the_door,
                settings,
                controls,
                vitals.clone(),
            )
        });
        tokio::spawn(core.keys.clone().keep_fresh());
        tokio::spawn(core.facts.clone().keep_fresh(asks_permission(&config.routes)));
        tokio::spawn(tell_of_dropped_lines());
        tokio::spawn(Arc::clone(&core.engine).keep_leases());
        tokio::spawn(Arc::clone(&core.engine).keep_recent_tokens());
        tokio::spawn(ops_listener.listen()?.run(OpsDoor::new(vitals), ops_drain.clone()));
        tracing::info!(address = %ops, "metrics and probes");
        if let (Some(listener), Some(door)) = (admin_listener, &admin_door) {
            tracing::info!(address = %listener.address(), "admin API");
            tokio::spawn(listener.listen()?.run(door.clone(), ops_drain.clone()));
        }

        if !loaded_within(&core.keys, config.start_patience).await {
            tracing::warn!("the verification keys could not be loaded yet; clients are let in without them");
        }
        let controls = listeners.iter().map(Listener::control).collect();
        for listener in listeners {
            tracing::info!(address = %listener.address(), tls = listener.is_secure(), "listening");
            drain.spawn(listener.listen()?.run(door.clone(), drain.clone()));
        }
        let_in.store(true, Ordering::Release);
        let running = Running {
            core,
            door,
            admin: admin_door,
            revocations,
            listeners: controls,
            probes,
            metrics,
            records,
            config: Mutex::new(config),
        };
        Ok(Self { running: Arc::new(running), drain, ops_drain, traffic, ops, admin, configuration, reload })
    }

    /// Where traffic is taken, and whether under TLS.
    pub fn traffic(&self) -> &[(SocketAddr, bool)] {
        &self.traffic
    }

    pub fn ops(&self) -> SocketAddr {
        self.ops
    }

    /// Where the admin API is answered, if it is.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Waits until the verification keys were loaded once, at most `patience`.
    pub async fn ready(&self, patience: Duration) -> bool {
        loaded_within(&self.running.core.keys, patience).await
    }

    /// Puts `config` in force, whole or not at all: routes and what they ask, secrets, upstreams, certificates, limits, what
    /// the cache may hold, the filter of the log. Open streams are asked about again. Must be called inside a runtime.
    pub fn reload(&self, config: &Config) -> Result<(), ReloadError> {
        self.running.reload(config)
    }

    /// Reads the configuration again when its files change, when the process is told to (SIGHUP), and when the admin API
    /// is asked to. `source` is what is in force.
    pub fn keep_configuration(&self, options: LoadOptions, source: ConfigurationSource) {
        let (asking, requests) = mpsc::channel(16);
        if self.reload.set(asking).is_err() {
            // Somebody does already.
            return;
        }
        let running = Arc::clone(&self.running);
        let state = self.configuration.clone();
        keep_configuration(running, state, options, source, requests);
    }

    /// Says that the gateway will leave: it is not ready any more, and clients are told to go elsewhere next time.
    pub fn announce_leaving(&self) {
        self.drain.announce();
    }

    /// Leaves: readiness off, then, after the configured delay, no new connections, and what runs may finish within the
    /// configured time. True if nothing was cut off.
    pub async fn shut_down(self) -> bool {
        let (delay, patience) = {
            let config = self.running.config.lock().unwrap_or_else(PoisonError::into_inner);
            (config.drain_delay, config.drain_timeout)
        };
        if !self.drain.is_announced() && !delay.is_zero() {
            self.drain.announce();
            tracing::info!(?delay, "draining: readiness off, still accepting connections");
            tokio::time::sleep(delay).await;
        }
        tracing::info!("draining: accepting no more connections");
        let clean = self.drain.finish(patience).await;
        self.running.revocations.finish_announcing(Duration::from_secs(1)).await;
        if !self.running.door.tracer().flush(Duration::from_secs(2)).await {
            tracing::warn!("the collector did not take the last spans in time; they are lost");
        }
        // Probes and metrics are answered to the end.
        self.ops_drain.finish(Duration::from_secs(1)).await;
        let running = self.running;
        let flushed = tokio::task::spawn_blocking(move || running.records.flush(Duration::from_secs(2)));
        let recorded = flushed.await.unwrap_or(false);
        if !recorded {
            tracing::error!(
                "decisions are left that could not be recorded; no request was let through on any of them"
            );
        }
        let clean = clean && recorded;
        tracing::info!(clean, "left");
        clean
    }
}

/// Whether the verification keys were there at some time within `patience`.
async fn loaded_within(keys: &Keys, patience: Duration) -> bool {
    let mut loaded = keys.loaded();
    let waited = tokio::time::timeout(patience, loaded.wait_for(|loaded| *loaded)).await;
    matches!(waited, Ok(Ok(_)))
}

/// What the doors refuse before any route is asked.
pub fn refused_at_the_door(method: &Method, path: &CanonicalPath) -> Option<Reason> {
    doors::refused_at_the_door(method, path)
}

/// Whether what the configuration names on disk can be used: certificates, keys, authorities. All that cannot, told.
pub fn check_files(config: &Config) -> Vec<String> {
    let certificates = config.listeners.iter().filter_map(|listener| {
        let error = server_tls(listener.tls.as_ref()?).err()?;
        Some(format!("listener `{}`: {error}", listener.name))
    });
    let page = config.proxy.refusals.page.as_deref().and_then(|page| doors::try_page(page).err());
    let page = page.map(|error| StartError::Page(error).to_string());
    let roots = match trusted_roots(config) {
        Ok(roots) => roots,
        Err(error) => return certificates.chain([error.to_string()]).chain(page).collect(),
    };
    let origins = config.upstreams.iter().filter_map(|origin| {
        let error = origin_tls(&origin.tls, origin.http2, &roots).err()?;
        Some(format!("upstream `{}`: {error}", origin.name))
    });
    let traces = config.tracing.as_ref().and_then(|traces| traces.ca_file.as_ref());
    let traces = traces.and_then(|file| with_authorities(RootCertStore::empty(), file).err());
    let traces = traces.map(|error| format!("tracing: {error}"));
    certificates.chain(origins).chain(page).chain(traces).collect()
}

/// Whether any route asks the RBAC policy.
fn asks_permission(routes: &[crate::policy::Route]) -> bool {
    let asks =
        |requirement: &Requirement| requirement.any_part(&|part| matches!(part, Requirement::Permission(_)));
    routes.iter().any(|route| match &route.access {
        Access::Public => false,
        Access::Require(requirement) => asks(requirement) || route.shadow.as_ref().is_some_and(asks),
    })
}

/// A listener for the few who look after the gateway.
fn small_listener(name: &str, address: SocketAddr) -> ListenerSettings {
    ListenerSettings {
        name: Arc::from(name),
        address,
        tls: None,
        proxy_protocol: Vec::new(),
        forwarded: None,
        direct: false,
        redirect_to_https: None,
        hsts: None,
        limits: ServerLimits { max_connections: 100, ..ServerLimits::default() },
    }
}

/// What probes, metrics and the status page are told from.
fn vitals(
    metrics: &Metrics,
    core: &Core,
    drain: &Drain,
    door: ProxyDoor,
    configuration: ConfigurationState,
    probe: Probe,
    let_in: &Arc<AtomicBool>,
) -> Vitals {
    let let_in = Arc::clone(let_in);
    let loaded = core.keys.loaded();
    let drain = drain.clone();
    let memory = core.memory.clone();
    let entries = metrics.session_cache_entries.clone();
    let bytes = metrics.session_cache_bytes.clone();
    Vitals::new(
        metrics.clone(),
        vec![
            Readiness { name: "configuration loaded", holds: Box::new(|| true) },
            // With keys or without: a start that waits for somebody else's bad day to end would be given up again and again.
            Readiness { name: "clients let in", holds: Box::new(move || let_in.load(Ordering::Acquire)) },
        ],
        vec![
            Readiness { name: "verification keys loaded", holds: Box::new(move || *loaded.borrow()) },
            Readiness { name: "not draining", holds: Box::new(move || !drain.is_announced()) },
        ],
        configuration,
        RecentRefusals::default(),
        Box::new(move || {
            let (count, size) = memory.size();
            entries.set(i64::try_from(count).unwrap_or(i64::MAX));
            bytes.set(i64::try_from(size).unwrap_or(i64::MAX));
            door.origins().values().for_each(Origin::report);
        }),
        probe,
    )
}

/// Asks applications what the probes say.
fn probe_of(probes: Arc<ArcSwap<Vec<ProbeSettings>>>, door: ProxyDoor) -> Probe {
    Box::new(move |name| {
        let probe = probes.load().iter().find(|probe| probe.name == name)?.clone();
        let origin = door.origins().remove(&probe.upstream)?;
        Some(Box::pin(async move { origin.probe(&probe.path, probe.timeout).await }))
    })
}
