//! Sending a browser to where it signs in or proves a factor, with the way back, and not for ever.
//!
//! Must not send anybody to a place that the configuration does not name, nor a script, nor a body.

use aws_lc_rs::digest;
use http::Uri;
use jiff::Timestamp;

use super::SignInSettings;
use super::asking::Asking;
use crate::identity::OWN_COOKIE;
use crate::policy::{Refusal, Remedy};

/// How long it is remembered, in seconds.
const REMEMBERED_FOR: i64 = 60;
/// Links and pages remembered at once: as many tabs may be on their way.
const MAX_STEPS: usize = 24;
/// One page opened with many queries may go there so many times as often as one link.
const LINKS_OF_A_PAGE: usize = 4;
/// And all pages together so many times.
const PAGES: usize = 16;
/// What stands for all pages together.
const ALL: &str = "all";
/// The longest link that is carried there and back.
const MAX_LINK: usize = 4096;

/// A browser's way: where it goes, and the cookie that counts it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Detour {
    pub(super) location: String,
    pub(super) cookie: String,
}

/// What to do with a browser that was refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// It is told where it is.
    Stay,
    Go(Detour),
    /// It was sent there too often: signing in does not lead back here with a session.
    Circling {
        sign_in: String,
    },
}

/// Where the browser goes, if the refusal is one that signing in or proving a factor would mend.
pub(super) fn way(
    settings: Option<&SignInSettings>,
    refusal: &Refusal,
    asking: &Asking,
    now: Timestamp,
) -> Way {
    let remedy = refusal.reason.remedy();
    let (Some(settings), Some(return_to)) = (settings, &asking.return_to) else { return Way::Stay };
    let url = match remedy {
        Remedy::SignIn => &settings.url,
        Remedy::StepUp => &settings.step_up_url,
        _ => return Way::Stay,
    };
    // What is too long to carry comes back without its query rather than not at all.
    let link =
        if return_to.len() > MAX_LINK { return_to.split('?').next().unwrap_or_default() } else { return_to };
    if link.len() > MAX_LINK {
        return Way::Stay;
    }
    let mut parameters =
        vec![(settings.return_param.as_str(), link.to_owned()), ("reason", refusal.reason.code().to_owned())];
    if let Some(challenge) = &refusal.challenge {
        if !challenge.acr_values.is_empty() {
            parameters.push(("acr_values", challenge.acr_values.join(" ")));
        }
        if let Some(max_age) = challenge.max_age {
            parameters.push(("max_age", max_age.as_secs().to_string()));
        }
    }
    let location = with_parameters(url, &parameters);
    // The sign-in page itself, behind a route that asks for a session: there is nowhere to go.
    let page = link.split('?').next().unwrap_or_default();
    if [&settings.url, &settings.step_up_url].iter().any(|url| is_same_page(url, page)) {
        return Way::Stay;
    }
    let mut trail = Trail::read(asking.trail.as_deref(), now);
    // Told apart where a link is its page's only one.
    let page = format!("{page}?*");
    let too_often = [(link, 1), (page.as_str(), LINKS_OF_A_PAGE), (ALL, PAGES)]
        .map(|(what, times)| trail.step(what) > settings.max_redirects.saturating_mul(times));
    if too_often.contains(&true) {
        return Way::Circling { sign_in: location };
    }
    let secure = if return_to.starts_with("https://") { "; Secure" } else { "" };
    let cookie = format!(
        "{OWN_COOKIE}={}; Path=/; Max-Age={REMEMBERED_FOR}; HttpOnly; SameSite=Lax{secure}",
        trail.write()
    );
    Way::Go(Detour { location, cookie })
}

/// How often each page sent the browser away of late. Several tabs count each for itself.
struct Trail {
    /// Page, how often, and since when.
    pages: Vec<(String, usize, i64)>,
    now: i64,
}

impl Trail {
    /// What the cookie says; whatever cannot be read was not ours.
    fn read(cookie: Option<&str>, now: Timestamp) -> Self {
        let now = now.as_second();
        let pages = cookie.unwrap_or_default().split('~').filter_map(|entry| {
            let mut parts = entry.split('.');
            let (page, count, since) =
                (parts.next()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            let age = now.checked_sub(since);
            let fresh = age.is_some_and(|age| (0..REMEMBERED_FOR).contains(&age));
            (fresh && page.len() == 12 && parts.next().is_none()).then(|| (page.to_owned(), count, since))
        });
        Self { pages: pages.take(MAX_STEPS).collect(), now }
    }

    /// One more time for `link`: which one it is.
    fn step(&mut self, link: &str) -> usize {
        let hash = digest::digest(&digest::SHA256, link.as_bytes());
        let page: String = hash.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let known =
            self.pages.iter().position(|(known, _, _)| *known == page).map(|at| self.pages.remove(at));
        let (count, since) =
            known.map_or((1, self.now), |(_, count, since): (_, usize, _)| (count.saturating_add(1), since));
        self.pages.insert(0, (page, count, since));
        self.pages.truncate(MAX_STEPS);
        count
    }

    fn write(&self) -> String {
        let entries = self.pages.iter().map(|(page, count, since)| format!("{page}.{count}.{since}"));
        entries.collect::<Vec<_>>().join("~")
    }
}

/// Whether both are one page, whatever their queries: `https://a` is `https://A:443/` (RFC 3986 section 6.2).
fn is_same_page(one: &str, other: &str) -> bool {
    let read = |url: &str| {
        let uri: Uri = url.parse().ok()?;
        let https = uri.scheme_str()? == "https";
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        Some((https, uri.host()?.to_ascii_lowercase(), port, uri.path().to_owned()))
    };
    read(one).is_some_and(|one| read(other) == Some(one))
}

/// The URL with parameters behind those it has.
fn with_parameters(url: &str, parameters: &[(&str, String)]) -> String {
    let mut whole = url.to_owned();
    for (index, (name, value)) in parameters.iter().enumerate() {
        let between = match (index, url.contains('?')) {
            (0, false) => '?',
            _ => '&',
        };
        whole.push(between);
        whole.push_str(name);
        whole.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                whole.push(char::from(byte));
            } else {
                whole.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::{Challenge, Reason};

    const NOW: i64 = 1_800_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn settings() -> SignInSettings {
        SignInSettings {
            url: "https://login.example.com/?app=1".to_owned(),
            step_up_url: "https://login.example.com/prove".to_owned(),
            return_param: "next".to_owned(),
            https: None,
            max_redirects: 3,
        }
    }

    fn asking(link: &str, trail: Option<String>) -> Asking {
        Asking { return_to: Some(link.to_owned()), trail, ..Asking::default() }
    }

    fn go(refusal: &Refusal, asking: &Asking, now: i64) -> Option<Detour> {
        match way(Some(&settings()), refusal, asking, at(now)) {
            Way::Go(detour) => Some(detour),
            Way::Stay | Way::Circling { .. } => None,
        }
    }

    fn cookie_value(detour: &Detour) -> String {
        detour.cookie.split(['=', ';']).nth(1).unwrap().to_owned()
    }

    #[test]
    fn the_link_and_what_is_asked_go_along() {
        let missing = Refusal::from(Reason::CredentialMissing);
        let detour = go(&missing, &asking("https://app/a?b=c&d=%2F", None), NOW).unwrap();
        assert_eq!(
            detour.location,
            "https://login.example.com/?app=1&next=https%3A%2F%2Fapp%2Fa%3Fb%3Dc%26d%3D%252F&reason=credential_missing"
        );
        let challenge = Challenge {
            max_age: Some(Duration::from_secs(900)),
            acr_values: vec!["urn:portcullis:mfa".to_owned()],
        };
        let stale = Refusal { challenge: Some(challenge), ..Refusal::from(Reason::MfaStale) };
        let detour = go(&stale, &asking("http://app/", None), NOW).unwrap();
        assert_eq!(
            detour.location,
            "https://login.example.com/prove?next=http%3A%2F%2Fapp%2F&reason=mfa_stale\
             &acr_values=urn%3Aportcullis%3Amfa&max_age=900"
        );
        assert!(!detour.cookie.contains("Secure"));
        assert_eq!(go(&Reason::RoleMissing.into(), &asking("https://app/", None), NOW), None);
        assert_eq!(way(None, &missing, &asking("https://app/", None), at(NOW)), Way::Stay);
        assert_eq!(go(&missing, &Asking::default(), NOW), None);
    }

    #[test]
    fn a_page_that_goes_round_in_circles_stops_and_others_do_not() {
        let missing = Refusal::from(Reason::CredentialMissing);
        let mut trail = None;
        for turn in 0..3 {
            let detour = go(&missing, &asking("https://app/a", trail), NOW + turn).unwrap();
            trail = Some(cookie_value(&detour));
        }
        let fourth = way(Some(&settings()), &missing, &asking("https://app/a", trail.clone()), at(NOW + 4));
        assert!(matches!(fourth, Way::Circling { .. }));
        // Another query each time is the same page in the end; so are many pages together.
        let mut turns = 0;
        let mut trail_of_many = None;
        while let Some(detour) =
            go(&missing, &asking(&format!("https://app/a?token={turns}"), trail_of_many), NOW)
        {
            trail_of_many = Some(cookie_value(&detour));
            turns += 1;
        }
        assert_eq!(turns, 12);
        let mut turns = 0;
        let mut trail_of_many = None;
        while let Some(detour) = go(&missing, &asking(&format!("https://app/{turns}"), trail_of_many), NOW) {
            trail_of_many = Some(cookie_value(&detour));
            turns += 1;
        }
        assert_eq!(turns, 48);
        // Another tab is another page, and a minute later all is forgotten.
        assert!(go(&missing, &asking("https://app/b", trail.clone()), NOW + 4).is_some());
        assert!(go(&missing, &asking("https://app/a", trail), NOW + 61).is_some());
    }

    #[test]
    fn a_trail_somebody_made_up_is_no_trail_and_never_grows() {
        let missing = Refusal::from(Reason::CredentialMissing);
        for trail in [
            "x",
            "~~~",
            "aaaaaaaaaaaa.9.9",
            "aaaaaaaaaaaa.99999999999999999999.1800000000",
            "aaaaaaaaaaaa.1.-9223372036854775808",
            "aaaaaaaaaaaa.18446744073709551615.1800000000",
        ] {
            assert!(go(&missing, &asking("https://app/a", Some(trail.to_owned())), NOW).is_some());
        }
        let mut trail = None;
        for page in 0..40 {
            let detour = go(&missing, &asking(&format!("https://app/{page}"), trail), NOW).unwrap();
            trail = Some(cookie_value(&detour));
        }
        assert!(trail.unwrap().len() < 700);
    }

    #[test]
    fn the_sign_in_page_never_leads_to_itself() {
        let missing = Refusal::from(Reason::CredentialMissing);
        for own in [
            "https://login.example.com/?next=x",
            "https://LOGIN.example.com:443",
            "https://login.example.com/prove",
        ] {
            assert_eq!(way(Some(&settings()), &missing, &asking(own, None), at(NOW)), Way::Stay);
        }
    }

    #[test]
    fn a_link_too_long_to_carry_comes_back_without_its_query() {
        let missing = Refusal::from(Reason::CredentialMissing);
        let long = format!("https://app/a?{}", "x".repeat(MAX_LINK));
        let detour = go(&missing, &asking(&long, None), NOW).unwrap();
        assert!(detour.location.contains("next=https%3A%2F%2Fapp%2Fa&"));
        let longer = format!("https://app/{}", "x".repeat(MAX_LINK));
        assert_eq!(go(&missing, &asking(&longer, None), NOW), None);
    }
}
