//! A disk that is full, a file that was moved away, a line that was cut.
//!
//! Must not write anywhere but in folders of their own.

use std::path::Path;

use super::stream::begun;
use super::*;
use jiff::Timestamp;

fn record(request_id: &str) -> DecisionRecord<'_> {
    DecisionRecord {
        at: Timestamp::UNIX_EPOCH,
        request_id,
        trace_id: "",
        route: "app",
        method: None,
        host: None,
        path: None,
        client_ip: None,
        decision: "allow",
        reason: None,
        organization_id: None,
        member_id: None,
        client_id: None,
        session: None,
        evidence: None,
        evidence_age: None,
        took: Duration::ZERO,
    }
}

fn log(file: &Path, deadline: Duration) -> (AuditLog, Metrics) {
    let metrics = Metrics::new().unwrap();
    let sync = !file.is_symlink();
    let settings = AuditSettings { file: Some(file.to_owned()), sync, deadline };
    (AuditLog::start(&settings, metrics.clone()).unwrap(), metrics)
}

fn recorded(file: &Path) -> Vec<String> {
    let lines = std::fs::read_to_string(file).unwrap();
    let id = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["request_id"].to_string();
    lines.lines().map(|line| id(line).trim_matches('"').to_owned()).collect()
}

#[tokio::test]
async fn what_was_told_to_be_written_is_in_the_file_which_its_owner_alone_can_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.jsonl");
    let (audit, metrics) = log(&file, Duration::from_secs(10));
    for id in ["one", "two"] {
        assert!(audit.reserve().await.unwrap().record(&record(id)).written().await);
        assert!(recorded(&file).last().is_some_and(|last| last == id), "before anything acts on it");
    }
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(metrics.audit_records.get(), 2);
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_lost_and_nothing_more_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.jsonl");
    std::os::unix::fs::symlink("/dev/full", &file).unwrap();
    let (audit, metrics) = log(&file, Duration::from_millis(20));
    let mut ids = Vec::new();
    for number in 0..PLACES {
        let id = number.to_string();
        let pending = audit.reserve().await.unwrap().record(&record(&id));
        if number == 0 {
            assert!(!pending.written().await, "there is no room on the disk");
        }
        ids.push(id);
    }
    assert!(audit.reserve().await.is_none(), "no more may be decided than can be recorded");
    assert!(metrics.audit_write_failures.get() > 0);
    assert_eq!(metrics.audit_records.get(), 0);

    std::fs::remove_file(&file).unwrap();
    audit.reopen();
    audit.flush(Duration::from_secs(30));
    assert_eq!(recorded(&file), ids, "every one, and in order");
    assert!(audit.reserve().await.is_some());
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_begun_again_when_told() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.jsonl");
    let moved = directory.path().join("audit.jsonl.1");
    let (audit, _) = log(&file, Duration::from_secs(10));
    assert!(audit.reserve().await.unwrap().record(&record("before")).written().await);
    std::fs::rename(&file, &moved).unwrap();
    assert!(audit.reserve().await.unwrap().record(&record("between")).written().await);
    audit.reopen();
    assert!(audit.reserve().await.unwrap().record(&record("after")).written().await);
    assert_eq!(recorded(&moved), ["before", "between"]);
    assert_eq!(recorded(&file), ["after"]);
}

#[tokio::test]
async fn a_line_that_a_crash_cut_short_does_not_run_into_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.jsonl");
    std::fs::write(&file, "{\"log\":\"deci").unwrap();
    let (audit, _) = log(&file, Duration::from_secs(10));
    assert!(audit.reserve().await.unwrap().record(&record("next")).written().await);
    let lines = std::fs::read_to_string(&file).unwrap();
    assert!(lines.starts_with("{\"log\":\"deci\n{\"log\":\"decision\""), "{lines}");
}

#[test]
fn a_line_begins_after_the_one_before() {
    assert_eq!([begun(b""), begun(b"a"), begun(b"a\n"), begun(b"a\nbc")], [0, 0, 2, 2]);
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_again_is_tried_until_it_can() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.jsonl");
    let moved = directory.path().join("audit.jsonl.1");
    let (audit, metrics) = log(&file, Duration::from_secs(10));
    std::fs::rename(&file, &moved).unwrap();
    std::fs::create_dir(&file).unwrap();
    audit.reopen();
    assert!(audit.reserve().await.unwrap().record(&record("meanwhile")).written().await);
    let failing = metrics.audit_failing.with_label_values(&["reopen"]);
    assert_eq!(failing.get(), 1, "it is not where it should be");
    std::fs::remove_dir(&file).unwrap();
    audit.reopen();
    audit.flush(Duration::from_secs(10));
    assert_eq!(failing.get(), 0, "and not only once somebody records");
    assert!(audit.reserve().await.unwrap().record(&record("then")).written().await);
    assert_eq!((recorded(&moved), recorded(&file)), (vec!["meanwhile".to_owned()], vec!["then".to_owned()]));
}

#[test]
fn what_is_no_file_on_a_disk_cannot_be_synced() {
    let settings =
        AuditSettings { file: Some("/dev/full".into()), sync: true, deadline: Duration::from_secs(1) };
    assert!(AuditLog::start(&settings, Metrics::new().unwrap()).is_err());
}

#[tokio::test]
async fn a_flood_at_the_door_takes_no_place_of_a_decision() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.jsonl");
    std::os::unix::fs::symlink("/dev/full", &file).unwrap();
    let (audit, _) = log(&file, Duration::from_millis(20));
    for _ in 0..PLACES_AT_THE_DOOR {
        drop(audit.reserve_at_the_door().unwrap().record(&record("junk")));
    }
    assert!(audit.reserve_at_the_door().is_none());
    assert!(audit.reserve().await.is_some());
    assert!(!audit.flush(Duration::from_millis(50)), "whoever ends is told that something is left");
}
