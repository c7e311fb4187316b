//! Checking the sections: listeners, credentials, sessions, upstreams, limits.
//!
//! Must not look from one section into another; references between them are the routes' business.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use super::checker::Checker;
use crate::config::diagnostics::Code;
use crate::config::raw::{RawCredential, RawHsts, RawLimits, RawListener, RawTls};
use crate::config::tree::Path;
use crate::doors::ProxySettings;
use crate::identity::CredentialSource;
use crate::server::{CertificateFiles, ListenerSettings, ServerLimits, TlsSettings};
use crate::upstream::CallerShare;

pub(super) struct Limits {
    pub(super) server: ServerLimits,
    pub(super) proxy: ProxySettings,
}

impl Checker<'_> {
    pub(super) fn listeners(
        &mut self,
        raw: Option<&[RawListener]>,
        path: &Path,
        limits: &ServerLimits,
    ) -> Vec<ListenerSettings> {
        let default = [RawListener::default()];
        let raw = raw.unwrap_or(&default);
        if raw.is_empty() {
            self.note(Code::Missing, path, "there is no listener", Some("add `- address: 0.0.0.0:8080`"));
        }
        let mut listeners: Vec<ListenerSettings> = Vec::new();
        for (index, listener) in raw.iter().enumerate() {
            let path = path.index(index);
            let address = self.address(listener.address.as_deref(), "0.0.0.0:8080", &path.key("address"));
            let name = listener.name.clone().unwrap_or_else(|| address.to_string());
            if listeners.iter().any(|earlier| *earlier.name == name) {
                let message = format!("two listeners are called `{name}`");
                self.note(Code::Conflict, &path.key("name"), message, None);
            }
            let tls = listener.tls.as_ref().map(|raw| self.tls(raw, &path.key("tls")));
            let hsts = listener.tls.as_ref().and_then(|raw| raw.hsts.as_ref());
            let hsts = hsts.map(|raw| self.hsts(raw, &path.key("tls").key("hsts")));
            let redirect_to_https = self.redirect(listener, &path.key("redirect_to_https"));
            let direct = listener.clients.as_deref() == Some("direct");
            if let Some(word) = listener.clients.as_deref().filter(|_| !direct) {
                let message = format!("`{word}` is no way for clients to connect");
                let hint = "`direct`, or leave it out where a balancer may be in front";
                self.note(Code::InvalidValue, &path.key("clients"), message, Some(hint));
            }
            if direct && (listener.forwarded.is_some() || listener.proxy_protocol.is_some()) {
                let message = "clients do not connect to it directly where it lists proxies";
                self.note(Code::Conflict, &path.key("clients"), message, Some("remove one of them"));
            }
            let limits = limits.clone();
            listeners.push(ListenerSettings {
                name: Arc::from(name),
                address,
                tls,
                proxy_protocol: self.proxy_protocol(
                    listener.proxy_protocol.as_ref(),
                    &path.key("proxy_protocol").key("from"),
                ),
                forwarded: listener
                    .forwarded
                    .as_ref()
                    .and_then(|raw| self.forwarded(raw, &path.key("forwarded"))),
                direct,
                redirect_to_https,
                hsts,
                limits,
            });
        }
        listeners
    }

    fn redirect(&mut self, listener: &RawListener, path: &Path) -> Option<u16> {
        let port = listener.redirect_to_https?;
        if listener.tls.is_some() {
            let message = "this listener answers HTTPS itself";
            self.note(Code::Conflict, path, message, Some("redirect from one without `tls`"));
        }
        let port = u16::try_from(port).ok().filter(|port| *port > 0);
        if port.is_none() {
            self.note(
                Code::InvalidValue,
                path,
                "not a port number (1-65535)",
                Some("443, where clients ask for HTTPS"),
            );
        }
        port
    }

    /// The header's value (RFC 6797 section 6.1).
    fn hsts(&mut self, raw: &RawHsts, path: &Path) -> HeaderValue {
        let year = Duration::from_secs(365 * 24 * 3600);
        let max_age = self.duration(raw.max_age.as_deref(), year, &path.key("max_age"));
        let below = raw.include_subdomains == Some(true);
        let preload = raw.preload == Some(true);
        if preload && (!below || max_age < year) {
            let message = "browsers build in only what holds for a year, and for names below as well";
            let hint = "`max_age: 8760h` and `include_subdomains: true`";
            self.note(Code::Conflict, &path.key("preload"), message, Some(hint));
        }
        let below = if below { "; includeSubDomains" } else { "" };
        let preload = if preload { "; preload" } else { "" };
        let value = format!("max-age={}{below}{preload}", max_age.as_secs());
        HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static("max-age=0"))
    }

    fn tls(&mut self, raw: &RawTls, path: &Path) -> TlsSettings {
        let at = path.key("certificates");
        let pairs = raw.certificates.as_deref().unwrap_or_default();
        if pairs.is_empty() {
            let hint = "add `- { certificate: cert.pem, key: key.pem }`";
            self.note(Code::Missing, &at, "TLS needs a certificate", Some(hint));
        }
        let mut certificates = Vec::new();
        for (index, pair) in pairs.iter().enumerate() {
            match (&pair.certificate, &pair.key) {
                (Some(certificate), Some(key)) => certificates
                    .push(CertificateFiles { certificate: self.file(certificate), key: self.file(key) }),
                _ => {
                    let message = "a certificate needs `certificate` and `key`";
                    self.note(Code::Missing, &at.index(index), message, None);
                }
            }
        }
        let client_required = self.word(
            raw.client_certificate.as_deref(),
            ["optional", "required"],
            &path.key("client_certificate"),
        );
        if client_required && raw.client_ca_file.is_none() {
            let message = "there is nothing to verify client certificates with";
            let hint = Some("add `client_ca_file`");
            self.note(Code::Missing, &path.key("client_ca_file"), message, hint);
        }
        TlsSettings {
            certificates,
            client_ca: raw.client_ca_file.as_deref().map(|name| self.file(name)),
            client_required,
            only_tls13: self.word(raw.min_version.as_deref(), ["1.2", "1.3"], &path.key("min_version")),
        }
    }

    /// Which of two words is written: the first if none is.
    fn word(&mut self, written: Option<&str>, words: [&str; 2], path: &Path) -> bool {
        let [usual, other] = words;
        if let Some(written) = written.filter(|written| !words.contains(written)) {
            let hint = format!("`{usual}` or `{other}`");
            self.note(Code::InvalidValue, path, format!("`{written}` is neither of the two"), Some(&hint));
        }
        written == Some(other)
    }

    pub(super) fn credentials(
        &mut self,
        raw: Option<&[RawCredential]>,
        path: &Path,
    ) -> Vec<CredentialSource> {
        let Some(raw) = raw else {
            return vec![
                CredentialSource::Cookie("stytch_session_jwt".to_owned()),
                CredentialSource::Cookie("stytch_session".to_owned()),
                CredentialSource::Bearer,
            ];
        };
        let mut sources = Vec::new();
        for (index, credential) in raw.iter().enumerate() {
            let path = path.index(index);
            let cookie = &credential.cookie;
            let bearer = credential.bearer;
            let basic = credential.basic.as_deref();
            let trusted = &credential.trusted_identity;
            let source = match (cookie, bearer, basic, trusted) {
                (Some(name), None, None, None) => {
                    let is_token =
                        |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
                    if name.is_empty() || !name.bytes().all(is_token) {
                        self.note(
                            Code::InvalidValue,
                            &path.key("cookie"),
                            format!("`{name}` is no name for a cookie"),
                            None,
                        );
                    }
                    if name == "stytch_intermediate_session_token" {
                        let message = "an intermediate session token is never a session";
                        self.note(Code::InvalidValue, &path.key("cookie"), message, None);
                    }
                    CredentialSource::Cookie(name.clone())
                }
                (None, Some(true), None, None) => CredentialSource::Bearer,
                (None, None, Some("password"), None) => CredentialSource::BasicPassword,
                (None, None, None, Some(raw)) => {
                    match self.trusted_identity(raw, &path.key("trusted_identity")) {
                        Some(trusted) => CredentialSource::TrustedIdentity(trusted),
                        None => continue,
                    }
                }
                _ => {
                    let hint = "`cookie: NAME`, `bearer: true`, `basic: password` or `trusted_identity: …`";
                    self.note(
                        Code::InvalidValue,
                        &path,
                        "a credential is looked for in exactly one place",
                        Some(hint),
                    );
                    continue;
                }
            };
            if sources.contains(&source) {
                self.note(Code::Conflict, &path, "this place is named twice", None);
            }
            sources.push(source);
        }
        if raw.is_empty() {
            self.note(
                Code::Missing,
                path,
                "there is no place to look for a credential",
                Some("add `- bearer: true`"),
            );
        }
        sources
    }

    /// One part in so many, such as `1/8`.
    fn share(&mut self, raw: Option<&str>, path: &Path) -> CallerShare {
        let Some(raw) = raw else { return CallerShare::default() };
        let parts = raw.strip_prefix("1/").and_then(|parts| parts.trim().parse().ok());
        match parts {
            Some(parts) if parts > 0 => CallerShare { parts },
            _ => {
                let message = format!("`{raw}` is no share of a limit");
                self.note(Code::InvalidValue, path, message, Some("one part in so many, such as `1/8`"));
                CallerShare::default()
            }
        }
    }

    pub(super) fn limits(&mut self, raw: Option<&RawLimits>, path: &Path) -> Limits {
        let default = RawLimits::default();
        let raw = raw.unwrap_or(&default);
        let usual = ServerLimits::default();
        let streams = self.count(raw.max_streams, 100, &path.key("max_streams"));
        let mut timeout =
            |text: &Option<String>, default, name| self.timeout(text.as_deref(), default, &path.key(name));
        let header_timeout = timeout(&raw.header_timeout, usual.header_timeout, "header_timeout");
        let idle_timeout = timeout(&raw.idle_timeout, usual.idle_timeout, "idle_timeout");
        let write_timeout = timeout(&raw.write_timeout, usual.write_timeout, "write_timeout");
        let body_timeout = timeout(&raw.body_timeout, Duration::from_secs(300), "body_timeout");
        let tunnel_timeout = timeout(&raw.tunnel_timeout, Duration::from_secs(3600), "tunnel_timeout");
        let max_header_bytes =
            self.count(raw.max_header_bytes, usual.max_header_bytes, &path.key("max_header_bytes"));
        if max_header_bytes < 8192 {
            let message = "the head of a request with a session JWT needs at least 8192 bytes";
            self.note(Code::InvalidValue, &path.key("max_header_bytes"), message, None);
        }
        let max_headers = self.count(raw.max_headers, usual.max_headers, &path.key("max_headers"));
        let max_connections =
            self.count(raw.max_connections, usual.max_connections, &path.key("max_connections"));
        let max_open_streams = raw.max_open_streams;
        let max_open_streams =
            max_open_streams.map(|most| self.count(Some(most), 1, &path.key("max_open_streams")));
        let caller_share = self.share(raw.caller_share.as_deref(), &path.key("caller_share"));
        let proxy = ProxySettings::default();
        Limits {
            server: ServerLimits {
                max_connections,
                max_connections_per_peer: self.count(
                    raw.max_connections_per_peer,
                    (max_connections / 2).max(1),
                    &path.key("max_connections_per_peer"),
                ),
                header_timeout,
                idle_timeout,
                write_timeout,
                max_header_bytes,
                max_headers,
                max_streams: u32::try_from(streams).unwrap_or(u32::MAX),
            },
            proxy: ProxySettings {
                body_timeout,
                tunnel_timeout,
                max_requests: self.count(raw.max_requests, proxy.max_requests, &path.key("max_requests")),
                max_open_streams,
                caller_share,
                max_path_bytes: self.count(
                    raw.max_path_bytes,
                    proxy.max_path_bytes,
                    &path.key("max_path_bytes"),
                ),
                max_headers,
                max_request_bytes: raw.max_request_bytes.unwrap_or(proxy.max_request_bytes),
                ..proxy
            },
        }
    }
}
