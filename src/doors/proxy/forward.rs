//! Forwarding what may pass: headers in their one order, the body as it comes, the answer cleaned on its way back.
//!
//! Must not reach an origin without a `Permit`, which is why the function that does takes one.

use std::sync::Arc;
use std::time::Instant;

use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use hyper::body::Incoming;

use super::bodies::{Ending, RequestBody, ResponseBody};
use super::hop_by_hop::{asks_for_websocket, mark_websocket, remove_hop_by_hop};
use super::outbound::Outbound;
use super::site::Site;
use super::trailers::filter_announced_trailers;
use super::tunnel::open_tunnel;
use super::websocket::WebSocketKey;
use super::{Intake, REQUEST_ID};
use crate::doors::request_log::RequestLog;
use crate::engine::{HeaderEdits, Lease, Snapshot};
use crate::identity::{CredentialSource, OWN_COOKIE};
use crate::policy::{Permit, Reason};
use crate::server::Peer;
use crate::telemetry::{Span, SpanKind, method_label};
use crate::upstream::{
    Caller, MaySet, NoSlot, OriginError, OriginFailure, OriginRequest, OriginResponse, UploadFailure,
    UploadProgress, lasts,
};

impl Site {
    /// Sends the request to the origin of the permit's route and answers with what comes back.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a different thing the door found out on its straight line"
    )]
    pub(super) async fn forward(
        &self,
        mut request: Box<Request<Incoming>>,
        intake: &Intake,
        peer: &Arc<Peer>,
        permit: &Permit,
        caller: Option<Caller>,
        edits: &HeaderEdits,
        snapshot: &Snapshot,
        lease: Option<Arc<Lease>>,
        mut request_log: Box<RequestLog>,
    ) -> Response<ResponseBody> {
        let route = permit.route();
        let Some(origin) = self.origins.get(&route.upstream) else {
            return self.refuse(&Reason::OriginUnreachable.into(), request_log);
        };
        let length = request.body().size_hint().exact();
        if length.is_some_and(|length| length > self.settings.max_request_bytes) {
            return self.refuse(&Reason::BodyTooLarge.into(), request_log);
        }
        request_log.upstream = Some(Arc::clone(origin.name()));
        let websocket = route.websocket.is_some()
            && intake.method == Method::GET
            && (intake.extended_connect
                || request.version() == Version::HTTP_11
                    && request.body().is_end_stream()
                    && asks_for_websocket(request.headers()));
        // Whatever succeeded would be taken for a tunnel.
        if intake.extended_connect && !websocket {
            return self.refuse(&Reason::ConnectRefused.into(), request_log);
        }
        let key = intake.extended_connect.then(WebSocketKey::new);
        let client_side = websocket.then(|| hyper::upgrade::on(&mut *request));

        let (parts, body) = (*request).into_parts();
        let settings = &self.settings;
        let began = Instant::now();
        let progress = Arc::new(UploadProgress::new(began, settings.body_timeout));
        let mut span = request_log.trace.start("origin", SpanKind::Client);
        if let Some(span) = &mut span {
            span.note("http.request.method", method_label(&intake.method));
            span.note("portcullis.upstream", origin.name().to_string());
        }
        let trace = span.as_ref().map_or(&request_log.trace, Span::context);
        let composed = Outbound {
            headers: &parts.headers,
            intake,
            peer,
            edits,
            snapshot,
            request_log: &request_log,
            trace,
        };
        let outbound = if body.is_end_stream() && !websocket && !origin.speaks_http2() {
            progress.finish();
            composed.head().map(|head| OriginRequest::Head(Box::new(head)))
        } else {
            let scheme = if origin.is_secure() { Scheme::HTTPS } else { Scheme::HTTP };
            let http2 = origin.speaks_http2();
            let parts = if http2 { composed.http2(scheme, &body) } else { composed.http1(&body) };
            parts.map(|(target, mut headers)| {
                if websocket {
                    mark_websocket(&mut headers);
                }
                if let Some(key) = &key {
                    key.ask(&mut headers);
                }
                let body = RequestBody::new(
                    body,
                    &snapshot.managed_names,
                    &progress,
                    &request_log.request_bytes,
                    settings.max_request_bytes,
                    settings.body_timeout,
                    lease.as_ref(),
                );
                let mut request = Box::new(Request::new(body));
                *request.method_mut() = intake.method.clone();
                *request.headers_mut() = headers;
                *request.uri_mut() = target;
                OriginRequest::Request(request)
            })
        };
        let Some(outbound) = outbound else {
            span.into_iter().for_each(Span::discard);
            return self.refuse(&Reason::MalformedRequest.into(), request_log);
        };

        let sent = tokio::select! {
            biased;
            reason = ended(lease.as_deref()) => {
                if let Some(span) = &mut span {
                    span.fail(reason.code());
                }
                return self.refuse(&reason.into(), request_log);
            }
            sent = origin.send(outbound, caller, &progress) => sent,
        };
        let took = began.elapsed();
        request_log.upstream_took = Some(took);
        if let Some(mut span) = span.take() {
            let status = sent.as_ref().ok().map(|response| u64::from(response.status().as_u16()));
            span.note_some("http.response.status_code", status);
            match (failure_of(&sent), &sent, progress.failure()) {
                (_, Err(_), Some(upload)) => span.fail(upload_reason(upload).code()),
                (Some(failure), ..) => span.fail(failure),
                (None, ..) => {}
            }
        }
        // An upload that failed on the client's side says nothing about the origin.
        if let (Err(_), Some(failure)) = (&sent, progress.failure()) {
            return self.refuse(&upload_reason(failure).into(), request_log);
        }
        // A caller that holds its share says nothing about the origin either.
        let is_share = |failure: &OriginFailure| {
            matches!(failure.error, OriginError::CallerShare | OriginError::NoStream(NoSlot::CallerShare))
        };
        if !sent.as_ref().is_err_and(is_share) {
            origin.count(failure_of(&sent), took);
        }
        let mut response = match sent {
            Ok(response) => response,
            Err(OriginFailure { error, server }) => {
                let upstream = origin.name();
                let request_id = &request_log.request_id;
                match error {
                    OriginError::CallerShare => return self.refuse_share("connections", request_log),
                    OriginError::NoStream(NoSlot::CallerShare) => {
                        return self.refuse_share("streams", request_log);
                    }
                    _ => {}
                }
                if let OriginError::NoStream(_) = error {
                    tracing::warn!(%upstream, server, %request_id, %error, "no stream was opened: `max_open_streams` of the upstream is reached");
                } else if error.is_unreachable() {
                    tracing::debug!(%upstream, server, %request_id, %error, "the origin cannot be reached");
                    origin.note_unreachable(&error, server.as_deref());
                } else {
                    tracing::warn!(%upstream, server, %request_id, %error, "the origin did not answer");
                }
                return self.refuse(&reason_of(&error).into(), request_log);
            }
        };
        if !unframe(response.headers_mut()) {
            return self.refuse(&Reason::OriginMalformed.into(), request_log);
        }

        if lasts(response.status(), response.headers()) {
            match self.streams.take(caller) {
                Ok(slot) => request_log.slot = Some(slot),
                Err(NoSlot::CallerShare) => return self.refuse_share("streams", request_log),
                Err(NoSlot::Full) => return self.refuse(&Reason::Overloaded.into(), request_log),
            }
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let proven = key.as_ref().is_none_or(|key| key.is_answered(response.headers()));
            let asked = client_side.filter(|_| proven && asks_for_websocket(response.headers()));
            let Some(client_side) = asked else {
                return self.refuse(&Reason::OriginMalformed.into(), request_log);
            };
            let origin_side = hyper::upgrade::on(&mut response);
            // Its connection and every slot stay taken for as long as the tunnel lives.
            let busy = intake.extended_connect.then(|| peer.stay_busy());
            let slots = (Arc::clone(peer), busy, response.body_mut().take_slot(), request_log.slot.take());
            let tunnel =
                open_tunnel(client_side, origin_side, settings.tunnel_timeout, self.drain.clone(), lease);
            self.drain.spawn(async move {
                tunnel.await;
                drop(slots);
            });
            if key.is_some() {
                // The tunnel is a stream of its own (RFC 8441 section 5).
                WebSocketKey::settle(&mut response);
            }
            return self.respond(response, snapshot, origin.may_set(), request_log, key.is_none(), None);
        }
        if key.is_some() && response.status().is_success() {
            return self.refuse(&Reason::OriginMalformed.into(), request_log);
        }
        self.respond(response, snapshot, origin.may_set(), request_log, false, lease)
    }

    fn respond(
        &self,
        mut response: OriginResponse<RequestBody>,
        snapshot: &Snapshot,
        may_set: MaySet,
        mut request_log: Box<RequestLog>,
        websocket: bool,
        lease: Option<Arc<Lease>>,
    ) -> Response<ResponseBody> {
        let managed = &snapshot.managed_names;
        let headers = response.headers_mut();
        remove_hop_by_hop(headers);
        headers.remove(header::TE);
        managed.strip_response(headers);
        strip_settings(headers, may_set, &snapshot.credentials);
        filter_announced_trailers(headers, managed);
        if websocket {
            mark_websocket(headers);
        }
        headers.insert(REQUEST_ID, request_log.request_id.header());
        *response.version_mut() = Version::HTTP_11;
        request_log.status = Some(response.status());
        let lease = lease.map(|lease| (lease, Ending::of(response.headers(), request_log.version)));
        response.map(|body| {
            ResponseBody::from_origin(body, managed, request_log, self.settings.body_timeout, lease)
        })
    }
}

/// Takes out of an answer what its application may not set: our own cookie in any case.
fn strip_settings(headers: &mut HeaderMap, may_set: MaySet, sources: &[CredentialSource]) {
    if !may_set.alt_svc {
        headers.remove(header::ALT_SVC);
    }
    let is_refused = |value: &HeaderValue| {
        let pair = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        let name_of = |pair: &[u8]| {
            pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii().to_ascii_lowercase()
        };
        // A cookie without a name is sent back as its value alone, `name=value` included (RFC 6265bis section 5.6).
        let bare = pair.trim_ascii_start();
        let bare =
            bare.iter().position(|byte| *byte != b'=').and_then(|at| bare.get(at..)).unwrap_or_default();
        let name = name_of(bare);
        let is_session = |source: &CredentialSource| matches!(source, CredentialSource::Cookie(cookie) if cookie.as_bytes().eq_ignore_ascii_case(&name));
        name.eq_ignore_ascii_case(OWN_COOKIE.as_bytes())
            || !may_set.session_cookies && sources.iter().any(is_session)
    };
    if !headers.get_all(header::SET_COOKIE).iter().any(is_refused) {
        return;
    }
    let kept: Vec<HeaderValue> =
        headers.get_all(header::SET_COOKIE).iter().filter(|value| !is_refused(value)).cloned().collect();
    headers.remove(header::SET_COOKIE);
    for value in kept {
        headers.append(header::SET_COOKIE, value);
    }
}

/// What was wrong with an answer, or how none came, as the metrics have it.
fn failure_of(sent: &Result<OriginResponse<RequestBody>, OriginFailure>) -> Option<&'static str> {
    match sent {
        Ok(response) if response.status().is_server_error() => Some("server_error"),
        Ok(_) => None,
        Err(failure) => Some(reason_of(&failure.error).code().strip_prefix("origin_").unwrap_or("error")),
    }
}

/// Resolves when the session may not go on; never for a public route.
async fn ended(lease: Option<&Lease>) -> Reason {
    match lease {
        Some(lease) => lease.ended().await,
        None => std::future::pending().await,
    }
}

/// Takes an answer's framing off. False where the origin framed it in a way that could be read differently.
fn unframe(headers: &mut HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) if coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => {
            headers.remove(header::CONTENT_LENGTH);
            true
        }
        _ => false,
    }
}

fn upload_reason(failure: UploadFailure) -> Reason {
    match failure {
        UploadFailure::Stalled => Reason::RequestTimeout,
        UploadFailure::TooLarge => Reason::BodyTooLarge,
        UploadFailure::Broken => Reason::RequestIncomplete,
    }
}

fn reason_of(error: &OriginError) -> Reason {
    match error {
        OriginError::Unresolved
        | OriginError::Connect(_)
        | OriginError::Protocol
        | OriginError::ConnectTimeout => Reason::OriginUnreachable,
        OriginError::Untrusted(_) => Reason::OriginUntrusted,
        OriginError::Busy | OriginError::NoStream(NoSlot::Full) => Reason::OriginBusy,
        OriginError::CallerShare | OriginError::NoStream(NoSlot::CallerShare) => Reason::CallerShare,
        OriginError::ResponseTimeout => Reason::OriginTimeout,
        OriginError::Closed(_) => Reason::OriginClosed,
        OriginError::Malformed(_) => Reason::OriginMalformed,
    }
}
