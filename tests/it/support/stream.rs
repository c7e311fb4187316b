//! Responses and tunnels that stay open, and how each ends.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, Request, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// A response whose body goes on.
pub(crate) struct OpenStream {
    body: Incoming,
}

/// How a body ended.
#[derive(Debug, PartialEq)]
pub(crate) enum End {
    /// As it should, with these trailers.
    Whole(Option<HeaderMap>),
    Broken,
}

impl OpenStream {
    /// Asks and reads the first piece.
    pub(crate) async fn open(address: SocketAddr, path: &str, jwt: &str, http2: bool) -> Self {
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let uri: Uri =
            if http2 { format!("http://{address}{path}").parse().unwrap() } else { path.parse().unwrap() };
        let mut request = Request::builder().uri(uri).header("authorization", format!("Bearer {jwt}"));
        if !http2 {
            request = request.header("host", address.to_string());
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = if http2 {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) = http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        assert!(body.frame().await.unwrap().unwrap().is_data());
        Self { body }
    }

    /// Whether it is still open after a while.
    pub(crate) async fn stays_open(&mut self, patience: Duration) -> bool {
        tokio::time::timeout(patience, self.body.frame()).await.is_err()
    }

    /// How it ends, and how long that took.
    pub(crate) async fn end(mut self) -> (End, Duration) {
        let began = Instant::now();
        let mut trailers = None;
        let end = loop {
            let frame = tokio::time::timeout(Duration::from_secs(20), self.body.frame()).await;
            match frame.expect("the stream stayed open") {
                None => break End::Whole(trailers),
                Some(Err(_)) => break End::Broken,
                Some(Ok(frame)) => trailers = frame.into_trailers().ok().or(trailers),
            }
        };
        (end, began.elapsed())
    }
}

/// An open WebSocket.
pub(crate) struct WebSocket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl WebSocket {
    pub(crate) async fn open(address: SocketAddr, path: &str, jwt: &str) -> Self {
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {jwt}").parse().unwrap());
        // The test's origin answers every key alike, so the key is the one its answer belongs to.
        request.headers_mut().insert("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap());
        Self(tokio_tungstenite::connect_async(request).await.unwrap().0)
    }

    /// The code it is closed with, and how long that took.
    pub(crate) async fn end(mut self) -> (Option<CloseCode>, Duration) {
        let began = Instant::now();
        loop {
            let message = tokio::time::timeout(Duration::from_secs(20), self.0.next()).await;
            match message.expect("the socket stayed open") {
                Some(Ok(Message::Close(close))) => return (close.map(|close| close.code), began.elapsed()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return (None, began.elapsed()),
            }
        }
    }
}
