//! `portcullis test`: case files held against a configuration, with what differs and what no case ever touched.
//!
//! Must not decide differently from the gateway: it calls the same engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use http::{HeaderMap, Method, Uri};
use jiff::Timestamp;
use serde::Serialize;

use super::callers::{KnownCaller, span};
use super::cases::{Case, CaseFile, ExpectationParts, WhoForm};
use super::coverage::Coverage;
use super::explain::Format;
use super::{ConfigArgs, Failed, Outcome, fail, report, runtime, say};
use crate::app::{Explained, build_to_explain, refused_at_the_door};
use crate::config::{Config, SecretPolicy, did_you_mean};
use crate::engine::{AccessRequest, Engine, Page, Report, Waits};
use crate::identity::SocketPeer;
use crate::policy::{CanonicalPath, HostName, Reason};
use crate::stytch::{WrittenCase, WrittenFacts};
use crate::telemetry::{RequestId, TraceContext};

#[derive(Args)]
pub(super) struct TestArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Case files, YAML or JSON.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Names every route and every requirement that no case met, or none missed.
    #[arg(long)]
    coverage: bool,
    /// Fails if fewer than so many in a hundred of the routes and requirements were covered.
    #[arg(long, value_name = "PERCENT")]
    fail_under: Option<u32>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
}

/// What came of one case.
#[derive(Serialize)]
struct Ran {
    file: String,
    name: String,
    passed: bool,
    /// What was expected and what came, where they differ.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    differences: Vec<Difference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<Report>,
}

#[derive(Serialize)]
struct Difference {
    what: String,
    expected: String,
    found: String,
}

pub(super) fn run(args: &TestArgs) -> Outcome {
    let config = args.config.load(SecretPolicy::NotNeeded)?;
    let mut coverage = Coverage::of(&config);
    let mut all = Vec::new();
    for file in &args.files {
        let cases = CaseFile::read(file).map_err(|error| fail(format!("`{}`: {error}", file.display())))?;
        if args.format == Format::Human {
            say(&file.display().to_string());
        }
        let ran = runtime()?.block_on(run_file(file, cases, &config, &mut coverage))?;
        if args.format == Format::Human {
            ran.iter().for_each(tell);
        }
        all.extend(ran);
    }
    let failed = all.iter().filter(|ran| !ran.passed).count();
    let share = coverage.share();
    let too_little = args.fail_under.filter(|least| share < *least);
    match args.format {
        Format::Json => {
            let told = serde_json::json!({
                "passed": all.len() - failed, "failed": failed, "cases": all, "coverage": coverage.told(),
            });
            say(&serde_json::to_string_pretty(&told).unwrap_or_default());
        }
        Format::Human => {
            say(&format!("\n{} passed, {failed} failed", all.len() - failed));
            coverage.tell(args.coverage || too_little.is_some());
            if let Some(least) = too_little {
                say(&format!("coverage is {share}%, less than the {least}% asked for"));
            }
        }
    }
    if failed > 0 || too_little.is_some() { Err(Failed) } else { Ok(()) }
}

async fn run_file(
    file: &Path,
    cases: CaseFile,
    config: &Config,
    coverage: &mut Coverage,
) -> Result<Vec<Ran>, Failed> {
    let folder = file.parent().unwrap_or_else(|| Path::new("."));
    let now = cases.now.unwrap_or_else(Timestamp::now);
    let policy = cases.rbac.as_ref().map(|name| std::fs::read(folder.join(name))).transpose();
    let policy = policy
        .map_err(|error| fail(format!("`{}`: its RBAC policy cannot be read: {error}", file.display())))?;
    let written = Arc::new(WrittenCase::at(now, &config.stytch.claim_pointers));
    let explained = Explained { case: Some(Arc::clone(&written)), ..Explained::default() };
    let engine = build_to_explain(config, explained).await.map_err(fail)?;
    let engine = engine.ok_or_else(|| fail("the engine could not be built"))?;
    let callers = cases.callers;
    let assertion = config.headers.assertion.iter().map(|assertion| assertion.header.as_str());
    let headers = config.headers.headers.iter().map(|header| header.name.as_str());
    let injected: Vec<&str> = headers.chain(assertion).collect();
    let mut all = Vec::new();
    for case in cases.cases {
        let is_injected = |name: &str| injected.iter().any(|known| known.eq_ignore_ascii_case(name));
        if let Some(unknown) = case.headers().find(|name| !is_injected(name)) {
            let hint = did_you_mean(unknown, injected.iter().copied()).unwrap_or_default();
            return Err(fail(format!(
                "`{}`, case `{}`: the configuration injects no header `{unknown}`; {hint}",
                file.display(),
                case.name
            )));
        }
        let known = match &case.caller {
            WhoForm::Word(name) if name == "nobody" => {
                let facts = WrittenFacts::default();
                Ok(KnownCaller { principal: None, sessions: Vec::new(), facts })
            }
            WhoForm::Word(name) => match callers.get(name) {
                Some(form) => form.at(now, policy.as_deref(), folder),
                None => Err(format!("there is no caller `{name}`")),
            },
            WhoForm::Whole(form) => form.at(now, policy.as_deref(), folder),
        };
        let name = case.name.clone();
        let broken = |error: String| fail(format!("`{}`, case `{name}`: {error}", file.display()));
        let ran = run_case(&engine, &written, case, known.map_err(broken)?, coverage).await;
        let (differences, report) =
            ran.map_err(|error| fail(format!("`{}`, case `{name}`: {error}", file.display())))?;
        let passed = differences.is_empty();
        let report = report.filter(|_| !passed);
        all.push(Ran { file: file.display().to_string(), name, passed, differences, report });
    }
    Ok(all)
}

type Outcomes = (Vec<Difference>, Option<Report>);

async fn run_case(
    engine: &Engine,
    written: &WrittenCase,
    case: Case,
    known: KnownCaller,
    coverage: &mut Coverage,
) -> Result<Outcomes, String> {
    let asked = case.request.read();
    let method: Method = asked.method.parse().map_err(|_| format!("`{}` is not a method", asked.method))?;
    if method.as_str() != method.as_str().to_ascii_uppercase() {
        return Err(format!(
            "`{method}` is not `{}`: methods have a case",
            method.as_str().to_ascii_uppercase()
        ));
    }
    let uri: Uri = asked.url.parse().map_err(|_| format!("`{}` is not a URL", asked.url))?;
    let authority = uri.authority().ok_or_else(|| format!("`{}` has no scheme and host", asked.url))?;
    let host = HostName::parse(authority.as_str()).map_err(|error| error.to_string())?;
    let expected = case.expect.parts()?;
    if let Some(reason) = &expected.reason
        && !Reason::ALL.iter().any(|known| known.code() == reason)
    {
        return Err(format!("`{reason}` is no reason; docs/reasons.md lists them"));
    }
    let path = match CanonicalPath::parse(uri.path()) {
        Ok(path) => match refused_at_the_door(&method, &path) {
            None => path,
            Some(reason) => return Ok((compare_refused(&expected, reason), None)),
        },
        Err(_) => return Ok((compare_refused(&expected, Reason::PathAmbiguous), None)),
    };
    written.is(known.sessions, known.facts);
    let request_id = RequestId::new();
    let request = AccessRequest {
        method: &method,
        host: &host,
        path: &path,
        headers: &HeaderMap::new(),
        peer: SocketPeer {
            address: asked.client_ip,
            certificate_names: &asked.client_certificate,
            ..SocketPeer::default()
        },
        client_ip: asked.client_ip,
        page: Page::None,
        request_id: &request_id,
        trace: &TraceContext::begin(&request_id),
        waits: Waits::default(),
    };
    let report = engine.explain(&request, known.principal).await;
    coverage.saw(&report);
    Ok((compare(&expected, &report)?, Some(report)))
}

fn compare_refused(expected: &ExpectationParts, reason: Reason) -> Vec<Difference> {
    let mut differences = Differences::default();
    differences.note("decision", expected.decision.as_deref(), "refuse");
    differences.note("reason", expected.reason.as_deref(), reason.code());
    differences.note(
        "status",
        expected.status.map(|status| status.to_string()).as_deref(),
        &reason.status().as_u16().to_string(),
    );
    differences.note("route", expected.route.as_deref(), "none");
    differences.0
}

fn compare(expected: &ExpectationParts, report: &Report) -> Result<Vec<Difference>, String> {
    let mut differences = Differences::default();
    let refusal = report.refusal.as_ref();
    differences.note("decision", expected.decision.as_deref(), report.decision);
    differences.note("reason", expected.reason.as_deref(), refusal.map_or("none", |refusal| refusal.reason));
    let status = refusal.map_or(200, |refusal| refusal.status).to_string();
    differences.note("status", expected.status.map(|status| status.to_string()).as_deref(), &status);
    let route = report.route.as_ref().map_or("none", |route| &route.name);
    differences.note("route", expected.route.as_deref(), route);
    for (name, value) in &expected.headers {
        let name = name.to_ascii_lowercase();
        let found = report.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str());
        match (value.as_deref(), found) {
            (Some("*"), Some(_)) | (None, None) => {}
            (Some(wanted), Some(found)) if wanted == found => {}
            (wanted, found) => differences.push(
                &format!("header {name}"),
                wanted.unwrap_or("(not there)"),
                found.unwrap_or("(not there)"),
            ),
        }
    }
    if let Some(wanted) = &expected.max_age {
        let wanted = span(Some(wanted), std::time::Duration::ZERO)?.as_secs().to_string();
        let found = refusal
            .and_then(|refusal| refusal.max_age_seconds)
            .map_or_else(|| "none".to_owned(), |age| age.to_string());
        differences.note("max_age", Some(&wanted), &found);
    }
    if let Some(wanted) = &expected.acr_values {
        let found = refusal.map(|refusal| refusal.acr_values.join(" ")).unwrap_or_default();
        differences.note("acr_values", Some(&wanted.join(" ")), &found);
    }
    Ok(differences.0)
}

#[derive(Default)]
struct Differences(Vec<Difference>);

impl Differences {
    fn note(&mut self, what: &str, expected: Option<&str>, found: &str) {
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            self.push(what, expected, found);
        }
    }

    fn push(&mut self, what: &str, expected: &str, found: &str) {
        self.0.push(Difference {
            what: what.to_owned(),
            expected: expected.to_owned(),
            found: found.to_owned(),
        });
    }
}

fn tell(ran: &Ran) {
    say(&format!("  {}  {}", if ran.passed { "ok  " } else { "FAIL" }, ran.name));
    for difference in &ran.differences {
        say(&format!("        - {:<12} {}   (expected)", difference.what, difference.expected));
        say(&format!("        + {:<12} {}   (found)", difference.what, difference.found));
    }
    if let Some(found) = &ran.report {
        report::tell_indented(found, "          ");
    }
}
