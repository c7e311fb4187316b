//! `portcullis explain`: the live decision for one request, told part by part.
//!
//! Must not decide differently from the gateway: it calls the same `Engine::check`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use http::{HeaderMap, HeaderValue, Method, Uri, header};

use super::{ConfigArgs, Failed, Outcome, fail, runtime, say};
use crate::app::{build_to_explain, refused_at_the_door};
use crate::config::{Config, SecretPolicy};
use crate::engine::{AccessRequest, Engine, Verdict};
use crate::identity::{Bound, CredentialSource, MemberId, MemberRef, OrganizationId, Principal};
use crate::policy::{
    Access, CanonicalPath, Decision, Explanation, HostName, Reason, Refusal, Remedy, Requirement, explain,
};
use crate::session::{Evidence, MemberSession};
use crate::telemetry::{RequestId, TraceContext};

#[derive(Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[arg(long, default_value = "GET")]
    method: Method,
    /// The whole URL, such as `https://app.example.com/admin`.
    #[arg(long)]
    url: Uri,
    /// A session JWT; it is verified with the project's keys.
    #[arg(long, group = "caller")]
    jwt: Option<String>,
    /// An opaque session token; it is resolved at the API.
    #[arg(long, group = "caller")]
    token: Option<String>,
    /// A member, as `ORGANIZATION/MEMBER`: judged on whichever session answers best.
    #[arg(long, group = "caller", value_name = "ORG/MEMBER")]
    member: Option<String>,
    /// The member's session list, as the API answers it, instead of asking.
    #[arg(long, value_name = "FILE")]
    sessions: Option<PathBuf>,
}

pub(super) fn run(args: &ExplainArgs) -> Outcome {
    let asks_nobody = args.sessions.is_some() && args.jwt.is_none() && args.token.is_none();
    let nobody = args.jwt.is_none() && args.token.is_none() && args.member.is_none();
    let secrets = if asks_nobody || nobody { SecretPolicy::NotNeeded } else { SecretPolicy::Required };
    let config = args.config.load(secrets)?;
    runtime()?.block_on(async {
        let at_the_door = match CanonicalPath::parse(args.url.path()) {
            Ok(path) => refused_at_the_door(&args.method, &path).map(|reason| (reason, String::new())),
            Err(error) => Some((Reason::PathAmbiguous, error.to_string())),
        };
        match at_the_door {
            Some((reason, why)) => tell_refusal(&reason.into(), &why),
            None => tell(&decide(args, &config).await?),
        }
        Ok(())
    })
}

async fn decide(args: &ExplainArgs, config: &Config) -> Result<Verdict, Failed> {
    let path = CanonicalPath::parse(args.url.path()).map_err(fail)?;
    let authority = args.url.authority().ok_or_else(|| fail("`--url` needs scheme and host"))?;
    let host = HostName::parse(authority.as_str()).map_err(fail)?;
    let mut headers = HeaderMap::new();
    if let Some(credential) = args.jwt.as_ref().or(args.token.as_ref()) {
        let value = HeaderValue::try_from(format!("Bearer {credential}")).map_err(fail)?;
        headers.insert(header::AUTHORIZATION, value);
    }
    let principal = args.member.as_deref().map(read_member).transpose()?;
    let engine = engine(args, config).await?;
    let request_id = RequestId::new();
    let request = AccessRequest {
        method: &args.method,
        host: &host,
        path: &path,
        headers: &headers,
        peer: None,
        request_id: &request_id,
        trace: &TraceContext::begin(&request_id),
    };
    Ok(match principal {
        Some(principal) => engine.check_as(&request, principal).await,
        None => engine.check(&request).await,
    })
}

/// The gateway's engine, with a credential looked for where `--jwt` and `--token` put it.
async fn engine(args: &ExplainArgs, config: &Config) -> Result<Arc<Engine>, Failed> {
    let mut config = config.clone();
    if args.jwt.is_some() || args.token.is_some() {
        config.credentials = vec![CredentialSource::Bearer];
    }
    let written = args.sessions.as_deref().map(read_file).transpose()?;
    let as_written = args.member.is_some();
    let engine = build_to_explain(&config, written, as_written, args.jwt.is_some()).await.map_err(fail)?;
    engine.ok_or_else(|| fail("the verification keys could not be fetched, so the JWT cannot be verified"))
}

fn tell(verdict: &Verdict) {
    let Some(route) = &verdict.route else {
        if let Decision::Refuse(refusal) = &verdict.decision {
            tell_refusal(refusal, "");
        }
        return;
    };
    say(&format!("route     {} -> upstream `{}`", route.name, route.upstream));
    if let Some(principal) = &verdict.principal {
        let bound = match &principal.bound {
            Bound::Session(session) => format!("session `{session}`"),
            Bound::AnySession => "any one active session".to_owned(),
        };
        let MemberRef { organization_id, member_id } = &principal.member;
        say(&format!("caller    member `{member_id}` of `{organization_id}`, judged on {bound}"));
    }
    match (&route.access, &verdict.evidence) {
        (Access::Public, _) => say("requires  nothing: the route is public"),
        (Access::Require(requirement), Some(evidence)) => {
            let sessions = judged(verdict, evidence);
            if sessions.is_empty() {
                say(&format!("requires  {requirement}\n          no active session to hold it against"));
            }
            let now = verdict.decided_at;
            for session in sessions {
                say(&format!("requires  (held against session `{}`)", session.session_id));
                tell_part(&explain(requirement, &session, now), 5);
            }
        }
        (Access::Require(requirement), None) => {
            say("requires");
            tell_requirement(requirement, 5);
        }
    }
    match &verdict.decision {
        Decision::Allow(_) => {
            say("decision  allow");
            for (name, value) in verdict.edits.injected() {
                say(&format!("injects   {name}: {value}"));
            }
        }
        Decision::Refuse(refusal) => {
            let readings = "an origin may read this path in another way, and that is not this route's";
            tell_refusal(refusal, if refusal.reason == Reason::PathAmbiguous { readings } else { "" });
        }
    }
}

fn tell_refusal(refusal: &Refusal, why: &str) {
    let reason = refusal.reason;
    say(&format!("decision  refuse {} {}: {}", reason.status().as_u16(), reason.code(), reason.title()));
    if !why.is_empty() {
        say(&format!("          {why}"));
    }
    let remedy = match reason.remedy() {
        Remedy::ChangeRequest => "send a different request",
        Remedy::SignIn => "sign in",
        Remedy::StepUp => "prove the factor named here, then repeat the request",
        Remedy::AskForAccess => "ask for access",
        Remedy::Retry => "try again later; this is not the caller's fault",
        Remedy::SlowDown => "wait, then try again",
    };
    say(&format!("remedy    {remedy}"));
    if let Some(challenge) = &refusal.challenge {
        let age = challenge.max_age.map_or_else(String::new, |age| format!(", proven at most {age:?} ago"));
        say(&format!("          {}{age}", challenge.acr_values.join(" ")));
    }
}

fn tell_requirement(requirement: &Requirement, depth: usize) {
    say(&format!("{}{requirement}", "  ".repeat(depth)));
    match requirement {
        Requirement::All(parts) | Requirement::Any(parts) => {
            for part in parts {
                tell_requirement(part, depth + 1);
            }
        }
        Requirement::Not(part) => tell_requirement(part, depth + 1),
        _ => {}
    }
}

/// The sessions the decision looked at: its own, or all where any one may answer.
fn judged(verdict: &Verdict, evidence: &Evidence) -> Vec<MemberSession> {
    let Some(list) = evidence.list() else {
        return Vec::new();
    };
    match verdict.principal.as_ref().map(|principal| &principal.bound) {
        Some(Bound::Session(session)) => list.find(session).into_iter().collect(),
        _ => list.sessions().collect(),
    }
}

fn tell_part(part: &Explanation, depth: usize) {
    let indent = "  ".repeat(depth);
    let observed = if part.observed.is_empty() { String::new() } else { format!("   saw {}", part.observed) };
    say(&format!("{indent}[{}] {}{observed}", part.truth, part.requirement));
    for part in &part.parts {
        tell_part(part, depth + 1);
    }
}

fn read_member(text: &str) -> Result<Principal, Failed> {
    let parts = text.split_once('/').and_then(|(organization, member)| {
        Some((OrganizationId::parse(organization).ok()?, MemberId::parse(member).ok()?))
    });
    let (organization_id, member_id) =
        parts.ok_or_else(|| fail(format!("`{text}` is not ORGANIZATION/MEMBER")))?;
    let member = MemberRef { organization_id, member_id };
    Ok(Principal { member, bound: Bound::AnySession, issued_at: None, seen_at: None })
}

fn read_file(file: &Path) -> Result<Vec<u8>, Failed> {
    std::fs::read(file).map_err(|error| fail(format!("`{}` cannot be read: {error}", file.display())))
}
