//! Checking what the origin is told about its caller.
//!
//! Must not let a header be injected that the gateway or the protocol has another use for.

use std::time::Duration;

use http::HeaderName;

use super::checker::Checker;
use super::leaves::is_pointer;
use crate::config::diagnostics::Code;
use crate::config::raw::{RawAssertion, RawIdentity, RawIdentityHeader};
use crate::config::suggest::did_you_mean;
use crate::config::tree::Path;
use crate::engine::{AssertionSettings, HeaderSettings, IdentityHeader};
use crate::policy::{AttributeFormat, IdentityAttribute};

/// The names of oauth2-proxy in front of an application: user, e-mail, groups, preferred user name.
const OAUTH2_PROXY: [(&str, IdentityAttribute); 4] = [
    ("x-forwarded-user", IdentityAttribute::Subject),
    ("x-forwarded-email", IdentityAttribute::Email),
    ("x-forwarded-groups", IdentityAttribute::Roles),
    ("x-forwarded-preferred-username", IdentityAttribute::Email),
];
/// The names of oauth2-proxy behind another proxy's authentication request.
const OAUTH2_PROXY_AUTH_REQUEST: [(&str, IdentityAttribute); 4] = [
    ("x-auth-request-user", IdentityAttribute::Subject),
    ("x-auth-request-email", IdentityAttribute::Email),
    ("x-auth-request-groups", IdentityAttribute::Roles),
    ("x-auth-request-preferred-username", IdentityAttribute::Email),
];
/// The names of Authelia.
const AUTHELIA: [(&str, IdentityAttribute); 4] = [
    ("remote-user", IdentityAttribute::Subject),
    ("remote-groups", IdentityAttribute::Roles),
    ("remote-name", IdentityAttribute::Email),
    ("remote-email", IdentityAttribute::Email),
];
/// Fields that mean something to the protocol, to the gateway, to browsers or to applications already; none of them can tell
/// who is calling.
const RESERVED: [&str; 56] = [
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "alt-svc",
    "authorization",
    "cache-control",
    "connection",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "forwarded",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "last-modified",
    "link",
    "location",
    "max-forwards",
    "origin",
    "pragma",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "server",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "x-request-id",
    "traceparent",
    "tracestate",
];
/// What the names of whole families of such fields begin with.
const RESERVED_PREFIXES: [&str; 9] = [
    "access-control-",
    "content-",
    "cross-origin-",
    "if-",
    "proxy-",
    "sec-",
    "x-http-method",
    "x-original-",
    "x-rewrite-",
];
/// Fields of the gateway about the connection, among those that other proxies name users in.
const OF_THE_CONNECTION: [&str; 10] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-server",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "x-cluster-client-ip",
];

fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name)
        || OF_THE_CONNECTION.contains(&name)
        || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || name == "x-method-override"
}

impl Checker<'_> {
    pub(super) fn identity(&mut self, raw: Option<&RawIdentity>, path: &Path) -> HeaderSettings {
        let default = RawIdentity::default();
        let raw = raw.unwrap_or(&default);
        let prefix = self.header_prefix(raw.header_prefix.as_deref(), &path.key("header_prefix"));
        let mut headers: Vec<IdentityHeader> = Vec::new();
        let usual = ["portcullis".to_owned()];
        for preset in raw.preset.as_ref().map_or(&usual[..], |preset| preset.texts()) {
            let names: Vec<(String, IdentityAttribute)> = match preset.as_str() {
                "portcullis" => {
                    HeaderSettings::usual(&prefix)
                        .headers
                        .into_iter()
                        .for_each(|header| replace(&mut headers, header));
                    continue;
                }
                "oauth2-proxy" => owned(&OAUTH2_PROXY),
                "oauth2-proxy-auth-request" => owned(&OAUTH2_PROXY_AUTH_REQUEST),
                "authelia" => owned(&AUTHELIA),
                "none" => Vec::new(),
                unknown => {
                    let known =
                        ["portcullis", "oauth2-proxy", "oauth2-proxy-auth-request", "authelia", "none"];
                    let hint = did_you_mean(unknown, known.into_iter())
                        .unwrap_or_else(|| format!("known here: {}", known.join(", ")));
                    self.note_with(
                        Code::InvalidValue,
                        &path.key("preset"),
                        format!("unknown preset `{unknown}`"),
                        Some(hint),
                    );
                    continue;
                }
            };
            let named = names.into_iter().filter_map(|(name, attribute)| {
                let name = HeaderName::try_from(name).ok()?;
                Some(IdentityHeader { name, attribute, format: AttributeFormat::Joined(',') })
            });
            for header in named {
                replace(&mut headers, header);
            }
        }
        let mut written: Vec<HeaderName> = Vec::new();
        for (index, raw) in raw.headers.iter().flatten().enumerate() {
            let path = path.key("headers").index(index);
            let Some(header) = self.identity_header(raw, &path) else { continue };
            if written.contains(&header.name) {
                self.note(
                    Code::Conflict,
                    &path.key("name"),
                    format!("`{}` is named twice", header.name),
                    None,
                );
            }
            written.push(header.name.clone());
            replace(&mut headers, header);
        }
        let presets = raw.preset.as_ref().map_or(&usual[..], |preset| preset.texts());
        let none = presets.iter().any(|preset| preset == "none");
        if presets.is_empty() || (none && presets.len() > 1) {
            let message = "a preset of nothing is `none`, alone";
            self.note(Code::Conflict, &path.key("preset"), message, None);
        }
        let kind = format!("{prefix}kind");
        if let Some(other) = headers
            .iter()
            .find(|header| header.name.as_str() == kind && header.attribute != IdentityAttribute::Kind)
        {
            let message = format!("`{}` tells members from machines and apps, and nothing else", other.name);
            self.note(Code::Conflict, &path.key("headers"), message, None);
        }
        // Whatever the names are, an app must not pass for the member it acts for.
        let tells_kind = headers.iter().any(|header| header.attribute == IdentityAttribute::Kind);
        if let Ok(name) = HeaderName::try_from(kind)
            && (!none || !headers.is_empty())
            && !tells_kind
        {
            let format = AttributeFormat::Joined(',');
            headers.push(IdentityHeader { name, attribute: IdentityAttribute::Kind, format });
        }
        let max_value_bytes = self.count(raw.max_value_bytes, 8192, &path.key("max_value_bytes"));
        let assertion =
            raw.assertion.as_ref().map(|raw| self.assertion(raw, &prefix, &path.key("assertion")));
        if let Some(assertion) = &assertion
            && headers.iter().any(|header| header.name == assertion.header)
        {
            let message = format!("`{}` is taken by another identity header", assertion.header);
            self.note(Code::Conflict, &path.key("assertion").key("header"), message, None);
        }
        let remove = self.plain_names(raw.remove.as_deref(), &path.key("remove"));
        let keep = self.plain_names(raw.keep.as_deref(), &path.key("keep"));
        if let Some(name) = keep.iter().find(|name| remove.contains(name)) {
            self.note(Code::Conflict, &path.key("keep"), format!("`{name}` is removed and kept"), None);
        }
        let needed = ["accept", "authorization", "content-type", "cookie", "host", "user-agent"];
        if let Some(name) = remove.iter().find(|name| needed.contains(&name.as_str())) {
            let hint = "credentials of configured sources are removed by themselves";
            let message = format!("`{name}` cannot be removed");
            self.note(Code::InvalidValue, &path.key("remove"), message, Some(hint));
        }
        HeaderSettings { prefix, headers, also_managed: Vec::new(), remove, keep, max_value_bytes, assertion }
    }

    /// Names that `identity.keep` spares; told once it is known which names trusted identities come in.
    pub(super) fn kept_names(&mut self, settings: &HeaderSettings, path: &Path) {
        if let Some(name) = settings.keep.iter().find(|name| !settings.may_keep(name)) {
            let message = format!("`{name}` is never a client's to send: the gateway or HTTP itself sets it");
            self.note(Code::InvalidValue, &path.key("keep"), message, None);
        }
    }

    /// Names of letters, digits and `-`, in lower case.
    fn plain_names(&mut self, raw: Option<&[String]>, path: &Path) -> Vec<HeaderName> {
        let mut names = Vec::new();
        for (index, text) in raw.unwrap_or_default().iter().enumerate() {
            let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            match HeaderName::try_from(text.to_ascii_lowercase()).ok().filter(|_| plain) {
                Some(name) => names.push(name),
                None => {
                    let hint = "letters, digits and `-`; a name with any other byte is dropped in any case";
                    let message = format!("`{text}` is no name of a header field");
                    self.note(Code::InvalidValue, &path.index(index), message, Some(hint));
                }
            }
        }
        names
    }

    fn header_prefix(&mut self, prefix: Option<&str>, path: &Path) -> String {
        let prefix = prefix.unwrap_or("x-auth-");
        let well_formed = prefix.len() > 2
            && prefix.ends_with('-')
            && prefix.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        let takes = |name: &&&str| name.starts_with(prefix) || prefix.starts_with(**name);
        let taken = RESERVED
            .iter()
            .chain(&OF_THE_CONNECTION)
            .find(|name| name.starts_with(prefix))
            .or_else(|| RESERVED_PREFIXES.iter().find(takes));
        if let Some(taken) = taken.filter(|_| well_formed) {
            let message = format!("everything under `{prefix}` would be removed, `{taken}` too");
            self.note(Code::InvalidValue, path, message, Some("such as `x-auth-`"));
        }
        if !well_formed {
            let hint = "lower-case letters, digits and `-`, ending in `-`, such as `x-auth-`";
            self.note(Code::InvalidValue, path, format!("`{prefix}` cannot begin header names"), Some(hint));
        }
        prefix.to_owned()
    }

    /// The name of a header of ours: no protocol's, and of letters that no application folds into another.
    pub(super) fn header_name(&mut self, text: &str, path: &Path) -> Option<HeaderName> {
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let name = HeaderName::try_from(text.to_ascii_lowercase()).ok().filter(|_| plain);
        let free = name.filter(|name| !is_reserved(name.as_str()));
        if free.is_none() {
            let hint = "letters, digits and `-`, and none that HTTP or the gateway has another use for";
            self.note(
                Code::InvalidValue,
                path,
                format!("`{text}` cannot be the name of an identity header"),
                Some(hint),
            );
        }
        free
    }

    fn identity_header(&mut self, raw: &RawIdentityHeader, path: &Path) -> Option<IdentityHeader> {
        let Some(name) = &raw.name else {
            self.note(
                Code::Missing,
                path,
                "an identity header has no `name`",
                Some("such as `name: x-tenant`"),
            );
            return None;
        };
        let name = self.header_name(name, &path.key("name"));
        let attribute = match (raw.from.as_deref(), raw.claim.as_deref()) {
            (Some(from), None) => IdentityAttribute::from_name(from).or_else(|| {
                let hint = did_you_mean(from, IdentityAttribute::names());
                let known =
                    || format!("known here: {}", IdentityAttribute::names().collect::<Vec<_>>().join(", "));
                let message = format!("nothing known of a caller is called `{from}`");
                self.note_with(
                    Code::InvalidValue,
                    &path.key("from"),
                    message,
                    Some(hint.unwrap_or_else(known)),
                );
                None
            }),
            (None, Some(pointer)) if is_pointer(pointer) => Some(IdentityAttribute::Claim(pointer.into())),
            (None, Some(pointer)) => {
                let message = format!("`{pointer}` is no pointer into the custom claims");
                self.note(
                    Code::InvalidValue,
                    &path.key("claim"),
                    message,
                    Some("such as `/plan` (RFC 6901)"),
                );
                None
            }
            _ => {
                let hint = "`from: roles` or `claim: /plan`";
                self.note(Code::Conflict, path, "an identity header tells exactly one thing", Some(hint));
                None
            }
        };
        let separator = match raw.separator.as_deref() {
            None => ',',
            Some(text) => {
                match text.chars().next().filter(|letter| text.len() == 1 && ",;| ".contains(*letter)) {
                    Some(letter) => letter,
                    None => {
                        let message = format!("`{text}` cannot stand between the parts of a list");
                        self.note(
                            Code::InvalidValue,
                            &path.key("separator"),
                            message,
                            Some("one of `,`, `;`, `|` and a space"),
                        );
                        ','
                    }
                }
            }
        };
        let format = match raw.format.as_deref() {
            None | Some("text") => AttributeFormat::Joined(separator),
            Some("json") => AttributeFormat::Json,
            Some(other) => {
                let message = format!("`{other}` is no format");
                self.note(Code::InvalidValue, &path.key("format"), message, Some("`text` or `json`"));
                AttributeFormat::Json
            }
        };
        Some(IdentityHeader { name: name?, attribute: attribute?, format })
    }

    fn assertion(&mut self, raw: &RawAssertion, prefix: &str, path: &Path) -> AssertionSettings {
        let usual = format!("{prefix}assertion");
        let header = self.header_name(raw.header.as_deref().unwrap_or(&usual), &path.key("header"));
        let es256 = match raw.algorithm.as_deref() {
            None | Some("EdDSA") => false,
            Some("ES256") => true,
            Some(other) => {
                let message = format!("`{other}` is not offered");
                self.note(Code::InvalidValue, &path.key("algorithm"), message, Some("`EdDSA` or `ES256`"));
                false
            }
        };
        let lifetime = self.timeout(raw.lifetime.as_deref(), Duration::from_secs(60), &path.key("lifetime"));
        if lifetime > Duration::from_secs(3_600) || lifetime.subsec_nanos() > 0 {
            let message = "an assertion is good for whole seconds, and an hour at the most";
            self.note(Code::InvalidValue, &path.key("lifetime"), message, Some("some `60s`"));
        }
        let rotate = path.key("rotate_every");
        let rotate_every = self.timeout(raw.rotate_every.as_deref(), Duration::from_secs(24 * 3600), &rotate);
        if rotate_every < lifetime * 2 || rotate_every.subsec_nanos() > 0 {
            let message =
                "a key signs for whole seconds, and for at least twice as long as an assertion is good";
            self.note(Code::InvalidValue, &rotate, message, Some("some `24h`"));
        }
        let seed = raw.secret.as_ref().and_then(|raw| self.secret(Some(raw), &path.key("secret")));
        if seed.as_ref().is_some_and(|seed| seed.expose().len() < 32) && self.secrets_are_needed() {
            let message = "a secret of fewer than 32 characters can be guessed";
            let hint = "`openssl rand -base64 32` makes one";
            self.note(Code::InvalidValue, &path.key("secret"), message, Some(hint));
        }
        if raw.audience.as_deref() == Some("") {
            self.note(Code::InvalidValue, &path.key("audience"), "an assertion for nobody", None);
        }
        let issuer = raw.issuer.clone().unwrap_or_else(|| "portcullis".to_owned());
        if issuer.is_empty() || issuer.len() > 256 || issuer.chars().any(char::is_control) {
            self.note(Code::InvalidValue, &path.key("issuer"), "this is no name of an issuer", None);
        }
        AssertionSettings {
            header: header.unwrap_or_else(|| HeaderName::from_static("x-auth-assertion")),
            issuer,
            es256,
            lifetime,
            rotate_every,
            seed,
        }
    }
}

fn owned(names: &[(&str, IdentityAttribute)]) -> Vec<(String, IdentityAttribute)> {
    names.iter().map(|(name, attribute)| ((*name).to_owned(), attribute.clone())).collect()
}

/// Puts the header in, in place of an earlier one of its name.
fn replace(headers: &mut Vec<IdentityHeader>, header: IdentityHeader) {
    headers.retain(|earlier| earlier.name != header.name);
    headers.push(header);
}
