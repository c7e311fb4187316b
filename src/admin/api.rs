//! The admin listener: what can be looked at, and what the gateway can be told to do.
//!
//! Must not change anything for a page in somebody's browser, nor for anybody without the token.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::{mpsc, oneshot};

use super::access::Access;
use super::answer::{Answer, Failure, JSON};
use super::history::History;
use super::page::Page;
use super::status::{Known, Status, status};
use super::{AdminSettings, Change, Vitals};
use crate::engine::Engine;
use crate::identity::Secret;
use crate::policy::{CanonicalPath, Reason, Route};
use crate::revocation::Revocations;
use crate::server::{Peer, Serve};

/// The description of the API (OpenAPI 3.1).
const OPENAPI: &str = include_str!("openapi.json");

/// Answers the admin listener. Cheap to clone.
#[derive(Clone)]
pub struct AdminDoor(Arc<Inner>);

pub(super) struct Inner {
    pub(super) revocations: Revocations,
    pub(super) engine: Arc<Engine>,
    pub(super) at_the_door: RefusedAtTheDoor,
    access: Access,
    pub(super) controls: Controls,
    pub(super) vitals: Vitals,
    history: History,
    page: Page,
}

/// Where a change of the configuration is asked for; what became of it is answered.
pub type ReloadSender = mpsc::Sender<oneshot::Sender<Change>>;

/// What the gateway itself can be told to do.
pub struct Controls {
    /// Has the configuration read again, and says what became of it.
    pub reload: Arc<OnceLock<ReloadSender>>,
    /// Has the gateway say that it will leave.
    pub drain: Box<dyn Fn() + Send + Sync>,
    /// Whether it said so.
    pub is_leaving: Box<dyn Fn() -> bool + Send + Sync>,
}

/// What no route is asked about, as the doors tell it.
pub type RefusedAtTheDoor = fn(&Method, &CanonicalPath) -> Option<Reason>;

impl AdminDoor {
    /// Must be called inside a runtime: the last minutes are remembered.
    pub fn new(
        revocations: Revocations,
        engine: Arc<Engine>,
        at_the_door: RefusedAtTheDoor,
        settings: AdminSettings,
        controls: Controls,
        vitals: Vitals,
    ) -> Self {
        let history = History::new(vitals.metrics().clone());
        tokio::spawn(history.clone().keep());
        engine.tell_refusals(vitals.refusals().clone());
        let access = Access::new(settings);
        let page = Page::new();
        Self(Arc::new(Inner { revocations, engine, at_the_door, access, controls, vitals, history, page }))
    }

    /// Admits whoever shows `token` from now on, and nobody with the one before.
    pub fn use_token(&self, token: Option<Secret>) {
        self.0.access.use_token(token);
    }
}

impl Serve for AdminDoor {
    type Body = Full<Bytes>;

    async fn serve(&self, request: Box<Request<Incoming>>, peer: Arc<Peer>) -> Response<Full<Bytes>> {
        let bodiless = request.method() == Method::HEAD;
        let Answer { status, kind, body } = match Box::pin(self.0.answer(request)).await {
            Ok(answer) => answer,
            Err((status, error)) => {
                tracing::warn!(peer = %peer.socket, status = status.as_u16(), error, "an admin call was refused");
                let body = format!("{}\n", serde_json::json!({ "error": error }));
                Answer { status, kind: JSON, body: body.into() }
            }
        };
        let mut response = Response::new(Full::new(if bodiless { Bytes::new() } else { body }));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        for (name, value) in [
            (header::CONTENT_TYPE, kind),
            (header::CACHE_CONTROL, "no-store"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::X_FRAME_OPTIONS, "DENY"),
            (
                header::CONTENT_SECURITY_POLICY,
                "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            ),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if status == StatusCode::UNAUTHORIZED {
            for challenge in ["Bearer realm=\"portcullis admin\"", "Basic realm=\"portcullis admin\""] {
                headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
        }
        response
    }
}

/// What there is, and how each is asked for.
const CALLS: [(&str, &[Method]); 10] = [
    ("/", &[Method::GET, Method::HEAD]),
    ("/admin/status", &[Method::GET, Method::HEAD]),
    ("/admin/config", &[Method::GET, Method::HEAD]),
    ("/admin/openapi.json", &[Method::GET, Method::HEAD]),
    ("/admin/log", &[Method::GET, Method::HEAD, Method::PUT]),
    ("/admin/reload", &[Method::POST]),
    ("/admin/drain", &[Method::POST]),
    ("/admin/revoke", &[Method::POST]),
    ("/admin/evict", &[Method::POST]),
    ("/admin/explain", &[Method::POST]),
];

impl Inner {
    async fn answer(&self, request: Box<Request<Incoming>>) -> Result<Answer, Failure> {
        let path = request.uri().path().to_owned();
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        if reads {
            self.access.admit_reader(request.headers(), request.uri())?;
        } else {
            self.access.admit_operator(request.headers())?;
        }
        let call = CALLS.iter().find(|(call, _)| *call == path);
        if let Some((_, methods)) = call
            && !methods.contains(request.method())
        {
            let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
            return Err((StatusCode::METHOD_NOT_ALLOWED, format!("use {}", names.join(" or "))));
        }
        match (reads, path.as_str()) {
            (true, "/") => self.page.status(&self.status()),
            (true, "/admin/status") => Answer::json(&self.status()),
            (true, "/admin/config") => Answer::json(&self.vitals.configuration().resolved()),
            (true, "/admin/openapi.json") => Ok(Answer {
                status: StatusCode::OK,
                kind: JSON,
                body: Bytes::from_static(OPENAPI.as_bytes()),
            }),
            (true, "/admin/log") => Ok(Self::log()?),
            (true, path) => match path.strip_prefix("/refusals/") {
                Some(request_id) => {
                    let source = self.vitals.configuration().status().source;
                    let refusal = self.vitals.refusals().find(request_id);
                    self.page.refusal(refusal, &self.routes(), source.as_deref().unwrap_or("FILE"))
                }
                None => Page::asset(path).ok_or_else(nothing_here),
            },
            (false, _) if call.is_none() => Err(nothing_here()),
            (false, path) => self.call(path, request).await,
        }
    }

    fn status(&self) -> Status {
        // Gauges first.
        self.vitals.metrics();
        let failing = self.vitals.readiness().filter(|check| !(check.holds)()).map(|check| check.name);
        let leaving = (self.controls.is_leaving)();
        status(
            &self.history,
            Known {
                configuration: self.vitals.configuration().status(),
                started_at: self.vitals.started_at(),
                unready: failing.collect(),
                leaving,
                refusals: self.vitals.refusals().newest(),
                conditions: self.vitals.conditions(),
                routes: self.routes(),
            },
        )
    }

    /// The routes in the order they are tried, each once.
    fn routes(&self) -> Vec<Arc<Route>> {
        let mut routes: Vec<Arc<Route>> = Vec::new();
        for (_, _, route) in self.engine.snapshot().routes.iter() {
            if !routes.iter().any(|known| known.name == route.name) {
                routes.push(Arc::clone(route));
            }
        }
        routes
    }
}

fn nothing_here() -> Failure {
    let calls: Vec<&str> = CALLS.iter().map(|(call, _)| *call).collect();
    (StatusCode::NOT_FOUND, format!("there are {}", calls.join(", ")))
}
