//! How refusals meet browsers and other people's pages, as it is written.
//!
//! Must not hold a rule; `checked` does.

use schemars::JsonSchema;
use serde::Deserialize;

/// Where browsers are sent to sign in, or to prove a further factor. Calls of scripts and unsafe methods never are.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawSignIn {
    /// The page, such as `https://login.example.com`.
    pub(in crate::config) url: Option<String>,
    /// The page for proving a factor; it is told `acr_values` and `max_age`. Default: `url`.
    pub(in crate::config) step_up_url: Option<String>,
    /// The parameter with the URL to come back to. Default: `next`.
    pub(in crate::config) return_param: Option<String>,
    /// The scheme of that URL: `http` or `https`. Default: that of the listener the request came to.
    pub(in crate::config) scheme: Option<String>,
    /// How often within a minute one page may send its browser there before a page says what is wrong. Default: `4`.
    pub(in crate::config) max_redirects: Option<u64>,
}

/// Cross-origin resource sharing (the Fetch standard).
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawCors {
    /// Origins whose pages may call, such as `https://app.example.com`. Their preflights are answered here.
    pub(in crate::config) origins: Option<Vec<String>>,
    /// Whether they may send cookies. Default: `true`.
    pub(in crate::config) credentials: Option<bool>,
    /// Methods they may use. Default: whichever a preflight asks for.
    pub(in crate::config) methods: Option<Vec<String>>,
    /// Request headers they may set. Default: whichever a preflight asks for.
    pub(in crate::config) headers: Option<Vec<String>>,
    /// Response headers they may read besides those of refusals.
    pub(in crate::config) expose: Option<Vec<String>>,
    /// Whether they may also read what applications answer, where an application says nothing of sharing itself. Without it they read refusals and the pages of our own. Default: `false`.
    pub(in crate::config) applications: Option<bool>,
    /// How long a browser may remember a preflight. Default: `10m`.
    pub(in crate::config) max_age: Option<String>,
}

/// What refusals say.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawRefusals {
    /// Whether an authenticated caller is told which requirement was not met. Default: `false`.
    pub(in crate::config) details: Option<bool>,
    /// Where `type` in problem documents leads: the reason's code is appended. Default: `urn:portcullis:reason:`.
    pub(in crate::config) type_prefix: Option<String>,
    /// A template (Jinja syntax) in place of the built-in page for browsers.
    pub(in crate::config) page: Option<String>,
}
