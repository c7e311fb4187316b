//! What the doors are set up with, already checked.
//!
//! Must not read anything: plain values only.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

use crate::upstream::CallerShare;

/// What signing out does besides ending the session.
#[derive(Debug, Clone)]
pub struct SignOutSettings {
    /// A path, or a URL; a page of ours if there is none.
    pub redirect_to: Option<HeaderValue>,
    /// The content security policy of the form: browsers hold the redirect after it to the same list.
    pub form_policy: HeaderValue,
    /// The domain the session cookies were set for, besides the host itself.
    pub cookie_domain: Option<String>,
    /// Origins besides our own whose pages may sign out.
    pub origins: Vec<String>,
}

impl Default for SignOutSettings {
    fn default() -> Self {
        Self {
            redirect_to: None,
            form_policy: HeaderValue::from_static(
                "default-src 'none'; form-action 'self'; frame-ancestors 'none'",
            ),
            cookie_domain: None,
            origins: Vec::new(),
        }
    }
}

/// Limits of the proxy door.
#[derive(Debug, Clone)]
pub struct ProxySettings {
    /// How long a body may stand still between two pieces.
    pub body_timeout: Duration,
    /// How long a tunnel may stand still in both directions.
    pub tunnel_timeout: Duration,
    /// Requests under way at once, their responses included; further ones are refused at once.
    pub max_requests: usize,
    /// Tunnels and event streams at once, which do not count among the requests; none: as many as requests.
    pub max_open_streams: Option<usize>,
    /// What one caller may hold of these and of each upstream's limits.
    pub caller_share: CallerShare,
    pub max_request_bytes: u64,
    /// The path of a request as it is sent, without its query.
    pub max_path_bytes: usize,
    /// Header fields of a request.
    pub max_headers: usize,
    pub sign_out: SignOutSettings,
    pub refusals: RefusalSettings,
}

impl ProxySettings {
    pub fn open_streams(&self) -> usize {
        self.max_open_streams.unwrap_or(self.max_requests)
    }
}

impl Default for ProxySettings {
    fn default() -> Self {
        Self {
            body_timeout: Duration::from_secs(300),
            tunnel_timeout: Duration::from_secs(3600),
            max_requests: 20_000,
            max_open_streams: None,
            caller_share: CallerShare::default(),
            max_request_bytes: 10 * 1024 * 1024 * 1024,
            max_path_bytes: 8192,
            max_headers: 100,
            sign_out: SignOutSettings::default(),
            refusals: RefusalSettings::default(),
        }
    }
}

/// How refusals meet browsers and other people's pages.
#[derive(Debug, Clone)]
pub struct RefusalSettings {
    pub sign_in: Option<SignInSettings>,
    pub cors: Option<CorsSettings>,
    /// Whether the password of Basic is a configured source, so that challenges offer it.
    pub basic: bool,
    /// Whether an authenticated caller is told which requirement was not met.
    pub details: bool,
    /// What `type` begins with in problem documents; the reason's code follows.
    pub type_prefix: String,
    /// A template in place of the built-in page.
    pub page: Option<String>,
}

impl Default for RefusalSettings {
    fn default() -> Self {
        Self {
            sign_in: None,
            cors: None,
            basic: false,
            details: false,
            type_prefix: "urn:portcullis:reason:".to_owned(),
            page: None,
        }
    }
}

/// Where browsers are sent.
#[derive(Debug, Clone)]
pub struct SignInSettings {
    pub url: String,
    pub step_up_url: String,
    /// The parameter with the URL to come back to.
    pub return_param: String,
    /// Whether that URL is `https`; told by the listener if nothing is said.
    pub https: Option<bool>,
    /// How often within a minute one page may send its browser away.
    pub max_redirects: usize,
}

/// Which other origins' pages may call.
#[derive(Debug, Clone)]
pub struct CorsSettings {
    /// As browsers write them.
    pub origins: Vec<String>,
    pub credentials: bool,
    /// Nothing: whichever is asked for.
    pub methods: Option<Vec<Method>>,
    /// Nothing: whichever are asked for.
    pub headers: Option<Vec<HeaderName>>,
    pub expose: Vec<HeaderName>,
    /// Whether they may read applications' answers that say nothing of sharing themselves.
    pub applications: bool,
    pub max_age: Duration,
}
