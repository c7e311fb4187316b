//! Checking the Stytch project: its id, its secret, where its API is, and whose tokens are believed.
//!
//! Must not let the secret travel in the clear.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;

use super::checker::Checker;
use crate::config::diagnostics::Code;
use crate::config::mask::without_credentials;
use crate::config::raw::{RawApp, RawRbac, RawStytch};
use crate::config::tree::Path;
use crate::identity::{ClientId, JwtRules, ProjectId};
use crate::policy::HostName;
use crate::stytch::{AppCredentials, RbacSettings, StytchSettings};
use crate::upstream::OriginAddress;

const LIVE: &str = "https://api.stytch.com";
const TEST: &str = "https://test.stytch.com";

pub(super) struct Stytch {
    pub(super) settings: StytchSettings,
    pub(super) jwt_rules: JwtRules,
    pub(super) ca_file: Option<PathBuf>,
    /// Project and API, as the name of what is learnt from them.
    pub(super) scope: String,
}

impl Checker<'_> {
    pub(super) fn stytch(&mut self, raw: Option<&RawStytch>, path: &Path) -> Option<Stytch> {
        let Some(raw) = raw else {
            let hint = "add `stytch:` with `project_id` and `secret`";
            self.note(Code::Missing, path, "`stytch` is missing", Some(hint));
            return None;
        };
        let secret = self.secret(raw.secret.as_ref(), &path.key("secret"));
        let project = self.project_id(raw.project_id.as_deref(), &path.key("project_id"));
        let base_url = self.base_url(raw, project.as_ref(), path);
        let refresh = path.key("refresh_keys_every");
        let refresh_keys_every =
            self.timeout(raw.refresh_keys_every.as_deref(), Duration::from_secs(300), &refresh);
        let leeway = self.duration(raw.leeway.as_deref(), Duration::from_secs(2), &path.key("leeway"));
        if leeway > Duration::from_secs(30) {
            let message = "a leeway past `30s` keeps dead tokens alive";
            self.note(Code::InvalidValue, &path.key("leeway"), message, Some("correct the clocks instead"));
        }
        let seed_keys = self.seed_keys(raw, path);
        let rbac = self.rbac(raw.rbac.as_ref(), &path.key("rbac"));
        let apps = self.apps(raw.apps.as_deref(), &path.key("apps"));
        let project_id = project?;
        let secret = secret?;
        let base_url = base_url?;
        let mut issuers = vec![format!("stytch.com/{project_id}")];
        let api = base_url.to_string().trim_end_matches('/').to_owned();
        if api != LIVE && api != TEST {
            issuers.push(api);
        }
        issuers.extend(raw.issuer.iter().flatten().cloned());
        Some(Stytch {
            scope: format!("{project_id}\n{base_url}"),
            jwt_rules: JwtRules { issuers, audience: project_id.to_string(), leeway },
            ca_file: raw.ca_file.as_deref().map(|name| self.file(name)),
            settings: StytchSettings {
                project_id,
                secret,
                base_url,
                deadline: Duration::from_secs(5),
                refresh_keys_every,
                seed_keys,
                rbac,
                apps,
                claim_pointers: Arc::from([]),
            },
        })
    }

    fn seed_keys(&mut self, raw: &RawStytch, path: &Path) -> Option<Arc<[u8]>> {
        let path = path.key("keys").key("file");
        let name = raw.keys.as_ref()?.file.as_deref()?;
        let read = (self.environment.file)(&self.file(name));
        let text = match read {
            Ok(text) => text,
            Err(error) => {
                self.note(Code::InvalidValue, &path, format!("`{name}` cannot be read: {error}"), None);
                return None;
            }
        };
        let set = serde_json::from_str::<serde_json::Value>(&text).ok();
        let keys = set.as_ref().and_then(|set| set.get("keys")?.as_array());
        if keys.is_none_or(|keys| keys.iter().all(|key| key.get("kty").is_none_or(|kind| kind != "RSA"))) {
            let message = format!("`{name}` is no JWK set with an RSA key");
            let hint = "save what `GET /v1/b2b/sessions/jwks/<project id>` answers";
            self.note(Code::InvalidValue, &path, message, Some(hint));
            return None;
        }
        Some(Arc::from(text.into_bytes()))
    }

    fn rbac(&mut self, raw: Option<&RawRbac>, path: &Path) -> RbacSettings {
        let default = RawRbac::default();
        let raw = raw.unwrap_or(&default);
        let every = path.key("refresh_every");
        let day = Duration::from_secs(24 * 3600);
        RbacSettings {
            refresh_every: self.timeout(raw.refresh_every.as_deref(), Duration::from_secs(300), &every),
            keep_for: self.duration(raw.keep_for.as_deref(), day, &path.key("keep_for")),
            deadline: Duration::from_secs(5),
        }
    }

    fn apps(&mut self, raw: Option<&[RawApp]>, path: &Path) -> Arc<[AppCredentials]> {
        let mut apps: Vec<AppCredentials> = Vec::new();
        for (index, raw) in raw.unwrap_or_default().iter().enumerate() {
            let path = path.index(index);
            let secret = self.secret(raw.secret.as_ref(), &path.key("secret"));
            match raw.client_id.as_deref().map(ClientId::parse) {
                Some(Ok(client_id)) if apps.iter().any(|app| app.client_id == client_id) => {
                    self.note(Code::Conflict, &path.key("client_id"), "this app is named twice", None);
                }
                Some(Ok(client_id)) => apps.extend(secret.map(|secret| AppCredentials { client_id, secret })),
                _ => {
                    let hint = Some("it looks like `connected-app-live-…`");
                    self.note(Code::InvalidValue, &path.key("client_id"), "this is no client id", hint);
                }
            }
        }
        apps.into()
    }

    fn project_id(&mut self, text: Option<&str>, path: &Path) -> Option<ProjectId> {
        let Some(text) = text else {
            let hint = "it is on the Stytch dashboard, under API keys";
            self.note(Code::Missing, path, "`stytch.project_id` is missing", Some(hint));
            return None;
        };
        let project = ProjectId::parse(text).ok();
        if project.is_none() {
            let hint = "it looks like `project-live-…` or `project-test-…`";
            self.note(Code::InvalidValue, path, format!("`{text}` is not a project id"), Some(hint));
        }
        project
    }

    fn base_url(&mut self, raw: &RawStytch, project: Option<&ProjectId>, path: &Path) -> Option<Uri> {
        let path = path.key("base_url");
        let text = match &raw.base_url {
            Some(text) => text.as_str(),
            None => match project?.as_str() {
                id if id.starts_with("project-live-") => LIVE,
                id if id.starts_with("project-test-") => TEST,
                _ => {
                    let message = "`stytch.base_url` cannot be told from the project id";
                    let hint = "a project id begins with `project-live-` or `project-test-`; for any other add `base_url`";
                    self.note(Code::Missing, &path, message, Some(hint));
                    return None;
                }
            },
        };
        let uri = text.parse::<Uri>().ok().filter(is_origin);
        let Some(uri) = uri else {
            let hint = "write scheme and host alone, such as `https://api.stytch.com`";
            self.note(
                Code::InvalidValue,
                &path,
                format!("`{}` is not the address of an API", without_credentials(text)),
                Some(hint),
            );
            return None;
        };
        let loopback = uri.host().is_some_and(|host| {
            host == "localhost"
                || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        });
        if uri.scheme_str() == Some("http") && !loopback {
            let message = "plain `http` would send the project's secret in the clear";
            self.note(Code::InvalidValue, &path, message, Some("use `https`"));
            return None;
        }
        Some(uri)
    }
}

/// `http://host:port`, `https://host:port` or `unix:/path`.
pub(super) fn origin_address(text: &str) -> Option<OriginAddress> {
    /// What a socket's address has room for (`sun_path` of unix(7), with the byte that ends it).
    const MAX_SOCKET_PATH: usize = 107;
    if let Some(path) = text.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        let is_path = path.len() > 1 && path.len() <= MAX_SOCKET_PATH && path.starts_with('/');
        return (is_path && !path.contains('\0')).then(|| OriginAddress::unix(path.into()));
    }
    let uri = text.parse::<Uri>().ok().filter(is_origin)?;
    let tls = uri.scheme_str() == Some("https");
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    Some(OriginAddress::tcp(host, uri.port_u16().unwrap_or(if tls { 443 } else { 80 }), tls))
}

/// `http` or `https`, a host that is one, and nothing behind it.
pub(super) fn is_origin(uri: &Uri) -> bool {
    let host = uri.authority().is_some_and(|authority| HostName::parse(authority.as_str()).is_ok());
    matches!(uri.scheme_str(), Some("http" | "https"))
        && host
        && matches!(uri.path(), "" | "/")
        && uri.query().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_named_by_its_whole_path() {
        let path = |length: usize| format!("unix:/{}", "x".repeat(length - 1));
        for fine in ["unix:/run/app.sock", "unix:///run/app.sock", "http://127.0.0.1:3000", &path(107)] {
            assert!(origin_address(fine).is_some(), "{fine}");
        }
        let broken = [
            "unix:",
            "unix:/",
            "unix:run/app.sock",
            "unix://run/app.sock",
            "unix:/a\0b",
            "http://a/b",
            &path(108),
        ];
        for broken in broken {
            assert!(origin_address(broken).is_none(), "{broken}");
        }
    }
}
