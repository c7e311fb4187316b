//! Traces as a collector receives them over OTLP.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::net::TcpListener;

use crate::support::{ANY, Ask, Redis, Running, World, config_for, eventually, free_port, try_ask};

/// A collector, and what it was posted.
struct Collector {
    address: SocketAddr,
    posted: Arc<Mutex<Vec<(http::request::Parts, Bytes)>>>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind(ANY).await.unwrap();
        let address = listener.local_addr().unwrap();
        let posted = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&posted);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                let take = service_fn(move |request: http::Request<Incoming>| {
                    let kept = Arc::clone(&kept);
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        kept.lock().unwrap().push((head, body));
                        Ok::<_, Infallible>(http::Response::new(Full::<Bytes>::default()))
                    }
                });
                let serving = hyper::server::conn::http1::Builder::new();
                tokio::spawn(serving.serve_connection(TokioIo::new(stream), take));
            }
        });
        Self { address, posted }
    }

    fn batches(&self) -> Vec<ExportTraceServiceRequest> {
        let posted = self.posted.lock().unwrap();
        posted.iter().map(|(_, body)| ExportTraceServiceRequest::decode(body.clone()).unwrap()).collect()
    }

    fn spans(&self) -> Vec<Span> {
        let resources = self.batches().into_iter().flat_map(|batch| batch.resource_spans);
        resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }

    /// The spans of one trace by name, once the whole of the request is among them.
    async fn trace(&self, trace_id: &str) -> HashMap<String, Span> {
        eventually(|| {
            let spans = self.spans().into_iter().filter(|span| hex(&span.trace_id) == trace_id);
            let spans: HashMap<String, Span> = spans.map(|span| (span.name.clone(), span)).collect();
            let whole = spans.values().any(|span| span.kind == SERVER);
            whole.then_some(spans)
        })
        .await
    }
}

const INTERNAL: i32 = 1;
const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const ERROR: i32 = 2;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What an attribute says, as text.
fn said(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    Some(match found.value.clone()?.value? {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}

const ROUTES: &str = "
listeners: [ { address: \"127.0.0.1:0\", name: front, forwarded: { from: [127.0.0.0/8] } } ]
routes:
  - { name: public, match: { path: /public/** }, public: true }
  - { name: admin, match: { path: /admin/** }, require: { role: stytch_admin } }
  - { name: everything, match: { path: /** }, require: authenticated }
";

async fn traced(more: &str, collector: &Collector) -> World {
    let endpoint = format!("http://{}", collector.address);
    let yaml = format!("{ROUTES}\ntracing: {{ {more} }}\n");
    World::with(&yaml, &[("tracing.endpoint", &endpoint)]).await
}

#[tokio::test]
async fn a_cold_an_allowed_and_a_refused_request_are_traces_of_their_own() {
    let collector = Collector::start().await;
    let more = "service_name: edge, attributes: { deployment.environment.name: test }, \
                headers: { x-key: { value: collector-key } }";
    let world = traced(more, &collector).await;
    let jwt = world.aged_jwt(&world.persona("VIEWER").session_id).await;
    let ask = |path: &str| Ask::get(path).bearer(&jwt);

    let cold = world.send(ask("/people/jane?token=hush")).await;
    assert_eq!(cold.status, 200);
    let trace = collector.trace(cold.header("x-request-id")).await;
    let (server, authorize) = (&trace["GET everything"], &trace["authorize"]);
    let (directory, origin) = (&trace["directory"], &trace["origin"]);
    assert_eq!(
        (server.kind, authorize.kind, directory.kind, origin.kind),
        (SERVER, INTERNAL, CLIENT, CLIENT)
    );
    assert!(server.parent_span_id.is_empty());
    assert_eq!(authorize.parent_span_id, server.span_id);
    assert_eq!(directory.parent_span_id, authorize.span_id, "the look-up is part of the decision");
    assert_eq!(origin.parent_span_id, server.span_id);
    let sent = cold.seen("traceparent").unwrap();
    assert_eq!(sent, format!("00-{}-{}-01", hex(&server.trace_id), hex(&origin.span_id)));
    assert_eq!(said(server, "http.response.status_code").unwrap(), "200");
    assert_eq!(said(server, "http.request.method").unwrap(), "GET");
    assert_eq!(said(server, "portcullis.route").unwrap(), "everything");
    assert_eq!(said(directory, "portcullis.operation").unwrap(), "list");
    assert_eq!(said(authorize, "portcullis.decision").unwrap(), "allow");
    assert_eq!(said(authorize, "portcullis.evidence").unwrap(), "fresh");
    let all = [server, authorize, directory, origin];
    assert!(all.iter().all(|span| span.end_time_unix_nano >= span.start_time_unix_nano));
    assert!(all.iter().all(|span| span.start_time_unix_nano >= server.start_time_unix_nano - 1_000_000));

    let allowed = world.send(ask("/again")).await;
    let trace = collector.trace(allowed.header("x-request-id")).await;
    let mut names: Vec<_> = trace.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["GET everything", "authorize", "origin"], "nobody else was asked");

    let refused = world.send(ask("/admin/x")).await;
    assert_eq!(refused.status, 403);
    let trace = collector.trace(refused.header("x-request-id")).await;
    assert!(!trace.contains_key("origin"));
    assert_eq!(said(&trace["authorize"], "portcullis.reason").unwrap(), "role_missing");
    assert_eq!(said(&trace["GET admin"], "portcullis.reason").unwrap(), "role_missing");
    assert_eq!(trace["GET admin"].status.as_ref().map_or(0, |status| status.code), 0, "as it should be");

    // Who it was, what they asked for and what they showed is nobody's to read there.
    let persona = world.persona("VIEWER");
    for (head, body) in collector.posted.lock().unwrap().iter() {
        assert_eq!(head.uri.path(), "/v1/traces");
        assert_eq!(head.headers["x-key"], "collector-key");
        let text = String::from_utf8_lossy(body);
        let personal = ["jane", "hush", "127.0.0.1", "member-", "session-", &persona.member_id, &jwt];
        assert!(personal.iter().all(|word| !text.contains(word)), "{text}");
    }
    let resource = collector.batches().remove(0).resource_spans.remove(0).resource.unwrap();
    let keys: Vec<_> = resource.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
    assert!(
        ["service.name", "service.version", "deployment.environment.name"]
            .iter()
            .all(|key| keys.contains(key))
    );
    assert!(world.metric("portcullis_spans_total{result=\"exported\"}").await.unwrap() >= 7.0);
}

#[tokio::test]
async fn a_trace_of_a_listed_proxy_is_joined_and_recorded_if_it_says_so() {
    const PARENT: &str = "00f067aa0ba902b7";
    let collector = Collector::start().await;
    let world = traced("sample_ratio: 0", &collector).await;
    let trace = |digit: &str| digit.repeat(32);
    let joining = |trace: &str, flags: &str| {
        Ask::get("/public/x").header("traceparent", &format!("00-{trace}-{PARENT}-{flags}"))
    };
    let silent = world.send(joining(&trace("a"), "00")).await;
    let sent = silent.seen("traceparent").unwrap();
    assert_eq!(sent, format!("00-{}-{PARENT}-00", trace("a")), "a span nobody records is nobody's parent");
    let begun = world.send(Ask::get("/public/x")).await;
    assert!(begun.seen("traceparent").unwrap().ends_with("-00"));
    world.send(joining(&trace("b"), "01")).await;
    let spans = collector.trace(&trace("b")).await;
    assert_eq!(hex(&spans["GET public"].parent_span_id), PARENT);
    assert!(collector.spans().iter().all(|span| hex(&span.trace_id) == trace("b")));
}

#[tokio::test]
async fn redis_has_spans_and_a_dead_origin_is_the_error_of_its_own() {
    let Some(redis) = Redis::start() else { return };
    let collector = Collector::start().await;
    let yaml = format!("{ROUTES}\ntracing: {{ timeout: 5s }}\n");
    let endpoint = format!("http://{}", collector.address);
    let shared = redis.overrides();
    let mut overrides: Vec<_> = shared.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    overrides.push(("tracing.endpoint", &endpoint));
    let world = World::with_origin(&yaml, &overrides, "http://127.0.0.1:1").await;
    let answer = world.get("/x", "VIEWER").await;
    assert_eq!(answer.status, 502);
    let trace = collector.trace(answer.header("x-request-id")).await;
    assert_eq!(said(&trace["origin"], "error.type").unwrap(), "unreachable");
    assert_eq!(said(&trace["GET everything"], "error.type").unwrap(), "origin_unreachable");
    let failed = |span: &Span| span.status.as_ref().is_some_and(|status| status.code == ERROR);
    assert!(failed(&trace["origin"]) && failed(&trace["GET everything"]));
    assert_eq!(said(&trace["redis"], "db.system.name").unwrap(), "redis");
    assert!(!failed(&trace["redis"]));
}

#[tokio::test]
async fn a_collector_that_is_away_costs_spans_and_nothing_else() {
    let world = World::with(
        &format!("{ROUTES}\ntracing: {{ timeout: 200ms }}\n"),
        &[("tracing.endpoint", "http://127.0.0.1:1")],
    )
    .await;
    assert_eq!(world.get("/x", "VIEWER").await.status, 200);
    let began = std::time::Instant::now();
    while world.metric("portcullis_spans_total{result=\"failed\"}").await.unwrap_or_default() < 3.0 {
        assert!(began.elapsed().as_secs() < 20, "the loss was not counted");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(world.get("/x", "VIEWER").await.status, 200);
}

#[tokio::test]
async fn traces_are_turned_on_while_the_gateway_runs() {
    let collector = Collector::start().await;
    let world = World::with(ROUTES, &[]).await;
    world.send(Ask::get("/public/before")).await;
    let yaml = format!("{ROUTES}\ntracing: {{ endpoint: \"http://{}\" }}\n", collector.address);
    let origin = format!("http://{}", world.echo_address());
    let config = config_for(&yaml, &world.emulator, &origin, &[]);
    world.gateway.reload(&config).unwrap();
    let answer = world.send(Ask::get("/public/after")).await;
    collector.trace(answer.header("x-request-id")).await;
    assert!(collector.spans().iter().all(|span| hex(&span.trace_id) == answer.header("x-request-id")));
}

/// The program as it is started beside variables of OpenTelemetry.
fn program(folder: &std::path::Path, yaml: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let file = folder.join("portcullis.yaml");
    std::fs::write(&file, yaml).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(arguments).arg("-c").arg(&file).envs(variables.iter().copied());
    command
}

const STANDING: &str =
    "stytch: { project_id: project-test-1, secret: { value: hush }, base_url: \"http://127.0.0.1:1\" }
upstreams: { app: { url: \"http://127.0.0.1:1\" } }
start_patience: 0s
routes: [ { name: public, match: { path: /** }, public: true } ]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_file_says_of_a_header_goes_before_what_a_variable_says() {
    let collector = Collector::start().await;
    let folder = tempfile::tempdir().unwrap();
    let [traffic, ops] = [(); 2].map(|()| format!("127.0.0.1:{}", free_port()));
    let yaml = format!(
        "{STANDING}listeners: [ {{ address: \"{traffic}\" }} ]
ops: {{ address: \"{ops}\" }}
tracing: {{ endpoint: \"http://{}\", headers: {{ KEY: {{ env: KEY_OF_THE_FILE }} }} }}
",
        collector.address
    );
    let variables = [
        ("KEY_OF_THE_FILE", "from-file"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=from-variable,x-other=kept"),
    ];
    let disabled = Some(("OTEL_SDK_DISABLED", "true"));
    for (name, more, other) in
        [("x-key", None, Some("kept")), ("X-Key", None, Some("kept")), ("x-key", disabled, None)]
    {
        let yaml = yaml.replace(" KEY:", &format!(" {name}:"));
        let mut running = program(folder.path(), &yaml, &["run"], &variables);
        running.envs(more).stdout(Stdio::null()).stderr(Stdio::null());
        let running = Running(running.spawn().unwrap());
        let began = std::time::Instant::now();
        let address: SocketAddr = traffic.parse().unwrap();
        while try_ask(address, Ask::get("/")).await.is_none() {
            assert!(began.elapsed().as_secs() < 20, "it does not start");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let head = eventually(|| collector.posted.lock().unwrap().pop()).await.0;
        assert_eq!(head.headers["x-key"], "from-file");
        let sent = head.headers.get("x-other").map(|value| value.to_str().unwrap());
        assert_eq!(sent, other, "beside {more:?}");
        drop(running);
        collector.posted.lock().unwrap().clear();
    }
}

#[test]
fn variables_count_where_traces_are_turned_on_outside_the_file() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, variable) in [
        (&["config", "--set", "tracing.endpoint=http://c:1"][..], None),
        (&["config"], Some(("PORTCULLIS_TRACING__ENDPOINT", "http://c:1"))),
    ] {
        let mut shown = program(folder.path(), STANDING, arguments, &[("OTEL_SERVICE_NAME", "the-edge")]);
        let shown = shown.envs(variable).output().unwrap();
        let told = String::from_utf8(shown.stdout).unwrap();
        assert!(told.contains("the-edge") && told.contains("`OTEL_SERVICE_NAME`"), "{told}");
    }
}

#[test]
fn a_password_in_the_endpoint_is_refused_and_not_told() {
    let folder = tempfile::tempdir().unwrap();
    for endpoint in ["https://me:hush-1@otlp.example.com", "https://c/x?key=hush-2"] {
        for (yaml, variables) in [
            (format!("{STANDING}tracing: {{ endpoint: \"{endpoint}\" }}\n"), vec![]),
            (STANDING.to_owned(), vec![("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint)]),
        ] {
            let checked = program(folder.path(), &yaml, &["check"], &variables).output().unwrap();
            let told = String::from_utf8([checked.stdout, checked.stderr].concat()).unwrap();
            assert_eq!(checked.status.code(), Some(1), "{told}");
            // The line of the file is shown as it is; whoever wrote a key into it sees that.
            let told = if yaml.contains("?key") { told.lines().next().unwrap().to_owned() } else { told };
            assert!(!told.contains("hush-1") && !told.contains("hush-2"), "{told}");
        }
    }
}
