//! `portcullis inject`: the sidecar put into manifests, for those who keep none of ours.
//!
//! Must not change what it does not know, nor leave a pod that cannot start.

use std::io::Read as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};

use super::{Failed, Outcome, complain, fail, say};

/// The container's name, by which it is known again.
const SIDECAR: &str = "portcullis";
/// How long the application goes on while endpoints forget the pod.
const APPLICATION_SECONDS: u64 = 12;
/// That, what is under way, and some slack.
const GRACE_SECONDS: u64 = 45;
/// Where probes are passed on.
const OPS_PORT: u64 = 9180;

#[derive(Args)]
pub(super) struct InjectArgs {
    /// The manifest, of one or more resources; `-` is standard input.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// The image of the sidecar.
    #[arg(long, default_value = concat!("portcullis:", env!("CARGO_PKG_VERSION")))]
    image: String,
    /// The ConfigMap with `portcullis.yaml`.
    #[arg(long, default_value = "portcullis")]
    config_map: String,
    /// The Secret that is mounted at /etc/portcullis/secrets.
    #[arg(long, default_value = "portcullis")]
    secret: String,
    /// The port the sidecar listens on.
    #[arg(long, default_value_t = 8080)]
    port: u16,
}

pub(super) fn run(args: &InjectArgs) -> Outcome {
    let text = read(args)?;
    // As kubectl reads it: modes are written in octal.
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let resources: Vec<Value> = serde_saphyr::from_multiple_with_options(&text, options)
        .map_err(|error| fail(format!("`{}` is not a manifest: {error}", args.file.display())))?;
    let mut injected = 0;
    let mut documents = Vec::new();
    for mut resource in resources {
        if resource.is_null() {
            continue;
        }
        injected += usize::from(inject(&mut resource, args)?);
        warn_of_service(&resource, args);
        documents.push(serde_saphyr::to_string(&resource).map_err(fail)?);
    }
    if injected == 0 {
        return Err(fail("there is no Deployment, StatefulSet, DaemonSet or Pod to put a sidecar into"));
    }
    say(documents.iter().map(|document| document.trim_end()).collect::<Vec<_>>().join("\n---\n").as_str());
    Ok(())
}

fn read(args: &InjectArgs) -> Result<String, Failed> {
    let mut text = String::new();
    let read = if args.file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(&args.file).map(|read| text = read)
    };
    read.map_err(|error| fail(format!("`{}` cannot be read: {error}", args.file.display())))?;
    Ok(text)
}

/// True if a sidecar was put in, or was there.
fn inject(resource: &mut Value, args: &InjectArgs) -> Result<bool, Failed> {
    let kind = resource.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    let name = resource.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("?").to_owned();
    let place = match kind.as_str() {
        "Pod" => "/spec",
        "Deployment" | "StatefulSet" | "DaemonSet" => "/spec/template/spec",
        _ => return Ok(false),
    };
    let Some(spec) = resource.pointer_mut(place).and_then(Value::as_object_mut) else { return Ok(false) };
    let is_there = |list: &str| {
        let containers = spec.get(list).and_then(Value::as_array);
        containers.is_some_and(|all| all.iter().any(|one| one.get("name") == Some(&json!(SIDECAR))))
    };
    if is_there("initContainers") || is_there("containers") {
        complain(&format!("note: {kind} `{name}` has a sidecar and is left as it is"));
        return Ok(true);
    }
    for taken in ports_of(spec) {
        if taken == u64::from(args.port) || taken == OPS_PORT {
            let why = format!("{kind} `{name}` uses port {taken} itself, which the sidecar would listen on");
            return Err(fail(format!("{why}; see `--port`, or have the application use another")));
        }
    }
    let mut probes = Vec::new();
    for container in spec.get_mut("containers").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(container) = container.as_object_mut() {
            stay_for_a_while(container);
            ask_through_us(container, &mut probes, &format!("{kind} `{name}`"));
        }
    }
    add(spec, "initContainers", true, [sidecar(args)]);
    let volumes = [
        json!({ "name": "portcullis-config", "configMap": { "name": args.config_map } }),
        json!({ "name": "portcullis-secrets", "secret": { "secretName": args.secret, "defaultMode": 0o440 } }),
    ];
    add(spec, "volumes", false, volumes);
    let grace = spec.get("terminationGracePeriodSeconds").and_then(Value::as_u64).unwrap_or_default();
    spec.insert("terminationGracePeriodSeconds".to_owned(), json!(grace.max(GRACE_SECONDS)));
    let security = spec.entry("securityContext").or_insert_with(|| json!({}));
    if let Some(security) = security.as_object_mut() {
        // So that the sidecar can read the secrets.
        security.entry("fsGroup").or_insert_with(|| json!(65532));
    }
    advise(&kind, &name, args, &probes);
    Ok(true)
}

/// The ports the application's containers say they use.
fn ports_of(spec: &Map<String, Value>) -> Vec<u64> {
    let containers = spec.get("containers").and_then(Value::as_array).into_iter().flatten();
    let ports = containers.filter_map(|one| one.get("ports")?.as_array()).flatten();
    ports.filter_map(|port| port.get("containerPort")?.as_u64()).collect()
}

/// A Service that goes on sending to the application goes past the sidecar.
fn warn_of_service(resource: &Value, args: &InjectArgs) {
    if resource.get("kind").and_then(Value::as_str) != Some("Service") {
        return;
    }
    let name = resource.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("?");
    let ports = resource.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
    for port in ports {
        let target = port.get("targetPort").or_else(|| port.get("port"));
        if target.and_then(Value::as_u64) != Some(u64::from(args.port)) {
            let target = target.map_or_else(String::new, ToString::to_string);
            complain(&format!(
                "warning: Service `{name}` sends to {target}: past the sidecar, if that is this application; it must be {}",
                args.port
            ));
        }
    }
}

/// What is left for people to do.
fn advise(kind: &str, name: &str, args: &InjectArgs, probes: &[Asked]) {
    complain(&format!(
        "note: {kind} `{name}`: have the application listen on 127.0.0.1, so that there is one way in"
    ));
    complain(&format!("note: a Service in front of it must send to port {} from now on", args.port));
    if !probes.is_empty() {
        complain("note: its probes are asked through the sidecar; the configuration needs");
        complain("  ops:\n    address: 0.0.0.0:9180\n    probes:");
        for Asked { name, path, port } in probes {
            complain(&format!("      {name}: {{ path: {path} }}    # of the upstream on port {port}"));
        }
    }
}

/// The application answers while endpoints forget the pod; without, the sidecar would answer 502 meanwhile.
fn stay_for_a_while(container: &mut Map<String, Value>) {
    let lifecycle = container.entry("lifecycle").or_insert_with(|| json!({}));
    if let Some(lifecycle) = lifecycle.as_object_mut() {
        lifecycle.entry("preStop").or_insert_with(|| json!({ "sleep": { "seconds": APPLICATION_SECONDS } }));
    }
}

/// A probe that goes through the sidecar.
struct Asked {
    name: String,
    path: String,
    port: String,
}

/// Probes by plain HTTP go through the sidecar: the kubelet cannot reach loopback. Others are left, and told of.
fn ask_through_us(container: &mut Map<String, Value>, probes: &mut Vec<Asked>, whose: &str) {
    let name = container.get("name").and_then(Value::as_str).unwrap_or("app").to_owned();
    for kind in ["startup", "readiness", "liveness"] {
        let Some(probe) = container.get_mut(&format!("{kind}Probe")).and_then(Value::as_object_mut) else {
            continue;
        };
        let text = |asked: &Value, key: &str| match asked.get(key) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        };
        let plain = probe.get("httpGet").filter(|asked| {
            text(asked, "scheme") != "HTTPS"
                && asked.get("httpHeaders").is_none()
                && asked.get("host").is_none()
        });
        let Some(asked) = plain else {
            if !probe.contains_key("exec") {
                complain(&format!(
                    "warning: {whose}: the {kind} probe of `{name}` cannot go through the sidecar, and fails once the application listens on 127.0.0.1"
                ));
            }
            continue;
        };
        let path =
            Some(text(asked, "path")).filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned());
        let port = text(asked, "port");
        let same = probes.iter().find(|known| known.path == path && known.port == port);
        let probe_name = same.map(|known| known.name.clone()).unwrap_or_else(|| {
            let made = format!("{name}-{kind}");
            probes.push(Asked { name: made.clone(), path, port });
            made
        });
        probe.insert(
            "httpGet".to_owned(),
            json!({ "path": format!("/probe/{probe_name}"), "port": OPS_PORT }),
        );
    }
}

/// Adds to a list of the pod, made if it is not there.
fn add(spec: &mut Map<String, Value>, name: &str, first: bool, more: impl IntoIterator<Item = Value>) {
    let known = match spec.remove(name) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let more = more.into_iter();
    let list = if first { more.chain(known).collect() } else { known.into_iter().chain(more).collect() };
    spec.insert(name.to_owned(), Value::Array(list));
}

fn sidecar(args: &InjectArgs) -> Value {
    let file = "/etc/portcullis/config/portcullis.yaml";
    json!({
        "name": SIDECAR,
        "image": args.image,
        "restartPolicy": "Always",
        "args": ["run", "-c", file],
        "ports": [
            { "name": "portcullis", "containerPort": args.port },
            { "name": "portcullis-ops", "containerPort": OPS_PORT },
        ],
        "startupProbe": { "httpGet": { "path": "/startupz", "port": OPS_PORT }, "periodSeconds": 1, "failureThreshold": 60 },
        "readinessProbe": { "httpGet": { "path": "/readyz", "port": OPS_PORT }, "periodSeconds": 5 },
        "livenessProbe": { "httpGet": { "path": "/livez", "port": OPS_PORT }, "periodSeconds": 10 },
        // It says that the pod leaves, and does not end the process, which would be started again.
        "lifecycle": { "preStop": { "exec": { "command": [
            "/usr/local/bin/portcullis", "drain", format!("--config={file}"), "--delay=8", "--timeout=10",
        ] } } },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": { "requests": { "cpu": "50m", "memory": "64Mi" }, "limits": { "memory": "256Mi" } },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "capabilities": { "drop": ["ALL"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "volumeMounts": [
            { "name": "portcullis-config", "mountPath": "/etc/portcullis/config", "readOnly": true },
            { "name": "portcullis-secrets", "mountPath": "/etc/portcullis/secrets", "readOnly": true },
        ],
    })
}
