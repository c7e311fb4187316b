//! Checking the gateway's own ends: admin API, webhooks, signing out, open streams.
//!
//! Must not let the admin API be used without a token: what shares a machine, or a pod, is not to be trusted with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Uri};

use super::checker::Checker;
use super::project::is_origin;
use crate::admin::{AdminSettings, OpsSettings, ProbeSettings};
use crate::config::diagnostics::Code;
use crate::config::raw::{RawAdmin, RawOps, RawSignOut, RawStreams, RawUpstream, RawWebhooks};
use crate::config::suggest::did_you_mean;
use crate::config::tree::Path;
use crate::doors::SignOutSettings;
use crate::identity::Secret;

impl Checker<'_> {
    pub(super) fn ops(
        &mut self,
        raw: Option<&RawOps>,
        upstreams: Option<&BTreeMap<String, RawUpstream>>,
        path: &Path,
    ) -> OpsSettings {
        let address = raw.and_then(|raw| raw.address.as_deref());
        let address = self.address(address, "127.0.0.1:9180", &path.key("address"));
        let mut probes = Vec::new();
        for (name, raw) in raw.and_then(|raw| raw.probes.as_ref()).into_iter().flatten() {
            let path = path.key("probes").key(name);
            if name.is_empty()
                || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            {
                let message = format!("`{name}` cannot stand in a path");
                self.note(Code::InvalidValue, &path, message, Some("letters, digits, `-` and `_`"));
            }
            let known: Vec<&String> = upstreams.into_iter().flat_map(BTreeMap::keys).collect();
            let upstream = match (&raw.upstream, known.as_slice()) {
                (Some(named), known) if known.contains(&named) => named.clone(),
                (None, [only]) => (*only).clone(),
                (Some(named), _) => {
                    let hint = did_you_mean(named, known.iter().map(|name| name.as_str()));
                    let message = format!("there is no upstream `{named}`");
                    self.note_with(Code::UnknownReference, &path.key("upstream"), message, hint);
                    continue;
                }
                (None, _) => {
                    let message = "there are several upstreams, and this names none";
                    self.note(Code::Missing, &path.key("upstream"), message, None);
                    continue;
                }
            };
            let asked = raw.path.as_deref().unwrap_or("/");
            let Some(target) = asked.starts_with('/').then(|| asked.parse().ok()).flatten() else {
                self.note(Code::InvalidValue, &path.key("path"), format!("`{asked}` is not a path"), None);
                continue;
            };
            let usual = Duration::from_secs(2);
            let timeout = self.timeout(raw.timeout.as_deref(), usual, &path.key("timeout"));
            probes.push(ProbeSettings {
                name: name.clone(),
                upstream: Arc::from(upstream),
                path: target,
                timeout,
            });
        }
        OpsSettings { address, probes }
    }

    pub(super) fn admin(&mut self, raw: Option<&RawAdmin>, path: &Path) -> Option<AdminSettings> {
        let raw = raw?;
        let address = self.address(raw.address.as_deref(), "127.0.0.1:9181", &path.key("address"));
        // Whoever is on this machine may look; whoever is elsewhere shows the token.
        let token = if raw.token.is_some() || !address.ip().is_loopback() {
            Some(self.secret(raw.token.as_ref(), &path.key("token"))?)
        } else {
            None
        };
        if token.as_ref().is_some_and(|token| token.expose().len() < 16) && self.secrets_are_needed() {
            let message = "a token of fewer than 16 characters can be guessed";
            let hint = "`openssl rand -base64 32` makes one";
            self.note(Code::InvalidValue, &path.key("token"), message, Some(hint));
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
        let mut settings = SignOutSettings::default();
        if let Some(place) = &raw.redirect_to {
            match destination(place) {
                Some((location, policy)) => {
                    settings.redirect_to = Some(location);
                    settings.form_policy = policy;
                }
                None => {
                    let message = format!("`{place}` is no place to go to");
                    let hint = "a path such as `/goodbye`, or an `https` URL";
                    self.note(Code::InvalidValue, &path.key("redirect_to"), message, Some(hint));
                }
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
            match origin_as_sent(origin) {
                Ok(origin) => settings.origins.push(origin),
                Err((message, hint)) => {
                    let path = path.key("origins").index(index);
                    self.note(Code::InvalidValue, &path, message, Some(&hint));
                }
            }
        }
        settings.cookie_domain.clone_from(&raw.cookie_domain);
        settings
    }

    pub(super) fn recheck(&mut self, raw: Option<&RawStreams>, path: &Path) -> Duration {
        let text = raw.and_then(|raw| raw.recheck.as_deref());
        let every = self.timeout(text, Duration::from_secs(30), &path.key("recheck"));
        if every < Duration::from_millis(100) {
            let message = "looking at every stream that often leaves no time for anything else";
            self.note(Code::InvalidValue, &path.key("recheck"), message, Some("some `30s`"));
        }
        every
    }
}

/// Where the browser goes, and the content security policy of the form that sends it there.
fn destination(place: &str) -> Option<(HeaderValue, HeaderValue)> {
    let uri: Uri = place.parse().ok()?;
    let location = HeaderValue::try_from(place).ok()?;
    let target = match (uri.scheme_str(), uri.authority()) {
        (Some("https"), Some(authority)) => format!(" https://{authority}"),
        (None, None) if place.starts_with('/') && !place.starts_with("//") && !place.contains('\\') => {
            String::new()
        }
        _ => return None,
    };
    let policy = format!("default-src 'none'; form-action 'self'{target}; frame-ancestors 'none'");
    Some((location, HeaderValue::try_from(policy).ok()?))
}

/// The origin, if it is one and written as browsers write it; else what is wrong and what to write.
pub(super) fn origin_as_sent(text: &str) -> Result<String, (String, String)> {
    let uri = text.parse::<Uri>().ok().filter(is_origin);
    match uri.as_ref().and_then(as_sent) {
        None => Err((
            format!("`{text}` is no origin"),
            "scheme and host alone, such as `https://app.example.com`".to_owned(),
        )),
        Some(sent) if sent != text => {
            Err((format!("no browser calls it `{text}`"), format!("write `{sent}`")))
        }
        Some(sent) => Ok(sent),
    }
}

/// An origin as browsers write it: in lower case, without the port that its scheme has anyway (RFC 6454 section 6.2).
fn as_sent(uri: &Uri) -> Option<String> {
    let scheme = uri.scheme_str()?;
    let authority = uri.authority()?;
    let host = authority.host().to_ascii_lowercase();
    let usual = if scheme == "https" { 443 } else { 80 };
    Some(match authority.port_u16() {
        Some(port) if port != usual => format!("{scheme}://{host}:{port}"),
        _ => format!("{scheme}://{host}"),
    })
}

/// `whsec_` and the base64 of at least 16 bytes.
fn is_signing_secret(text: &str) -> bool {
    use base64::Engine as _;
    let encoded = text.strip_prefix("whsec_").unwrap_or(text);
    base64::engine::general_purpose::STANDARD.decode(encoded).is_ok_and(|key| key.len() >= 16)
}
