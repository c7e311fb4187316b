//! Building the decision point with everything it rests on.
//!
//! Must not build a door, nor open a listener: `app` does.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::RootCertStore;

use super::StartError;
use super::trust::{client_tls, trusted_roots};
use crate::config::Config;
use crate::directory::{
    AppTokenSource, AppTokens, Attempts, Clock, Guard, KeyVault, Memory, OrganizationSource, RbacSource,
    RedisLink, SessionDirectory, Shared, Spelling, SystemClock,
};
use crate::engine::{Assertions, Engine, EngineSettings, KeyFailure, ManagedNames, Snapshot, Sources};
use crate::identity::AppToken;
use crate::policy::{
    Access, ForwardedCredentials, LetterCase, RbacPolicy, Requirement, Route, RouteMatch, RouteTable,
};
use crate::stytch::{
    AppCredentials, Keys, ProjectFacts, StytchClient, WrittenCase, WrittenFacts, WrittenList, WrittenPolicy,
};
use crate::telemetry::{Condition, DecisionLog, LineWriter, Metrics};

/// Everything a decision needs, without the doors.
pub(super) struct Core {
    pub(super) engine: Arc<Engine>,
    pub(super) client: StytchClient,
    pub(super) link: Option<RedisLink>,
    pub(super) memory: Memory,
    /// Swapped when their secrets are.
    pub(super) apps: Credentials,
    pub(super) keys: Keys,
    pub(super) facts: ProjectFacts,
    pub(super) roots: Arc<RootCertStore>,
}

/// What apps' tokens are asked about with.
type Credentials = Arc<ArcSwap<Arc<[AppCredentials]>>>;

/// What stands in for the directory while a decision is explained.
#[derive(Default)]
pub struct Explained {
    /// An answer of `GET /v1/b2b/sessions`.
    pub sessions: Option<Vec<u8>>,
    /// Members may be named by slug or external id.
    pub as_written: bool,
    /// Policies and names; the API is asked if there are none.
    pub facts: Option<WrittenFacts>,
    /// The project's policy in place of the API's; the rest is asked as ever.
    pub policy: Option<Arc<RbacPolicy>>,
    /// A JWT is to be verified, so keys are needed.
    pub verifies: bool,
    /// All of that, and the time: one written case after another.
    pub case: Option<Arc<WrittenCase>>,
}

/// The decision point for explaining decisions: no door, no log, and what was written down in place of the directory
/// if there is any.
///
/// Nothing comes back if keys are needed and could not be fetched.
pub async fn build_to_explain(
    config: &Config,
    explained: Explained,
) -> Result<Option<Arc<Engine>>, StartError> {
    let metrics = Metrics::new()?;
    let lines = LineWriter::off(metrics.log_lines_dropped.clone());
    let records = DecisionLog { lines, audit: None };
    let clock: Arc<dyn Clock> = match &explained.case {
        Some(case) => Arc::clone(case) as Arc<dyn Clock>,
        None => Arc::new(SystemClock::start()),
    };
    let core = build_core(config, Arc::clone(&clock), &metrics, &records)?;
    if explained.verifies {
        tokio::spawn(core.keys.clone().keep_fresh());
        let mut loaded = core.keys.loaded();
        let waited = tokio::time::timeout(Duration::from_secs(10), loaded.wait_for(|loaded| *loaded)).await;
        if !matches!(waited, Ok(Ok(_))) {
            return Ok(None);
        }
    }
    if let Some(case) = explained.case {
        let sources = Sources {
            directory: Arc::clone(&case) as Arc<dyn SessionDirectory>,
            keys: Arc::new(core.keys),
            rbac: Arc::clone(&case) as Arc<dyn RbacSource>,
            organizations: Arc::clone(&case) as Arc<dyn OrganizationSource>,
            apps: case,
            attempts: Arc::new(Attempts::new(config.unknown_tokens)),
        };
        return Ok(Some(Arc::new(build_engine(config, sources, clock, &metrics, &records)?)));
    }
    let directory: Arc<dyn SessionDirectory> = match explained.sessions {
        None => Arc::new(core.memory),
        Some(body) => {
            let spelling = if explained.as_written { Spelling::AsWritten } else { Spelling::Canonical };
            let pointers = Arc::clone(&config.stytch.claim_pointers);
            Arc::new(WrittenList::new(body, spelling, Arc::new(core.memory), Arc::clone(&clock), pointers))
        }
    };
    type Facts = (Arc<dyn RbacSource>, Arc<dyn OrganizationSource>, Option<Arc<dyn AppTokenSource>>);
    let (rbac, organizations, apps): Facts = match explained.facts {
        None => {
            let below: Arc<dyn RbacSource> = Arc::new(core.facts.clone());
            let rbac = match explained.policy {
                Some(policy) => Arc::new(WrittenPolicy::new(policy, below)) as Arc<dyn RbacSource>,
                None => below,
            };
            (rbac, Arc::new(core.facts), None)
        }
        Some(facts) => (Arc::new(facts.clone()), Arc::new(facts.clone()), Some(Arc::new(facts))),
    };
    let apps = apps.unwrap_or_else(|| {
        Arc::new(app_tokens(config, &core.client, &core.apps, Arc::clone(&clock), &metrics))
    });
    let attempts = Arc::new(Attempts::new(config.unknown_tokens));
    let keys = Arc::new(core.keys);
    let sources = Sources { directory, keys, rbac, organizations, apps, attempts };
    let engine = build_engine(config, sources, clock, &metrics, &records)?;
    Ok(Some(Arc::new(engine)))
}

/// The project's RBAC policy, asked of the API once; or why it cannot be had, with the address and the cause.
pub async fn ask_for_policy(config: &Config) -> Result<Result<Arc<RbacPolicy>, String>, StartError> {
    let metrics = Metrics::new()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let client = StytchClient::new(
        &config.stytch,
        &client_tls(&trusted_roots(config)?)?,
        Arc::clone(&clock),
        metrics.clone(),
    );
    let facts = ProjectFacts::new(&client, &config.stytch.rbac, &metrics);
    let fact = facts.policy(config.freshness, clock.now()).wait().await;
    Ok(fact.map(|fact| fact.value).map_err(|error| match metrics.conditions.list().pop() {
        Some((_, Condition { what, cause, .. })) => format!("{what}: {cause}"),
        None => error.to_string(),
    }))
}

/// Builds the decision point with its directory.
pub(super) fn build_core(
    config: &Config,
    clock: Arc<dyn Clock>,
    metrics: &Metrics,
    records: &DecisionLog,
) -> Result<Core, StartError> {
    let roots = trusted_roots(config)?;
    let client = StytchClient::new(&config.stytch, &client_tls(&roots)?, Arc::clone(&clock), metrics.clone());
    let link = match &config.shared {
        Some(settings) => Some(RedisLink::new(settings, Arc::clone(&clock), metrics)?),
        None => None,
    };
    let vault = link.clone().map(|link| Arc::new(link) as Arc<dyn KeyVault>);
    let keys = Keys::new(&client, &config.stytch, vault, metrics.clone());
    let attempts = Arc::new(Attempts::new(config.unknown_tokens));
    let api = Arc::new(client.clone());
    let guard = Guard::new(api, Arc::clone(&clock), &config.guard, Arc::clone(&attempts), metrics);
    let mut tiers: Arc<dyn SessionDirectory> = Arc::new(guard);
    if let Some(link) = link.clone() {
        let deadline = config.guard.deadline;
        tiers = Arc::new(Shared::new(link, tiers, deadline, Arc::clone(&clock), &config.memory, metrics));
    }
    let settings = config.memory.clone();
    let memory = Memory::new(tiers, Arc::clone(&clock), settings, Arc::clone(&attempts), metrics);
    let facts = ProjectFacts::new(&client, &config.stytch.rbac, metrics);
    let secrets = Arc::new(ArcSwap::from_pointee(Arc::clone(&config.stytch.apps)));
    let apps = app_tokens(config, &client, &secrets, Arc::clone(&clock), metrics);
    let sources = Sources {
        directory: Arc::new(memory.clone()),
        keys: Arc::new(keys.clone()),
        rbac: Arc::new(facts.clone()),
        organizations: Arc::new(facts.clone()),
        apps: Arc::new(apps),
        attempts,
    };
    let engine = build_engine(config, sources, clock, metrics, records)?;
    Ok(Core { engine: Arc::new(engine), client, link, memory, apps: secrets, keys, facts, roots })
}

/// The tier in front of introspection.
fn app_tokens(
    config: &Config,
    client: &StytchClient,
    secrets: &Credentials,
    clock: Arc<dyn Clock>,
    metrics: &Metrics,
) -> AppTokens {
    let client = client.clone();
    let secrets = Arc::clone(secrets);
    let ask = move |token: &Arc<AppToken>| {
        let client = client.clone();
        let apps = Arc::clone(&secrets.load());
        let token = Arc::clone(token);
        Box::pin(async move { client.introspect(&token, &apps).await }) as _
    };
    AppTokens::new(config.memory.horizon, config.guard.deadline, clock, metrics, ask)
}

/// Builds the decision point over any directory.
fn build_engine(
    config: &Config,
    sources: Sources,
    clock: Arc<dyn Clock>,
    metrics: &Metrics,
    records: &DecisionLog,
) -> Result<Engine, KeyFailure> {
    let settings = EngineSettings {
        max_tokens: config.memory.max_entries,
        recheck_every: config.recheck_every,
        max_rechecks: config.guard.max_in_flight.div_ceil(4),
    };
    let metrics = metrics.clone();
    let records = records.clone();
    Ok(Engine::new(rules(config, None)?, sources, clock, settings, metrics, records))
}

/// Everything of the configuration that a decision depends on.
///
/// `before` is kept if nothing about it changed: its keys may be known to nobody else.
pub(super) fn rules(config: &Config, before: Option<&Arc<Assertions>>) -> Result<Snapshot, KeyFailure> {
    let assertions = match (&config.headers.assertion, before) {
        (None, _) => None,
        (Some(settings), Some(before)) if before.settings() == settings => Some(Arc::clone(before)),
        (Some(settings), before) => {
            Some(Arc::new(Assertions::succeeding(settings.clone(), Timestamp::now(), before)?))
        }
    };
    Ok(Snapshot {
        routes: RouteTable::new(config.routes.iter().cloned()),
        credentials: config.credentials.clone().into(),
        jwt_rules: Arc::new(config.jwt_rules.clone()),
        managed_names: Arc::new(ManagedNames::new(&config.headers)),
        assertions,
        negative_for: config.memory.negative_for,
        own_route: Arc::new(own_route(config)),
        jwt_evidence: config.jwt_evidence,
        claim_pointers: Arc::clone(&config.stytch.claim_pointers),
    })
}

/// What the gateway's own pages require: any member session, as fresh as routes want it that say nothing.
fn own_route(config: &Config) -> Route {
    Route {
        name: Arc::from(".portcullis"),
        matches: RouteMatch { hosts: Vec::new(), paths: Vec::new(), methods: Vec::new() },
        access: Access::Require(Requirement::Authenticated),
        shadow: None,
        audience: None,
        freshness: config.freshness,
        upstream: Arc::from(""),
        letter_case: LetterCase::Refuse,
        keep_encoded_slash: false,
        keep_path_parameters: false,
        websocket: None,
        forwards: ForwardedCredentials::default(),
    }
}
