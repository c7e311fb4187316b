//! An origin that says what it received, for seeing injected headers as an application sees them.
//!
//! Must not be clever: what it got is what it tells.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The largest body echoed.
const MAX_BODY: usize = 1024 * 1024;

/// A running echo. It ends with the runtime, or when dropped.
pub struct EchoOrigin {
    address: SocketAddr,
    accepting: tokio::task::JoinHandle<()>,
}

impl EchoOrigin {
    pub async fn start(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                drop(stream.set_nodelay(true));
                tokio::spawn(async move {
                    let service =
                        service_fn(async |request| Ok::<_, Infallible>(echo(request, address).await));
                    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Ok(Self { address, accepting })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for EchoOrigin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn echo(request: Request<Incoming>, address: SocketAddr) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut headers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in &parts.headers {
        let values = headers.entry(name.as_str()).or_default();
        values.push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    let headers: BTreeMap<&str, Value> = headers
        .into_iter()
        .map(|(name, values)| {
            (
                name,
                match values.as_slice() {
                    [one] => json!(one),
                    many => json!(many),
                },
            )
        })
        .collect();
    let told = json!({
        "address": address.to_string(),
        "method": parts.method.as_str(),
        "target": parts.uri.to_string(),
        "headers": headers,
        "body_bytes": body.len(),
        "body": String::from_utf8_lossy(body.get(..body.len().min(1024)).unwrap_or_default()),
    });
    let text = serde_json::to_string_pretty(&told).unwrap_or_default() + "\n";
    let mut response = Response::new(Full::new(Bytes::from(text)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
