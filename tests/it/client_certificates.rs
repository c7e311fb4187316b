//! Trusted identity by client certificate: who showed which, on which connection, and for how long it is valid.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::{ANY, Origin, Reply, World};

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A client's certificate for `name`, good until the year `until`.
    fn client(&self, name: &str, until: i32) -> Shown {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        self.sign(params)
    }

    /// One that is good for so long from now.
    fn client_for(&self, name: &str, lifetime: Duration) -> Shown {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = (std::time::SystemTime::now() + lifetime).into();
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Shown {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }
}

type Shown = (CertificateDer<'static>, PrivateKeyDer<'static>);

/// A gateway that believes `gateway.internal` with a certificate of this authority.
struct Front {
    world: World,
    server: CertificateDer<'static>,
    _folder: tempfile::TempDir,
}

async fn front(authority: &Authority) -> Front {
    front_that_requires(authority, "authenticated").await
}

async fn front_that_requires(authority: &Authority, requirement: &str) -> Front {
    front_with(authority, requirement, None).await
}

async fn front_with(authority: &Authority, requirement: &str, origin: Option<&Origin>) -> Front {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("cert.pem"), certified.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), certified.signing_key.serialize_pem()).unwrap();
    std::fs::write(path("ca.pem"), &authority.pem).unwrap();
    let at = folder.path().display();
    let yaml = format!(
        "listeners:
  - address: {ANY}
    tls: {{ certificates: [ {{ certificate: {at}/cert.pem, key: {at}/key.pem }} ], client_ca_file: {at}/ca.pem }}
credentials:
  - trusted_identity: {{ organization_header: x-org, member_header: x-member, client_certificate: [gateway.internal] }}
  - cookie: stytch_session_jwt
routes: [ {{ name: all, match: {{ path: /** }}, require: {requirement} }} ]
"
    );
    let world = match origin {
        Some(origin) => World::with_origin(&yaml, &[], &origin.url()).await,
        None => World::with(&yaml, &[]).await,
    };
    Front { world, server: certified.cert.der().clone(), _folder: folder }
}

impl Front {
    /// A connection of whoever shows this certificate, under TLS.
    async fn connect(&self, shown: Option<Shown>, alpn: &str) -> Option<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.server.clone()).unwrap();
        let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
        let mut config = match shown {
            Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = TcpStream::connect(self.world.address()).await.unwrap();
        connector.connect("localhost".try_into().unwrap(), stream).await.ok()
    }

    /// What comes back when the viewer is named by whoever shows this certificate: the reason, `200`, or how the
    /// connection failed.
    async fn came_to(&self, shown: Option<Shown>, alpn: &str) -> String {
        let Some(stream) = self.connect(shown, alpn).await else { return "no handshake".to_owned() };
        let viewer = self.world.persona("VIEWER");
        let host = format!("localhost:{}", self.world.address().port());
        let request = Request::get(format!("https://{host}/"))
            .header("host", &host)
            .header("x-org", "acme")
            .header("x-member", &viewer.member_id)
            .body(Empty::<Bytes>::new())
            .unwrap();
        let sent = if alpn == "h2" {
            let opened =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
            let Ok((mut sender, connection)) = opened else { return "no connection".to_owned() };
            tokio::spawn(connection);
            sender.send_request(request).await
        } else {
            let opened = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
            let Ok((mut sender, connection)) = opened else { return "no connection".to_owned() };
            tokio::spawn(connection);
            sender.send_request(request).await
        };
        // With TLS 1.3 a client learns only from the first answer that its certificate was not taken.
        let Ok(response) = sent else { return "no connection".to_owned() };
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let told: serde_json::Value = serde_json::from_slice(&body).unwrap();
        if status == 200 {
            assert_eq!(told["headers"]["x-auth-member-id"], viewer.member_id.as_str());
            return "200".to_owned();
        }
        told["reason"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_route_may_ask_for_a_certificate_of_a_name() {
    let authority = Authority::new();
    for (name, came_to) in [("gateway.internal", "200"), ("worker.internal", "client_certificate_missing")] {
        let requirement = format!("{{ all: [ authenticated, {{ client_certificate: [{name}] }} ] }}");
        let front = front_that_requires(&authority, &requirement).await;
        for alpn in ["http/1.1", "h2"] {
            let shown = authority.client("gateway.internal", 2090);
            assert_eq!(front.came_to(Some(shown), alpn).await, came_to, "{alpn} {name}");
        }
    }
}

#[tokio::test]
async fn who_shows_the_right_certificate_is_believed_and_nobody_else() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let front = front(&authority).await;
    for alpn in ["http/1.1", "h2"] {
        let right = authority.client("gateway.internal", 2090);
        assert_eq!(front.came_to(Some(right), alpn).await, "200", "{alpn}");
        let other_name = authority.client("other.internal", 2090);
        assert_eq!(front.came_to(Some(other_name), alpn).await, "credential_missing", "{alpn}");
        let below = authority.client("x.gateway.internal", 2090);
        assert_eq!(front.came_to(Some(below), alpn).await, "credential_missing", "{alpn}");
        assert_eq!(front.came_to(None, alpn).await, "credential_missing", "{alpn}, none shown");
        for shown in [stranger.client("gateway.internal", 2090), authority.client("gateway.internal", 2021)] {
            let came_to = front.came_to(Some(shown), alpn).await;
            assert!(came_to.starts_with("no "), "{alpn}: {came_to}");
        }
    }
}

#[tokio::test]
async fn a_stream_ends_with_the_certificate_it_was_allowed_for() {
    let authority = Authority::new();
    let events = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata:\n\n";
    let origin = Origin::start(Reply::Bytes(events.as_bytes().to_vec())).await;
    let front = front_with(&authority, "authenticated", Some(&origin)).await;
    let shown = authority.client_for("gateway.internal", Duration::from_secs(3));
    let mut stream = front.connect(Some(shown), "http/1.1").await.unwrap();
    let member_id = &front.world.persona("VIEWER").member_id;
    let host = format!("localhost:{}", front.world.address().port());
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nx-org: acme\r\nx-member: {member_id}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut told = Vec::new();
    let read = stream.read_to_end(&mut told);
    // However it is cut off, it is at an end.
    let _ = tokio::time::timeout(Duration::from_secs(10), read).await.expect("the stream goes on");
    assert!(told.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&told));
    front.world.lines.find(&["\"decision\":\"end\"", "client_certificate_missing"]).await;
}
