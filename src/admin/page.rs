//! The status page: made here, readable without a script, brought up to date by one where there is one.
//!
//! Must not show a credential, nor all of an id; and nothing of it is loaded from elsewhere.

use bytes::Bytes;
use http::StatusCode;
use jiff::{Timestamp, Unit};
use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use serde::Serialize;

use super::answer::{Answer, Failure};
use super::history::Step;
use super::status::Status;
use crate::policy::{Access, Reason, Remedy, Route};
use crate::telemetry::RefusalRecord;

const HTML: &str = "text/html; charset=utf-8";
const STATUS: &str = "status.html";
const REFUSAL: &str = "refusal.html";
/// What the chart is drawn on.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 120.0;

/// The templates.
pub(super) struct Page(Environment<'static>);

/// Three areas on top of each other, as SVG paths.
#[derive(Serialize)]
struct Chart {
    allowed: String,
    refused: String,
    unavailable: String,
    highest: f64,
    since: String,
    /// The same for those who do not see it.
    told: String,
}

/// One bar in parts.
#[derive(Serialize)]
struct Bar {
    parts: Vec<Part>,
    told: String,
}

#[derive(Serialize)]
struct Part {
    name: String,
    kind: &'static str,
    rate: f64,
    x: f64,
    width: f64,
}

impl Page {
    pub(super) fn new() -> Self {
        let mut templates = Environment::new();
        templates.set_undefined_behavior(minijinja::UndefinedBehavior::Chainable);
        templates.add_filter("rate", rate);
        templates.add_filter("count", count);
        templates.add_filter("share", share);
        templates.add_filter("bytes", bytes);
        templates.add_filter("seconds", seconds);
        templates.add_filter("ago", ago);
        templates.add_filter("clock", clock);
        for (name, text) in
            [(STATUS, include_str!("page/status.html")), (REFUSAL, include_str!("page/refusal.html"))]
        {
            // They are parts of the program: a test makes both.
            drop(templates.add_template(name, text));
        }
        Self(templates)
    }

    pub(super) fn status(&self, status: &Status) -> Result<Answer, Failure> {
        let (verdict_word, mark) = match status.verdict {
            "healthy" => ("Healthy", "●"),
            "degraded" => ("Degraded", "▲"),
            "leaving" => ("Leaving", "◐"),
            _ => ("Not ready", "■"),
        };
        let uptime = span(status.at.duration_since(status.started_at).as_secs_f64());
        let values = context! {
            s => Serde(status), verdict_word, mark, uptime,
            chart => Serde(chart(&status.traffic.steps)), bar => Serde(bar(status)),
        };
        self.render(STATUS, values)
    }

    /// Why one request was refused.
    pub(super) fn refusal(
        &self,
        refusal: Option<RefusalRecord>,
        routes: &[std::sync::Arc<Route>],
        source: &str,
    ) -> Result<Answer, Failure> {
        let Some(refusal) = refusal else {
            let why = "this refusal is not remembered any more; its decision record is in the log";
            return Err((StatusCode::NOT_FOUND, why.to_owned()));
        };
        let route = routes.iter().find(|route| *route.name == *refusal.route);
        let access = route.and_then(|route| match &route.access {
            Access::Public => None,
            Access::Require(requirement) => Some(requirement.sentence()),
        });
        let reason = Reason::ALL.iter().find(|reason| reason.code() == refusal.reason);
        let title = reason.map_or("", |reason| reason.title());
        let values = context! {
            one => Serde(&refusal), title, access, command => command(&refusal, source),
            code => reason.map(|reason| reason.status().as_u16()),
            advice => reason.map(|reason| reason.remedy().advice()),
            operator => reason.map(|reason| advice_to_operators(reason.remedy())),
        };
        self.render(REFUSAL, values)
    }

    fn render(&self, name: &str, values: Value) -> Result<Answer, Failure> {
        let failed = |error: minijinja::Error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
        let text = self.0.get_template(name).and_then(|page| page.render(values)).map_err(failed)?;
        Ok(Answer { status: StatusCode::OK, kind: HTML, body: text.into() })
    }

    /// What the pages are made with.
    pub(super) fn asset(path: &str) -> Option<Answer> {
        let (kind, text) = match path {
            "/style.css" => ("text/css; charset=utf-8", include_str!("page/style.css")),
            "/live.js" => ("text/javascript; charset=utf-8", include_str!("page/live.js")),
            _ => return None,
        };
        Some(Answer { status: StatusCode::OK, kind, body: Bytes::from_static(text.as_bytes()) })
    }
}

/// What explains the refusal on a command line. Everything in it that a caller chose is quoted: it will be pasted into a shell.
fn command(refusal: &RefusalRecord, source: &str) -> String {
    let or = |text: &str, usual: &str| if text.is_empty() { usual.to_owned() } else { text.to_owned() };
    let url = format!("https://{}{}", or(&refusal.host, "HOST"), or(&refusal.path, "/"));
    format!(
        "portcullis explain -c {} --method {} --url {} --member ORGANIZATION/MEMBER",
        quoted(source),
        quoted(&or(&refusal.method, "GET")),
        quoted(&url),
    )
}

/// One word for a POSIX shell (IEEE Std 1003.1, XCU section 2.2.2).
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Where to look for a remedy.
fn advice_to_operators(remedy: Remedy) -> &'static str {
    match remedy {
        Remedy::ChangeRequest => {
            "Nothing, if the request is wrong. If it should pass, see which route it takes with `portcullis routes` and what \
             that route says of hosts, paths and methods."
        }
        Remedy::SignIn => {
            "Nothing, if the session is over. If many are refused so at once, see whether cookies are named and scoped as \
             `credentials` says, and whether they are of this project."
        }
        Remedy::OtherCredential => {
            "See which kinds of credential the route takes, and which the caller shows."
        }
        Remedy::StepUp => {
            "Nothing: proving the factor is up to the caller. If they cannot, see whether the organization allows that factor."
        }
        Remedy::AskForAccess => {
            "Give the member the role or permission, or change what the route requires. A role given just now counts once \
             the member's sessions are asked for again."
        }
        _ => {
            "See the findings on the status page, and the operation's row under Session API: the caller can do nothing but \
             wait."
        }
    }
}

fn chart(steps: &[Step]) -> Option<Chart> {
    let last = steps.last()?;
    let total = |step: &Step| step.allowed + step.refused + step.unavailable;
    let highest = steps.iter().map(total).fold(0.0, f64::max);
    let scale = if highest > 0.0 { HEIGHT / highest } else { 0.0 };
    #[expect(clippy::cast_precision_loss, reason = "there are sixty steps")]
    let count = steps.len() as f64;
    let at = |index: usize| index as f64;
    let width = WIDTH / count.max(1.0);
    // Steps, not slopes: each is the mean of its five seconds.
    let area = |low: &dyn Fn(&Step) -> f64, high: &dyn Fn(&Step) -> f64| {
        let mut path = String::new();
        for (index, step) in steps.iter().enumerate() {
            let bottom = HEIGHT - low(step) * scale;
            let top = HEIGHT - high(step) * scale;
            if bottom - top < 0.05 {
                continue;
            }
            let left = at(index) * width;
            let right = at(index + 1) * width;
            path.push_str(&format!("M{left:.1} {bottom:.1}V{top:.1}H{right:.1}V{bottom:.1}Z"));
        }
        path
    };
    Some(Chart {
        allowed: area(&|_| 0.0, &|step| step.allowed),
        refused: area(&|step| step.allowed, &|step| step.allowed + step.refused),
        unavailable: area(&|step| step.allowed + step.refused, &total),
        highest,
        since: span(count * 5.0),
        told: format!(
            "Now {} allowed, {} refused, {} refused for trouble; at most {} in all in the last {}",
            rate(last.allowed),
            rate(last.refused),
            rate(last.unavailable),
            rate(highest),
            span(count * 5.0),
        ),
    })
}

/// What the lookups came to, in parts of one bar.
fn bar(status: &Status) -> Option<Bar> {
    let all: f64 = status.sessions.lookups.values().sum();
    if all <= 0.0 {
        return None;
    }
    let mut x = 0.0;
    let mut parts = Vec::new();
    for (name, rate) in &status.sessions.lookups {
        let width = 1000.0 * rate / all;
        if width < 0.5 {
            continue;
        }
        let kind = match name.as_str() {
            "hit" => "hit",
            "stale" | "stale_error" | "jwt_evidence" => "stale",
            "error" => "error",
            _ => "other",
        };
        parts.push(Part { name: name.replace('_', " "), kind, rate: *rate, x, width });
        x += width;
    }
    let told = parts.iter().map(|part| format!("{} {}", part.name, rate(part.rate)));
    Some(Bar { told: format!("Session lookups: {}", told.collect::<Vec<_>>().join(", ")), parts })
}

fn rate(rate: f64) -> String {
    match rate {
        rate if rate <= 0.0 => "0/s".to_owned(),
        rate if rate < 0.1 => "< 0.1/s".to_owned(),
        rate if rate < 100.0 => format!("{rate:.1}/s"),
        rate => format!("{}/s", count(rate)),
    }
}

/// A number with its thousands apart.
fn count(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    groups.join("\u{202f}")
}

fn share(share: Option<f64>) -> String {
    share.map_or_else(|| "–".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

fn bytes(bytes: f64) -> String {
    match bytes {
        bytes if bytes >= 1024.0 * 1024.0 => format!("{:.1} MiB", bytes / 1024.0 / 1024.0),
        bytes if bytes >= 1024.0 => format!("{:.1} KiB", bytes / 1024.0),
        bytes => format!("{bytes:.0} B"),
    }
}

fn seconds(seconds: Option<f64>) -> String {
    match seconds {
        None => "–".to_owned(),
        Some(seconds) if seconds < 0.001 => format!("{:.0} µs", seconds * 1e6),
        Some(seconds) if seconds < 0.1 => format!("{:.1} ms", seconds * 1e3),
        Some(seconds) if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        Some(seconds) if seconds < 60.0 => format!("{seconds:.1} s"),
        Some(seconds) => span(seconds),
    }
}

/// A length of time, in its two largest units.
fn span(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "no process runs for as long as that")]
    let whole = seconds.max(0.0) as i64;
    let days = whole / 86_400;
    let hours = whole / 3_600 % 24;
    let minutes = whole / 60 % 60;
    let rest = whole % 60;
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest} s"),
        (0, 0, _) => format!("{minutes} min {rest} s"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

fn parse(text: Option<String>) -> Option<Timestamp> {
    text?.parse().ok()
}

fn ago(at: Option<String>) -> String {
    let Some(at) = parse(at) else { return "never".to_owned() };
    format!("{} ago", span(Timestamp::now().duration_since(at).as_secs_f64()))
}

fn clock(at: Option<String>) -> String {
    let at = parse(at).map(|at| at.round(Unit::Second).unwrap_or(at));
    at.map_or_else(|| "–".to_owned(), |at| at.to_string().replace('T', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pasted_into_a_shell_is_one_word_each() {
        let refusal = RefusalRecord {
            at: Timestamp::UNIX_EPOCH,
            request_id: String::new(),
            route: String::new(),
            method: "`reboot`".to_owned(),
            host: "a".to_owned(),
            path: "/x'&curl$IFS'evil.example".to_owned(),
            reason: "credential_missing",
            from: None,
            organization: None,
            member: None,
            evidence_age: None,
        };
        let said = std::process::Command::new("sh")
            .args(["-c", &format!("set -- {}; printf '%s\n' \"$@\"", command(&refusal, "it's.yaml"))])
            .output()
            .unwrap();
        let words = String::from_utf8(said.stdout).unwrap();
        let words: Vec<&str> = words.lines().collect();
        assert_eq!(words[3], "it's.yaml");
        assert_eq!(words[5], "`reboot`");
        assert_eq!(words[7], "https://a/x'&curl$IFS'evil.example");
        assert_eq!(words.len(), 10);
    }
}
