//! Checking the gateway's own ends: admin API, webhooks, signing out, open streams.
//!
//! Must not let the admin API be reached from elsewhere without a token.

use std::time::Duration;

use http::Uri;

use super::checker::Checker;
use super::project::is_origin;
use crate::admin::AdminSettings;
use crate::config::diagnostics::Code;
use crate::config::raw::{RawAdmin, RawSignOut, RawStreams, RawWebhooks};
use crate::config::tree::Path;
use crate::doors::SignOutSettings;
use crate::identity::Secret;

impl Checker<'_> {
    pub(super) fn admin(&mut self, raw: Option<&RawAdmin>, path: &Path) -> Option<AdminSettings> {
        let raw = raw?;
        let address = self.address(raw.address.as_deref(), "127.0.0.1:9181", &path.key("address"));
        let token = raw.token.as_ref().and_then(|raw| self.secret(Some(raw), &path.key("token")));
        if token.as_ref().is_some_and(|token| token.expose().len() < 16) && self.secrets_are_needed() {
            let message = "a token of fewer than 16 characters can be guessed";
            let hint = "`openssl rand -base64 32` makes one";
            self.note(Code::InvalidValue, &path.key("token"), message, Some(hint));
        }
        if raw.token.is_none() && !address.ip().is_loopback() {
            let message = format!("the admin API on `{address}` could be used by anybody who reaches it");
            let hint = "add `token: { env: NAME }`, or listen on `127.0.0.1`";
            self.note(Code::Missing, path, message, Some(hint));
        }
        Some(AdminSettings { address, token })
    }

    pub(super) fn webhook_secrets(&mut self, raw: Option<&RawWebhooks>, path: &Path) -> Vec<Secret> {
        let path = path.key("secrets");
        let raw = raw.and_then(|raw| raw.secrets.as_deref()).unwrap_or_default();
        let mut secrets = Vec::new();
        for (index, raw) in raw.iter().enumerate() {
            let path = path.index(index);
            let Some(secret) = self.secret(Some(raw), &path) else { continue };
            if !is_signing_secret(secret.expose()) && self.secrets_are_needed() {
                let message = "this is no signing secret";
                let hint = "it is on the Stytch dashboard, with the webhook: `whsec_` and base64";
                self.note(Code::InvalidValue, &path, message, Some(hint));
            }
            secrets.push(secret);
        }
        secrets
    }

    pub(super) fn sign_out(&mut self, raw: Option<&RawSignOut>, path: &Path) -> SignOutSettings {
        let Some(raw) = raw else { return SignOutSettings::default() };
        if let Some(place) = &raw.redirect_to {
            let is_path = place.starts_with('/') && !place.starts_with("//") && !place.contains('\\');
            let uri = place.parse::<Uri>().ok();
            let is_url =
                uri.as_ref().is_some_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some());
            if !(is_path && uri.is_some() || is_url) {
                let message = format!("`{place}` is no place to go to");
                let hint = "a path such as `/goodbye`, or an `https` URL";
                self.note(Code::InvalidValue, &path.key("redirect_to"), message, Some(hint));
            }
        }
        if let Some(domain) = &raw.cookie_domain {
            let name = domain.strip_prefix('.').unwrap_or(domain);
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
            if name.is_empty() || !name.bytes().all(plain) {
                let message = format!("`{domain}` is no domain");
                let hint = Some("such as `example.com`");
                self.note(Code::InvalidValue, &path.key("cookie_domain"), message, hint);
            }
        }
        for (index, origin) in raw.origins.iter().flatten().enumerate() {
            let well_formed =
                origin.parse::<Uri>().is_ok_and(|uri| is_origin(&uri)) && !origin.ends_with('/');
            if !well_formed {
                let message = format!("`{origin}` is no origin");
                let hint = Some("scheme and host alone, such as `https://app.example.com`");
                self.note(Code::InvalidValue, &path.key("origins").index(index), message, hint);
            }
        }
        SignOutSettings {
            redirect_to: raw.redirect_to.clone(),
            cookie_domain: raw.cookie_domain.clone(),
            origins: raw.origins.clone().unwrap_or_default(),
        }
    }

    pub(super) fn recheck(&mut self, raw: Option<&RawStreams>, path: &Path) -> Duration {
        let text = raw.and_then(|raw| raw.recheck.as_deref());
        self.timeout(text, Duration::from_secs(30), &path.key("recheck"))
    }
}

/// `whsec_` and the base64 of at least 16 bytes.
fn is_signing_secret(text: &str) -> bool {
    use base64::Engine as _;
    let encoded = text.strip_prefix("whsec_").unwrap_or(text);
    base64::engine::general_purpose::STANDARD.decode(encoded).is_ok_and(|key| key.len() >= 16)
}
