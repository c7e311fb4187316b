//! Checking routes: what they match, whom they let through, where they lead.
//!
//! Must not let a route in that can never answer, or that answers with less than was written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::Method;

use super::checker::Checker;
use super::named_requirements::Tried;
use super::own::origin_as_sent;
use crate::config::diagnostics::Code;
use crate::config::raw::{RawMatch, RawRoute, RawUpstream};
use crate::config::suggest::did_you_mean;
use crate::config::tree::Path;
use crate::policy::{
    Access, ForwardedCredentials, Freshness, HostPattern, LetterCase, OrganizationFrom, OrganizationPlace,
    PathPattern, Requirement, Route, RouteMatch, WebSocketRule,
};

pub(super) const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

impl Checker<'_> {
    pub(super) fn routes(
        &mut self,
        raw: Option<&[RawRoute]>,
        path: &Path,
        usual: &Freshness,
        upstreams: Option<&BTreeMap<String, RawUpstream>>,
    ) -> Vec<Route> {
        let raw = raw.unwrap_or_default();
        if raw.is_empty() {
            let hint = "add `- { name: everything, match: { path: /** }, require: authenticated }`";
            self.note(Code::Missing, path, "there is no route, so everything would be refused", Some(hint));
        }
        let empty = BTreeMap::new();
        let upstreams = upstreams.unwrap_or(&empty);
        let mut routes: Vec<Route> = Vec::new();
        for (index, route) in raw.iter().enumerate() {
            let path = path.index(index);
            if let Some(route) = self.route(route, &path, usual, upstreams) {
                if routes.iter().any(|earlier| earlier.name == route.name) {
                    let message = format!("two routes are called `{}`", route.name);
                    self.note(Code::Conflict, &path.key("name"), message, None);
                }
                if let Some(earlier) = routes.iter().find(|earlier| hides(&earlier.matches, &route.matches)) {
                    let message = format!(
                        "route `{}` never answers: `{}` takes all it would",
                        route.name, earlier.name
                    );
                    self.note(
                        Code::Conflict,
                        &path.key("match"),
                        message,
                        Some("give the two different methods, or remove one"),
                    );
                }
                routes.push(route);
            }
        }
        routes
    }

    fn route(
        &mut self,
        raw: &RawRoute,
        path: &Path,
        usual: &Freshness,
        upstreams: &BTreeMap<String, RawUpstream>,
    ) -> Option<Route> {
        let name = raw.name.clone().unwrap_or_default();
        if name.is_empty() {
            self.note(
                Code::Missing,
                path,
                "a route has no `name`",
                Some("metrics and logs call it by its name"),
            );
        } else if name == "none" {
            self.note(
                Code::InvalidValue,
                &path.key("name"),
                "`none` stands for requests without a route",
                None,
            );
        }
        let matches = self.matches(raw.matches.as_ref(), &path.key("match"));
        let access = self.access(raw, path);
        let shadow = self.shadow(raw, path);
        let upstream = self.upstream_of(raw, path, upstreams);
        let freshness = self.freshness(raw, path, usual);
        let keep_encoded_slash = self.keep(raw.encoded_slash.as_deref(), &path.key("encoded_slash"));
        let keep_path_parameters = self.keep(raw.path_parameters.as_deref(), &path.key("path_parameters"));
        let upstream = upstream?;
        let letter_case = upstreams.get(&*upstream).and_then(|found| found.letter_case.as_deref());
        let letter_case = letter_case.and_then(letter_case_of).unwrap_or_default();
        let forwards = upstreams.get(&*upstream).map(forwarded_credentials).unwrap_or_default();
        let (matches, (access, tried)) = (matches?, access?);
        if tried.is_some() && shadow.is_some() {
            let message = "a route tries one thing at a time";
            let hint = "either `shadow:` beside `require:`, or parts of it under `shadow:`";
            self.note(Code::Conflict, &path.key("shadow"), message, Some(hint));
        }
        let shadow = tried.or(shadow);
        let speaks_http2 =
            upstreams.get(&*upstream).is_some_and(|found| found.protocol.as_deref() == Some("http2"));
        let websocket = self.websocket(raw.websocket.as_ref(), &path.key("websocket"));
        if websocket.is_some() && speaks_http2 {
            let message = "no WebSocket is opened to an upstream that speaks HTTP/2";
            let hint = "make a second upstream of it, with `protocol: http1`";
            self.note(Code::Conflict, &path.key("websocket"), message, Some(hint));
        }
        if raw.audience.as_deref() == Some("") {
            self.note(Code::InvalidValue, &path.key("audience"), "an assertion for nobody", None);
        }
        if raw.audience.is_some() && matches!(access, Access::Public) {
            let message = "nobody is identified on a public route, so there is nothing to assert";
            self.note(Code::Conflict, &path.key("audience"), message, None);
        }
        if let Access::Require(requirement) = &access {
            for requirement in std::iter::once(requirement).chain(&shadow) {
                self.path_parameters(requirement, &matches, path);
            }
        }
        Some(Route {
            name: Arc::from(name),
            matches,
            access,
            shadow,
            audience: raw.audience.as_deref().map(Arc::from),
            freshness,
            upstream,
            letter_case,
            keep_encoded_slash,
            keep_path_parameters,
            websocket,
            forwards,
        })
    }

    fn matches(&mut self, raw: Option<&RawMatch>, path: &Path) -> Option<RouteMatch> {
        let Some(paths) = raw.and_then(|raw| raw.path.as_ref()) else {
            let hint = "add `match: { path: /** }`";
            self.note(Code::Missing, path, "a route does not say which `path` it matches", Some(hint));
            return None;
        };
        let raw = raw?;
        let before = path.clone();
        let mut patterns = Vec::new();
        for text in paths.texts() {
            match PathPattern::parse(text) {
                Ok(pattern) => patterns.push(pattern),
                Err(error) => {
                    let hint = "write `/exact`, `/prefix/**` or a glob such as `/*/users/**`";
                    let message = format!("`{text}` cannot be matched: {error}");
                    self.note(Code::InvalidValue, &before.key("path"), message, Some(hint));
                }
            }
        }
        let mut hosts = Vec::new();
        for text in raw.host.iter().flat_map(|hosts| hosts.texts()) {
            match HostPattern::parse(text) {
                Ok(pattern) => hosts.push(pattern),
                Err(_) => {
                    let hint = "write `app.example.com`, `*.example.com` or `*`, without a port";
                    self.note(
                        Code::InvalidValue,
                        &before.key("host"),
                        format!("`{text}` is not a host"),
                        Some(hint),
                    );
                }
            }
        }
        if hosts.is_empty() {
            hosts.push(HostPattern::Unnamed);
        }
        let mut methods = Vec::new();
        for (index, text) in raw.methods.iter().flatten().enumerate() {
            let upper = text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
            match Method::from_bytes(text.as_bytes()) {
                Ok(method) if upper && method != Method::CONNECT && method != Method::TRACE => {
                    methods.push(method);
                }
                _ => {
                    let place = before.key("methods").index(index);
                    let hint = did_you_mean(&text.to_ascii_uppercase(), METHODS.into_iter());
                    self.note_with(Code::InvalidValue, &place, format!("`{text}` is not a method"), hint);
                }
            }
        }
        (!patterns.is_empty()).then_some(RouteMatch { hosts, paths: patterns, methods })
    }

    /// Who may pass, and what is tried beside that.
    fn access(&mut self, raw: &RawRoute, path: &Path) -> Option<(Access, Option<Requirement>)> {
        match (raw.public, &raw.require) {
            (Some(true), None) => Some((Access::Public, None)),
            (None | Some(false), Some(value)) => {
                let Tried { enforced, shadowed, tries, .. } =
                    self.requirement(value, &path.key("require"))?;
                let Some(enforced) = enforced else {
                    let message = "all of this is only tried, so the route would let anybody through";
                    let hint = "write `all: [authenticated, { shadow: … }]`";
                    self.note(Code::InvalidValue, &path.key("require"), message, Some(hint));
                    return None;
                };
                let tried = tries.then_some(shadowed);
                Some((Access::Require(enforced), tried))
            }
            (Some(true), Some(_)) => {
                let message = "a route is either `public` or has a `require`";
                self.note(Code::Conflict, &path.key("public"), message, Some("remove one of the two"));
                None
            }
            (None | Some(false), None) => {
                let hint = "add `require: authenticated`, or `public: true` if anybody may pass";
                self.note(Code::Missing, path, "a route does not say who may pass", Some(hint));
                None
            }
        }
    }

    fn shadow(&mut self, raw: &RawRoute, path: &Path) -> Option<Requirement> {
        let value = raw.shadow.as_ref()?;
        let path = path.key("shadow");
        if raw.public == Some(true) {
            let message = "nobody is identified on a public route, so there is nobody to try it on";
            self.note(
                Code::Conflict,
                &path,
                message,
                Some("try it on a route with `require: authenticated`"),
            );
        }
        self.requirement(value, &path).map(|read| read.shadowed)
    }

    /// Every pattern of a route must have the parameters that its requirement asks about.
    fn path_parameters(&mut self, requirement: &Requirement, matches: &RouteMatch, path: &Path) {
        if let Requirement::OrganizationFrom(OrganizationFrom {
            place: OrganizationPlace::PathParameter(name),
            ..
        }) = requirement
        {
            let lacks = |pattern: &&PathPattern| !pattern.parameters().any(|known| known == &**name);
            if let Some(pattern) = matches.paths.iter().find(lacks) {
                let message = format!("`{pattern}` has no `{{{name}}}` to take the organization from");
                let hint = format!("such as `/orgs/{{{name}}}/**`");
                self.note(Code::InvalidValue, &path.key("match").key("path"), message, Some(&hint));
            }
        }
        for part in requirement.parts() {
            self.path_parameters(part, matches, path);
        }
    }

    fn upstream_of(
        &mut self,
        raw: &RawRoute,
        path: &Path,
        upstreams: &BTreeMap<String, RawUpstream>,
    ) -> Option<Arc<str>> {
        match &raw.upstream {
            Some(name) if upstreams.contains_key(name) => Some(Arc::from(name.as_str())),
            Some(name) => {
                let hint = did_you_mean(name, upstreams.keys().map(String::as_str));
                let message = format!("unknown upstream `{name}`");
                self.note_with(Code::UnknownReference, &path.key("upstream"), message, hint);
                None
            }
            None => {
                let mut names = upstreams.keys();
                match (names.next(), names.next()) {
                    (Some(only), None) => Some(Arc::from(only.as_str())),
                    _ => {
                        let hint = "name one of `upstreams`";
                        self.note(
                            Code::Missing,
                            path,
                            "a route does not say which `upstream` it leads to",
                            Some(hint),
                        );
                        None
                    }
                }
            }
        }
    }

    fn freshness(&mut self, raw: &RawRoute, path: &Path, usual: &Freshness) -> Freshness {
        let max_staleness =
            self.timeout(raw.max_staleness.as_deref(), usual.max_staleness, &path.key("max_staleness"));
        // A route that asks for fresh evidence does not want old evidence for want of better, unless it says so.
        let default = if raw.max_staleness.is_some() { Duration::ZERO } else { usual.stale_if_error };
        let stale_if_error =
            self.duration(raw.stale_if_error.as_deref(), default, &path.key("stale_if_error"));
        Freshness { fresh_for: usual.fresh_for, max_staleness, stale_if_error }
    }

    /// `true`, `false`, or the origins whose pages may open one.
    fn websocket(&mut self, raw: Option<&serde_json::Value>, path: &Path) -> Option<WebSocketRule> {
        let listed = match raw? {
            serde_json::Value::Bool(allowed) => return allowed.then(WebSocketRule::default),
            value => value.as_object().filter(|rule| rule.len() == 1).and_then(|rule| rule.get("origins")),
        };
        let Some(listed) = listed.and_then(serde_json::Value::as_array) else {
            let message =
                "a route says whether WebSockets are opened, or which other origins' pages may open one";
            let hint = "`true`, or `{ origins: [\"https://app.example.com\"] }`";
            self.note(Code::WrongType, path, message, Some(hint));
            return None;
        };
        let mut rule = WebSocketRule::default();
        for (index, origin) in listed.iter().enumerate() {
            let text = origin.as_str().unwrap_or_default();
            match origin_as_sent(text) {
                Ok(origin) => rule.origins.push(Arc::from(origin)),
                Err((message, hint)) => {
                    let path = path.key("origins").index(index);
                    self.note(Code::InvalidValue, &path, message, Some(&hint));
                }
            }
        }
        Some(rule)
    }

    fn keep(&mut self, word: Option<&str>, path: &Path) -> bool {
        match word {
            None | Some("refuse") => false,
            Some("keep") => true,
            Some(other) => {
                self.note(
                    Code::InvalidValue,
                    path,
                    format!("`{other}` is neither of the two"),
                    Some("`refuse` or `keep`"),
                );
                false
            }
        }
    }
}

/// Which credentials an upstream receives; words that are none of these are told where the upstream is checked.
fn forwarded_credentials(raw: &RawUpstream) -> ForwardedCredentials {
    let names = |word: &str| raw.forward_credentials.iter().flatten().any(|written| written == word);
    ForwardedCredentials { authorization: names("authorization"), cookies: names("cookies") }
}

/// The words of an upstream's `letter_case`.
pub(super) fn letter_case_of(word: &str) -> Option<LetterCase> {
    match word {
        "refuse" => Some(LetterCase::Refuse),
        "sensitive" => Some(LetterCase::Sensitive),
        "insensitive" => Some(LetterCase::Insensitive),
        _ => None,
    }
}

/// Whether everything `later` matches is taken by `earlier` already: the same places, and methods that leave none over.
fn hides(earlier: &RouteMatch, later: &RouteMatch) -> bool {
    let same_places = later.hosts.iter().all(|host| earlier.hosts.contains(host))
        && later.paths.iter().all(|path| earlier.paths.contains(path));
    let takes_all = earlier.methods.is_empty()
        || (!later.methods.is_empty() && later.methods.iter().all(|method| earlier.methods.contains(method)));
    same_places && takes_all
}
