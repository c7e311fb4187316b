//! Who may ask the admin listener what.
//!
//! Must not let a page in somebody's browser change anything, nor answer a name that is not ours.

use arc_swap::ArcSwapOption;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, StatusCode, Uri, header};

use super::answer::Failure;
use super::settings::AdminSettings;
use crate::identity::{CredentialDigest, Secret};

/// The rules of one admin listener.
pub(super) struct Access {
    token: ArcSwapOption<Secret>,
    /// Whoever reaches it is on this machine.
    is_local: bool,
}

impl Access {
    pub(super) fn new(settings: AdminSettings) -> Self {
        let token = ArcSwapOption::from_pointee(settings.token);
        Self { token, is_local: settings.address.ip().is_loopback() }
    }

    pub(super) fn use_token(&self, token: Option<Secret>) {
        self.token.store(token.map(std::sync::Arc::new));
    }

    /// Whoever may look: anybody on this machine, by a name of this machine; elsewhere whoever shows the token, as a bearer
    /// or as the password a browser asks for.
    pub(super) fn admit_reader(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), Failure> {
        if self.is_local {
            // A name that somebody else made lead here is the way a page of theirs would read this one.
            let host = uri.host().or_else(|| headers.get(header::HOST)?.to_str().ok());
            return if host.is_some_and(is_name_of_this_machine) {
                Ok(())
            } else {
                Err((StatusCode::MISDIRECTED_REQUEST, "ask by a loopback address or `localhost`".to_owned()))
            };
        }
        if self.shows_token(headers, true) {
            return Ok(());
        }
        Err((StatusCode::UNAUTHORIZED, "the admin token is needed".to_owned()))
    }

    /// Whoever may change something, or ask about a caller: who holds the token, and no page of a browser.
    pub(super) fn admit_operator(&self, headers: &HeaderMap) -> Result<(), Failure> {
        if headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site") {
            return Err((StatusCode::FORBIDDEN, "pages of a browser are not answered".to_owned()));
        }
        if self.token.load().is_none() {
            let why = "no `admin.token` is configured, so nothing can be changed here";
            return Err((StatusCode::FORBIDDEN, why.to_owned()));
        }
        if self.shows_token(headers, false) {
            return Ok(());
        }
        Err((StatusCode::UNAUTHORIZED, "the admin token is needed".to_owned()))
    }

    fn shows_token(&self, headers: &HeaderMap, as_password: bool) -> bool {
        let token = self.token.load();
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let (Some(token), Some((scheme, given))) = (&*token, given.and_then(|value| value.split_once(' ')))
        else {
            return false;
        };
        if scheme.eq_ignore_ascii_case("bearer") {
            return is_same(given.trim(), token.expose());
        }
        if !as_password || !scheme.eq_ignore_ascii_case("basic") {
            return false;
        }
        let decoded = STANDARD.decode(given.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        decoded
            .as_deref()
            .and_then(|pair| pair.split_once(':'))
            .is_some_and(|(_, password)| is_same(password, token.expose()))
    }
}

/// By digest, so that the time it takes says nothing about either length.
fn is_same(given: &str, token: &str) -> bool {
    let [given, token] = [given, token].map(|text| CredentialDigest::of(text).to_hex());
    verify_slices_are_equal(given.as_bytes(), token.as_bytes()).is_ok()
}

fn is_name_of_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_its_names() {
        for (host, ours) in [
            ("localhost:9181", true),
            ("LOCALHOST", true),
            ("127.0.0.1:9181", true),
            ("127.9.9.9", true),
            ("[::1]:9181", true),
            ("localhost.example.com", false),
            ("rebound.example.com:9181", false),
            ("10.0.0.1", false),
            ("", false),
        ] {
            assert_eq!(is_name_of_this_machine(host), ours, "{host}");
        }
    }
}
