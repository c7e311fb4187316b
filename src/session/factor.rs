//! One thing a member proved, how, and when.
//!
//! Must not decide whether that is enough: categories and ages are facts here, judgement is `policy`.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

/// A proven authentication factor of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Factor {
    pub kind: FactorKind,
    pub delivery: DeliveryMethod,
    /// When it was last proven. Absent means stale wherever an age is asked.
    pub last_authenticated_at: Option<Timestamp>,
    /// The SSO connection it was proven through, for `sso`.
    pub connection_id: Option<Arc<str>>,
    /// The address of an e-mail factor.
    pub email: Option<Arc<str>>,
    /// Who impersonates, for `impersonated`.
    pub impersonator: Option<Arc<str>>,
}

/// The `type` of a factor (Stytch B2B API, AuthenticationFactor).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FactorKind {
    MagicLink,
    EmailOtp,
    Otp,
    OAuth,
    Password,
    Sso,
    Totp,
    RecoveryCodes,
    Imported,
    Impersonated,
    TrustedAuthToken,
    WebAuthn,
    Crypto,
    SignatureChallenge,
    /// A type this version does not know; meets only a requirement that names it literally.
    Other(Arc<str>),
    /// A factor that could not be read. It might have been anything, so whatever depends on it is unknown.
    Unreadable,
}

/// Whether a kind proves who somebody is, adds to that, or does neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FactorCategory {
    Primary,
    Secondary,
    Neither,
}

impl FactorCategory {
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
            Self::Neither => "neither",
        }
    }
}

const NAMES: [(&str, FactorKind); 14] = [
    ("magic_link", FactorKind::MagicLink),
    ("email_otp", FactorKind::EmailOtp),
    ("otp", FactorKind::Otp),
    ("oauth", FactorKind::OAuth),
    ("password", FactorKind::Password),
    ("sso", FactorKind::Sso),
    ("totp", FactorKind::Totp),
    ("recovery_codes", FactorKind::RecoveryCodes),
    ("imported", FactorKind::Imported),
    ("impersonated", FactorKind::Impersonated),
    ("trusted_auth_token", FactorKind::TrustedAuthToken),
    ("webauthn", FactorKind::WebAuthn),
    ("crypto", FactorKind::Crypto),
    ("signature_challenge", FactorKind::SignatureChallenge),
];

impl FactorKind {
    pub fn from_name(name: &str) -> Self {
        NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .map_or_else(|| Self::Other(Arc::from(name)), |(_, kind)| kind.clone())
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Other(name) => name,
            Self::Unreadable => "unreadable",
            kind => NAMES.iter().find(|(_, known)| known == kind).map_or("", |(name, _)| name),
        }
    }

    /// Whether a factor of this kind can come by `delivery` (Stytch B2B API, AuthenticationFactor). What this version does
    /// not know might.
    pub fn is_delivered_by(&self, delivery: &DeliveryMethod) -> bool {
        let Name::Known(name) = delivery.0 else { return true };
        match self {
            Self::MagicLink => matches!(name, "email" | "embedded"),
            Self::EmailOtp => name == "email",
            Self::Otp => matches!(name, "sms" | "whatsapp" | "email"),
            Self::OAuth => name.starts_with("oauth_"),
            Self::Password => name == "knowledge",
            Self::Sso => name.starts_with("sso_"),
            Self::Totp => name == "authenticator_app",
            Self::RecoveryCodes => name == "recovery_code",
            Self::Imported => name.starts_with("imported_"),
            Self::Impersonated => name == "impersonation",
            Self::TrustedAuthToken => name == "trusted_token_exchange",
            Self::WebAuthn => name == "webauthn_registration",
            Self::Crypto => name == "crypto_wallet",
            Self::SignatureChallenge => false,
            Self::Other(_) | Self::Unreadable => true,
        }
    }

    /// The place in the table of known names. The table is appended to, never reordered: the places are written into
    /// shared records.
    pub(super) fn code(&self) -> Option<u8> {
        u8::try_from(NAMES.iter().position(|(_, known)| known == self)?).ok()
    }

    pub(super) fn from_code(code: u8) -> Option<Self> {
        NAMES.get(usize::from(code)).map(|(_, kind)| kind.clone())
    }

    /// Every type known by name, for hints and documentation.
    pub fn known_names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name)
    }
}

impl Factor {
    /// Primary or secondary, as multi-factor authentication counts them.
    ///
    /// A factor carried over from another organization by exchange counts as neither: it was not proven here.
    pub fn category(&self) -> FactorCategory {
        let maybe_exchanged = self.kind == FactorKind::OAuth && !self.delivery.is_told();
        if self.delivery.is_exchange() || maybe_exchanged {
            return FactorCategory::Neither;
        }
        match self.kind {
            FactorKind::Password
            | FactorKind::Sso
            | FactorKind::OAuth
            | FactorKind::MagicLink
            | FactorKind::EmailOtp => FactorCategory::Primary,
            FactorKind::Otp if matches!(self.delivery.name(), "sms" | "whatsapp") => {
                FactorCategory::Secondary
            }
            FactorKind::Totp | FactorKind::WebAuthn | FactorKind::RecoveryCodes => FactorCategory::Secondary,
            _ => FactorCategory::Neither,
        }
    }
}

/// How a factor was delivered (`delivery_method`), kept as written so that a new one is never lost.
#[derive(Clone)]
pub struct DeliveryMethod(Name);

/// Known names are not copied.
#[derive(Clone)]
enum Name {
    Known(&'static str),
    Other(Arc<str>),
}

/// The delivery methods of the API reference that B2B sessions are known to hold. Appended to, never reordered: their
/// places are written into shared records.
const DELIVERIES: [&str; 24] = [
    "email",
    "embedded",
    "sms",
    "whatsapp",
    "knowledge",
    "authenticator_app",
    "recovery_code",
    "sso_saml",
    "sso_oidc",
    "oauth_google",
    "oauth_microsoft",
    "oauth_hubspot",
    "oauth_slack",
    "oauth_github",
    "oauth_exchange_google",
    "oauth_exchange_hubspot",
    "oauth_exchange_slack",
    "oauth_exchange_github",
    "oauth_access_token_exchange",
    "imported_auth0",
    "impersonation",
    "trusted_token_exchange",
    "webauthn_registration",
    "crypto_wallet",
];

impl DeliveryMethod {
    /// Every method known by name, for hints.
    pub fn known_names() -> impl Iterator<Item = &'static str> {
        DELIVERIES.iter().copied()
    }

    pub fn new(name: &str) -> Self {
        let known = DELIVERIES.iter().find(|known| **known == name);
        Self(known.map_or_else(|| Name::Other(Arc::from(name)), |known| Name::Known(known)))
    }

    /// The answer did not say.
    pub fn untold() -> Self {
        Self(Name::Known(""))
    }

    pub fn is_told(&self) -> bool {
        !self.name().is_empty()
    }

    pub fn name(&self) -> &str {
        match &self.0 {
            Name::Known(name) => name,
            Name::Other(name) => name,
        }
    }

    /// Carried over from another organization or an app rather than proven in this one.
    pub fn is_exchange(&self) -> bool {
        self.name().starts_with("oauth_exchange_") || self.name() == "oauth_access_token_exchange"
    }

    /// The place in the table of known names.
    pub(super) fn code(&self) -> Option<u8> {
        u8::try_from(DELIVERIES.iter().position(|known| *known == self.name())?).ok()
    }

    pub(super) fn from_code(code: u8) -> Option<Self> {
        DELIVERIES.get(usize::from(code)).map(|known| Self(Name::Known(known)))
    }
}

impl PartialEq for DeliveryMethod {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for DeliveryMethod {}

impl fmt::Debug for DeliveryMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn category(kind: &str, delivery: &str) -> FactorCategory {
        Factor {
            kind: FactorKind::from_name(kind),
            delivery: DeliveryMethod::new(delivery),
            last_authenticated_at: None,
            connection_id: None,
            email: None,
            impersonator: None,
        }
        .category()
    }

    #[test]
    fn every_kind_has_its_category() {
        use FactorCategory::{Neither, Primary, Secondary};
        for (kind, delivery, expected) in [
            ("password", "knowledge", Primary),
            ("sso", "sso_saml", Primary),
            ("oauth", "oauth_google", Primary),
            ("oauth", "oauth_exchange_google", Neither),
            ("oauth", "", Neither),
            ("oauth", "oauth_access_token_exchange", Neither),
            ("magic_link", "email", Primary),
            ("email_otp", "email", Primary),
            ("otp", "sms", Secondary),
            ("otp", "whatsapp", Secondary),
            ("otp", "email", Neither),
            ("totp", "authenticator_app", Secondary),
            ("webauthn", "webauthn_registration", Secondary),
            ("recovery_codes", "recovery_code", Secondary),
            ("imported", "imported_auth0", Neither),
            ("impersonated", "impersonation", Neither),
            ("trusted_auth_token", "trusted_token_exchange", Neither),
            ("retina_scan", "camera", Neither),
        ] {
            assert_eq!(category(kind, delivery), expected, "{kind} {delivery}");
        }
    }

    #[test]
    fn a_name_survives_the_round_trip_known_or_not() {
        for name in FactorKind::known_names().chain(["retina_scan"]) {
            assert_eq!(FactorKind::from_name(name).name(), name);
        }
    }
}
