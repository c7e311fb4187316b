//! The directory's tiers by themselves: calls made for a Zipf-distributed load at one and more replicas, and what a
//! member takes in memory.
//!
//! Must not go through HTTP: what is counted is what reaches the API.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::disallowed_methods,
    reason = "a bench that cannot be set up should end"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use portcullis::directory::{
    Answer, Attempts, Clock, Guard, GuardSettings, ManualClock, Memory, MemorySettings, RedisLink,
    SessionDirectory, SessionQuery, Shared, SharedSettings, Spelling, SystemClock, TokenOwner, TokenQuery,
    UnknownTokenSettings,
};
use portcullis::identity::{MemberId, MemberRef, Now, OrganizationId, Secret};
use portcullis::policy::Freshness;
use portcullis::session::{Evidence, Revocation};
use portcullis::stytch::read_session_list;
use portcullis::telemetry::Metrics;
use serde_json::json;

/// The API: every call takes a while, is counted, and answers a list of the reference's size.
struct Api {
    clock: Arc<dyn Clock>,
    calls: Arc<AtomicU64>,
    takes: Duration,
}

impl SessionDirectory for Api {
    fn active_sessions(&self, query: &SessionQuery) -> Answer<Evidence> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let (query, sent, takes) = (query.clone(), self.clock.now(), self.takes);
        Answer::pending(async move {
            if !takes.is_zero() {
                tokio::time::sleep(takes).await;
            }
            let body = session_list(&query.member, sent);
            read_session_list(body.as_bytes(), &query.member, Spelling::Canonical, sent, &[])
                .map(Evidence::Sessions)
        })
    }

    fn resolve(&self, _query: &TokenQuery) -> Answer<TokenOwner> {
        panic!("no tokens here")
    }

    fn forget(&self, _revocation: &Revocation) {}
}

/// Three sessions of three factors each, in the API's own shape: about 2.9 KB.
fn session_list(member: &MemberRef, sent: Now) -> String {
    let at = sent.wall.to_string();
    let digits = member.member_id.as_str().rsplit('-').next().unwrap_or_default().to_owned();
    let uuid = |kind: u32| format!("{kind:08x}-0000-4000-8000-{:0>12}", &digits);
    let factor = |kind: &str, delivery: &str, object: &str, details: serde_json::Value| {
        json!({
            "type": kind, "delivery_method": delivery, "last_authenticated_at": at, "created_at": at,
            "updated_at": at, object: details,
        })
    };
    let session = |number: u32| {
        json!({
            "member_session_id": format!("session-test-{}", uuid(number)),
            "member_id": member.member_id.as_str(),
            "organization_id": member.organization_id.as_str(),
            "organization_slug": "acme-corporation",
            "started_at": at, "last_accessed_at": at,
            "expires_at": (sent.wall + Duration::from_secs(36_000)).to_string(),
            "roles": ["stytch_member", "editor", "billing_viewer"],
            "custom_claims": { "plan": "gold" },
            "authentication_factors": [
                factor("sso", "sso_saml", "saml_sso_factor", json!({
                    "id": format!("saml-{}", uuid(number)), "provider_id": "saml-connection-test-1",
                    "external_id": format!("user-{digits}@example.com") })),
                factor("totp", "authenticator_app", "authenticator_app_factor", json!({
                    "totp_id": format!("member-totp-test-{}", uuid(number)) })),
                factor("email_otp", "email", "email_factor", json!({
                    "email_id": format!("member-email-test-{}", uuid(number)),
                    "email_address": format!("user-{digits}@example.com") })),
            ],
        })
    };
    let sessions: Vec<_> = (1..=3).map(session).collect();
    json!({ "member_sessions": sessions, "request_id": "request-id-test-1", "status_code": 200 }).to_string()
}

fn member(number: u64) -> MemberRef {
    MemberRef {
        organization_id: OrganizationId::parse(&format!("organization-test-{:036}", number % 500)).unwrap(),
        member_id: MemberId::parse(&format!("member-test-00000000-0000-4000-8000-{number:012}")).unwrap(),
    }
}

fn query(number: u64, now: Now, max_staleness: Duration) -> SessionQuery {
    SessionQuery {
        member: member(number),
        spelling: Spelling::Canonical,
        freshness: Freshness {
            fresh_for: Duration::from_secs(10),
            max_staleness,
            stale_if_error: Duration::from_secs(300),
        },
        newer_than: None,
        settled: false,
        vouched: None,
        now,
    }
}

fn tiers(
    api: Api,
    clock: &Arc<dyn Clock>,
    redis: Option<u16>,
    max_entries: u64,
    metrics: &Metrics,
) -> Memory {
    let deadline = Duration::from_secs(2);
    let guard = GuardSettings { deadline, max_in_flight: 64, max_waiting: 100_000 };
    let attempts = Arc::new(Attempts::new(UnknownTokenSettings { per_peer: 2, in_total: 50 }));
    let guard = Guard::new(Arc::new(api), Arc::clone(clock), &guard, attempts, metrics);
    let settings = MemorySettings {
        max_entries,
        max_bytes: 4 << 30,
        max_refreshes: 32,
        negative_for: Duration::from_secs(2),
        token_binding_for: Duration::from_secs(900),
        horizon: Duration::from_secs(330),
    };
    let next: Arc<dyn SessionDirectory> = match redis {
        None => Arc::new(guard),
        Some(port) => {
            let shared = SharedSettings {
                host: "127.0.0.1".to_owned(),
                port,
                tls: false,
                ca_pem: None,
                database: 0,
                username: None,
                password: None,
                key: Secret::new(support::KEY.to_owned()),
                previous_key: None,
                prefix: "bench".to_owned(),
                timeout: Duration::from_millis(50),
                scope: "bench".to_owned(),
                claim_pointers: Vec::new(),
            };
            let link = RedisLink::new(&shared, Arc::clone(clock), metrics).unwrap();
            Arc::new(Shared::new(link, Arc::new(guard), deadline, Arc::clone(clock), &settings, metrics))
        }
    };
    let attempts = Attempts::new(UnknownTokenSettings { per_peer: 2, in_total: 50 });
    Memory::new(next, Arc::clone(clock), settings, Arc::new(attempts), metrics)
}

/// Draws members as a Zipf distribution of exponent 1 has them.
struct Zipf(Vec<f64>);

impl Zipf {
    fn over(members: usize) -> Self {
        let mut sum = 0.0;
        let mut sums: Vec<f64> = (1..=members)
            .map(|rank| {
                sum += 1.0 / rank as f64;
                sum
            })
            .collect();
        sums.iter_mut().for_each(|value| *value /= sum);
        Self(sums)
    }

    fn draw(&self) -> u64 {
        let wanted = fastrand::f64();
        self.0.partition_point(|sum| *sum < wanted) as u64
    }
}

/// 300 requests a second over all replicas, for 40 real seconds after a warm-up of 20.
async fn calls(replicas: usize, redis: Option<u16>) -> (u64, u64) {
    const PER_SECOND: u64 = 300;
    let metrics = Metrics::new().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let counter = Arc::new(AtomicU64::new(0));
    let all: Vec<Memory> = (0..replicas)
        .map(|_| {
            let api = Api {
                clock: Arc::clone(&clock),
                calls: Arc::clone(&counter),
                takes: Duration::from_millis(30),
            };
            tiers(api, &clock, redis, 100_000, &metrics)
        })
        .collect();
    let zipf = Zipf::over(10_000);
    let mut ticker = tokio::time::interval(Duration::from_micros(1_000_000 / PER_SECOND));
    let (mut sent, mut before) = (0_u64, 0);
    for number in 0..PER_SECOND * 60 {
        ticker.tick().await;
        if number == PER_SECOND * 20 {
            before = counter.load(Ordering::Relaxed);
            sent = 0;
        }
        sent += 1;
        let memory = all[fastrand::usize(..all.len())].clone();
        let query = query(zipf.draw(), clock.now(), Duration::from_secs(30));
        tokio::spawn(async move { drop(memory.active_sessions(&query).wait().await) });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    (counter.load(Ordering::Relaxed) - before, sent)
}

/// Fills a memory tier and prints what it takes beyond an empty one. In a process of its own.
fn fill(members: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(jiff::Timestamp::now()));
        let metrics = Metrics::new().unwrap();
        let calls = Arc::new(AtomicU64::new(0));
        let api = Api { clock: Arc::clone(&clock), calls, takes: Duration::ZERO };
        let memory = tiers(api, &clock, None, members, &metrics);
        // A few first, so that what is set up once is not counted.
        for number in 0..100 {
            drop(
                memory
                    .active_sessions(&query(1_000_000 + number, clock.now(), Duration::from_secs(30)))
                    .wait()
                    .await,
            );
        }
        memory.size();
        let idle = support::resident_of("self");
        for number in 0..members {
            let answer =
                memory.active_sessions(&query(number, clock.now(), Duration::from_secs(30))).wait().await;
            assert!(answer.unwrap().list().unwrap().sessions().count() == 3);
        }
        let (entries, bytes) = memory.size();
        let taken = support::resident_of("self").saturating_sub(idle);
        println!(
            "| {members} | {entries} | {:.1} MB | {} | {} |",
            taken as f64 / 1e6,
            taken / members,
            bytes / entries
        );
    });
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--fill") {
        return fill(arguments[at + 1].parse().unwrap());
    }
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let only = |name: &str| arguments.iter().any(|argument| argument == name);
    let sample =
        session_list(&member(1), Now { wall: jiff::Timestamp::now(), monotonic: Default::default() });
    if !only("calls") {
        println!("Resident memory, lists of {} bytes of JSON:\n", sample.len());
        println!(
            "| members | entries | beyond idle | bytes a member | counted against max_bytes |\n|---|---|---|---|---|"
        );
        for members in ["1000", "100000", "500000"] {
            let program = std::env::current_exe().unwrap();
            assert!(
                std::process::Command::new(program).args(["--fill", members]).status().unwrap().success()
            );
        }
    }
    if only("memory") {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    println!(
        "\nCalls to the directory per 1,000 requests, 10,000 members by Zipf, 300 requests a second in total:\n"
    );
    println!("| replicas | without Redis | with Redis |\n|---|---|---|");
    for replicas in [1, 3, 10] {
        let per_thousand = |(calls, sent): (u64, u64)| format!("{:.0}", calls as f64 * 1_000.0 / sent as f64);
        let alone = per_thousand(runtime.block_on(calls(replicas, None)));
        let shared = match support::redis() {
            Some((_redis, port)) => per_thousand(runtime.block_on(calls(replicas, Some(port)))),
            None => "no redis-server here".to_owned(),
        };
        println!("| {replicas} | {alone} | {shared} |");
    }
}
