//! Asking a server how it is.
//!
//! Must not use a connection that serves callers, nor wait longer than one check may take.

use bytes::Bytes;
use http::{HeaderValue, Request, Uri, Version, header};
use http_body_util::Empty;

use super::connect::{Connector, Endpoint};
use super::settings::HealthSettings;

/// Whether the server answers `GET` of the configured path with 2xx or 3xx in time.
pub(super) async fn is_healthy(
    connector: &Connector,
    endpoint: &Endpoint,
    http2: bool,
    settings: &HealthSettings,
) -> bool {
    let asking = async {
        let mut request = Request::new(Empty::<Bytes>::new());
        let agent = HeaderValue::from_static(concat!("portcullis/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(header::USER_AGENT, agent);
        let response = if http2 {
            let (mut sender, _) = connector.http2(endpoint).await.ok()?;
            let scheme = if endpoint.name.is_some() { "https" } else { "http" };
            let uri = Uri::builder().scheme(scheme).authority(&*endpoint.authority);
            *request.uri_mut() = uri.path_and_query(settings.path.as_str()).build().ok()?;
            *request.version_mut() = Version::HTTP_2;
            sender.send_request(request).await.ok()?
        } else {
            let mut sender = connector.http1(endpoint).await.ok()?;
            *request.uri_mut() = settings.path.parse().ok()?;
            let host = HeaderValue::from_str(&endpoint.authority).ok()?;
            request.headers_mut().insert(header::HOST, host);
            request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            sender.send_request(request).await.ok()?
        };
        Some(response.status())
    };
    let status = tokio::time::timeout(settings.timeout, asking).await.ok().flatten();
    status.is_some_and(|status| status.is_success() || status.is_redirection())
}
