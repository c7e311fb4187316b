//! `portcullis explain`: the live decision for one request, told part by part.
//!
//! Must not decide differently from the gateway: it calls the same engine.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use serde::{Deserialize, Serialize};

use super::callers::first_member;
use super::report::tell;
use super::{ConfigArgs, Failed, Outcome, fail, runtime, say};
use crate::app::{Explained, build_to_explain, refused_at_the_door};
use crate::config::{Config, SecretPolicy};
use crate::engine::{AccessRequest, Engine, Page, Report, Waits};
use crate::identity::{
    Bound, CredentialSource, MemberPrincipal, MemberRef, OrganizationId, Principal, SessionId, SocketPeer,
};
use crate::policy::{CanonicalPath, HostName, OrganizationNames, RbacPolicy, Reason};
use crate::stytch::{WrittenFacts, read_policy};
use crate::telemetry::{RequestId, TraceContext};

#[derive(Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Default: GET.
    #[arg(long)]
    method: Option<Method>,
    /// The whole URL, such as `https://app.example.com/admin`.
    #[arg(long, required_unless_present = "decision")]
    url: Option<Uri>,
    /// A JWT of a session, a machine or an app; it is verified with the project's keys.
    #[arg(long, group = "caller")]
    jwt: Option<String>,
    /// An opaque session token; it is resolved at the API.
    #[arg(long, group = "caller")]
    token: Option<String>,
    /// A member, as `ORGANIZATION/MEMBER`: judged on whichever session answers best.
    #[arg(long, group = "caller", value_name = "ORG/MEMBER")]
    member: Option<String>,
    /// A decision the gateway recorded, one line of its log; `-` reads standard input. What was asked then is asked
    /// again now.
    #[arg(long, group = "caller", value_name = "FILE", conflicts_with_all = ["url", "method", "client_ip"])]
    decision: Option<PathBuf>,
    /// Of several recorded decisions, the one about this request.
    #[arg(long, value_name = "ID", requires = "decision")]
    request_id: Option<String>,
    /// The client's address.
    #[arg(long, value_name = "ADDRESS")]
    client_ip: Option<IpAddr>,
    /// A name the client's verified certificate is for; may be given more than once.
    #[arg(long, value_name = "NAME")]
    client_certificate: Vec<String>,
    /// The member's session list, as the API answers it, instead of asking.
    #[arg(long, value_name = "FILE")]
    sessions: Option<PathBuf>,
    /// The project's RBAC policy, as the API answers it, instead of asking.
    #[arg(long, value_name = "FILE")]
    rbac: Option<PathBuf>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Human,
    Json,
}

/// The question, from the command line or out of a record.
struct Question {
    method: Method,
    host: HostName,
    path: String,
    headers: HeaderMap,
    principal: Option<Principal>,
    client_ip: Option<IpAddr>,
    /// What the record says was decided.
    recorded: Option<Recorded>,
}

/// What is read of a recorded decision.
#[derive(Debug, Deserialize, Serialize)]
struct Recorded {
    ts: String,
    request_id: String,
    route: String,
    method: Option<String>,
    host: Option<String>,
    path: Option<String>,
    client_ip: Option<IpAddr>,
    decision: String,
    reason: Option<String>,
    organization_id: Option<String>,
    member_id: Option<String>,
    client_id: Option<String>,
    session: Option<String>,
    evidence: Option<String>,
    evidence_age_ms: Option<f64>,
}

pub(super) fn run(args: &ExplainArgs) -> Outcome {
    let question = question(args)?;
    let live = args.jwt.is_some() || args.token.is_some();
    let asks_nobody = args.sessions.is_some() && !live;
    let nobody = !live && question.principal.is_none();
    let secrets = if asks_nobody || nobody { SecretPolicy::NotNeeded } else { SecretPolicy::Required };
    let config = args.config.load(secrets)?;
    let report = runtime()?.block_on(decide(args, &question, &config))?;
    match (&question.recorded, args.format) {
        (Some(recorded), Format::Human) => {
            tell_recorded(recorded);
            tell(&report);
        }
        (None, Format::Human) => tell(&report),
        (Some(recorded), Format::Json) => {
            let told = serde_json::json!({ "recorded": recorded, "now": report });
            say(&serde_json::to_string_pretty(&told).unwrap_or_default());
        }
        (None, Format::Json) => say(&serde_json::to_string_pretty(&report).unwrap_or_default()),
    }
    Ok(())
}

fn question(args: &ExplainArgs) -> Result<Question, Failed> {
    if let Some(file) = &args.decision {
        return recorded_question(file, args.request_id.as_deref());
    }
    if args.sessions.is_some() && args.member.is_none() && args.jwt.is_none() && args.token.is_none() {
        return Err(fail(
            "`--sessions` needs to know whose they are: `--member ORG/MEMBER`, or a credential",
        ));
    }
    let url = args.url.as_ref().ok_or_else(|| fail("`--url` is needed"))?;
    let authority = url.authority().ok_or_else(|| fail("`--url` needs scheme and host"))?;
    let mut headers = HeaderMap::new();
    if let Some(credential) = args.jwt.as_ref().or(args.token.as_ref()) {
        let value = HeaderValue::try_from(format!("Bearer {credential}")).map_err(fail)?;
        headers.insert(header::AUTHORIZATION, value);
    }
    Ok(Question {
        method: args.method.clone().unwrap_or(Method::GET),
        host: HostName::parse(authority.as_str()).map_err(fail)?,
        path: url.path().to_owned(),
        headers,
        principal: args.member.as_deref().map(read_member).transpose()?,
        client_ip: args.client_ip,
        recorded: None,
    })
}

/// The last recorded decision of the file, or the one about a request.
fn recorded_question(file: &Path, request_id: Option<&str>) -> Result<Question, Failed> {
    let text = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin()).map_err(fail)?
    } else {
        std::fs::read_to_string(file)
            .map_err(|error| fail(format!("`{}` cannot be read: {error}", file.display())))?
    };
    let records = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let records = records.filter(|record| record.get("log").is_some_and(|log| log == "decision"));
    let mut records = records.filter_map(|record| serde_json::from_value::<Recorded>(record).ok());
    let wanted = |record: &Recorded| request_id.is_none_or(|id| id == record.request_id);
    let record = records.rfind(wanted);
    let record =
        record.ok_or_else(|| fail(format!("`{}` holds no such recorded decision", file.display())))?;
    let (Some(method), Some(host), Some(path)) = (&record.method, &record.host, &record.path) else {
        return Err(fail("the request was refused before it was understood; there is nothing to ask again"));
    };
    if let Some(client_id) = &record.client_id {
        let message = format!(
            "`{client_id}` called with a token of its own, which no record holds: explain it with `--jwt`"
        );
        return Err(fail(message));
    }
    if record.route == ".portcullis" {
        return Err(fail("the gateway's own pages take any member session; there is no route to explain"));
    }
    let member = record.organization_id.as_ref().zip(record.member_id.as_ref());
    Ok(Question {
        method: method.parse().map_err(fail)?,
        host: HostName::parse(host).map_err(fail)?,
        path: path.clone(),
        headers: HeaderMap::new(),
        principal: member
            .map(|(organization, member)| read_member(&format!("{organization}/{member}")))
            .transpose()?,
        client_ip: record.client_ip,
        recorded: Some(record),
    })
}

async fn decide(args: &ExplainArgs, question: &Question, config: &Config) -> Result<Report, Failed> {
    let method = &question.method;
    let host = &question.host;
    let path = match CanonicalPath::parse(&question.path) {
        Ok(path) => path,
        Err(error) => {
            let reason = Reason::PathAmbiguous;
            let detail = Some(error.to_string());
            return Ok(Report::at_the_door(method, host.as_str(), &question.path, reason, detail));
        }
    };
    if let Some(reason) = refused_at_the_door(method, &path) {
        return Ok(Report::at_the_door(method, host.as_str(), path.as_str(), reason, None));
    }
    let engine = engine(args, question, config).await?;
    let request_id = RequestId::new();
    let request = AccessRequest {
        method,
        host,
        path: &path,
        headers: &question.headers,
        peer: SocketPeer {
            address: question.client_ip,
            certificate_names: &args.client_certificate,
            ..SocketPeer::default()
        },
        client_ip: question.client_ip,
        page: Page::None,
        request_id: &request_id,
        trace: &TraceContext::begin(&request_id),
        waits: Waits::default(),
    };
    let report = engine.explain(&request, question.principal.clone()).await;
    // The record tells the end of the session's id, and no other session of the member's answers for it.
    let recorded = question.recorded.as_ref().and_then(|recorded| recorded.session.as_deref());
    let (Some(tail), Some(Principal::Member(member))) = (recorded, &question.principal) else {
        return Ok(report);
    };
    let known = report.held.iter().map(|held| &held.against).find(|id| id.ends_with(tail));
    let id = known.cloned().unwrap_or_else(|| tail.to_owned());
    let bound = Bound::Session(SessionId::parse(&id).map_err(fail)?);
    let principal = MemberPrincipal { bound, ..MemberPrincipal::clone(member) };
    Ok(engine.explain(&request, Some(principal.into())).await)
}

/// The gateway's engine, with a credential looked for where `--jwt` and `--token` put it.
async fn engine(args: &ExplainArgs, question: &Question, config: &Config) -> Result<Arc<Engine>, Failed> {
    let mut config = config.clone();
    if args.jwt.is_some() || args.token.is_some() {
        config.credentials = vec![CredentialSource::Bearer];
    }
    let policy = args.rbac.as_deref().map(read_file).transpose()?;
    let policy = policy.map(|body| read_policy(&body).map_err(fail)).transpose()?.map(Arc::new);
    let sessions = args.sessions.as_deref().map(read_file).transpose()?;
    if let (Some(list), Some(file)) = (&sessions, &args.sessions) {
        check_list(list, question).map_err(|why| fail(format!("`{}`: {why}", file.display())))?;
    }
    // With the sessions written down nobody is asked about anything; what is not written down is not known.
    let facts = sessions.as_deref().map(|list| written_facts(list, policy.clone()));
    let as_written = question.principal.is_some();
    let verifies = args.jwt.is_some();
    let explained = Explained { sessions, as_written, facts, policy, verifies, case: None };
    let engine = build_to_explain(&config, explained).await.map_err(fail)?;
    engine.ok_or_else(|| fail("the verification keys could not be fetched, so the JWT cannot be verified"))
}

/// A list that is none, or somebody else's, is a mistake of whoever wrote it and no trouble of the directory's.
fn check_list(list: &[u8], question: &Question) -> Result<(), String> {
    let read: serde_json::Value = serde_json::from_slice(list).map_err(|error| error.to_string())?;
    let sessions = read.get("member_sessions").ok_or("the session list holds no `member_sessions`")?;
    if sessions.is_null() || sessions.as_array().is_some_and(Vec::is_empty) {
        return Ok(());
    }
    let whose = first_member(list)?;
    let asked = question.principal.as_ref().and_then(|principal| match principal {
        Principal::Member(member) => Some(&member.member),
        Principal::Machine(_) | Principal::App(_) => None,
    });
    match asked {
        Some(asked) if asked.member_id != whose.member_id => {
            Err(format!("these are the sessions of `{}/{}`", whose.organization_id, whose.member_id))
        }
        _ => Ok(()),
    }
}

/// What the written sessions tell of their organization: its id and slug.
fn written_facts(list: &[u8], policy: Option<Arc<RbacPolicy>>) -> WrittenFacts {
    let list: serde_json::Value = serde_json::from_slice(list).unwrap_or_default();
    let text =
        |name: &str| list.pointer(&format!("/member_sessions/0/{name}")).and_then(serde_json::Value::as_str);
    let names = OrganizationNames { slug: text("organization_slug").map(Arc::from), external_id: None };
    WrittenFacts {
        policy,
        organization: text("organization_id").and_then(|id| OrganizationId::parse(id).ok()),
        organization_names: Some(Arc::new(names)),
        ..WrittenFacts::default()
    }
}

fn tell_recorded(recorded: &Recorded) {
    let reason = recorded.reason.as_deref().map_or_else(String::new, |reason| format!(" {reason}"));
    say(&format!("recorded  {}{reason} on route `{}` at {}", recorded.decision, recorded.route, recorded.ts));
    if let (Some(kind), Some(age)) = (&recorded.evidence, recorded.evidence_age_ms) {
        say(&format!("          on {kind} evidence {:.1}s old; below is what comes of it now", age / 1e3));
    }
}

/// `ORGANIZATION/MEMBER`, judged on any one session.
fn read_member(text: &str) -> Result<Principal, Failed> {
    let member = MemberRef::parse(text).map_err(|_| fail(format!("`{text}` is not ORGANIZATION/MEMBER")))?;
    Ok(Principal::any_session_of(member))
}

fn read_file(file: &Path) -> Result<Vec<u8>, Failed> {
    std::fs::read(file).map_err(|error| fail(format!("`{}` cannot be read: {error}", file.display())))
}
