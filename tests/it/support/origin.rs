//! An origin that does what a test tells it, byte for byte.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::ANY;

/// What the origin does with a request.
#[derive(Clone)]
pub(crate) enum Reply {
    /// These bytes, and the connection stays open.
    Bytes(Vec<u8>),
    /// These bytes in pieces, each after the one before was on its way for a while.
    Pieces(Vec<&'static str>),
    /// Closes without a word.
    Close,
    /// Never answers.
    Silence,
    /// Switches to WebSocket and then sends back what it gets.
    Socket,
}

impl Reply {
    pub(crate) fn text(text: &str) -> Self {
        Self::Bytes(text.as_bytes().to_vec())
    }
}

/// The origin, and every head it received.
pub(crate) struct Origin {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

impl Origin {
    pub(crate) async fn start(reply: Reply) -> Self {
        Self::start_at(ANY, reply).await
    }

    /// One at an address where nobody listened.
    pub(crate) async fn start_at(address: SocketAddr, reply: Reply) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        let connections = Arc::new(AtomicUsize::new(0));
        let accepted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, reply.clone(), Arc::clone(&seen)));
            }
        });
        Self { address, heads, connections }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections taken so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, reply: Reply, heads: Arc<Mutex<Vec<String>>>) {
    loop {
        let Some(head) = read_head(&mut stream).await else {
            return;
        };
        let has_chunks = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        heads.lock().unwrap().push(head);
        if has_chunks {
            let body = read_until(&mut stream, b"\r\n\r\n").await.unwrap_or_default();
            heads.lock().unwrap().push(body);
        }
        match &reply {
            Reply::Bytes(bytes) => stream.write_all(bytes).await.unwrap(),
            Reply::Pieces(pieces) => {
                for piece in pieces {
                    stream.write_all(piece.as_bytes()).await.unwrap();
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
            Reply::Close => return,
            Reply::Silence => std::future::pending().await,
            Reply::Socket => {
                let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.unwrap();
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await.unwrap();
                return;
            }
        }
    }
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    read_until(stream, b"\r\n\r\n").await
}

async fn read_until(stream: &mut TcpStream, end: &[u8]) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(end) {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}
