//! From a reason to a response, in one place (RFC 9457, RFC 6750, RFC 9470).
//!
//! Must not repeat anything the caller sent, nor say more than the reason's own words.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response, header};
use serde::Serialize;

use crate::policy::{Reason, Refusal, Remedy};
use crate::telemetry::RequestId;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The body of a refusal.
#[derive(Serialize)]
struct Problem<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    reason: &'a str,
    request_id: &'a str,
}

/// The response a refusal becomes. A `HEAD` gets the fields without the body.
pub fn refusal_response(refusal: &Refusal, method: &Method, request_id: &RequestId) -> Response<Bytes> {
    let reason = refusal.reason;
    let problem = Problem {
        kind: format!("urn:portcullis:reason:{}", reason.code()),
        title: reason.title(),
        status: reason.status().as_u16(),
        detail: detail(reason.remedy()),
        reason: reason.code(),
        request_id: request_id.as_str(),
    };
    let json = Bytes::from(serde_json::to_vec(&problem).unwrap_or_default());
    let length = HeaderValue::from(json.len());
    let mut response = Response::new(if *method == Method::HEAD { Bytes::new() } else { json });
    *response.status_mut() = reason.status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CONTENT_LENGTH, length);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REQUEST_ID, request_id.header());
    let put = |headers: &mut http::HeaderMap, name, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
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
    response
}

/// `WWW-Authenticate` for a 401 or a 403 that a better token would mend.
fn challenge(refusal: &Refusal) -> Option<String> {
    let reason = refusal.reason;
    if reason.status() != http::StatusCode::UNAUTHORIZED && reason.remedy() != Remedy::AskForAccess {
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
        Remedy::StepUp => {
            "Authenticate again with the factor named in the challenge, then repeat the request."
        }
        Remedy::AskForAccess => "Ask whoever manages access to this application.",
        Remedy::Retry => "This is not the caller's fault; try again later.",
        Remedy::SlowDown => "Wait for as long as `Retry-After` says, then try again.",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::Challenge;

    #[test]
    fn a_step_up_says_what_is_needed() {
        let challenge = Challenge {
            max_age: Some(Duration::from_secs(900)),
            acr_values: vec!["urn:portcullis:factor:totp".to_owned()],
        };
        let refusal = Refusal { challenge: Some(challenge), ..Refusal::from(Reason::FactorStale) };
        let response = refusal_response(&refusal, &Method::GET, &RequestId::new());
        assert_eq!(response.status(), 401);
        assert_eq!(
            response.headers()[header::WWW_AUTHENTICATE],
            "Bearer realm=\"portcullis\", error=\"insufficient_user_authentication\", \
             error_description=\"an authentication factor must be proven again\", max_age=\"900\", \
             acr_values=\"urn:portcullis:factor:totp\""
        );
    }

    #[test]
    fn every_reason_becomes_a_problem_that_is_never_stored() {
        for reason in Reason::ALL {
            let response = refusal_response(&Refusal::from(*reason), &Method::GET, &RequestId::new());
            assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
            assert_eq!(
                response.headers().contains_key(header::WWW_AUTHENTICATE),
                response.status() == 401 || reason.remedy() == Remedy::AskForAccess
            );
            assert_eq!(
                response.headers().contains_key(header::RETRY_AFTER),
                matches!(reason.remedy(), Remedy::Retry | Remedy::SlowDown)
            );
            let problem: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
            assert_eq!(problem["reason"], reason.code());
            assert_eq!(problem["status"], response.status().as_u16());
        }
    }

    #[test]
    fn a_head_request_gets_the_fields_alone() {
        let response = refusal_response(&Reason::RouteNotFound.into(), &Method::HEAD, &RequestId::new());
        assert!(response.body().is_empty());
        assert_ne!(response.headers()[header::CONTENT_LENGTH], "0");
    }
}
