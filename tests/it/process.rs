//! The program as a supervisor runs it: told when it is ready, reloaded, drained, replaced under an open socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::{
    Ask, Origin, PROGRAM, Reply, Running, Site, ask, free_port, is_here, said, signal, try_ask,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_program_is_looked_at_reloaded_and_drained_from_the_command_line() {
    let site = Site::new("drain_delay: 100ms\n").await;
    let socket = site.folder.path().join("notify");
    let supervisor = UnixDatagram::bind(&socket).unwrap();
    supervisor.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let heard = || {
        let mut told = [0; 256];
        let length = supervisor.recv(&mut told).unwrap();
        String::from_utf8(told[..length].to_vec()).unwrap()
    };
    let mut running = site.run(&[("NOTIFY_SOCKET", socket.to_str().unwrap())]);
    assert_eq!(heard().trim(), "READY=1");
    site.until_ready().await;

    let status = site.command(&["status"]);
    assert!(status.status.success(), "{}", said(&status));
    assert!(said(&status).starts_with("healthy"), "{}", said(&status));
    assert!(said(&status).contains("everything"), "{}", said(&status));

    signal(&running.0, "HUP");
    let began = Instant::now();
    while site.reloads("unchanged").await < 1.0 {
        assert!(began.elapsed() < Duration::from_secs(10), "the signal was not heard");
    }
    let again = site.command(&["reload"]);
    assert_eq!((again.status.code(), said(&again).trim()), (Some(0), "unchanged"));
    let good = std::fs::read_to_string(site.file()).unwrap();
    std::fs::write(site.file(), good.replace("ops: {", "ops: { adress: x,")).unwrap();
    let began = Instant::now();
    // The watcher may have been there first; either tells the same.
    while site.reloads("invalid").await < 1.0 {
        assert!(began.elapsed() < Duration::from_secs(10));
    }
    let degraded = site.command(&["status"]);
    assert!(said(&degraded).starts_with("degraded"), "whatever is wrong with the file: {}", said(&degraded));
    let refused = ask(site.ops, Ask::get("/readyz")).await.text();
    assert!(refused.contains("invalid"), "{refused}");
    std::fs::write(site.file(), &good).unwrap();
    while site.reloads("applied").await < 1.0 {
        assert!(began.elapsed() < Duration::from_secs(10));
    }

    let drained = site.command(&["drain"]);
    assert!(drained.status.success(), "{}", said(&drained));
    assert_eq!(ask(site.ops, Ask::get("/readyz")).await.status, 503);
    assert_eq!(
        ask(site.traffic, Ask::get("/").bearer(&site.jwt())).await.status,
        200,
        "it goes on answering"
    );
    assert_eq!(site.command(&["status"]).status.code(), Some(1), "one that leaves is not healthy");
    signal(&running.0, "TERM");
    assert_eq!(heard().trim(), "STOPPING=1");
    assert!(running.0.wait().unwrap().success());
    let gone = site.command(&["status"]);
    assert!(said(&gone).contains("no answer from"), "{}", said(&gone));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_lost_while_it_is_replaced_under_an_open_socket() {
    if !is_here("python3") {
        return;
    }
    let site = Site::new("drain_timeout: 10s\n").await;
    let mut supervisor = Command::new("python3")
        .args(["tests/sdk/hand_over.py", &site.traffic.to_string(), PROGRAM, "run", "-c"])
        .arg(site.file())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = supervisor.stdin.take().unwrap();
    let mut told = BufReader::new(supervisor.stdout.take().unwrap()).lines();
    let mut supervisor = Running(supervisor);
    assert!(told.next().unwrap().unwrap().starts_with("up "));
    site.until_ready().await;
    let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (over, answered) = (Arc::clone(&over), Arc::clone(&answered));
            let (address, jwt) = (site.traffic, site.jwt());
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let answer = try_ask(address, Ask::get("/").bearer(&jwt)).await;
                    assert_eq!(answer.map(|answer| answer.status), Some(200));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let until = async |count: u64| {
        let began = Instant::now();
        while answered.load(Ordering::Relaxed) < count {
            assert!(began.elapsed() < Duration::from_secs(30), "nobody is answered");
            assert!(!callers.iter().any(tokio::task::JoinHandle::is_finished), "a caller gave up");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    until(50).await;
    for _ in 0..3 {
        let before = answered.load(Ordering::Relaxed);
        writeln!(input, "again").unwrap();
        assert_eq!(told.next().unwrap().unwrap(), "ended 0");
        assert!(told.next().unwrap().unwrap().starts_with("up "));
        until(before + 50).await;
    }
    over.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    drop(input);
    assert_eq!(told.next().unwrap().unwrap(), "ended 0");
    assert!(supervisor.0.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_let_in_once_the_keys_are_there_or_patience_is_over() {
    let site = Site::new("start_patience: 2s\n").await;
    // A port that nobody answers on: the keys cannot be loaded.
    let text = std::fs::read_to_string(site.file()).unwrap();
    std::fs::write(
        site.file(),
        text.replace(&site.emulator.url(), &format!("http://127.0.0.1:{}", free_port())),
    )
    .unwrap();
    let began = Instant::now();
    let _running = site.run(&[]);
    while try_ask(site.ops, Ask::get("/livez")).await.is_none() {
        assert!(began.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(ask(site.ops, Ask::get("/startupz")).await.status, 503);
    // Turned away, so that whoever balances goes elsewhere.
    assert!(tokio::net::TcpStream::connect(site.traffic).await.is_err());
    while tokio::net::TcpStream::connect(site.traffic).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(began.elapsed() >= Duration::from_secs(2));
    let refused = ask(site.traffic, Ask::get("/").bearer(&site.jwt())).await;
    assert_eq!(refused.reason(), "keys_unavailable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exit_code_tells_whether_anything_was_cut_and_a_second_signal_ends_it_at_once() {
    let silent = Origin::start(Reply::Silence).await;
    for (patience, again) in [("300ms", false), ("60s", true)] {
        let site = Site::new(&format!("drain_timeout: {patience}\n")).await;
        let text = std::fs::read_to_string(site.file()).unwrap();
        let url = format!("http://{}", site.echo.address());
        std::fs::write(site.file(), text.replace(&url, &silent.url())).unwrap();
        let mut running = site.run(&[]);
        site.until_ready().await;
        let (before, address, jwt) = (silent.heads().len(), site.traffic, site.jwt());
        let stuck = tokio::spawn(async move { try_ask(address, Ask::get("/").bearer(&jwt)).await });
        let began = Instant::now();
        while silent.heads().len() == before {
            assert!(began.elapsed() < Duration::from_secs(10));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        signal(&running.0, "TERM");
        if again {
            while ask(site.ops, Ask::get("/readyz")).await.status != 503 {
                assert!(began.elapsed() < Duration::from_secs(20));
            }
            signal(&running.0, "TERM");
        }
        let ended = tokio::task::spawn_blocking(move || running.0.wait().unwrap()).await.unwrap();
        assert_eq!(ended.code(), Some(1), "{patience}");
        assert!(began.elapsed() < Duration::from_secs(20));
        stuck.abort();
    }
}

#[test]
fn a_command_that_asks_somebody_else_fails() {
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap().to_string();
    let answering = std::thread::spawn(move || {
        for (stream, answer) in
            server.incoming().take(3).zip(["HTTP/1.1 200 OK\r\n\r\nok\n", "", "HTTP/1.1 200 OK\r\n\r\n{}"])
        {
            let mut stream = stream.unwrap();
            let mut head = [0; 1024];
            drop(std::io::Read::read(&mut stream, &mut head));
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    for command in ["drain", "reload", "drain"] {
        let mut program = Command::new(PROGRAM);
        let told = program.args([command, "-c", "config/edge.yaml", "--address", &address]).output().unwrap();
        assert_eq!(told.status.code(), Some(1), "{command}: {}", said(&told));
    }
    answering.join().unwrap();
}
