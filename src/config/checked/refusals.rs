//! Checking how refusals meet browsers and other people's pages.
//!
//! Must not let a browser be sent anywhere the configuration does not name in full.

use std::time::Duration;

use http::{HeaderName, Method, Uri};

use super::checker::Checker;
use super::own::origin_as_sent;
use super::routes::METHODS;
use crate::config::diagnostics::Code;
use crate::config::mask::without_credentials;
use crate::config::raw::{RawCors, RawRefusals, RawSignIn};
use crate::config::suggest::did_you_mean;
use crate::config::tree::Path;
use crate::doors::{CorsSettings, RefusalSettings, SignInSettings};
use crate::policy::HostName;

impl Checker<'_> {
    pub(super) fn refusals(
        &mut self,
        raw: Option<&RawRefusals>,
        sign_in: Option<&RawSignIn>,
        cors: Option<&RawCors>,
        root: &Path,
    ) -> RefusalSettings {
        let default = RawRefusals::default();
        let raw = raw.unwrap_or(&default);
        let path = root.key("refusals");
        let usual = RefusalSettings::default();
        let type_prefix = raw.type_prefix.clone().unwrap_or(usual.type_prefix);
        if format!("{type_prefix}reason").parse::<Uri>().is_err() && !type_prefix.starts_with("urn:") {
            let message = format!("`{type_prefix}` does not begin a URI");
            let hint = "such as `https://docs.example.com/reasons#`";
            self.note(Code::InvalidValue, &path.key("type_prefix"), message, Some(hint));
        }
        let page = raw.page.as_deref().and_then(|name| self.page(name, &path.key("page")));
        RefusalSettings {
            sign_in: sign_in.and_then(|raw| self.sign_in(raw, &root.key("sign_in"))),
            cors: cors.map(|raw| self.cors(raw, &root.key("cors"))),
            // Noted once the sources of credentials are known.
            basic: false,
            details: raw.details.unwrap_or_default(),
            type_prefix,
            page,
        }
    }

    /// A template that renders.
    fn page(&mut self, name: &str, path: &Path) -> Option<String> {
        let text = match (self.environment.file)(&self.file(name)) {
            Ok(text) => text,
            Err(error) => {
                self.note(Code::InvalidValue, path, format!("`{name}` cannot be read: {error}"), None);
                return None;
            }
        };
        let mut templates = minijinja::Environment::new();
        if let Err(error) = templates.add_template("page", &text) {
            let line = error.line().map_or_else(String::new, |line| format!(" in line {line}"));
            let message = format!("`{name}` is no template: {}{line}", error.kind());
            self.note(Code::InvalidValue, path, message, Some("the syntax is Jinja's"));
            return None;
        }
        Some(text)
    }

    fn sign_in(&mut self, raw: &RawSignIn, path: &Path) -> Option<SignInSettings> {
        let Some(url) = &raw.url else {
            let hint = Some("such as `url: https://login.example.com`");
            self.note(Code::Missing, path, "`sign_in` needs a `url`", hint);
            return None;
        };
        for (text, key) in [(Some(url), "url"), (raw.step_up_url.as_ref(), "step_up_url")] {
            if text.is_some_and(|text| !is_page(text)) {
                let message = format!(
                    "`{}` is not the address of a page",
                    without_credentials(text.map_or("", |text| text))
                );
                let hint = "scheme, host and path, such as `https://login.example.com/sign-in`";
                self.note(Code::InvalidValue, &path.key(key), message, Some(hint));
            }
        }
        if url.starts_with("http://") && !is_loopback(url) {
            let message = "the way to the sign-in page is not encrypted";
            self.note(Code::ClearSignIn, &path.key("url"), message, Some("use `https`"));
        }
        let return_param = raw.return_param.clone().unwrap_or_else(|| "next".to_owned());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        if return_param.is_empty() || !return_param.bytes().all(plain) {
            let message = format!("`{return_param}` cannot name a parameter");
            self.note(Code::InvalidValue, &path.key("return_param"), message, Some("such as `next`"));
        }
        let step_up_url = raw.step_up_url.as_ref().unwrap_or(url);
        let own = [return_param.as_str(), "reason", "acr_values", "max_age"];
        let taken = own.iter().find(|name| has_parameter(url, name) || has_parameter(step_up_url, name));
        if let Some(taken) = taken.copied().or_else(|| own.get(1..)?.contains(&own[0]).then_some(own[0])) {
            let message = format!("the parameter `{taken}` would be there twice");
            self.note(Code::Conflict, &path.key("return_param"), message, Some("give it another name"));
        }
        let https = match raw.scheme.as_deref() {
            None => None,
            Some("https") => Some(true),
            Some("http") => Some(false),
            Some(other) => {
                let message = format!("`{other}` is neither of the two");
                self.note(Code::InvalidValue, &path.key("scheme"), message, Some("`https` or `http`"));
                None
            }
        };
        let max_redirects = self.count(raw.max_redirects, 4, &path.key("max_redirects"));
        Some(SignInSettings {
            step_up_url: raw.step_up_url.clone().unwrap_or_else(|| url.clone()),
            url: url.clone(),
            return_param,
            https,
            max_redirects,
        })
    }

    fn header_names(&mut self, texts: &[String], path: &Path) -> Vec<HeaderName> {
        let mut read = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            match HeaderName::try_from(text.to_ascii_lowercase()) {
                // With credentials a star is a name like any other, and no header has it.
                Ok(name) if text != "*" => read.push(name),
                _ => self.note(
                    Code::InvalidValue,
                    &path.index(index),
                    format!("`{text}` is no header name"),
                    None,
                ),
            }
        }
        read
    }

    fn method_names(&mut self, texts: &[String], path: &Path) -> Vec<Method> {
        let mut read = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            let upper = text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
            match Method::from_bytes(text.as_bytes()) {
                Ok(method) if upper => read.push(method),
                _ => {
                    let hint = did_you_mean(&text.to_ascii_uppercase(), METHODS.into_iter());
                    self.note_with(
                        Code::InvalidValue,
                        &path.index(index),
                        format!("`{text}` is not a method"),
                        hint,
                    );
                }
            }
        }
        read
    }

    fn cors(&mut self, raw: &RawCors, path: &Path) -> CorsSettings {
        let mut origins = Vec::new();
        for (index, origin) in raw.origins.iter().flatten().enumerate() {
            match origin_as_sent(origin) {
                Ok(origin) => origins.push(origin),
                Err((message, hint)) => {
                    self.note(Code::InvalidValue, &path.key("origins").index(index), message, Some(&hint));
                }
            }
        }
        if raw.origins.as_ref().is_none_or(Vec::is_empty) {
            let hint = Some("such as `origins: [https://app.example.com]`");
            self.note(Code::Missing, path, "`cors` without `origins` allows nobody", hint);
        }
        let headers = raw.headers.as_ref().map(|texts| self.header_names(texts, &path.key("headers")));
        let expose = self.header_names(raw.expose.as_deref().unwrap_or_default(), &path.key("expose"));
        let methods = raw.methods.as_ref().map(|texts| self.method_names(texts, &path.key("methods")));
        let max_age = self.duration(raw.max_age.as_deref(), Duration::from_secs(600), &path.key("max_age"));
        CorsSettings {
            origins,
            credentials: raw.credentials.unwrap_or(true),
            methods,
            headers,
            expose,
            applications: raw.applications.unwrap_or(false),
            max_age,
        }
    }
}

fn is_loopback(url: &str) -> bool {
    let uri = url.parse::<Uri>().ok();
    let host = uri.as_ref().and_then(Uri::host).unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// `http` or `https`, a host, no fragment; a query is kept.
fn is_page(text: &str) -> bool {
    let uri = text.parse::<Uri>().ok();
    let named = |uri: &Uri| {
        let host = uri.authority().is_some_and(|authority| HostName::parse(authority.as_str()).is_ok());
        matches!(uri.scheme_str(), Some("http" | "https")) && host
    };
    uri.as_ref().is_some_and(named) && !text.contains(['#', '\\', '"', '<', '>'])
}

/// Whether the URL has the parameter already.
fn has_parameter(url: &str, name: &str) -> bool {
    let query = url.split_once('?').map(|(_, query)| query).unwrap_or_default();
    query.split('&').any(|pair| pair.split('=').next() == Some(name))
}
