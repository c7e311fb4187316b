//! The servers of one application: which are known, which are well, which is asked next.
//!
//! Must not send a caller's request: `origin` does.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::join_all;
use http_body::Body;
use rustls::RootCertStore;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::OriginSettings;
use super::choice::{Candidate, choose};
use super::connect::{Connector, Endpoint};
use super::error::{BoxError, OriginError};
use super::health::is_healthy;
use super::pool::Pool;
use super::resolve::Configured;
use super::settings::HealthSettings;
use super::standing::Standing;
use super::tls::{OriginTlsError, Renewal, origin_tls};
use crate::telemetry::Metrics;

/// How soon names are looked up again that could not be, or whose servers cannot be reached.
const RESOLVE_AGAIN: Duration = Duration::from_secs(1);

/// One server: its connections and how it stands.
pub(super) struct Server<B> {
    pub(super) pool: Pool<B>,
    pub(super) standing: Standing,
}

impl<B> Candidate for Server<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    fn is_available(&self, now: Duration) -> bool {
        self.standing.is_available(now)
    }

    fn load(&self) -> usize {
        self.pool.load()
    }
}

/// A server to ask, and whether it was well when it was chosen.
pub(super) struct Chosen<B> {
    pub(super) server: Arc<Server<B>>,
    pub(super) was_available: bool,
}

pub(super) struct Balance<B> {
    settings: OriginSettings,
    configured: Vec<Configured>,
    connector: Connector,
    /// Believed where the settings name no authority.
    roots: Arc<RootCertStore>,
    servers: ArcSwap<Vec<Arc<Server<B>>>>,
    /// Whether every name was asked for once.
    resolved: watch::Sender<bool>,
    /// A server could not be reached: its name may lead elsewhere by now.
    unreachable: Notify,
    began: Instant,
    metrics: Metrics,
}

impl<B> Balance<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    pub(super) fn start(
        settings: OriginSettings,
        roots: &Arc<RootCertStore>,
        metrics: Metrics,
    ) -> Result<Arc<Self>, OriginTlsError> {
        // Before the files are read: a change in between is seen next time.
        let renewal = Renewal::new(&settings.tls);
        let tls = origin_tls(&settings.tls, settings.http2, roots)?;
        let server_name = settings.tls.server_name.as_deref();
        let configured: Vec<Configured> =
            settings.servers.iter().filter_map(|address| Configured::new(address, server_name)).collect();
        let balance = Arc::new(Self {
            connector: Connector::new(tls, settings.connect_timeout, settings.max_streams),
            roots: Arc::clone(roots),
            configured,
            servers: ArcSwap::default(),
            resolved: watch::Sender::new(false),
            unreachable: Notify::new(),
            began: Instant::now(),
            metrics,
            settings,
        });
        balance.begin_counting();
        // What needs no looking up is there from the start.
        balance.replace_servers(
            balance
                .configured
                .iter()
                .map(Configured::endpoint)
                .map(|found| found.map(|one| vec![one]))
                .collect(),
        );
        tokio::spawn(keep_resolved(Arc::downgrade(&balance)));
        tokio::spawn(keep_swept(Arc::downgrade(&balance), balance.settings.idle_timeout, renewal));
        if let Some(health) = balance.settings.health.clone() {
            tokio::spawn(keep_checked(Arc::downgrade(&balance), health));
        }
        Ok(balance)
    }

    /// What never happened is zero, not missing.
    fn begin_counting(&self) {
        let name = &*self.settings.name;
        self.metrics.upstream_retries.with_label_values(&[name]);
        self.metrics.upstream_ejections.with_label_values(&[name]);
        for result in ["healthy", "unhealthy"] {
            self.metrics.upstream_health_checks.with_label_values(&[name, result]);
        }
    }

    /// The server to ask next.
    pub(super) async fn choose(&self, tried: &[Arc<Server<B>>]) -> Result<Chosen<B>, OriginError> {
        if let Some(chosen) = self.choose_now(tried) {
            return Ok(chosen);
        }
        // Only at the very start is there anything to wait for.
        let mut resolved = self.resolved.subscribe();
        let waiting = Box::pin(resolved.wait_for(|resolved| *resolved));
        drop(tokio::time::timeout(self.settings.connect_timeout, waiting).await);
        self.choose_now(tried).ok_or(OriginError::Unresolved)
    }

    fn choose_now(&self, tried: &[Arc<Server<B>>]) -> Option<Chosen<B>> {
        let servers = self.servers.load();
        // A single server is asked however it stands: then the time need not be known.
        let now = if servers.len() > 1 { self.now() } else { Duration::ZERO };
        let server = choose(&servers, tried, now, |bound| fastrand::usize(..bound))?;
        Some(Chosen { was_available: server.standing.is_available(now), server: Arc::clone(server) })
    }

    /// Whether there is a server besides those; with `available`, one that is well.
    pub(super) fn has_other(&self, tried: &[Arc<Server<B>>], available: bool) -> bool {
        let servers = self.servers.load();
        let now = self.now();
        let untried = |server: &&Arc<Server<B>>| !tried.iter().any(|tried| Arc::ptr_eq(tried, server));
        servers.iter().filter(untried).any(|server| !available || server.standing.is_available(now))
    }

    /// A request to the server got no answer.
    pub(super) fn note_failure(&self, server: &Server<B>, error: &OriginError) {
        // Its name may lead elsewhere by now, or to somebody else than it did.
        if matches!(error, OriginError::Connect(_) | OriginError::ConnectTimeout | OriginError::Untrusted(_))
        {
            self.unreachable.notify_one();
        }
        if server.standing.fail(self.now(), &self.settings.ejection) && self.servers.load().len() > 1 {
            self.metrics.upstream_ejections.with_label_values(&[&*self.settings.name]).inc();
            let at = &server.pool.endpoint().place;
            tracing::warn!(upstream = %self.settings.name, server = %at, %error, "the server is left out for a while");
        }
    }

    pub(super) fn report(&self) {
        let now = self.now();
        let servers = self.servers.load();
        let mut available = 0;
        let mut ejected = 0;
        let mut unhealthy = 0;
        for server in servers.iter() {
            match &server.standing {
                standing if standing.is_unhealthy() => unhealthy += 1,
                standing if standing.is_ejected(now) => ejected += 1,
                _ => available += 1,
            }
        }
        let set = |state, count| {
            self.metrics.upstream_servers.with_label_values(&[&*self.settings.name, state]).set(count);
        };
        set("available", available);
        set("ejected", ejected);
        set("unhealthy", unhealthy);
    }

    /// Looks every name up, all at once. Those that cannot be found keep the servers they had. False if any could not.
    async fn resolve(&self) -> bool {
        let within = self.settings.connect_timeout;
        let found = join_all(self.configured.iter().map(|configured| configured.endpoints(within))).await;
        let complete = found.iter().all(Option::is_some);
        self.replace_servers(found);
        complete
    }

    /// Puts the servers in force that were found for each configured address; `None` keeps those there are.
    fn replace_servers(&self, found: Vec<Option<Vec<Endpoint>>>) {
        let before = self.servers.load_full();
        let mut servers: Vec<Arc<Server<B>>> = Vec::new();
        for (configured, found) in self.configured.iter().zip(found) {
            match found {
                Some(endpoints) => servers.extend(endpoints.into_iter().map(|endpoint| {
                    let kept = before.iter().find(|server| *server.pool.endpoint() == endpoint);
                    kept.cloned().unwrap_or_else(|| Arc::new(self.server(endpoint)))
                })),
                None => {
                    let kept = before.iter().filter(|server| configured.leads_to(server.pool.endpoint()));
                    servers.extend(kept.cloned());
                }
            }
        }
        let same = servers.len() == before.len()
            && servers.iter().zip(before.iter()).all(|(now, then)| Arc::ptr_eq(now, then));
        if !same {
            if *self.resolved.borrow() {
                tracing::info!(upstream = %self.settings.name, servers = servers.len(), "the servers changed");
            }
            self.servers.store(Arc::new(servers));
        }
    }

    /// Reads the files of TLS again if they changed. What is in use stays where they cannot be used.
    fn renew_tls(&self, renewal: &mut Renewal) {
        let digest = renewal.digest();
        if digest == renewal.seen {
            return;
        }
        renewal.seen = digest;
        match origin_tls(&self.settings.tls, self.settings.http2, &self.roots) {
            Ok(tls) => {
                self.connector.tls.store(tls);
                tracing::info!(upstream = %self.settings.name, "the certificates were read again");
            }
            Err(error) => {
                tracing::error!(upstream = %self.settings.name, %error, "the certificates that changed cannot be used; the ones before stay");
            }
        }
    }

    fn server(&self, endpoint: Endpoint) -> Server<B> {
        Server {
            pool: Pool::new(endpoint, &self.settings, self.connector.clone()),
            standing: Standing::default(),
        }
    }

    async fn check(&self, server: &Server<B>, settings: &HealthSettings) {
        let healthy =
            is_healthy(&self.connector, server.pool.endpoint(), self.settings.http2, settings).await;
        let result = if healthy { "healthy" } else { "unhealthy" };
        self.metrics.upstream_health_checks.with_label_values(&[&*self.settings.name, result]).inc();
        if let Some(healthy) = server.standing.check(healthy, settings) {
            let at = &server.pool.endpoint().place;
            tracing::warn!(upstream = %self.settings.name, server = %at, healthy, "the server's health changed");
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

async fn keep_resolved<B>(balance: Weak<Balance<B>>)
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let mut known = true;
    while let Some(balance) = balance.upgrade() {
        let complete = balance.resolve().await;
        if !complete && known {
            tracing::warn!(upstream = %balance.settings.name, "a name cannot be looked up");
        }
        known = complete;
        balance.resolved.send_replace(true);
        if !balance.configured.iter().any(Configured::is_looked_up) {
            return;
        }
        tokio::time::sleep(RESOLVE_AGAIN).await;
        if complete {
            let left = balance.settings.resolve_every.saturating_sub(RESOLVE_AGAIN);
            drop(tokio::time::timeout(left, balance.unreachable.notified()).await);
        }
    }
}

async fn keep_swept<B>(balance: Weak<Balance<B>>, idle_timeout: Duration, mut renewal: Renewal)
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let every = idle_timeout.clamp(Duration::from_secs(1), Duration::from_secs(10));
    while let Some(balance) = balance.upgrade() {
        for server in balance.servers.load().iter() {
            server.pool.sweep();
        }
        balance.renew_tls(&mut renewal);
        drop(balance);
        tokio::time::sleep(every).await;
    }
}

async fn keep_checked<B>(balance: Weak<Balance<B>>, settings: HealthSettings)
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    loop {
        let Some(known) = balance.upgrade() else { return };
        let mut checks = JoinSet::new();
        for server in known.servers.load().iter() {
            let server = Arc::clone(server);
            let settings = settings.clone();
            let balance = Arc::clone(&known);
            checks.spawn(async move { balance.check(&server, &settings).await });
        }
        drop(known);
        checks.join_all().await;
        // Replicas that began together must not ask together for ever.
        let jitter = settings.every.mul_f64(fastrand::f64() * 0.2);
        tokio::time::sleep(settings.every - settings.every / 10 + jitter).await;
    }
}
