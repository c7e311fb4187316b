//! The stand-in's listener: one port for the API and its control.
//!
//! Must not be reachable from elsewhere unless asked to be.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use super::api::{Call, Operation, api_error, pairs};
use super::control;
use super::faults::{EmulatorBody, Fault, whole};
use super::seed::{BUILT_IN, SeedError, plant};
use super::state::State;
use super::tokens::session_claims;

/// The largest request body read.
const MAX_BODY: usize = 1024 * 1024;

/// How the stand-in is started.
#[derive(Debug, Clone)]
pub struct EmulatorSettings {
    pub address: SocketAddr,
    /// A seed in YAML; absent: the built-in one.
    pub seed: Option<String>,
}

/// A session of the seed, ready to be used in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Persona {
    pub name: String,
    pub session_id: String,
    pub member_id: String,
    pub organization_id: String,
    pub token: String,
    pub jwt: String,
}

/// A running stand-in. It ends with the runtime, or when dropped.
pub struct Emulator {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    accepting: tokio::task::JoinHandle<()>,
}

impl Emulator {
    /// Opens the port and answers from then on.
    pub async fn start(settings: EmulatorSettings) -> io::Result<Self> {
        let seed = settings.seed.as_deref().unwrap_or(BUILT_IN);
        let state =
            plant(seed, Timestamp::now()).map_err(|error: SeedError| io::Error::other(error.to_string()))?;
        let state = Arc::new(Mutex::new(state));
        let listener = TcpListener::bind(settings.address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Ok(Self { state, address, accepting })
    }

    /// `http://` and the address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn project_id(&self) -> String {
        self.lock().project_id.clone()
    }

    pub fn secret(&self) -> String {
        self.lock().secret.clone()
    }

    /// Every named session of the seed with a JWT minted now.
    pub fn personas(&self) -> Vec<Persona> {
        let state = self.lock();
        let now = Timestamp::now();
        let named = state.sessions.values().filter(|session| !session.persona.is_empty());
        named
            .map(|session| {
                let claims = session_claims(&state, session, now, &Value::Null);
                Persona {
                    name: session.persona.clone(),
                    session_id: session.id.clone(),
                    member_id: session.member_id.clone(),
                    organization_id: session.organization_id.clone(),
                    token: session.token.clone(),
                    jwt: state.keys.last().map(|key| key.sign(&claims)).unwrap_or_default(),
                }
            })
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) {
    drop(stream.set_nodelay(true));
    let reset = Arc::new(AtomicBool::new(false));
    let io = TokioIo::new(ResettableStream { stream, reset: Arc::clone(&reset) });
    let answer = service_fn(move |request| {
        let state = Arc::clone(&state);
        let reset = Arc::clone(&reset);
        async move { answer(request, &state, &reset).await.ok_or(Broken) }
    });
    // A connection that breaks off as ordered ends in an error, which is no news.
    drop(http1::Builder::new().serve_connection(io, answer).await);
}

/// Ends the connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("ordered to break off")]
struct Broken;

async fn answer(
    request: Request<Incoming>,
    state: &Mutex<State>,
    reset: &Arc<AtomicBool>,
) -> Option<Response<EmulatorBody>> {
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => {
            return Some(api_error(StatusCode::BAD_REQUEST, "bad_request", "Too large.").map(whole));
        }
    };
    let mut call = Call {
        method: &parts.method,
        path: parts.uri.path(),
        query: pairs(parts.uri.query().unwrap_or_default()),
        headers: &parts.headers,
        body: &body,
        now: Timestamp::now(),
    };
    if call.path.starts_with(control::PREFIX) {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        return Some(control::answer(&mut state, &call).map(whole));
    }
    let Some(operation) = Operation::of(call.method, call.path) else {
        let message = "The requested route could not be found.";
        return Some(api_error(StatusCode::NOT_FOUND, "route_not_found", message).map(whole));
    };
    let (answer, fault) = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        *state.calls.entry(operation.label()).or_default() += 1;
        let fault = state.faults.iter_mut().find(|fault| fault.applies_to(operation.label()));
        let fault = fault.and_then(|fault| fault.strikes().then(|| fault.clone()));
        if let Some(other) = fault.as_ref().and_then(|fault| fault.answer_for.as_ref()) {
            call.query = other_member(other);
        }
        (operation.answer(&mut state, &call), fault.unwrap_or_default())
    };
    Fault::apply(fault, answer, reset).await
}

fn other_member(other: &Value) -> Vec<(String, String)> {
    let field = |name: &str| other.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    ["organization_id", "member_id"].iter().map(|name| ((*name).to_owned(), field(name))).collect()
}

/// A socket that is reset rather than closed when told to.
struct ResettableStream {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Drop for ResettableStream {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Acquire) {
            drop(self.stream.set_zero_linger());
        }
    }
}

impl AsyncRead for ResettableStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for ResettableStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.reset.load(Ordering::Acquire) {
            // An orderly close would hide the reset.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
