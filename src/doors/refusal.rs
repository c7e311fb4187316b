//! From a reason to a response, in one place (RFC 9457, RFC 6750, RFC 9470): a problem for programs, a page or a way to
//! sign in for people, a status for gRPC.
//!
//! Must not repeat anything the caller sent, nor say more than the reason's own words unless that is allowed.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use jiff::Timestamp;
use minijinja::{Environment, context};
use serde::Serialize;

use super::RefusalSettings;
use super::asking::{Asking, Form};
use super::sign_in::{Way, way};
use crate::policy::{Reason, Refusal, Remedy};
use crate::telemetry::RequestId;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What the page may do: show itself, and nothing else.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; \
                           frame-ancestors 'none'; base-uri 'none'";
/// RFC 7617 section 2: the password is the token.
const BASIC_CHALLENGE: &str = "Basic realm=\"portcullis\", charset=\"UTF-8\"";
const BUILT_IN: &str = include_str!("refusal.html");
pub(super) const TEMPLATE: &str = "page.html";

/// How refusals are told. Built once.
pub(super) struct Refusals {
    settings: RefusalSettings,
    templates: Environment<'static>,
}

/// The body of a refusal (RFC 9457 section 3).
#[derive(Serialize)]
struct Problem<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    reason: &'a str,
    request_id: &'a str,
    /// What is missing, where an authenticated caller may know.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    unmet: &'a [String],
}

impl Refusals {
    pub(super) fn new(settings: RefusalSettings) -> Self {
        let mut templates = Environment::new();
        // It was checked with the configuration; without it the built-in one is better than none.
        let own = settings.page.clone().unwrap_or_else(|| BUILT_IN.to_owned());
        if templates.add_template_owned(TEMPLATE, own).is_err() {
            drop(templates.add_template(TEMPLATE, BUILT_IN));
        }
        Self { settings, templates }
    }

    pub(super) fn settings(&self) -> &RefusalSettings {
        &self.settings
    }

    /// The response a refusal becomes. A `HEAD` gets the fields without the body.
    pub(super) fn response(
        &self,
        refusal: &Refusal,
        method: &Method,
        asking: &Asking,
        request_id: &RequestId,
    ) -> Response<Bytes> {
        let mut response = match asking.form {
            Form::Grpc => grpc(refusal, "application/grpc"),
            Form::GrpcWeb => grpc(refusal, "application/grpc-web"),
            Form::Problem => self.problem(refusal, request_id),
            Form::Page => match way(self.settings.sign_in.as_ref(), refusal, asking, Timestamp::now()) {
                Way::Go(detour) => redirect(&detour.location, &detour.cookie),
                Way::Stay => self.page(refusal, request_id, None),
                Way::Circling { sign_in } => self.page(refusal, request_id, Some(&sign_in)),
            },
        };
        let length = HeaderValue::from(response.body().len());
        // A refusal of gRPC is a 200, whatever its reason.
        let status = response.status();
        if *method == Method::HEAD {
            *response.body_mut() = Bytes::new();
        }
        let headers = response.headers_mut();
        // A browser that is offered Basic asks for a password by itself.
        if self.settings.basic && !asking.is_browser && status == StatusCode::UNAUTHORIZED {
            let bearer = headers.remove(header::WWW_AUTHENTICATE);
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(BASIC_CHALLENGE));
            // Registry clients take the realm of Bearer for the address of a token server, so they are not offered it.
            let says_more = asking.shows_bearer || refusal.challenge.is_some();
            if let Some(bearer) = bearer.filter(|_| says_more) {
                headers.append(header::WWW_AUTHENTICATE, bearer);
            }
        }
        headers.insert(header::CONTENT_LENGTH, length);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(REQUEST_ID, request_id.header());
        response
    }

    fn problem(&self, refusal: &Refusal, request_id: &RequestId) -> Response<Bytes> {
        let reason = refusal.reason;
        let problem = Problem {
            kind: format!("{}{}", self.settings.type_prefix, reason.code()),
            title: reason.title(),
            status: reason.status().as_u16(),
            detail: detail(reason.remedy()),
            reason: reason.code(),
            request_id: request_id.as_str(),
            unmet: self.unmet(refusal),
        };
        let mut response = Response::new(Bytes::from(serde_json::to_vec(&problem).unwrap_or_default()));
        *response.status_mut() = reason.status();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        fields(refusal, response.headers_mut());
        response
    }

    /// A page for people. `circling` is where they were sent already, again and again.
    fn page(&self, refusal: &Refusal, request_id: &RequestId, circling: Option<&str>) -> Response<Bytes> {
        let reason = refusal.reason;
        let message = match circling {
            Some(_) => {
                "You were sent to sign in several times within a minute, and came back without a session that counts. \
                 The sign-in page may be set up for another address."
            }
            None => for_people(reason.remedy()),
        };
        // Without a way back, such as after sending a form, there is still a way to the sign-in page.
        let usual = self.settings.sign_in.as_ref().and_then(|sign_in| match reason.remedy() {
            Remedy::SignIn => Some(sign_in.url.as_str()),
            Remedy::StepUp => Some(sign_in.step_up_url.as_str()),
            _ => None,
        });
        let values = context! {
            status => reason.status().as_u16(),
            reason => reason.code(),
            title => reason.title(),
            heading => heading(reason),
            message => message,
            request_id => request_id.as_str(),
            unmet => self.unmet(refusal).to_vec(),
            sign_in => circling.or(usual),
            sign_in_label => if circling.is_some() { "Try again" } else { "Sign in" },
        };
        let rendered = self.templates.get_template(TEMPLATE).and_then(|template| template.render(&values));
        let page = rendered.unwrap_or_else(|error| {
            tracing::warn!(%error, "the page of a refusal could not be made from its template");
            let heading = heading(reason);
            let code = reason.code();
            format!("<!doctype html><title>{heading}</title><h1>{heading}</h1><p>{code} {request_id}")
        });
        let mut response = Response::new(Bytes::from(page));
        *response.status_mut() = reason.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        fields(refusal, headers);
        response
    }

    /// What an authenticated caller may know of what is missing.
    fn unmet<'a>(&self, refusal: &'a Refusal) -> &'a [String] {
        if self.settings.details { &refusal.unmet } else { &[] }
    }
}

fn redirect(location: &str, cookie: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::FOUND;
    for (name, value) in [(header::LOCATION, location), (header::SET_COOKIE, cookie)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// Trailers alone: the status stands in the head (gRPC over HTTP/2, Responses).
fn grpc(refusal: &Refusal, kind: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let code = match refusal.reason.status().as_u16() {
        400 => 3,
        401 => 16,
        403 => 7,
        404 | 405 | 421 => 12,
        429 => 8,
        408 | 504 => 4,
        413 => 11,
        500 => 13,
        _ => 14,
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert("grpc-status", HeaderValue::from(code));
    let message = format!("{}: {}", refusal.reason.code(), refusal.reason.title());
    put(headers, HeaderName::from_static("grpc-message"), message);
    fields(refusal, headers);
    response
}

/// The fields that say what to do, whatever the body's form.
fn fields(refusal: &Refusal, headers: &mut HeaderMap) {
    let reason = refusal.reason;
    if let Some(challenge) = challenge(refusal) {
        put(headers, header::WWW_AUTHENTICATE, challenge);
    }
    if let Some(wait) = refusal.retry_after {
        put(headers, header::RETRY_AFTER, wait.as_secs().max(1).to_string());
    } else if matches!(reason.remedy(), Remedy::Retry | Remedy::SlowDown) {
        put(headers, header::RETRY_AFTER, "1".to_owned());
    }
    if reason == Reason::MethodNotAllowed {
        let methods: Vec<&str> = refusal.allowed_methods.iter().map(Method::as_str).collect();
        put(headers, header::ALLOW, methods.join(", "));
    }
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

/// `WWW-Authenticate` for a 401 or a 403 that a better token would mend.
fn challenge(refusal: &Refusal) -> Option<String> {
    let reason = refusal.reason;
    if reason.status() != StatusCode::UNAUTHORIZED && reason.remedy() != Remedy::AskForAccess {
        return None;
    }
    let mut text = "Bearer realm=\"portcullis\"".to_owned();
    if let Some(error) = reason.bearer_error() {
        text.push_str(&format!(", error=\"{error}\", error_description=\"{}\"", reason.title()));
    }
    if let Some(challenge) = &refusal.challenge {
        if let Some(max_age) = challenge.max_age {
            text.push_str(&format!(", max_age=\"{}\"", max_age.as_secs()));
        }
        if !challenge.acr_values.is_empty() {
            text.push_str(&format!(", acr_values=\"{}\"", challenge.acr_values.join(" ")));
        }
    }
    Some(text)
}

fn detail(remedy: Remedy) -> &'static str {
    match remedy {
        Remedy::ChangeRequest => "Send a different request; this one will not be accepted.",
        Remedy::SignIn => "Sign in and try again.",
        Remedy::OtherCredential => "Send a credential of a kind that this route takes.",
        Remedy::StepUp => {
            "Authenticate again with the factor named in the challenge, then repeat the request."
        }
        Remedy::AskForAccess => "Ask whoever manages access to this application.",
        Remedy::Retry => "This is not the caller's fault; try again later.",
        Remedy::SlowDown => "Wait for as long as `Retry-After` says, then try again.",
    }
}

/// The same for a person in front of a browser.
fn for_people(remedy: Remedy) -> &'static str {
    match remedy {
        Remedy::ChangeRequest => {
            "Check the address. If a link brought you here, whoever made it may want to know."
        }
        Remedy::SignIn => "This page is for people who are signed in.",
        Remedy::OtherCredential => {
            "What you came with is of no use here: this is for callers of another kind."
        }
        Remedy::StepUp => "This page asks you to prove again who you are, or to prove it in one more way.",
        Remedy::AskForAccess => "You are signed in, but this is not open to you. Ask whoever manages access.",
        Remedy::Retry => "This is not your fault. Try again in a moment.",
        Remedy::SlowDown => "Wait a moment before you try again.",
    }
}

/// What a person reads first.
fn heading(reason: Reason) -> &'static str {
    match (reason.remedy(), reason.status()) {
        (Remedy::SignIn, _) => "Please sign in",
        (Remedy::OtherCredential, _) => "This is not open to you",
        (Remedy::StepUp, _) => "One more step to prove it is you",
        (Remedy::AskForAccess, _) => "You do not have access to this",
        (Remedy::SlowDown, _) => "Too many attempts",
        (Remedy::Retry, _) => "Something is not working right now",
        (Remedy::ChangeRequest, StatusCode::NOT_FOUND) => "There is nothing here",
        (Remedy::ChangeRequest, StatusCode::FORBIDDEN) => "This is not open to you",
        (Remedy::ChangeRequest, _) => "This request cannot be answered",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::Challenge;

    fn told(refusal: &Refusal, method: &Method, form: Form) -> Response<Bytes> {
        let asking = Asking { form, ..Asking::default() };
        Refusals::new(RefusalSettings::default()).response(refusal, method, &asking, &RequestId::new())
    }

    #[test]
    fn a_step_up_says_what_is_needed() {
        let challenge = Challenge {
            max_age: Some(Duration::from_secs(900)),
            acr_values: vec!["urn:portcullis:factor:totp".to_owned()],
        };
        let refusal = Refusal { challenge: Some(challenge), ..Refusal::from(Reason::FactorStale) };
        let response = told(&refusal, &Method::GET, Form::Problem);
        assert_eq!(response.status(), 401);
        assert_eq!(
            response.headers()[header::WWW_AUTHENTICATE],
            "Bearer realm=\"portcullis\", error=\"insufficient_user_authentication\", \
             error_description=\"an authentication factor must be proven again\", max_age=\"900\", \
             acr_values=\"urn:portcullis:factor:totp\""
        );
    }

    #[test]
    fn every_reason_becomes_an_answer_in_every_form_that_is_never_stored() {
        for reason in Reason::ALL {
            for form in [Form::Problem, Form::Page, Form::Grpc, Form::GrpcWeb] {
                let response = told(&Refusal::from(*reason), &Method::GET, form);
                let headers = response.headers();
                assert_eq!(headers[header::CACHE_CONTROL], "no-store");
                let challenged = reason.status() == 401 || reason.remedy() == Remedy::AskForAccess;
                assert_eq!(headers.contains_key(header::WWW_AUTHENTICATE), challenged, "{reason:?}");
                let waits = matches!(reason.remedy(), Remedy::Retry | Remedy::SlowDown);
                assert_eq!(headers.contains_key(header::RETRY_AFTER), waits, "{reason:?}");
                match form {
                    Form::Problem => {
                        let problem: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
                        assert_eq!(problem["reason"], reason.code());
                        assert_eq!(problem["status"], response.status().as_u16());
                        assert_eq!(problem["type"], format!("urn:portcullis:reason:{}", reason.code()));
                    }
                    Form::Page => {
                        let page = std::str::from_utf8(response.body()).unwrap();
                        assert!(page.contains(reason.code()) && page.contains(heading(*reason)), "{page}");
                        assert!(!page.contains("http:") && !page.contains("https:"), "it loads nothing");
                        assert_eq!(response.status(), reason.status());
                    }
                    Form::Grpc | Form::GrpcWeb => {
                        assert_eq!(response.status(), 200);
                        assert_ne!(headers["grpc-status"], "0");
                        assert!(response.body().is_empty());
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_missing_is_told_only_where_that_is_allowed() {
        let refusal =
            Refusal { unmet: vec!["role `<admin>`".to_owned()], ..Refusal::from(Reason::RoleMissing) };
        for form in [Form::Problem, Form::Page] {
            let kept = told(&refusal, &Method::GET, form);
            assert!(!String::from_utf8_lossy(kept.body()).contains("admin"));
            let open = Refusals::new(RefusalSettings { details: true, ..RefusalSettings::default() });
            let asking = Asking { form, ..Asking::default() };
            let response = open.response(&refusal, &Method::GET, &asking, &RequestId::new());
            let told = String::from_utf8_lossy(response.body()).into_owned();
            let expected = if form == Form::Page { "role `&lt;admin&gt;`" } else { "role `<admin>`" };
            assert!(told.contains(expected), "{told}");
        }
    }

    #[test]
    fn a_head_request_gets_the_fields_alone() {
        let response = told(&Reason::RouteNotFound.into(), &Method::HEAD, Form::Problem);
        assert!(response.body().is_empty());
        assert_ne!(response.headers()[header::CONTENT_LENGTH], "0");
    }
}
