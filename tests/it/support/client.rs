//! Talking HTTP: a small client that hides nothing, and raw bytes for what no client would send.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A request to be made.
#[derive(Clone)]
pub(crate) struct Ask {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
    http2: bool,
}

impl Ask {
    pub(crate) fn new(method: &str, path: &str) -> Self {
        Self {
            method: method.parse().unwrap(),
            path: path.to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            http2: false,
        }
    }

    pub(crate) fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers
            .append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn cookie(self, name: &str, value: &str) -> Self {
        self.header("cookie", &format!("{name}={value}"))
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    /// The reason of a refusal.
    pub(crate) fn reason(&self) -> String {
        self.json()["reason"].as_str().unwrap_or("none").to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// A header as the echo origin received it.
    pub(crate) fn seen(&self, name: &str) -> Option<String> {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        self.json()["headers"]
            .get(name)
            .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }
}

/// Makes a request on a connection of its own.
pub(crate) async fn ask(address: SocketAddr, request: Ask) -> Answer {
    try_ask(address, request).await.expect("the answer was cut short")
}

/// As `ask`; nothing if the answer was cut short, as it is when the session ends in the middle of it.
pub(crate) async fn try_ask(address: SocketAddr, request: Ask) -> Option<Answer> {
    let within = tokio::time::timeout(Duration::from_secs(30), send(address, request));
    within.await.expect("no answer within 30 s")
}

async fn send(address: SocketAddr, request: Ask) -> Option<Answer> {
    let stream = TokioIo::new(TcpStream::connect(address).await.ok()?);
    let uri: Uri = if request.http2 {
        format!("http://{address}{}", request.path).parse().unwrap()
    } else {
        request.path.parse().unwrap()
    };
    let mut message = Request::new(Full::new(request.body));
    *message.method_mut() = request.method;
    *message.uri_mut() = uri;
    *message.headers_mut() = request.headers;
    let response = if request.http2 {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(message).await.ok()?
    } else {
        if !message.headers().contains_key("host") {
            message.headers_mut().insert("host", address.to_string().parse().unwrap());
        }
        let (mut sender, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(message).await.ok()?
    };
    let (parts, body) = response.into_parts();
    let body = body.collect().await.ok()?;
    Some(Answer {
        status: parts.status.as_u16(),
        version: parts.version,
        headers: parts.headers,
        trailers: body.trailers().cloned(),
        body: body.to_bytes(),
    })
}

/// As `raw`, for answers that take up to two seconds to come.
pub(crate) async fn raw_patiently(address: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    exchange(address, bytes.as_ref(), Duration::from_secs(2)).await
}

/// Sends bytes as they are and returns what comes back until the gateway closes or falls silent.
pub(crate) async fn raw(address: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    exchange(address, bytes.as_ref(), Duration::from_millis(400)).await
}

async fn exchange(address: SocketAddr, bytes: &[u8], silence: Duration) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(Ok(count @ 1..)) = tokio::time::timeout(silence, stream.read(&mut buffer)).await {
        text.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&text).into_owned()
}
