//! Checking how evidence is kept: its ages and bounds, and the cache that replicas share.
//!
//! Must not let a shared cache be reached with its credentials in a URL, or without a key of its own.

use std::time::Duration;

use http::Uri;

use super::checker::Checker;
use crate::config::diagnostics::Code;
use crate::config::mask::without_credentials;
use crate::config::raw::{RawSessions, RawShared};
use crate::config::tree::Path;
use crate::directory::{GuardSettings, MemorySettings, SharedSettings, UnknownTokenSettings};
use crate::policy::Freshness;

/// Fewer characters than this are guessed.
const LEAST_KEY: usize = 32;

pub(super) struct Sessions {
    pub(super) memory: MemorySettings,
    pub(super) guard: GuardSettings,
    pub(super) unknown_tokens: UnknownTokenSettings,
    pub(super) freshness: Freshness,
    pub(super) jwt_evidence: bool,
    pub(super) shared: Option<SharedSettings>,
}

impl Checker<'_> {
    pub(super) fn sessions(&mut self, raw: Option<&RawSessions>, path: &Path) -> Sessions {
        let default = RawSessions::default();
        let raw = raw.unwrap_or(&default);
        let seconds = Duration::from_secs;
        let fresh_for = self.duration(raw.fresh_for.as_deref(), seconds(10), &path.key("fresh_for"));
        let while_revalidate = &path.key("stale_while_revalidate");
        let revalidate = self.duration(raw.stale_while_revalidate.as_deref(), seconds(20), while_revalidate);
        let stale_if_error =
            self.duration(raw.stale_if_error.as_deref(), seconds(300), &path.key("stale_if_error"));
        let max_staleness = fresh_for.saturating_add(revalidate);
        if max_staleness.is_zero() {
            let message = "`fresh_for` plus `stale_while_revalidate` must be greater than 0";
            let hint = "`1s` is the least that makes sense";
            self.note(Code::InvalidValue, &path.key("fresh_for"), message, Some(hint));
        }
        let max_entries = self.count(raw.max_entries, 100_000, &path.key("max_entries"));
        let max_bytes = self.count(raw.max_bytes, 128 * 1024 * 1024, &path.key("max_bytes"));
        if max_bytes < 1024 * 1024 {
            let message = "less than a mebibyte holds next to nothing";
            self.note(Code::InvalidValue, &path.key("max_bytes"), message, None);
        }
        let jwt_evidence = match raw.jwt_evidence.as_deref() {
            None | Some("never") => false,
            Some("outage") => true,
            Some(other) => {
                let path = path.key("jwt_evidence");
                let message = format!("`{other}` is neither of the two");
                self.note(Code::InvalidValue, &path, message, Some("`never` or `outage`"));
                false
            }
        };
        let negative_for = self.duration(raw.negative_for.as_deref(), seconds(2), &path.key("negative_for"));
        let binding = path.key("token_binding_for");
        let token_binding_for = self.duration(raw.token_binding_for.as_deref(), seconds(900), &binding);
        let deadline = self.timeout(raw.deadline.as_deref(), seconds(2), &path.key("deadline"));
        let max_in_flight = self.count(raw.max_in_flight, 64, &path.key("max_in_flight"));
        let unknown = path.key("unknown_tokens");
        let (per_peer, in_total) =
            raw.unknown_tokens.as_ref().map(|raw| (raw.per_peer, raw.in_total)).unwrap_or_default();
        let per_peer = self.count(per_peer, 2, &unknown.key("per_peer"));
        let in_total = self.count(in_total, 50, &unknown.key("in_total"));
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Sessions {
            freshness: Freshness { fresh_for, max_staleness, stale_if_error },
            memory: MemorySettings {
                max_entries: u64::try_from(max_entries).unwrap_or(u64::MAX),
                max_bytes: u64::try_from(max_bytes).unwrap_or(u64::MAX),
                max_refreshes: (max_in_flight / 2).max(1),
                negative_for,
                token_binding_for,
                horizon: Duration::ZERO,
            },
            guard: GuardSettings {
                deadline,
                max_in_flight,
                max_waiting: self.count(raw.max_waiting, 1024, &path.key("max_waiting")),
            },
            unknown_tokens: UnknownTokenSettings { per_peer: number(per_peer), in_total: number(in_total) },
            jwt_evidence,
            shared: raw.shared.as_ref().and_then(|raw| self.shared(raw, &path.key("shared"))),
        }
    }

    fn shared(&mut self, raw: &RawShared, path: &Path) -> Option<SharedSettings> {
        let place = self.redis_address(raw.redis.as_deref(), &path.key("redis"));
        let key = self.secret(raw.key.as_ref(), &path.key("key"));
        let previous_key =
            raw.previous_key.as_ref().and_then(|raw| self.secret(Some(raw), &path.key("previous_key")));
        for (name, key) in [("key", &key), ("previous_key", &previous_key)] {
            let short = key.as_ref().is_some_and(|key| key.expose().len() < LEAST_KEY);
            if short && self.secrets_are_needed() {
                let message = format!("a key of fewer than {LEAST_KEY} characters can be guessed");
                let hint = "`openssl rand -base64 32` makes one";
                self.note(Code::InvalidValue, &path.key(name), message, Some(hint));
            }
        }
        let password = raw.password.as_ref().and_then(|raw| self.secret(Some(raw), &path.key("password")));
        let ca_pem =
            raw.ca_file.as_deref().and_then(|name| match (self.environment.file)(&self.file(name)) {
                Ok(text) => Some(text.into_bytes()),
                Err(error) => {
                    let message = format!("`{name}` cannot be read: {error}");
                    self.note(Code::InvalidValue, &path.key("ca_file"), message, None);
                    None
                }
            });
        let prefix = raw.prefix.as_deref().unwrap_or("portcullis");
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        if prefix.is_empty() || prefix.len() > 64 || !prefix.bytes().all(plain) {
            let message = format!("`{prefix}` cannot begin names in Redis");
            let hint = "letters, digits and any of `- _ . :`";
            self.note(Code::InvalidValue, &path.key("prefix"), message, Some(hint));
        }
        let usual = Duration::from_millis(50);
        let timeout = self.timeout(raw.timeout.as_deref(), usual, &path.key("timeout"));
        if timeout > Duration::from_secs(1) {
            let message = "a shared cache that takes longer than a second is no help";
            self.note(Code::InvalidValue, &path.key("timeout"), message, Some("some `50ms`"));
        }
        let (host, port, tls, database) = place?;
        Some(SharedSettings {
            host,
            port,
            tls,
            ca_pem,
            database,
            username: raw.username.clone(),
            password,
            key: key?,
            previous_key,
            prefix: prefix.to_owned(),
            timeout,
            scope: String::new(),
            claim_pointers: Vec::new(),
        })
    }

    /// Host, port, TLS and database of a Redis URL.
    fn redis_address(&mut self, text: Option<&str>, path: &Path) -> Option<(String, u16, bool, i64)> {
        let Some(text) = text else {
            let hint = "add `redis: redis://127.0.0.1:6379`";
            self.note(Code::Missing, path, "`sessions.shared.redis` is missing", Some(hint));
            return None;
        };
        let read = || {
            let uri = text.parse::<Uri>().ok()?;
            let tls = match uri.scheme_str()? {
                "redis" => false,
                "rediss" => true,
                _ => return None,
            };
            let authority = uri.authority()?;
            let database = match uri.path().trim_start_matches('/') {
                "" => 0,
                digits => digits.parse().ok().filter(|number| (0..=1_000_000).contains(number))?,
            };
            let plain = !authority.as_str().contains('@') && uri.query().is_none();
            let host = authority.host().trim_matches(['[', ']']).to_owned();
            (plain && !host.is_empty()).then(|| (host, authority.port_u16().unwrap_or(6379), tls, database))
        };
        let address = read();
        if address.is_none() {
            let message = format!("`{}` is not the address of a Redis", without_credentials(text));
            let hint = "write `redis://host:6379` or `rediss://host:6379/0`; user and password have keys of their own";
            self.note(Code::InvalidValue, path, message, Some(hint));
        }
        address
    }
}
