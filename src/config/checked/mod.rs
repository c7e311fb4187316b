//! The configuration as it is used: every value parsed, every reference resolved.
//!
//! Must not stop at a mistake: each is noted with its place, and checking goes on with a value that harms nothing.

mod checker;
mod identity;
mod leaves;
mod log;
mod named_requirements;
mod own;
mod parts;
mod project;
mod proxies;
mod refusals;
mod requirement;
mod routes;
mod sessions;
mod tracing;
mod trusted;
mod upstreams;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::diagnostics::{Code, Problem};
use super::raw::RawConfig;
use super::tree::Path;
use crate::admin::{AdminSettings, OpsSettings};
use crate::directory::{GuardSettings, MemorySettings, SharedSettings, UnknownTokenSettings};
use crate::doors::{ProxySettings, RefusalSettings};
use crate::engine::HeaderSettings;
use crate::identity::{CredentialSource, JwtRules};
use crate::policy::{Access, Freshness, IdentityAttribute, Requirement, Route};
use crate::revocation::RevocationSettings;
use crate::server::ListenerSettings;
use crate::stytch::StytchSettings;
use crate::telemetry::{LogSettings, TraceSettings};
use crate::upstream::OriginSettings;

use checker::Checker;
pub(super) use checker::Environment;
pub use checker::SecretPolicy;

/// How long what is under way may take to finish where nothing is said.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// A configuration that can be run.
#[derive(Debug, Clone)]
pub struct Config {
    pub listeners: Vec<ListenerSettings>,
    pub ops: OpsSettings,
    pub stytch: StytchSettings,
    /// Certificates to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    pub jwt_rules: JwtRules,
    pub credentials: Vec<CredentialSource>,
    pub memory: MemorySettings,
    pub guard: GuardSettings,
    pub unknown_tokens: UnknownTokenSettings,
    /// How old evidence may be where no route says.
    pub freshness: Freshness,
    /// Whether a valid JWT's own claims count while the directory fails.
    pub jwt_evidence: bool,
    pub shared: Option<SharedSettings>,
    pub revocation: RevocationSettings,
    pub admin: Option<AdminSettings>,
    /// How often the streams of a member are looked at again without any event.
    pub recheck_every: Duration,
    pub upstreams: Vec<OriginSettings>,
    /// What the origin is told about its caller.
    pub headers: HeaderSettings,
    pub proxy: ProxySettings,
    pub log: LogSettings,
    pub tracing: Option<TraceSettings>,
    /// From not being ready any more to letting nobody in.
    pub drain_delay: Duration,
    pub drain_timeout: Duration,
    /// How long clients are not let in for want of verification keys.
    pub start_patience: Duration,
    pub routes: Vec<Route>,
}

impl Config {
    /// Files that are read again by those who use them: certificates and keys.
    pub fn certificate_files(&self) -> Vec<PathBuf> {
        let listeners = self.listeners.iter().filter_map(|listener| listener.tls.as_ref());
        let served = listeners.flat_map(|tls| {
            let pairs = tls.certificates.iter().flat_map(|files| [&files.certificate, &files.key]);
            pairs.chain(&tls.client_ca)
        });
        let shown = self.upstreams.iter().flat_map(|origin| {
            let pair = origin.tls.client_certificate.iter().flat_map(|(certificate, key)| [certificate, key]);
            pair.chain(&origin.tls.ca_file)
        });
        served.chain(shown).cloned().collect()
    }
}

/// What a command needs to find a running gateway, of a configuration that may have mistakes elsewhere.
#[derive(Debug)]
pub struct AdminPart {
    pub admin: Option<AdminSettings>,
    pub drain_delay: Duration,
    pub drain_timeout: Duration,
}

/// Checks that part alone.
pub(super) fn check_admin(raw: &RawConfig, environment: &Environment<'_>) -> AdminPart {
    let mut problems = Vec::new();
    let mut checker = Checker::new(environment, &mut problems);
    let root = Path::default();
    AdminPart {
        admin: checker.admin(raw.admin.as_ref(), &root.key("admin")),
        drain_delay: checker.duration(raw.drain_delay.as_deref(), Duration::ZERO, &root),
        drain_timeout: checker.duration(raw.drain_timeout.as_deref(), DRAIN_TIMEOUT, &root),
    }
}

/// Checks everything. The result is only good if no problem was noted.
pub(super) fn check(
    raw: &RawConfig,
    environment: &Environment<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Config> {
    let mut checker = Checker::new(environment, problems);
    let root = Path::default();
    let limits = checker.limits(raw.limits.as_ref(), &root.key("limits"));
    let listeners = checker.listeners(raw.listeners.as_deref(), &root.key("listeners"), &limits.server);
    let ops = checker.ops(raw.ops.as_ref(), raw.upstreams.as_ref(), &root.key("ops"));
    let stytch = checker.stytch(raw.stytch.as_ref(), &root.key("stytch"));
    let credentials = checker.credentials(raw.credentials.as_deref(), &root.key("credentials"));
    let sessions = checker.sessions(raw.sessions.as_ref(), &root.key("sessions"));
    let upstreams =
        checker.upstreams(raw.upstreams.as_ref(), limits.proxy.caller_share, &root.key("upstreams"));
    let mut headers = checker.identity(raw.identity.as_ref(), &root.key("identity"));
    checker.named_requirements(raw.requirements.as_ref());
    let log = checker.log(raw.log.as_ref(), &root.key("log"));
    let tracing = checker.tracing(raw.tracing.as_ref(), &root.key("tracing"));
    let drain_timeout =
        checker.duration(raw.drain_timeout.as_deref(), DRAIN_TIMEOUT, &root.key("drain_timeout"));
    let drain_delay = checker.duration(raw.drain_delay.as_deref(), Duration::ZERO, &root.key("drain_delay"));
    let patience = root.key("start_patience");
    let start_patience = checker.duration(raw.start_patience.as_deref(), Duration::from_secs(10), &patience);
    let mut routes = checker.routes(
        raw.routes.as_deref(),
        &root.key("routes"),
        &sessions.freshness,
        raw.upstreams.as_ref(),
    );
    checker.unused_requirements();
    let admin = checker.admin(raw.admin.as_ref(), &root.key("admin"));
    let webhook_secrets = checker.webhook_secrets(raw.webhooks.as_ref(), &root.key("webhooks"));
    let sign_out = checker.sign_out(raw.sign_out.as_ref(), &root.key("sign_out"));
    let refusals = checker.refusals(raw.refusals.as_ref(), raw.sign_in.as_ref(), raw.cors.as_ref(), &root);
    let recheck_every = checker.recheck(raw.streams.as_ref(), &root.key("streams"));
    let basic = credentials.contains(&CredentialSource::BasicPassword);
    let mut stytch = stytch?;

    let asked_for =
        listeners.iter().any(|listener| listener.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()));
    for (index, source) in credentials.iter().enumerate() {
        if let CredentialSource::TrustedIdentity(trusted) = source {
            if !trusted.from.certificate_names.is_empty() && !asked_for {
                let path =
                    root.key("credentials").index(index).key("trusted_identity").key("client_certificate");
                let message = "no listener asks for client certificates, so nobody can be known by one";
                let hint = Some("add `client_ca_file` to `tls` of a listener");
                checker.note(Code::Conflict, &path, message, hint);
            }
            headers.also_managed.extend([trusted.organization_header.clone(), trusted.member_header.clone()]);
        }
    }
    checker.kept_names(&headers, &root.key("identity"));
    let asks = |requirement: &Requirement| {
        requirement.any_part(&|part| matches!(part, Requirement::ClientCertificate(_)))
    };
    let asking = routes.iter().find(|route| {
        let enforced = match &route.access {
            Access::Public => None,
            Access::Require(requirement) => Some(requirement),
        };
        enforced.into_iter().chain(&route.shadow).any(asks)
    });
    if let Some(route) = asking.filter(|_| !asked_for) {
        let message = format!("route `{}` asks for client certificates, and no listener does", route.name);
        let hint = Some("add `client_ca_file` to `tls` of a listener");
        checker.note(Code::Conflict, &root.key("routes"), message, hint);
    }
    if headers.assertion.is_none() {
        let named = raw.routes.iter().flatten().position(|route| route.audience.is_some());
        if let Some(index) = named {
            let message = "no assertion is made, so it is for nobody";
            let path = root.key("routes").index(index).key("audience");
            checker.note(Code::Conflict, &path, message, Some("add `identity.assertion`"));
        }
    }
    if let Some(sign_in) = &refusals.sign_in
        && sign_in.https.is_none()
        && sign_in.url.starts_with("https://")
        && listeners.iter().any(|listener| listener.tls.is_none())
    {
        let message = "on a listener without TLS the way back is `http`, whoever ended TLS before it";
        let hint = Some("say `scheme: https`, or `scheme: http` if that is so");
        checker.note(Code::ClearReturn, &root.key("sign_in").key("url"), message, hint);
    }
    if headers.assertion.is_some() {
        let usual = raw.identity.as_ref().and_then(|raw| raw.assertion.as_ref()?.audience.as_deref());
        for route in &mut routes {
            let audience = route.audience.take();
            route.audience =
                audience.or_else(|| Some(usual.map_or_else(|| Arc::clone(&route.upstream), Arc::from)));
        }
    }

    // The oldest evidence any route could be served decides how long a mark must be kept.
    let oldest = routes.iter().map(|route| route.freshness.max_staleness + route.freshness.stale_if_error);
    let memory = MemorySettings { horizon: oldest.max().unwrap_or_default(), ..sessions.memory };
    let own = sessions.freshness.max_staleness + sessions.freshness.stale_if_error;
    let memory = MemorySettings { horizon: memory.horizon.max(own), ..memory };
    let revocation = RevocationSettings {
        webhook_secrets,
        project_id: stytch.settings.project_id.clone(),
        horizon: memory.horizon.max(memory.token_binding_for),
    };
    let claim_pointers = claim_pointers(&routes, &headers);
    let shared = sessions.shared.map(|shared| SharedSettings {
        scope: stytch.scope,
        claim_pointers: claim_pointers.iter().map(|pointer| pointer.to_string()).collect(),
        ..shared
    });
    stytch.settings.claim_pointers = claim_pointers;
    Some(Config {
        listeners,
        ops,
        ca_file: stytch.ca_file,
        jwt_rules: stytch.jwt_rules,
        stytch: stytch.settings,
        credentials,
        memory,
        guard: sessions.guard,
        unknown_tokens: sessions.unknown_tokens,
        freshness: sessions.freshness,
        jwt_evidence: sessions.jwt_evidence,
        shared,
        revocation,
        admin,
        recheck_every,
        upstreams,
        headers,
        proxy: ProxySettings { sign_out, refusals: RefusalSettings { basic, ..refusals }, ..limits.proxy },
        log,
        tracing,
        drain_delay,
        drain_timeout,
        start_patience,
        routes,
    })
}

/// Every custom claim that some route asks about or some header tells, each once.
fn claim_pointers(routes: &[Route], headers: &HeaderSettings) -> Arc<[Arc<str>]> {
    let required = routes.iter().flat_map(|route| {
        let enforced = match &route.access {
            Access::Public => None,
            Access::Require(requirement) => Some(requirement),
        };
        enforced.into_iter().chain(&route.shadow).flat_map(Requirement::claim_pointers)
    });
    let told = headers.headers.iter().filter_map(|header| match &header.attribute {
        IdentityAttribute::Claim(pointer) => Some(Arc::clone(pointer)),
        _ => None,
    });
    let mut pointers: Vec<Arc<str>> = required.chain(told).collect();
    pointers.sort_unstable();
    pointers.dedup();
    pointers.into()
}
