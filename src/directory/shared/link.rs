//! The connection to Redis: short waits, a breaker, and nothing that could fail a request.
//!
//! Must not hand out what it read before it was opened, nor wait longer than it was told to.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use redis::aio::ConnectionManager;
use redis::io::tcp::TcpSettings;
use redis::{
    Client, ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo, RedisError, RedisResult, Script,
    TlsCertificates,
};

use super::line::Line;
use super::seal::{Seal, UnusableKey, name_of};
use crate::directory::breaker::{Breaker, CallOutcome};
use crate::directory::{Clock, SharedSettings};
use crate::telemetry::{Metrics, SpanKind, cause};

/// Writes a record unless a newer one is there, and gives the lease back. Dates are compared as text of one length; one
/// ahead of the server's clock was written by a replica whose clock is wrong, and keeps nobody out.
const WRITE: &str = "
local known = redis.call('GETRANGE', KEYS[1], 0, 15)
local clock = redis.call('TIME')
local ahead = #known == 16 and (tonumber(known, 16) or math.huge) > clock[1] * 1000 + 2000
if #known < 16 or ahead or known <= ARGV[1] then redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2], 'PX', ARGV[3]) end
if redis.call('GET', KEYS[2]) == ARGV[4] then redis.call('DEL', KEYS[2]) end
return 1";
/// Gives a lease back, if it is ours.
const RELEASE: &str = "
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0";
/// Says something on the bus, and before that writes it into the log, which those read who were away: whoever begins to
/// listen in between has one or the other. Tells whether it is in the log; a full Redis keeps none.
///
/// A sign of life goes the same way, so that what keeps a revocation from travelling keeps it from travelling too. It is
/// written with a score of its own and taken out again: the log keeps revocations alone.
const ANNOUNCE: &str = "
local score = ARGV[1]
if ARGV[7] == '1' then score = -1 end
local logged = redis.pcall('ZADD', KEYS[1], score, ARGV[2])
if type(logged) == 'table' and string.find(logged.err, 'READONLY', 1, true) then return logged end
if type(logged) ~= 'table' then
  if ARGV[7] == '1' then
    redis.call('ZREMRANGEBYSCORE', KEYS[1], -1, -1)
  else
    redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[3])
    redis.call('ZREMRANGEBYRANK', KEYS[1], 0, ARGV[4])
    redis.call('PEXPIRE', KEYS[1], ARGV[5])
  end
end
redis.call('PUBLISH', ARGV[6], ARGV[2])
return type(logged) == 'table' and 0 or 1";
/// For one exchange of the bus, which no request waits for.
const BUS_TIMEOUT: Duration = Duration::from_secs(1);
/// Length of the date in front of a record, by which `WRITE` compares. What is believed is the date inside.
const DATE_LENGTH: usize = 16;

/// Why the shared tier cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    #[error("the address of Redis cannot be used: {0}")]
    Address(#[from] RedisError),
    #[error(transparent)]
    Key(#[from] UnusableKey),
}

/// Why nothing travels over the bus.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusFault {
    /// Redis answered, and does not do it.
    #[error("{0}")]
    Refused(String),
    /// Redis did not answer.
    #[error("{0}")]
    Lost(String),
    #[error("redis failed too often and is left alone for a moment")]
    LeftAlone,
    /// The deployment's key cannot seal.
    #[error("the message cannot be sealed")]
    Unsealed,
}

impl BusFault {
    fn of(error: &RedisError, answered: bool) -> Self {
        if !answered {
            return Self::Lost(error.to_string());
        }
        let detail = error.detail().unwrap_or_default();
        let why = match error.code() {
            Some("READONLY") => "redis takes no writes: it is a replica".to_owned(),
            Some("MOVED" | "ASK" | "CLUSTERDOWN" | "CROSSSLOT") => {
                "redis is a node of a cluster, which is not spoken to as one".to_owned()
            }
            Some("NOPERM") => format!("the user of redis may not do it: {detail}"),
            Some("OOM") => "redis is full".to_owned(),
            // A sentinel repeats the arguments in its error, which is no text then.
            _ if detail.contains("unknown command") || error.to_string().contains("Parse error") => {
                "what answers does not know EVALSHA: the address may be a sentinel's".to_owned()
            }
            _ => error.to_string(),
        };
        Self::Refused(why)
    }
}

/// The link. Cheap to clone.
#[derive(Clone)]
pub struct RedisLink(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) client: Client,
    records: Line,
    /// For the bus: its own connection, and patience.
    bus: Line,
    bus_breaker: Breaker,
    pub(super) seal: Seal,
    pub(super) prefix: String,
    scope: String,
    pointers: ArcSwap<String>,
    pub(super) timeout: Duration,
    breaker: Breaker,
    pub(super) clock: Arc<dyn Clock>,
    write: Script,
    release: Script,
    pub(super) announce: Script,
    /// Tells this replica's leases and messages from others'.
    pub(super) replica: u64,
}

/// A record that was read and opened.
pub(super) struct Opened {
    pub(super) plain: Vec<u8>,
    /// How long Redis will keep it, if it says so.
    pub(super) left: Option<Duration>,
}

/// What reading a record came to.
pub(super) enum Read {
    Found(Opened),
    Nothing,
    /// Something is there that was not sealed by this deployment for this name.
    Forged,
    /// Redis did not answer.
    Unavailable,
}

impl RedisLink {
    /// Connects when first used. Must be called inside a runtime.
    pub fn new(
        settings: &SharedSettings,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
    ) -> Result<Self, SharedError> {
        let client = client(settings)?;
        let records = Line::new(&client, BUS_TIMEOUT, settings.timeout)?;
        let bus = Line::new(&client, BUS_TIMEOUT, BUS_TIMEOUT)?;
        Ok(Self(Arc::new(Inner {
            client,
            records,
            bus,
            seal: Seal::new(&settings.key, settings.previous_key.as_ref())?,
            prefix: settings.prefix.clone(),
            scope: settings.scope.clone(),
            pointers: ArcSwap::from_pointee(settings.claim_pointers.join("\n")),
            timeout: settings.timeout,
            bus_breaker: Breaker::new(
                "redis_bus",
                metrics.directory_breaker_state.with_label_values(&["redis_bus"]),
            ),
            breaker: Breaker::new("redis", metrics.directory_breaker_state.with_label_values(&["redis"])),
            clock,
            write: Script::new(WRITE),
            release: Script::new(RELEASE),
            announce: Script::new(ANNOUNCE),
            replica: fastrand::u64(..),
        })))
    }

    /// Which of the replicas this is.
    pub fn replica(&self) -> u64 {
        self.0.replica
    }

    /// What a record about `parts` is called. The braces keep a record and its lease on one node of a cluster.
    pub(super) fn name(&self, kind: &str, parts: &[&str]) -> String {
        let mut all = vec![kind, self.0.scope.as_str()];
        all.extend_from_slice(parts);
        format!("{}:{{{}}}:{kind}", self.0.prefix, name_of(&all))
    }

    /// As [`name`](Self::name), for what holds custom claims: records with others are not ours.
    pub(super) fn name_with_claims(&self, kind: &str, parts: &[&str]) -> String {
        self.name(kind, &[parts, &[self.0.pointers.load().as_str()]].concat())
    }

    /// Records hold other custom claims from now on.
    pub fn keep_claims(&self, pointers: &[Arc<str>]) {
        self.0.pointers.store(Arc::new(pointers.join("\n")));
    }

    pub(super) async fn read(&self, name: &str) -> Read {
        let mut connection = self.0.records.connection();
        let mut pipe = redis::pipe();
        pipe.cmd("GET").arg(name).cmd("PTTL").arg(name);
        let exchange = async move { pipe.query_async::<(Option<Vec<u8>>, i64)>(&mut connection).await };
        let Some((found, left)) = self.exchange(exchange).await else {
            return Read::Unavailable;
        };
        let Some(found) = found else { return Read::Nothing };
        let sealed = found.get(DATE_LENGTH..).unwrap_or_default();
        match self.0.seal.open(name, sealed) {
            Some(plain) => {
                Read::Found(Opened { plain, left: u64::try_from(left).ok().map(Duration::from_millis) })
            }
            None => {
                tracing::warn!(
                    "a record in the shared tier was not sealed by this deployment; it is ignored"
                );
                Read::Forged
            }
        }
    }

    /// Writes unless something newer is there, and gives back the lease of that name if it is ours.
    pub(super) async fn write(&self, name: &str, date: jiff::Timestamp, plain: &[u8], life: Duration) {
        let Some(sealed) = self.0.seal.seal(name, plain) else { return };
        let life = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
        if life == 0 {
            return;
        }
        let date = format!("{:016x}", date.as_millisecond().max(0));
        let mut connection = self.0.records.connection();
        let mut call = self.0.write.prepare_invoke();
        call.key(name).key(lease_of(name)).arg(date).arg(sealed).arg(life).arg(self.0.replica);
        let exchange = async move { call.invoke_async::<i64>(&mut connection).await };
        self.exchange(exchange).await;
    }

    /// Takes the lease of a name. `None` if Redis did not answer.
    pub(super) async fn lease(&self, name: &str, life: Duration) -> Option<bool> {
        let mut connection = self.0.records.connection();
        let mut command = redis::cmd("SET");
        let life = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
        command.arg(lease_of(name)).arg(self.0.replica).arg("NX").arg("PX").arg(life);
        let exchange = async move { command.query_async::<Option<String>>(&mut connection).await };
        self.exchange(exchange).await.map(|set| set.is_some())
    }

    /// Gives the lease back without a record, so that others need not wait for one.
    pub(super) async fn release(&self, name: &str) {
        let mut connection = self.0.records.connection();
        let mut call = self.0.release.prepare_invoke();
        call.key(lease_of(name)).arg(self.0.replica);
        self.exchange(async move { call.invoke_async::<i64>(&mut connection).await }).await;
    }

    /// Takes a record away: what it said is not so any more.
    pub(super) async fn remove(&self, name: &str) {
        let mut connection = self.0.records.connection();
        let mut command = redis::cmd("DEL");
        command.arg(name).arg(lease_of(name));
        self.exchange(async move { command.query_async::<i64>(&mut connection).await }).await;
    }

    /// Whether some replica holds the lease of a name. `None` if Redis did not answer.
    pub(super) async fn is_leased(&self, name: &str) -> Option<bool> {
        let mut connection = self.0.records.connection();
        let mut command = redis::cmd("EXISTS");
        command.arg(lease_of(name));
        self.exchange(async move { command.query_async::<bool>(&mut connection).await }).await
    }

    /// One exchange of the bus: no request waits for it, so it has more time. An error that Redis tells of opens the breaker
    /// as silence does: an announcement that is refused does not travel.
    pub(super) async fn on_bus<T, F>(
        &self,
        exchange: impl FnOnce(ConnectionManager) -> F,
    ) -> Result<T, BusFault>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let inner = &self.0;
        let admitted = inner.bus_breaker.admit(inner.clock.now().monotonic);
        let admission = admitted.map_err(|_| BusFault::LeftAlone)?;
        let exchange = exchange(inner.bus.connection());
        let result = tokio::time::timeout(BUS_TIMEOUT, exchange).await;
        let result = match result {
            Ok(result) => {
                let answered = inner.bus.note(&result);
                result.map_err(|error| BusFault::of(&error, answered))
            }
            Err(_) => Err(BusFault::Lost("no answer within a second".to_owned())),
        };
        let outcome = if result.is_ok() { CallOutcome::Success } else { CallOutcome::Failure(None) };
        admission.settle(outcome, inner.clock.now().monotonic);
        result
    }

    /// One exchange within the time allowed; nothing if it failed, took too long, or the breaker is open.
    async fn exchange<T>(&self, exchange: impl Future<Output = RedisResult<T>>) -> Option<T> {
        let inner = &self.0;
        let admission = inner.breaker.admit(inner.clock.now().monotonic).ok()?;
        let mut span = cause().and_then(|cause| cause.start("redis", SpanKind::Client));
        let result = tokio::time::timeout(inner.timeout, exchange).await;
        // An error that Redis tells us of, such as that it is full, is no reason to leave it alone.
        let answered = result.as_ref().is_ok_and(|result| inner.records.note(result));
        let outcome = if answered { CallOutcome::Success } else { CallOutcome::Failure(None) };
        admission.settle(outcome, inner.clock.now().monotonic);
        if let Some(span) = &mut span {
            span.note("db.system.name", "redis");
            if !answered {
                span.fail("unavailable");
            }
        }
        result.ok()?.ok()
    }
}

fn lease_of(name: &str) -> String {
    format!("{name}:lease")
}

fn client(settings: &SharedSettings) -> RedisResult<Client> {
    let host = settings.host.clone();
    let port = settings.port;
    let address = if settings.tls {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    };
    let mut redis = RedisConnectionInfo::default().set_db(settings.database).set_skip_set_lib_name();
    if let Some(username) = &settings.username {
        redis = redis.set_username(username);
    }
    if let Some(password) = &settings.password {
        redis = redis.set_password(password.expose());
    }
    // A peer that is gone without a word is noticed, and its connection replaced.
    let tcp = TcpSettings::default().set_nodelay(true);
    #[cfg(target_os = "linux")]
    let tcp = tcp.set_user_timeout(BUS_TIMEOUT * 2);
    let info = address.into_connection_info()?.set_redis_settings(redis).set_tcp_settings(tcp);
    if settings.tls {
        let certificates = TlsCertificates { client_tls: None, root_cert: settings.ca_pem.clone() };
        Client::build_with_tls(info, certificates)
    } else {
        Client::open(info)
    }
}
