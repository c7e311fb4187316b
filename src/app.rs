//! The composition root: a configuration in, a running gateway out. The only place that builds everything.
//!
//! Must not hold a rule of its own; it is a list, top to bottom: build, wire, start, wait, drain.

mod core;
mod trust;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Uri};

use self::core::{Core, build_core, rules};
use self::trust::trusted_roots;
use crate::admin::{AdminDoor, OpsDoor, Readiness};
use crate::config::Config;
use crate::directory::{Clock, SharedError, SystemClock};
use crate::doors::{self, Origins, ProxyDoor};
use crate::engine::KeyFailure;
use crate::identity::ProjectId;
use crate::policy::{Access, CanonicalPath, Reason, Requirement};
use crate::revocation::Revocations;
use crate::server::{BindError, Drain, Listener, ListenerSettings, ServerLimits, server_tls};
use crate::telemetry::{LineWriter, Metrics};
use crate::upstream::{Origin, OriginTlsError, origin_tls};

pub use self::core::{Explained, ask_for_policy, build_to_explain};

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
    #[error("the log cannot be set up: {0}")]
    Log(io::Error),
}

/// Why rules cannot be put in force without a restart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    #[error("they are for another project or API")]
    Project,
    #[error("the upstream `{0}` is not there")]
    Upstream(Arc<str>),
    #[error(transparent)]
    Key(#[from] KeyFailure),
    #[error("evidence may be {wanted:?} old by them, and what is forgotten is remembered for {kept:?} only")]
    Horizon { wanted: Duration, kept: Duration },
}

/// A gateway that serves.
pub struct Gateway {
    drain: Drain,
    ops_drain: Drain,
    drain_timeout: Duration,
    traffic: Vec<(SocketAddr, bool)>,
    ops: SocketAddr,
    admin: Option<SocketAddr>,
    core: Core,
    revocations: Revocations,
    upstreams: Vec<Arc<str>>,
    project: (ProjectId, Uri),
    lines: LineWriter,
}

impl Gateway {
    /// Builds everything, opens the listeners and begins to serve. Must be called inside a runtime.
    ///
    /// `lines` takes access lines and decision records.
    pub async fn start(config: Config, lines: impl io::Write + Send + 'static) -> Result<Self, StartError> {
        let metrics = Metrics::new()?;
        let lines = if config.log.access {
            LineWriter::start(lines, metrics.log_lines_dropped.clone()).map_err(StartError::Log)?
        } else {
            LineWriter::off(metrics.log_lines_dropped.clone())
        };
        if let Some(page) = &config.proxy.refusals.page {
            doors::try_page(page).map_err(StartError::Page)?;
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
        let core = build_core(&config, Arc::clone(&clock), &metrics, &lines)?;
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
        let reporting = origins.clone();
        let door = ProxyDoor::new(
            Arc::clone(&core.engine),
            origins,
            revocations.clone(),
            config.proxy.clone(),
            drain.clone(),
            metrics.clone(),
            lines.clone(),
        );
        let mut listeners = Vec::new();
        for settings in config.listeners {
            listeners.push(Listener::bind(settings, metrics.clone()).await?);
        }
        let ops_listener = Listener::bind(small_listener("ops", config.ops), metrics.clone()).await?;
        let mut admin = None;
        let ops_drain = Drain::default();
        if let Some(settings) = config.admin {
            let listener = Listener::bind(small_listener("admin", settings.address), metrics.clone()).await?;
            admin = Some(listener.address());
            tokio::spawn(listener.run(
                AdminDoor::new(
                    revocations.clone(),
                    Arc::clone(&core.engine),
                    doors::refused_at_the_door,
                    settings,
                ),
                ops_drain.clone(),
            ));
        }

        let traffic = listeners.iter().map(|listener| (listener.address(), listener.is_secure())).collect();
        let ops = ops_listener.address();
        let ops_door = ops_door(&metrics, &core, &drain, reporting);
        tokio::spawn(core.keys.clone().keep_fresh());
        tokio::spawn(core.facts.clone().keep_fresh(asks_permission(&config.routes)));
        tokio::spawn(Arc::clone(&core.engine).keep_leases());
        tokio::spawn(Arc::clone(&core.engine).keep_recent_tokens());
        tokio::spawn(ops_listener.run(ops_door, ops_drain.clone()));
        for listener in listeners {
            tracing::info!(address = %listener.address(), tls = listener.is_secure(), "listening");
            drain.spawn(listener.run(door.clone(), drain.clone()));
        }
        tracing::info!(address = %ops, "metrics and probes");
        if let Some(address) = admin {
            tracing::info!(%address, "admin API");
        }
        Ok(Self {
            drain,
            ops_drain,
            drain_timeout: config.drain_timeout,
            traffic,
            ops,
            admin,
            core,
            revocations,
            upstreams: config.upstreams.into_iter().map(|settings| settings.name).collect(),
            project: (config.stytch.project_id, config.stytch.base_url),
            lines,
        })
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
        let mut loaded = self.core.keys.loaded();
        let waited = tokio::time::timeout(patience, loaded.wait_for(|loaded| *loaded)).await;
        matches!(waited, Ok(Ok(_)))
    }

    /// Puts the rules of `config` in force: routes and what they ask, credentials, header names. What the gateway was
    /// built with stays. Open streams are asked about again; lists without the custom claims that are asked about now
    /// are asked for again as their members come.
    pub fn replace_rules(&self, config: &Config) -> Result<(), RulesError> {
        if (&config.stytch.project_id, &config.stytch.base_url) != (&self.project.0, &self.project.1) {
            return Err(RulesError::Project);
        }
        let unknown = config.routes.iter().find(|route| !self.upstreams.contains(&route.upstream));
        if let Some(route) = unknown {
            return Err(RulesError::Upstream(Arc::clone(&route.upstream)));
        }
        let (wanted, kept) = (config.memory.horizon, self.core.horizon);
        if wanted > kept {
            return Err(RulesError::Horizon { wanted, kept });
        }
        let rules = rules(config, self.core.engine.snapshot().assertions.as_ref())?;
        let claims = &config.stytch.claim_pointers;
        if self.core.client.keep_claims(claims) {
            if let Some(link) = &self.core.link {
                link.keep_claims(claims);
            }
            self.core.memory.soften();
        }
        self.core.engine.replace(rules);
        Ok(())
    }

    /// Leaves: readiness off, no new connections, what runs may finish within the configured time. True if nothing
    /// was cut off.
    pub async fn shut_down(self) -> bool {
        tracing::info!("leaving: no new connections are taken");
        let clean = self.drain.finish(self.drain_timeout).await;
        self.revocations.finish_announcing(Duration::from_secs(1)).await;
        // Probes and metrics are answered to the end.
        self.ops_drain.finish(Duration::from_secs(1)).await;
        let lines = self.lines;
        drop(tokio::task::spawn_blocking(move || lines.flush(Duration::from_secs(2))).await);
        tracing::info!(clean, "left");
        clean
    }
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
    certificates.chain(origins).chain(page).collect()
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
        limits: ServerLimits { max_connections: 100, ..ServerLimits::default() },
    }
}

fn ops_door(metrics: &Metrics, core: &Core, drain: &Drain, origins: Origins) -> OpsDoor {
    let (loaded, drain, memory) = (core.keys.loaded(), drain.clone(), core.memory.clone());
    let (entries, bytes) = (metrics.session_cache_entries.clone(), metrics.session_cache_bytes.clone());
    OpsDoor::new(
        metrics.clone(),
        vec![
            Readiness { name: "configuration loaded", holds: Box::new(|| true) },
            Readiness { name: "verification keys loaded", holds: Box::new(move || *loaded.borrow()) },
        ],
        vec![Readiness { name: "not draining", holds: Box::new(move || !drain.has_begun()) }],
        Box::new(move || {
            let (count, size) = memory.size();
            entries.set(i64::try_from(count).unwrap_or(i64::MAX));
            bytes.set(i64::try_from(size).unwrap_or(i64::MAX));
            origins.values().for_each(Origin::report);
        }),
    )
}
