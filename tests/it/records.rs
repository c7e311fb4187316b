//! What is written about requests and decisions: each form of it, and that no decision goes unrecorded where none may.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Ask, Running, Site, ask, metric, raw, signal};

/// Everything the program wrote to its standard output, once it has left.
fn written(mut running: Running) -> String {
    signal(&running.0, "TERM");
    let mut text = String::new();
    running.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

/// Reason and decision of every record, by request.
fn decisions(records: &str) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::<String, Vec<String>>::new();
    for line in records.lines() {
        let record: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(record["log"], "decision", "{line}");
        let what = record["reason"].as_str().or_else(|| record["decision"].as_str()).unwrap();
        found.entry(record["request_id"].as_str().unwrap().to_owned()).or_default().push(what.to_owned());
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_combined_format_is_read_by_whatever_reads_the_logs_of_web_servers() {
    let site = Site::new("").await;
    let form = [("PORTCULLIS_LOG__ACCESS", "true"), ("PORTCULLIS_LOG__ACCESS_FORMAT", "combined")];
    let running = site.run_into(Stdio::piped(), &form);
    site.until_ready().await;
    let asked = Ask::get("/orders?code=secret")
        .header("user-agent", "Mozilla/5.0 \"quoted\"")
        .header("referer", "https://app.example.com/start?code=secret");
    assert_eq!(ask(site.traffic, asked.bearer(&site.jwt())).await.status, 200);
    assert_eq!(ask(site.traffic, Ask::get("/orders")).await.status, 401);
    let text = written(running);
    let mut lines = text.lines();
    let allowed = lines.next().unwrap();
    assert!(allowed.starts_with("127.0.0.1 - - ["), "{allowed}");
    assert!(allowed.contains("] \"GET /orders HTTP/1.1\" 200 "), "{allowed}");
    let agent = " \"https://app.example.com\" \"Mozilla/5.0 \\x22quoted\\x22\"";
    assert!(allowed.ends_with(agent), "{allowed}");
    let refused = lines.next().unwrap();
    assert!(
        refused.contains("] \"GET /orders HTTP/1.1\" 401 ") && refused.ends_with(" \"-\" \"-\""),
        "{refused}"
    );
    assert_eq!(lines.next(), None, "there is no room for decisions");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logfmt_has_a_line_for_the_request_and_one_for_the_decision() {
    let site = Site::new("").await;
    let form = [("PORTCULLIS_LOG__ACCESS", "true"), ("PORTCULLIS_LOG__ACCESS_FORMAT", "logfmt")];
    let running = site.run_into(Stdio::piped(), &form);
    site.until_ready().await;
    let answer = ask(site.traffic, Ask::get("/a%20b")).await;
    assert_eq!(answer.status, 401);
    let id = answer.header("x-request-id").to_owned();
    let text = written(running);
    let line =
        |of: &str| text.lines().find(|line| line.starts_with(&format!("log={of} ts="))).unwrap().to_owned();
    let (access, decision) = (line("access"), line("decision"));
    for line in [&access, &decision] {
        assert!(line.contains(&format!(" request_id={id} ")), "{line}");
        assert!(line.contains(" path=/a%20b ") && line.contains(" reason=credential_missing "), "{line}");
    }
    assert!(access.contains(" status=401 ") && access.ends_with(" complete=true"), "{access}");
    assert!(decision.contains(" decision=refuse "), "{decision}");
    assert!(!decision.contains("member_id"), "what is not known is left out: {decision}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_recorded_is_not_let_through_and_every_record_is_there_in_the_end() {
    let site = Site::new("").await;
    let file = site.folder.path().join("audit.jsonl");
    std::os::unix::fs::symlink("/dev/full", &file).unwrap();
    let audit =
        [("PORTCULLIS_LOG__AUDIT__FILE", "audit.jsonl"), ("PORTCULLIS_LOG__AUDIT__DEADLINE", "100ms")];
    let running = site.run(&audit);
    site.until_ready().await;
    let refused = ask(site.traffic, Ask::get("/full").bearer(&site.jwt())).await;
    assert_eq!((refused.status, refused.reason().as_str()), (503, "audit_unavailable"));
    assert!(!refused.header("retry-after").is_empty());
    let anybody = ask(site.traffic, Ask::get("/full")).await;
    assert_eq!(anybody.reason(), "audit_unavailable", "nor is anybody told what was decided");
    let malformed = raw(site.traffic, "GET /a//b HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(malformed.contains("path_ambiguous"), "nothing was decided, and nobody need wait: {malformed}");
    assert!(metric(site.ops, "portcullis_audit_write_failures_total").await > 0.0);
    let status = site.command(&["status"]);
    assert!(
        crate::support::said(&status).contains("decisions cannot be recorded"),
        "{}",
        crate::support::said(&status)
    );

    // Somebody makes room, and says so.
    std::fs::remove_file(&file).unwrap();
    signal(&running.0, "HUP");
    let began = Instant::now();
    let allowed = loop {
        let answer = ask(site.traffic, Ask::get("/room").bearer(&site.jwt())).await;
        if answer.status == 200 {
            break answer;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{}", answer.reason());
    };
    let records = std::fs::read_to_string(&file).unwrap();
    let decisions = decisions(&records);
    let of = |answer: &crate::support::Answer| decisions.get(answer.header("x-request-id"));
    // The change of the configuration may have come in between: then it was decided on twice.
    assert!(of(&allowed).unwrap().iter().all(|decision| decision == "allow"));
    assert_eq!(
        of(&refused).unwrap(),
        &["allow", "audit_unavailable"],
        "what was decided, and that it did not stand"
    );
    assert_eq!(of(&anybody).unwrap(), &["credential_missing", "audit_unavailable"]);
    assert!(decisions.values().any(|told| *told == ["path_ambiguous"]), "{records}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_the_audit_stream_that_stands_still_loses_no_record_of_what_was_let_through() {
    let site = Site::new("").await;
    let audit =
        [("PORTCULLIS_LOG__AUDIT__FILE", "/dev/stdout"), ("PORTCULLIS_LOG__AUDIT__DEADLINE", "200ms")];
    let running = site.run_into(Stdio::piped(), &audit);
    site.until_ready().await;
    let mut answered = Vec::new();
    let stuck = loop {
        // A pipe holds 64 KiB: a few hundred records.
        let answer = ask(site.traffic, Ask::get("/").bearer(&site.jwt())).await;
        if answer.status == 503 {
            break answer;
        }
        assert_eq!(answer.status, 200);
        answered.push(answer.header("x-request-id").to_owned());
        assert!(answered.len() < 10_000, "nobody reads, and nobody is kept waiting");
    };
    assert_eq!(stuck.reason(), "audit_unavailable");
    let decisions = decisions(&written(running));
    for id in &answered {
        assert_eq!(decisions.get(id).unwrap(), &["allow"]);
    }
    assert_eq!(decisions.len(), answered.len() + 1);
}

/// What becomes of a request whose record waits for a second, while `happens`.
async fn kept_waiting(happens: impl AsyncFn(&Site)) -> (u16, Vec<String>) {
    let ages = "sessions: { fresh_for: 100ms, stale_while_revalidate: 200ms, stale_if_error: 0s }\n";
    let site = Site::new(ages).await;
    let audit = [("PORTCULLIS_LOG__AUDIT__FILE", "/dev/stdout"), ("PORTCULLIS_LOG__AUDIT__DEADLINE", "10s")];
    let mut running = site.run_into(Stdio::piped(), &audit);
    site.until_ready().await;
    let (traffic, jwt) = (site.traffic, site.jwt());
    // Until the pipe is full, and somebody waits.
    let mut allowed = 0;
    let waiting = loop {
        let mut asked = Box::pin(ask(traffic, Ask::get("/").bearer(&jwt)));
        match tokio::time::timeout(Duration::from_secs(1), &mut asked).await {
            Ok(answer) => assert_eq!(answer.status, 200),
            Err(_) => break asked,
        }
        allowed += 1;
        assert!(allowed < 10_000, "nobody reads, and nobody is kept waiting");
    };
    happens(&site).await;
    let mut output = running.0.stdout.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).map(|_| text)
    });
    let answer = waiting.await;
    let decisions =
        metric(site.ops, "portcullis_decisions_total{decision=\"allow\",reason=\"\",route=\"everything\"}")
            .await;
    assert_eq!(decisions, f64::from(allowed + i32::from(answer.status == 200)), "each request counts once");
    signal(&running.0, "TERM");
    let id = answer.header("x-request-id");
    (answer.status, decisions_of(&reading.join().unwrap().unwrap(), id))
}

fn decisions_of(records: &str, id: &str) -> Vec<String> {
    decisions(records).remove(id).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_old_when_its_record_is_written_is_decided_again() {
    let (status, decisions) = kept_waiting(async |_| {}).await;
    assert_eq!((status, decisions), (200, vec!["allow".to_owned(), "allow".to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_revoked_while_the_record_of_an_allow_waits_lets_nothing_through() {
    let revoke = async |site: &Site| {
        let session = &site.emulator.personas()[0].session_id;
        let body = format!("{{\"member_session_id\": \"{session}\", \"upstream\": true}}");
        let asked = Ask::new("POST", "/admin/revoke").bearer("a-token-of-some-length");
        let told = ask(site.admin, asked.header("content-type", "application/json").body(body)).await;
        assert_eq!(told.status, 200, "{}", told.text());
    };
    let (status, decisions) = kept_waiting(revoke).await;
    assert_eq!((status, decisions), (401, vec!["allow".to_owned(), "session_not_found".to_owned()]));
}
