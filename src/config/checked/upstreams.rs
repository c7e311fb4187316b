//! Checking the applications: where their servers are, and how they are dealt with.
//!
//! Must not look at routes: whether an upstream is used is their business.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use rustls::pki_types::ServerName;

use super::checker::Checker;
use super::project::origin_address;
use super::routes::letter_case_of;
use crate::config::diagnostics::Code;
use crate::config::mask::without_credentials;
use crate::config::raw::{RawEjection, RawHealth, RawOriginTls, RawRetries, RawUpstream};
use crate::config::suggest::did_you_mean;
use crate::config::tree::Path;
use crate::upstream::{
    CallerShare, EjectionSettings, HealthSettings, MaySet, OriginAddress, OriginSettings, OriginTls,
    RetrySettings,
};

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

impl Checker<'_> {
    pub(super) fn upstreams(
        &mut self,
        raw: Option<&BTreeMap<String, RawUpstream>>,
        share: CallerShare,
        path: &Path,
    ) -> Vec<OriginSettings> {
        let Some(raw) = raw.filter(|raw| !raw.is_empty()) else {
            let hint = "add `app: { url: http://127.0.0.1:3000 }`";
            self.note(Code::Missing, path, "there is no upstream", Some(hint));
            return Vec::new();
        };
        raw.iter()
            .filter_map(|(name, upstream)| self.upstream(name, upstream, share, &path.key(name)))
            .collect()
    }

    fn upstream(
        &mut self,
        name: &str,
        raw: &RawUpstream,
        caller_share: CallerShare,
        path: &Path,
    ) -> Option<OriginSettings> {
        let servers = self.servers(name, raw, path);
        let http2 = self.protocol(raw.protocol.as_deref(), &path.key("protocol"));
        let secure = servers.as_ref().is_none_or(|servers| servers.iter().any(OriginAddress::is_secure));
        let tls = self.origin_tls(raw.tls.as_ref(), secure, &path.key("tls"));
        if let Some(word) = raw.letter_case.as_deref().filter(|word| letter_case_of(word).is_none()) {
            let message = format!("`{word}` is none of the three");
            let hint = "`refuse`, `sensitive` or `insensitive`";
            self.note(Code::InvalidValue, &path.key("letter_case"), message, Some(hint));
        }
        let forwarded = path.key("forward_credentials");
        self.words(raw.forward_credentials.as_deref(), &["authorization", "cookies"], &forwarded);
        if raw.forward_credentials.as_ref().is_some_and(|words| !words.is_empty()) {
            let message =
                format!("upstream `{name}` receives credentials, and can act as every caller with them");
            let hint = "an application that only wants to know who calls reads the identity headers";
            self.note(Code::ForwardedCredentials, &forwarded, message, Some(hint));
        }
        self.words(raw.may_set.as_deref(), &["session_cookies", "alt_svc"], &path.key("may_set"));
        let sets = |word: &str, usual| {
            raw.may_set.as_ref().map_or(usual, |words| words.iter().any(|written| written == word))
        };
        let may_set =
            MaySet { session_cookies: sets("session_cookies", true), alt_svc: sets("alt_svc", false) };
        let several = servers.as_ref().is_some_and(|servers| servers.len() > 1);
        let retries = self.retries(raw.retries.as_ref(), several, &path.key("retries"));
        let health = raw.health.as_ref().and_then(|raw| self.health(raw, &path.key("health")));
        let ejection = self.ejection(raw.ejection.as_ref(), &path.key("ejection"));
        let deadline = raw.deadline.as_deref();
        let deadline = deadline.map(|text| self.timeout(Some(text), seconds(60), &path.key("deadline")));
        let mut timeout = |text: &Option<String>, default, key: &str| {
            self.timeout(text.as_deref(), seconds(default), &path.key(key))
        };
        let connect_timeout = timeout(&raw.connect_timeout, 5, "connect_timeout");
        let response_timeout = timeout(&raw.response_timeout, 60, "response_timeout");
        let wait_timeout = timeout(&raw.wait_timeout, 5, "wait_timeout");
        let resolve_every = timeout(&raw.resolve_every, 30, "resolve_every");
        let mut count = |number, default, key: &str| self.count(number, default, &path.key(key));
        Some(OriginSettings {
            name: Arc::from(name),
            max_connections: count(raw.max_connections, 1024, "max_connections"),
            max_streams: count(raw.max_streams, 100, "max_streams"),
            max_open_streams: raw.max_open_streams.map(|most| count(Some(most), 1, "max_open_streams")),
            caller_share,
            max_waiting: count(raw.max_waiting, 1024, "max_waiting"),
            idle_timeout: self.duration(raw.idle_timeout.as_deref(), seconds(30), &path.key("idle_timeout")),
            servers: servers?,
            http2,
            tls,
            connect_timeout,
            response_timeout,
            deadline,
            wait_timeout,
            resolve_every,
            retries,
            health,
            ejection,
            may_set,
        })
    }

    /// A list of words out of a closed set.
    fn words(&mut self, written: Option<&[String]>, known: &[&str], path: &Path) {
        for (index, word) in written.unwrap_or_default().iter().enumerate() {
            if !known.contains(&word.as_str()) {
                let hint = did_you_mean(word, known.iter().copied())
                    .unwrap_or_else(|| format!("known here: {}", known.join(", ")));
                let message = format!("`{word}` is none of the words for this");
                self.note_with(Code::InvalidValue, &path.index(index), message, Some(hint));
            }
        }
    }

    fn servers(&mut self, name: &str, raw: &RawUpstream, path: &Path) -> Option<Vec<OriginAddress>> {
        let written: Vec<(Path, &str)> = match (&raw.url, &raw.servers) {
            (Some(url), None) => vec![(path.key("url"), url)],
            (None, Some(servers)) if !servers.is_empty() => {
                let at = path.key("servers");
                servers.iter().enumerate().map(|(index, text)| (at.index(index), text.as_str())).collect()
            }
            (Some(_), Some(_)) => {
                let message = "an upstream is named by `url` or by `servers`, not by both";
                self.note(Code::Conflict, &path.key("servers"), message, Some("move `url` into `servers`"));
                return None;
            }
            (None, _) => {
                let hint = "add `url: http://127.0.0.1:3000`";
                let message = format!("upstream `{name}` has no `url`");
                self.note(Code::Missing, &path.key("url"), message, Some(hint));
                return None;
            }
        };
        let mut servers: Vec<OriginAddress> = Vec::new();
        let mut complete = true;
        for (path, text) in &written {
            match origin_address(text) {
                Some(address) if servers.contains(&address) => {
                    self.note(Code::Conflict, path, "this server is named twice", None);
                }
                Some(address) => servers.push(address),
                None => {
                    let hint = "write scheme, host and port alone, such as `http://127.0.0.1:3000`, or a socket's whole \
                                path, such as `unix:/run/app.sock`";
                    let message = format!("`{}` is not the address of an origin", without_credentials(text));
                    self.note(Code::InvalidValue, path, message, Some(hint));
                    complete = false;
                }
            }
        }
        let secure = servers.iter().filter(|address| address.is_secure()).count();
        if complete && secure > 0 && secure < servers.len() {
            let message = "some servers are spoken to under TLS and some in the clear";
            let hint = "make two upstreams of them";
            self.note(Code::Conflict, &path.key("servers"), message, Some(hint));
            return None;
        }
        complete.then_some(servers)
    }

    /// Whether it is HTTP/2.
    fn protocol(&mut self, text: Option<&str>, path: &Path) -> bool {
        match text {
            None | Some("http1") => false,
            Some("http2") => true,
            Some(other) => {
                let message = format!("`{other}` is not a protocol spoken to origins");
                self.note(Code::InvalidValue, path, message, Some("`http1` or `http2`"));
                false
            }
        }
    }

    fn origin_tls(&mut self, raw: Option<&RawOriginTls>, secure: bool, path: &Path) -> OriginTls {
        let Some(raw) = raw else { return OriginTls::default() };
        if !secure {
            let message = "no server of this upstream is spoken to under TLS";
            self.note(Code::Conflict, path, message, Some("write `https://` before its address"));
        }
        let client_certificate = match (&raw.certificate, &raw.key) {
            (Some(certificate), Some(key)) => Some((self.file(certificate), self.file(key))),
            (None, None) => None,
            _ => {
                self.note(Code::Missing, path, "a certificate needs `certificate` and `key`", None);
                None
            }
        };
        let server_name = raw.server_name.clone();
        if let Some(name) = server_name.as_deref().filter(|name| ServerName::try_from(*name).is_err()) {
            let message = format!("`{name}` is not the name of a server");
            self.note(Code::InvalidValue, &path.key("server_name"), message, None);
        }
        OriginTls {
            ca_file: raw.ca_file.as_deref().map(|name| self.file(name)),
            client_certificate,
            server_name,
        }
    }

    fn retries(&mut self, raw: Option<&RawRetries>, several: bool, path: &Path) -> RetrySettings {
        let default = RawRetries::default();
        let raw = raw.unwrap_or(&default);
        let attempts = raw.attempts.unwrap_or(if several { 1 } else { 0 });
        if attempts > 5 {
            let message = "more than 5 further tries only add to what an application in trouble must bear";
            self.note(Code::InvalidValue, &path.key("attempts"), message, None);
        }
        let budget = raw.budget_percent.unwrap_or(20);
        if budget > 100 {
            let message = "the budget is a percentage of all requests, at most 100";
            self.note(Code::InvalidValue, &path.key("budget_percent"), message, None);
        }
        let per_try = path.key("per_try_timeout");
        RetrySettings {
            attempts: u32::try_from(attempts.min(5)).unwrap_or_default(),
            budget_percent: u32::try_from(budget.min(100)).unwrap_or_default(),
            per_try_timeout: raw
                .per_try_timeout
                .as_deref()
                .map(|text| self.timeout(Some(text), seconds(60), &per_try)),
        }
    }

    fn health(&mut self, raw: &RawHealth, path: &Path) -> Option<HealthSettings> {
        let at = path.key("path");
        let Some(text) = &raw.path else {
            let hint = "add `path: /healthz`";
            self.note(Code::Missing, &at, "a health check needs a `path`", Some(hint));
            return None;
        };
        let parsed = text.parse::<PathAndQuery>().ok();
        if !text.starts_with('/') || parsed.is_none_or(|parsed| parsed.as_str() != text) {
            let message = format!("`{text}` is not a path to ask for");
            self.note(Code::InvalidValue, &at, message, Some("it begins with `/`"));
        }
        let unhealthy_after = self.count(raw.unhealthy_after, 2, &path.key("unhealthy_after"));
        let healthy_after = self.count(raw.healthy_after, 2, &path.key("healthy_after"));
        Some(HealthSettings {
            path: text.clone(),
            every: self.timeout(raw.every.as_deref(), seconds(5), &path.key("every")),
            timeout: self.timeout(raw.timeout.as_deref(), seconds(2), &path.key("timeout")),
            unhealthy_after: u32::try_from(unhealthy_after).unwrap_or(u32::MAX),
            healthy_after: u32::try_from(healthy_after).unwrap_or(u32::MAX),
        })
    }

    fn ejection(&mut self, raw: Option<&RawEjection>, path: &Path) -> EjectionSettings {
        let default = RawEjection::default();
        let raw = raw.unwrap_or(&default);
        let after = self.count(raw.after, 3, &path.key("after"));
        EjectionSettings {
            after: u32::try_from(after).unwrap_or(u32::MAX),
            period: self.timeout(raw.period.as_deref(), seconds(10), &path.key("period")),
        }
    }
}
