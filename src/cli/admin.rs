//! `portcullis status`, `reload` and `drain`: a running gateway asked by its admin listener.
//!
//! Must not print the token, nor send it anywhere but to that listener.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use super::{ConfigArgs, Failed, Outcome, complain, fail, say};
use crate::config::{AdminPart, SecretPolicy, load_admin};
use crate::identity::Secret;

/// Which gateway.
#[derive(Args)]
pub(super) struct AdminArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The admin listener, where it is not the one the configuration names.
    #[arg(long, env = "PORTCULLIS_ADMIN_ADDRESS")]
    address: Option<SocketAddr>,
}

#[derive(Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// All of it, as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct DrainArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// How long requests may still come, in seconds; `drain_delay` if nothing is said.
    #[arg(long)]
    delay: Option<u64>,
    /// How long those under way are waited for after that, in seconds; `drain_timeout` if nothing is said.
    #[arg(long)]
    timeout: Option<u64>,
}

/// A running gateway and what opens it.
struct Admin {
    address: SocketAddr,
    token: Option<Secret>,
}

impl AdminArgs {
    /// A mistake elsewhere in the file must not keep anybody from asking the gateway that runs without it.
    fn find(&self) -> Result<(Admin, AdminPart), Failed> {
        let usual = SocketAddr::from(([127, 0, 0, 1], 9181));
        let part = load_admin(&self.config.options(SecretPolicy::NotNeeded));
        let is_readable = part.is_some();
        let part = part.unwrap_or_else(|| {
            complain("note: the configuration cannot be read; the usual address is asked");
            AdminPart { admin: None, drain_delay: Duration::ZERO, drain_timeout: Duration::from_secs(30) }
        });
        let named = self.address.or_else(|| part.admin.as_ref().map(|settings| settings.address));
        let Some(address) = named.or_else(|| (!is_readable).then_some(usual)) else {
            let what =
                "the configuration has no `admin` listener; add `admin: {}`, and a token to change things";
            return Err(fail(what));
        };
        let given = std::env::var("PORTCULLIS_ADMIN_TOKEN").ok().map(Secret::new);
        let token = part.admin.as_ref().and_then(|settings| settings.token.clone());
        Ok((Admin { address, token: given.or(token) }, part))
    }
}

impl Admin {
    /// What is answered, if it is an answer of an admin listener.
    fn ask(&self, method: &str, path: &str, patience: Duration) -> Result<Value, Failed> {
        let told = |error: std::io::Error| fail(format!("no answer from `{}`: {error}", self.address));
        let mut stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(2)).map_err(told)?;
        stream.set_read_timeout(Some(patience)).map_err(told)?;
        let authorization = self
            .token
            .as_ref()
            .map_or_else(String::new, |token| format!("Authorization: Bearer {}\r\n", token.expose()));
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{authorization}Content-Length: 0\r\nConnection: close\r\n\r\n",
            self.address
        )
        .map_err(told)?;
        let mut answer = String::new();
        stream.take(16 * 1024 * 1024).read_to_string(&mut answer).map_err(told)?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status: u16 = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        // Whole: the gateway tells how long it is, and chunks nothing this small.
        let body: Option<Value> = serde_json::from_str(body).ok();
        match body {
            // A change that is not in force is an answer as well.
            Some(body) if status == 200 || body.get("result").is_some() => Ok(body),
            Some(body) if body.get("error").is_some_and(Value::is_string) => {
                Err(fail(body.get("error").and_then(Value::as_str).unwrap_or_default()))
            }
            _ => Err(fail(format!("`{}` is no admin listener: it answers {status}", self.address))),
        }
    }

    /// What stands at `pointer` of an answer; an answer without it is none.
    fn part<T>(
        &self,
        answer: &Value,
        pointer: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<T, Failed> {
        let part = answer.pointer(pointer).and_then(read);
        part.ok_or_else(|| fail(format!("`{}` answers without `{pointer}`", self.address)))
    }
}

pub(super) fn reload(args: &AdminArgs) -> Outcome {
    let (admin, _) = args.find()?;
    let change = admin.ask("POST", "/admin/reload", Duration::from_secs(30))?;
    let result = admin.part(&change, "/result", |result| result.as_str().map(str::to_owned))?;
    match change.get("error").and_then(Value::as_str) {
        None => {
            say(&result);
            Ok(())
        }
        Some(error) => {
            complain(error);
            Err(fail(format!("{result}: what was in force before still is")))
        }
    }
}

/// Exit code 0 if nothing was under way any more at the end.
pub(super) fn drain(args: &DrainArgs) -> Outcome {
    let (admin, part) = args.admin.find()?;
    let told = admin.ask("POST", "/admin/drain", Duration::from_secs(5))?;
    admin.part(&told, "/leaving", Value::as_bool)?;
    say("leaving is announced: not ready any more");
    let delay = args.delay.map_or(part.drain_delay, Duration::from_secs);
    let timeout = args.timeout.map_or(part.drain_timeout, Duration::from_secs);
    pause(delay);
    let until = Instant::now() + timeout;
    loop {
        let status = admin.ask("GET", "/admin/status", Duration::from_secs(5))?;
        let requests = admin.part(&status, "/traffic/in_flight", Value::as_f64)?;
        let in_flight = requests.max(admin.part(&status, "/traffic/streams_open", Value::as_f64)?);
        if in_flight < 1.0 {
            say("nothing is under way");
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(fail(format!("{in_flight} requests and streams are still under way")));
        }
        pause(Duration::from_millis(200));
    }
}

#[expect(clippy::disallowed_methods, reason = "a command of one thread, which serves nobody")]
fn pause(length: Duration) {
    std::thread::sleep(length);
}

/// Exit code 1 unless it is healthy.
pub(super) fn status(args: &StatusArgs) -> Outcome {
    let (admin, _) = args.admin.find()?;
    let status = admin.ask("GET", "/admin/status", Duration::from_secs(5))?;
    admin.part(&status, "/verdict", |verdict| verdict.as_str().map(drop))?;
    if args.json {
        say(&serde_json::to_string_pretty(&status).map_err(fail)?);
    } else {
        tell(&status);
    }
    let healthy = status.get("verdict").and_then(Value::as_str) == Some("healthy");
    if healthy { Ok(()) } else { Err(Failed) }
}

fn tell(status: &Value) {
    let text = |pointer: &str| status.pointer(pointer).and_then(Value::as_str).unwrap_or("–").to_owned();
    let number = |value: &Value, name: &str| value.get(name).and_then(Value::as_f64);
    say(&format!("{}  (portcullis {}, since {})", text("/verdict"), text("/version"), text("/started_at")));
    for finding in list(status, "findings") {
        let part = |name: &str| finding.get(name).and_then(Value::as_str).unwrap_or_default();
        let since = match part("since") {
            "" => String::new(),
            since => format!(" (since {since})"),
        };
        say(&format!("  {}: {}{since}\n            {}", part("severity"), part("what"), part("hint")));
    }
    let of = |pointer: &str| status.pointer(pointer).and_then(Value::as_f64).unwrap_or_default();
    say(&format!(
        "\ndecisions  {:.1}/s allowed, {:.1}/s refused; {:.0} in flight, {:.0} connections, {:.0} streams",
        of("/traffic/allowed_per_second"),
        of("/traffic/refused_per_second"),
        of("/traffic/in_flight"),
        of("/traffic/connections_open"),
        of("/traffic/streams_open"),
    ));
    let served = status.pointer("/sessions/served").and_then(Value::as_f64);
    say(&format!(
        "cache      {:.0} members, {:.1} MiB, {} served without a wait",
        of("/sessions/entries"),
        of("/sessions/bytes") / 1024.0 / 1024.0,
        served.map_or_else(|| "–".to_owned(), |served| format!("{:.1} %", served * 100.0)),
    ));
    let checksum = text("/configuration/checksum");
    say(&format!(
        "config     {} ({}), in force since {}",
        text("/configuration/source"),
        checksum.get(..12).unwrap_or(&checksum),
        text("/configuration/in_force_since"),
    ));
    let mut rows = vec![["ROUTE", "REQUESTS", "REFUSED", "P50", "P99"].map(str::to_owned)];
    let rate = |value: &Value, name: &str| format!("{:.1}/s", number(value, name).unwrap_or_default());
    let time = |value: &Value, name: &str| {
        number(value, name).map_or_else(|| "–".to_owned(), |seconds| format!("{:.1} ms", seconds * 1e3))
    };
    for route in list(status, "routes") {
        let name = route.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let refused = rate(route, "refused_per_second");
        rows.push([name, rate(route, "per_second"), refused, time(route, "p50"), time(route, "p99")]);
    }
    say("");
    table(&rows);
    let mut rows = vec![["SESSION API", "BREAKER", "CALLS", "FAILED", "P99"].map(str::to_owned)];
    for one in list(status, "directory") {
        let part = |name: &str| one.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let failed = rate(one, "failed_per_second");
        rows.push([part("operation"), part("breaker"), rate(one, "per_second"), failed, time(one, "p99")]);
    }
    say("");
    table(&rows);
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn table<const N: usize>(rows: &[[String; N]]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        say(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
