//! TLS of listeners: which certificate answers, for whom, in which version, and what happens when the files change.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{HandshakeKind, NamedGroup, ProtocolVersion, SupportedProtocolVersion, version};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{ANY, Ask, World, ask};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes `name.pem` and `name.key` for `hosts`, good until the year `until`.
fn issue(authority: &Authority, folder: &Path, name: &str, hosts: &[&str], until: i32) {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
    std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

/// A gateway with certificates for `a.example`, `*.b.example` and nothing else.
struct Front {
    world: World,
    authority: Authority,
    folder: tempfile::TempDir,
}

async fn front(more: &str) -> Front {
    crate::support::install_crypto();
    let (authority, folder) = (authority(), tempfile::tempdir().unwrap());
    issue(&authority, folder.path(), "a", &["a.example", "127.0.0.1"], 2090);
    issue(&authority, folder.path(), "b", &["*.b.example"], 2080);
    std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    let at = folder.path().display();
    let more = more.replace("CA", &format!("{at}/ca.pem"));
    let yaml = format!(
        "listeners:
  - address: {ANY}
    name: front
    tls:
      certificates: [ {{ certificate: {at}/a.pem, key: {at}/a.key }}, {{ certificate: {at}/b.pem, key: {at}/b.key }} ]
{more}
routes: [ {{ name: all, match: {{ path: /** }}, public: true }} ]
"
    );
    Front { world: World::with(&yaml, &[]).await, authority, folder }
}

impl Front {
    fn client(&self, versions: &[&'static SupportedProtocolVersion], alpn: &str) -> rustls::ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let mut config = rustls::ClientConfig::builder_with_protocol_versions(versions)
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        config
    }

    async fn connect(
        &self,
        config: &Arc<rustls::ClientConfig>,
        name: &str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.world.address()).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(Arc::clone(config)).connect(name, stream).await
    }

    /// What comes of a request for `host` on a connection made for `name`.
    async fn asked(&self, alpn: &str, name: &str, host: &str) -> u16 {
        let config = Arc::new(self.client(rustls::ALL_VERSIONS, alpn));
        let stream = TokioIo::new(self.connect(&config, name).await.unwrap());
        let request =
            Request::builder().uri(if alpn == "h2" { format!("https://{host}/") } else { "/".to_owned() });
        let request = if alpn == "h2" { request } else { request.header("host", host) };
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = if alpn == "h2" {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await
        };
        response.unwrap().status().as_u16()
    }

    /// The certificate that answers for `name`.
    async fn certificate(&self, name: &str) -> Option<CertificateDer<'static>> {
        let config = Arc::new(self.client(rustls::ALL_VERSIONS, "http/1.1"));
        let stream = self.connect(&config, name).await.ok()?;
        stream.get_ref().1.peer_certificates()?.first().cloned().map(CertificateDer::into_owned)
    }
}

#[tokio::test]
async fn the_certificate_is_chosen_by_name() {
    let front = front("").await;
    for fits in ["a.example", "A.Example", "x.b.example", "127.0.0.1"] {
        assert!(front.certificate(fits).await.is_some(), "{fits}");
    }
    // The first answers where none fits, and the client sees that it is the wrong one.
    for none in ["c.example", "b.example", "x.y.b.example"] {
        assert!(front.certificate(none).await.is_none(), "{none}");
    }
}

#[tokio::test]
async fn a_request_for_another_host_than_the_connection_is_misdirected() {
    let front = front("").await;
    for alpn in ["http/1.1", "h2"] {
        for (name, host, status) in [
            ("a.example", "a.example", 200),
            ("a.example", "A.Example:8443", 200),
            ("x.b.example", "x.b.example", 200),
            ("x.b.example", "y.b.example", 421),
            ("a.example", "x.b.example", 421),
            ("a.example", "a.example.evil", 421),
            // Nothing was said about the name.
            ("127.0.0.1", "anything.example", 200),
        ] {
            assert_eq!(front.asked(alpn, name, host).await, status, "{alpn} {name} {host}");
        }
    }
    front.world.lines.find(&["server_name_mismatch", "\"route\":\"none\""]).await;
    // A listed proxy in front names us as it likes.
    let behind = self::front("    forwarded: { from: [127.0.0.1] }").await;
    assert_eq!(behind.asked("http/1.1", "a.example", "x.b.example").await, 200);
}

#[tokio::test]
async fn sessions_are_resumed_and_keys_are_agreed_on_safely() {
    let front = front("").await;
    for versions in [&[&version::TLS13], &[&version::TLS12]] {
        let config = Arc::new(front.client(versions, "http/1.1"));
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let mut stream = front.connect(&config, "a.example").await.unwrap();
            kinds.push(stream.get_ref().1.handshake_kind().unwrap());
            let group = stream.get_ref().1.negotiated_key_exchange_group().map(|group| group.name());
            if versions == &[&version::TLS13] {
                assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
            }
            // The ticket comes with the first answer.
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        }
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed], "{:?}", versions[0].version);
    }
}

#[tokio::test]
async fn an_old_version_is_refused_where_it_is_not_wanted() {
    for (more, spoken) in [("", true), ("      min_version: \"1.3\"", false)] {
        let front = front(more).await;
        let old = Arc::new(front.client(&[&version::TLS12], "http/1.1"));
        assert_eq!(front.connect(&old, "a.example").await.is_ok(), spoken, "{more}");
        let new = Arc::new(front.client(rustls::ALL_VERSIONS, "http/1.1"));
        let stream = front.connect(&new, "a.example").await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    }
}

#[tokio::test]
async fn where_a_client_certificate_is_required_nobody_passes_without() {
    let front = front("      client_ca_file: CA\n      client_certificate: required").await;
    issue(&front.authority, front.folder.path(), "client", &["client.example"], 2090);
    let stranger = authority();
    issue(&stranger, front.folder.path(), "stranger", &["client.example"], 2090);
    for (name, passes) in [(None, false), (Some("client"), true), (Some("stranger"), false)] {
        let mut config = front.client(rustls::ALL_VERSIONS, "http/1.1");
        if let Some(name) = name {
            use rustls::pki_types::pem::PemObject as _;
            let at = |ending: &str| front.folder.path().join(format!("{name}.{ending}"));
            let chain = vec![CertificateDer::from_pem_file(at("pem")).unwrap()];
            let key = PrivateKeyDer::from_pem_file(at("key")).unwrap();
            let mut roots = rustls::RootCertStore::empty();
            roots.add(front.authority.der().clone()).unwrap();
            config = rustls::ClientConfig::builder()
                .with_root_certificates(roots)
                .with_client_auth_cert(chain, key)
                .unwrap();
        }
        // A refusal of TLS 1.3 comes after the client thinks it is through.
        let answered = async {
            let stream = front.connect(&Arc::new(config), "a.example").await.ok()?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
            tokio::spawn(connection);
            let request = Request::get("/").header("host", "a.example").body(Empty::<Bytes>::new());
            let response = sender.send_request(request.unwrap()).await.ok()?;
            response.into_body().collect().await.ok()
        };
        assert_eq!(answered.await.is_some(), passes, "{name:?}");
    }
}

#[tokio::test]
async fn certificates_are_read_again_and_broken_ones_are_not_taken() {
    let front = front("").await;
    let ends = "portcullis_tls_certificate_not_after_timestamp_seconds{listener=\"front\"}";
    let reloads = |result: &str| {
        format!("portcullis_tls_certificate_reloads_total{{listener=\"front\",result=\"{result}\"}}")
    };
    let until = |year: i32| Some(rcgen::date_time_ymd(year, 1, 1).unix_timestamp() as f64);
    assert_eq!(front.world.metric(ends).await, until(2080));
    let before = front.certificate("a.example").await;

    std::fs::write(front.folder.path().join("a.pem"), "nonsense").unwrap();
    issue(&front.authority, front.folder.path(), "b", &["*.b.example", "*.d.example"], 2080);
    wait_for(&front.world, &reloads("failed"), 1.0).await;
    assert_eq!(front.certificate("a.example").await, before);
    assert!(front.certificate("x.d.example").await.is_some(), "one that is broken holds up no other");

    issue(&front.authority, front.folder.path(), "a", &["a.example", "new.example"], 2070);
    wait_for(&front.world, &reloads("ok"), 1.0).await;
    assert_ne!(front.certificate("a.example").await, before);
    assert!(front.certificate("new.example").await.is_some());
    wait_for(&front.world, ends, until(2070).unwrap()).await;
}

async fn wait_for(world: &World, metric: &str, value: f64) {
    let began = Instant::now();
    while world.metric(metric).await != Some(value) {
        assert!(began.elapsed() < Duration::from_secs(20), "{metric} did not become {value}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn whoever_asks_in_the_clear_is_sent_to_https_and_told_to_stay_there() {
    let more = format!(
        "      hsts: {{ include_subdomains: true }}\n  - {{ address: {ANY}, name: clear, redirect_to_https: 8443 }}\n"
    );
    let front = front(&more).await;
    let clear = front.world.gateway.traffic()[1].0;
    for method in ["GET", "POST", "DELETE"] {
        let request = Ask::new(method, "/a%7Eb/./c?next=%2F&x").header("host", "a.example:8080");
        let sent = ask(clear, request).await;
        assert_eq!(sent.status, 308, "{method}");
        assert_eq!(sent.headers["location"], "https://a.example:8443/a~b/c?next=%2F&x");
        assert!(!sent.headers.contains_key("strict-transport-security"), "it counts under TLS alone");
    }
    let odd = ask(clear, Ask::get("/").header("host", "a.example/evil")).await;
    assert_eq!(odd.status, 400, "no place is made of what is no host");

    let config = Arc::new(front.client(rustls::ALL_VERSIONS, "http/1.1"));
    let stream = TokioIo::new(front.connect(&config, "a.example").await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/").header("host", "a.example").body(Empty::<Bytes>::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.headers()["strict-transport-security"], "max-age=31536000; includeSubDomains");
}
