//! The gateway over loopback, beside the same request sent straight to the origin. One connection, one request at a time.
//!
//! Must not be read as throughput: it is the time one caller waits. README.md says what flows where.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a bench that cannot be set up should end"
)]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use portcullis::app::Gateway;
use portcullis::config::{LoadOptions, SecretPolicy, load};
use portcullis::emulator::{EchoOrigin, Emulator, EmulatorSettings};

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

const CONFIGURATION: &str = r#"
listeners: [ { address: "127.0.0.1:0" } ]
log: { access: false }
sessions: { fresh_for: 10m }
routes:
  - { name: public, match: { path: /public }, public: true }
  - { name: strict, match: { path: /strict }, require: authenticated, max_staleness: 50ms }
  - { name: everything, match: { path: /** }, require: authenticated }
"#;

struct Caller {
    sender: SendRequest<Empty<Bytes>>,
    host: String,
}

impl Caller {
    async fn connect(address: SocketAddr) -> Self {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender, host: address.to_string() }
    }

    async fn get(&mut self, path: &str, token: &str) {
        let request = Request::get(path).header("host", &self.host).header("authorization", token);
        self.sender.ready().await.unwrap();
        let response = self.sender.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap();
    }
}

fn gateway(criterion: &mut Criterion) {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (_emulator, _echo, mut direct, mut proxied, token) = runtime.block_on(async {
        let emulator = Emulator::start(EmulatorSettings { address: ANY, seed: None }).await.unwrap();
        let echo = EchoOrigin::start(ANY).await.unwrap();
        let file = std::env::temp_dir().join(format!("portcullis-bench-{}.yaml", std::process::id()));
        std::fs::write(&file, CONFIGURATION).unwrap();
        let set = |key: &str, value: String| (key.to_owned(), value);
        let overrides = vec![
            set("stytch.project_id", emulator.project_id()),
            set("stytch.secret.value", emulator.secret()),
            set("stytch.base_url", emulator.url()),
            set("upstreams.app.url", format!("http://{}", echo.address())),
            set("ops.address", ANY.to_string()),
        ];
        let options = LoadOptions { file: file.clone(), overrides, secrets: SecretPolicy::Required };
        let config = load(&options).unwrap_or_else(|invalid| panic!("{}", invalid.render(false)));
        std::fs::remove_file(file).unwrap();
        let gateway = Gateway::start(config, std::io::sink()).await.unwrap();
        assert!(gateway.ready(Duration::from_secs(5)).await);
        let viewer = emulator.personas().into_iter().find(|persona| persona.name == "VIEWER").unwrap();
        let direct = Caller::connect(echo.address()).await;
        let proxied = Caller::connect(gateway.traffic()[0].0).await;
        (emulator, echo, direct, proxied, format!("Bearer {}", viewer.token))
    });
    let mut group = criterion.benchmark_group("one request");
    group.bench_function("straight to the origin", |bencher| {
        bencher.iter(|| runtime.block_on(direct.get("/x", &token)));
    });
    group.bench_function("public route", |bencher| {
        bencher.iter(|| runtime.block_on(proxied.get("/public", &token)));
    });
    group.bench_function("authenticated, hit", |bencher| {
        bencher.iter(|| runtime.block_on(proxied.get("/x", &token)));
    });
    // Few, since each is waited for: criterion plans by what is measured, and the waiting is not.
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(50)).measurement_time(Duration::from_millis(100));
    group.bench_function("authenticated, miss", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut waited = Duration::ZERO;
            for _ in 0..rounds {
                // Until what is known is older than the route allows.
                runtime.block_on(async { tokio::time::sleep(Duration::from_millis(60)).await });
                let began = std::time::Instant::now();
                runtime.block_on(proxied.get("/strict", &token));
                waited += began.elapsed();
            }
            waited
        });
    });
    group.finish();
}

criterion_group!(benches, gateway);
criterion_main!(benches);
