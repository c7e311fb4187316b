//! `portcullis demo`: everything in one process, to be tried with curl.
//!
//! Must not take real credentials or listen anywhere but on loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::{Ending, Failed, Outcome, fail, runtime, say};
use crate::app::Gateway;
use crate::config::{LoadOptions, SecretPolicy, load};
use crate::emulator::{EchoOrigin, Emulator, EmulatorSettings, Persona};
use crate::telemetry::{LogSettings, RequestId, init_log};

#[derive(Args)]
pub(super) struct DemoArgs {
    /// Write addresses and tokens as shell variables into this file.
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    /// The gateway's port on loopback; 0 takes any.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// The port of metrics and probes; 0 takes any.
    #[arg(long, default_value_t = 9180)]
    ops_port: u16,
    /// The port of the status page and the admin API; 0 takes any.
    #[arg(long, default_value_t = 9181)]
    admin_port: u16,
    /// The port of the API stand-in; 0 takes any.
    #[arg(long, default_value_t = 9182)]
    emulator_port: u16,
    /// Show access lines and decision records.
    #[arg(long)]
    access_log: bool,
}

/// The demo's configuration; addresses and credentials are filled in when it runs.
const CONFIGURATION: &str = include_str!("demo.yaml");

pub(super) fn run(args: DemoArgs) -> Outcome {
    init_log(&LogSettings { filter: "warn".to_owned(), json: false, access: None, audit: None });
    runtime()?.block_on(async {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let settings = EmulatorSettings { address: loopback(args.emulator_port), seed: None };
        let taken =
            |error| fail(format!("the stand-in cannot listen on port {}: {error}", args.emulator_port));
        let emulator = Emulator::start(settings).await.map_err(taken)?;
        let echo = EchoOrigin::start(loopback(0)).await.map_err(fail)?;
        let admin_token = format!("{}{}", RequestId::new().as_str(), RequestId::new().as_str());
        let config = configuration(&args, &emulator, &echo, &admin_token)?;
        let gateway = Gateway::start(config, std::io::stdout()).await.map_err(fail)?;
        if !gateway.ready(Duration::from_secs(10)).await {
            return Err(fail("the gateway did not become ready"));
        }
        let places = Places::of(&gateway, &emulator);
        if let Some(file) = &args.export {
            export(file, &places, &emulator, &admin_token)?;
        }
        introduce(&places, &emulator, args.export.as_deref());
        Ending::new().told().await;
        gateway.shut_down().await;
        Ok(())
    })
}

fn configuration(
    args: &DemoArgs,
    emulator: &Emulator,
    echo: &EchoOrigin,
    admin_token: &str,
) -> Result<crate::config::Config, Failed> {
    let folder = std::env::temp_dir().join(format!("portcullis-demo-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(fail)?;
    let file = folder.join("demo.yaml");
    std::fs::write(&file, CONFIGURATION).map_err(fail)?;
    let set = |key: &str, value: String| (key.to_owned(), value);
    let overrides = vec![
        set("stytch.project_id", emulator.project_id()),
        set("stytch.secret.value", emulator.secret()),
        set("stytch.base_url", emulator.url()),
        set("upstreams.echo.url", format!("http://{}", echo.address())),
        set("ops.address", format!("127.0.0.1:{}", args.ops_port)),
        set("admin.address", format!("127.0.0.1:{}", args.admin_port)),
        set("admin.token.value", admin_token.to_owned()),
        set("log.access", args.access_log.to_string()),
    ];
    let loaded = load(&LoadOptions { file, overrides, secrets: SecretPolicy::Required });
    drop(std::fs::remove_dir_all(&folder));
    let mut config = loaded.map_err(|invalid| fail(invalid.render(false)))?;
    for listener in &mut config.listeners {
        listener.address.set_port(args.port);
    }
    Ok(config)
}

struct Places {
    gateway: String,
    ops: String,
    admin: String,
    emulator: String,
}

impl Places {
    fn of(gateway: &Gateway, emulator: &Emulator) -> Self {
        let traffic = gateway.traffic().first().map(|(address, _)| address.to_string()).unwrap_or_default();
        Self {
            gateway: format!("http://{traffic}"),
            ops: format!("http://{}", gateway.ops()),
            admin: gateway.admin().map(|admin| format!("http://{admin}")).unwrap_or_default(),
            emulator: emulator.url(),
        }
    }
}

/// Shell variables: `. FILE` and use them.
fn export(file: &Path, places: &Places, emulator: &Emulator, admin_token: &str) -> Outcome {
    let mut lines = vec![
        format!("GATEWAY_URL={}", places.gateway),
        format!("OPS_URL={}", places.ops),
        format!("ADMIN_URL={}", places.admin),
        format!("ADMIN_TOKEN={admin_token}"),
        format!("EMULATOR_URL={}", places.emulator),
        format!("PROJECT_ID={}", emulator.project_id()),
        format!("PROJECT_SECRET={}", emulator.secret()),
    ];
    for Persona { name, session_id, token, jwt, .. } in emulator.personas() {
        lines.push(format!("JWT_{name}={jwt}"));
        lines.push(format!("TOKEN_{name}={token}"));
        lines.push(format!("SESSION_{name}={session_id}"));
    }
    // Written beside and renamed, so that whoever waits for the file finds it whole.
    let beside = file.with_extension("partial");
    std::fs::write(&beside, lines.join("\n") + "\n")
        .and_then(|()| std::fs::rename(&beside, file))
        .map_err(|error| fail(format!("`{}` cannot be written: {error}", file.display())))
}

fn introduce(places: &Places, emulator: &Emulator, exported: Option<&Path>) {
    let personas = emulator.personas();
    let find = |name: &str| personas.iter().find(|persona| persona.name == name);
    let token = |name: &str| find(name).map(|persona| persona.token.clone()).unwrap_or_default();
    let session = |name: &str| find(name).map(|persona| persona.session_id.clone()).unwrap_or_default();
    let gateway = &places.gateway;
    let api = &places.emulator;
    say(&format!("Portcullis demo: gateway {gateway}   metrics {}/metrics   API stand-in {api}", places.ops));
    say(&format!("Status page: {}/", places.admin));
    say("Everything is on loopback and made up; nothing here is a real credential.\n");
    let show = |what: &str, command: String| say(&format!("# {what}\n{command}\n"));
    show(
        "allowed: the echo origin shows the identity headers it received",
        format!("curl -s {gateway}/ -b stytch_session={}", token("VIEWER")),
    );
    show("401: no credential", format!("curl -i {gateway}/"));
    show(
        "403: the viewer lacks the role of /admin",
        format!("curl -i {gateway}/admin -b stytch_session={}", token("VIEWER")),
    );
    show(
        "allowed: the administrator has it, and a fresh second factor",
        format!("curl -s {gateway}/admin -H 'Authorization: Bearer {}'", token("ADMIN")),
    );
    show(
        "401 step-up: right role, but the second factor was proven three hours ago",
        format!("curl -i {gateway}/admin -b stytch_session={}", token("STALE_FACTOR")),
    );
    show(
        "403: the viewer's roles do not grant writing reports (RBAC); the administrator's would",
        format!("curl -i {gateway}/publish -b stytch_session={}", token("VIEWER")),
    );
    show(
        "403: the path names another organization than the session's; /tenants/acme would do",
        format!("curl -i {gateway}/tenants/globex/ -b stytch_session={}", token("ADMIN")),
    );
    show(
        "allowed: a machine with the scope, told apart from people in x-auth-kind",
        format!(
            "curl -s {gateway}/ingest -H \"Authorization: Bearer $(curl -s -X POST {api}/_emulator/machine-token -d '{{}}' | \
             sed 's/.*\"access_token\": *\"\\([^\"]*\\)\".*/\\1/')\""
        ),
    );
    show(
        "the keys of x-auth-assertion, which the echo origin received with the requests above",
        format!("curl -s {gateway}/.portcullis/jwks.json"),
    );
    show(
        "revoke the viewer's session at the API, then ask again: refused within 5 s on /reports (max_staleness: 5s)",
        format!(
            "curl -s {gateway}/reports -b stytch_session={token} | head -3\n\
             curl -s -X DELETE {api}/_emulator/sessions/{session}\n\
             sleep 5; curl -i {gateway}/reports -b stytch_session={token}",
            token = token("VIEWER"),
            session = session("VIEWER"),
        ),
    );
    show(
        "who am I: what is known about the caller, as JSON",
        format!("curl -s {gateway}/.portcullis/whoami -b stytch_session={}", token("STALE_FACTOR")),
    );
    show(
        "sign out: ended at the API and refused here at once, JWT and token alike",
        format!(
            "curl -s -o /dev/null -w '%{{http_code}}\\n' -X POST {gateway}/.portcullis/sign-out -H 'Authorization: Bearer {token}'\n\
             curl -i {gateway}/ -b stytch_session={token}",
            token = token("STALE_FACTOR"),
        ),
    );
    match exported {
        Some(file) => {
            say(&format!("variables for scripts are in {} (JWTs live for five minutes)", file.display()));
        }
        None => say("`--export FILE` writes addresses, tokens and JWTs as shell variables"),
    }
    say("Ctrl-C ends it.");
}
