//! Everything a request is answered with that comes from the configuration: swapped whole, never in part.
//!
//! Must not be changed in place: a request keeps the one it began with.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;

use super::Origins;
use crate::doors::refusal::Refusals;
use crate::doors::reserved::ReservedPages;
use crate::doors::settings::ProxySettings;
use crate::engine::{Engine, Snapshot};
use crate::identity::MemberRef;
use crate::policy::{Permit, Subject};
use crate::revocation::Revocations;
use crate::server::{Drain, ListenerSettings, Peer};
use crate::telemetry::{LineWriter, Metrics, Tracer};
use crate::upstream::{Caller, Slots};

/// What the door is set up with.
pub struct ProxySite {
    /// The rules requests are decided by.
    pub snapshot: Arc<Snapshot>,
    pub origins: Origins,
    pub settings: ProxySettings,
    /// Where requests come in, and whom to believe there.
    pub listeners: Vec<ListenerSettings>,
    /// Which traces are recorded.
    pub tracer: Tracer,
}

/// Everything one request is answered with.
pub(super) struct Site {
    pub(super) engine: Arc<Engine>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) origins: Origins,
    pub(super) reserved: ReservedPages,
    pub(super) refusals: Refusals,
    pub(super) settings: ProxySettings,
    /// Those that say something about requests: usually none, and nobody is looked for.
    listeners: Vec<ListenerSettings>,
    /// One for each request that is decided on or forwarded.
    pub(super) requests: Slots,
    /// One for each tunnel and event stream.
    pub(super) streams: Slots,
    /// One for each request that is refused and whose body is still read.
    pub(super) discards: Slots,
    pub(super) drain: Drain,
    pub(super) metrics: Metrics,
    pub(super) lines: LineWriter,
    pub(super) tracer: Tracer,
}

impl Site {
    pub(super) fn new(
        engine: Arc<Engine>,
        revocations: Revocations,
        site: ProxySite,
        drain: Drain,
        metrics: Metrics,
        lines: LineWriter,
    ) -> Self {
        let ProxySite { snapshot, origins, settings, mut listeners, tracer } = site;
        listeners.retain(says_something);
        for limit in ["requests", "connections", "streams"] {
            // What never happened is zero, not missing.
            metrics.caller_share_refusals.with_label_values(&[limit]);
        }
        Self {
            reserved: ReservedPages::new(Arc::clone(&engine), revocations, settings.sign_out.clone()),
            refusals: Refusals::new(settings.refusals.clone()),
            requests: Slots::new(settings.max_requests, settings.caller_share),
            streams: Slots::new(settings.open_streams(), settings.caller_share),
            discards: Slots::new(settings.max_requests, settings.caller_share),
            engine,
            snapshot,
            origins,
            settings,
            listeners,
            drain,
            metrics,
            lines,
            tracer,
        }
    }

    /// What comes after it. Bounds that are the same go on being held by the same.
    pub(super) fn succeeded_by(&self, site: ProxySite) -> Self {
        let ProxySite { snapshot, origins, settings, mut listeners, tracer } = site;
        listeners.retain(says_something);
        self.requests.resize(settings.max_requests, settings.caller_share);
        self.streams.resize(settings.open_streams(), settings.caller_share);
        self.discards.resize(settings.max_requests, settings.caller_share);
        Self {
            engine: Arc::clone(&self.engine),
            reserved: self.reserved.with(settings.sign_out.clone()),
            refusals: Refusals::new(settings.refusals.clone()),
            requests: self.requests.clone(),
            streams: self.streams.clone(),
            discards: self.discards.clone(),
            snapshot,
            origins,
            settings,
            listeners,
            drain: self.drain.clone(),
            metrics: self.metrics.clone(),
            lines: self.lines.clone(),
            tracer,
        }
    }

    /// Whoever a request comes from, as far as the listener believes its headers.
    pub(super) fn peer(&self, peer: &Arc<Peer>, headers: &HeaderMap) -> Arc<Peer> {
        let listener = self.listener(peer);
        peer.of(headers, listener.and_then(|listener| listener.forwarded.as_ref()))
    }

    /// Whose share a request counts against: the member's, else the client's, else its network's where true addresses are
    /// known. Elsewhere an address may be a balancer or a whole office, and there is nobody to count.
    pub(super) fn caller(&self, permit: &Permit, peer: &Peer) -> Option<Caller> {
        match permit.caller().map(|caller| &caller.subject) {
            Some(Subject::Member(session)) => Some(Caller::of(("member", &session.member))),
            Some(Subject::App(token)) => Some(Caller::of(("member", &token.member))),
            Some(Subject::Machine(token)) => Some(Caller::of(("client", &token.client_id))),
            None => self.network(peer).map(|network| Caller::of(("network", network))),
        }
    }

    /// The same while a lookup is waited for. A caller that is not identified yet counts to its network, apart from anonymous
    /// callers: their requests would otherwise shut out the members beside them.
    pub(super) fn waiting_caller(&self, member: Option<&MemberRef>, peer: &Peer) -> Option<Caller> {
        match member {
            Some(member) => Some(Caller::of(("member", member))),
            None => self.network(peer).map(|network| Caller::of(("unidentified", network))),
        }
    }

    fn network(&self, peer: &Peer) -> Option<IpAddr> {
        peer.network().filter(|_| self.listener(peer).is_some_and(ListenerSettings::knows_clients))
    }

    /// Where a request came in.
    pub(super) fn listener(&self, peer: &Peer) -> Option<&ListenerSettings> {
        self.listeners.iter().find(|listener| listener.name == peer.listener)
    }
}

fn says_something(listener: &ListenerSettings) -> bool {
    listener.knows_clients() || listener.redirect_to_https.is_some() || listener.hsts.is_some()
}
