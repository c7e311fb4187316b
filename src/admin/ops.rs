//! The ops listener: `/metrics`, `/livez`, `/readyz`, `/startupz`.
//!
//! Must not make readiness depend on the directory being reachable: its bad day would empty every service.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;

use super::{Change, Readiness, Vitals};
use crate::server::{Peer, Serve};
use crate::telemetry::Condition;

/// Answers metrics and probes. Cheap to clone.
#[derive(Clone)]
pub struct OpsDoor(Vitals);

impl OpsDoor {
    pub fn new(vitals: Vitals) -> Self {
        Self(vitals)
    }

    /// The application's own status; 503 where it gives none.
    async fn probe(&self, name: &str) -> (StatusCode, &'static str, String) {
        const TEXT: &str = "text/plain; charset=utf-8";
        match self.0.probe(name).await {
            None => (StatusCode::NOT_FOUND, TEXT, "there is no such probe\n".to_owned()),
            Some(None) => {
                (StatusCode::SERVICE_UNAVAILABLE, TEXT, "the application does not answer\n".to_owned())
            }
            Some(Some(status)) => (status, TEXT, format!("the application answers {}\n", status.as_u16())),
        }
    }

    fn answer(&self, method: &Method, path: &str) -> (StatusCode, &'static str, String) {
        const TEXT: &str = "text/plain; charset=utf-8";
        if !matches!(*method, Method::GET | Method::HEAD) {
            return (StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET is answered here\n".to_owned());
        }
        match path {
            "/metrics" => {
                let text = self.0.metrics().render();
                (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
            }
            "/livez" | "/healthz" => (StatusCode::OK, TEXT, "ok\n".to_owned()),
            "/readyz" => {
                let (status, kind, mut text) = verdict(self.0.readiness());
                // Told and not judged: what is in force is as good as it was before.
                let change = self.0.configuration().status().last_change;
                if let Some(Change { at, result, error: Some(_) }) = change {
                    text.push_str(&format!(
                        "note configuration: the change of {at} is {result} and not in force; see the log\n"
                    ));
                }
                for (_, condition) in self.0.conditions() {
                    let Condition { what, cause, since } = condition;
                    text.push_str(&format!("note {what}: {cause}, since {since}\n"));
                }
                (status, kind, text)
            }
            "/startupz" => verdict(self.0.startup()),
            _ => (StatusCode::NOT_FOUND, TEXT, "try /metrics, /livez, /readyz or /startupz\n".to_owned()),
        }
    }
}

impl Serve for OpsDoor {
    type Body = Full<Bytes>;

    async fn serve(&self, request: Box<Request<Incoming>>, _peer: Arc<Peer>) -> Response<Full<Bytes>> {
        let (status, kind, text) = match request.uri().path().strip_prefix("/probe/") {
            Some(name) if request.method() == Method::GET => self.probe(name).await,
            _ => self.answer(request.method(), request.uri().path()),
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

fn verdict<'a>(checks: impl Iterator<Item = &'a Readiness>) -> (StatusCode, &'static str, String) {
    let mut status = StatusCode::OK;
    let mut text = String::new();
    for check in checks {
        let holds = (check.holds)();
        if !holds {
            status = StatusCode::SERVICE_UNAVAILABLE;
        }
        text.push_str(&format!("{} {}\n", if holds { "ok  " } else { "fail" }, check.name));
    }
    (status, "text/plain; charset=utf-8", text)
}
