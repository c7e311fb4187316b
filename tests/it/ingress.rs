//! The sidecar's configuration as it is shipped, behind a proxy that it does not list and behind one that it lists: what
//! browsers and clients send every day passes.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::support::{Ask, Running, World, ask, eventually, free_port, is_here_with, raw, try_ask};

const SIDECAR: &str = include_str!("../../config/sidecar.yaml");
const LISTED: &str = "address: \"127.0.0.1:0\"\n    forwarded: { from: [127.0.0.0/8] }";

async fn sidecar(listed: bool) -> World {
    let address = if listed { LISTED } else { "address: \"127.0.0.1:0\"" };
    let yaml = SIDECAR
        .replacen("address: 0.0.0.0:8080", address, 1)
        .replace("secret: { file: /etc/portcullis/secrets/stytch-secret }", "secret: {}");
    World::with(&yaml, &[]).await
}

async fn every_day_requests_pass(world: &World, front: SocketAddr, what: &str) {
    let viewer = world.persona("VIEWER");
    let cookies = format!(
        "theme=dark; stytch_session={}; stytch_session_jwt={}; csrf=\"a b\"",
        viewer.token, viewer.jwt
    );
    let as_browser = |ask: Ask| {
        ask.header("cookie", &cookies)
            .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:149.0) Gecko/20100101 Firefox/149.0")
            .header("accept-language", "de,en;q=0.7")
            .header("x-csrf-token", "1f")
            .header("x-requested-with", "XMLHttpRequest")
            .header("sec-fetch-site", "same-origin")
    };
    for path in [
        "/",
        "/orders?id=1&next=%2Fa%3Fb&q=a%20b;c#",
        "/files/My%20Document%20(1).pdf",
        "/caf%C3%A9/%E6%97%A5%E6%9C%AC",
        "/a+b/@user/v1/users:batch",
        "/docs/",
        "/Docs/ReadMe.MD",
        "/static/app.min.js?v=1.2.3",
        "/.well-known/openid-configuration",
        "/~user/a,b/c=d/e$f/g!h/'i'",
        "/adminx/users",
    ] {
        let path = path.trim_end_matches('#');
        for method in ["GET", "HEAD"] {
            let answer = ask(front, as_browser(Ask::new(method, path))).await;
            assert_eq!(answer.status, 200, "{what} {method} {path} {}", answer.text());
        }
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let asked = as_browser(Ask::new(method, "/things/7")).header("content-type", "application/json");
        let answer = ask(front, asked.body("{\"a\":1}")).await;
        assert_eq!(answer.status, 200, "{what} {method} {}", answer.text());
    }
    let bearer = ask(front, Ask::get("/api").bearer(&viewer.jwt)).await;
    assert_eq!(bearer.seen("x-auth-member-id"), Some(viewer.member_id.clone()), "{what}");
    // A page opens a socket to its own host.
    let upgrade = format!(
        "GET /live HTTP/1.1\r\nHost: app.example.com\r\nOrigin: http://app.example.com\r\nCookie: {cookies}\r\n\
         Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let answered = raw(front, upgrade).await;
    assert!(answered.starts_with("HTTP/1.1 200"), "{what} {answered}");
    // Many at once, all of them out of one address.
    let many: Vec<_> = (0..200)
        .map(|_| {
            let asked = as_browser(Ask::get("/busy"));
            tokio::spawn(async move { try_ask(front, asked).await.map(|answer| answer.status) })
        })
        .collect();
    for one in many {
        assert_eq!(one.await.unwrap(), Some(200), "{what}");
    }
    assert_eq!(ask(front, Ask::get("/")).await.status, 401, "{what}");
    assert_eq!(ask(front, as_browser(Ask::get("/admin/users"))).await.reason(), "role_missing", "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_sidecar_loses_no_request_behind_nginx() {
    const NGINX: &str = "/usr/sbin/nginx";
    if !is_here_with(NGINX, "-v") {
        return;
    }
    for listed in [false, true] {
        let world = sidecar(listed).await;
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let path = folder.path().display();
        let text = format!(
            "daemon off; master_process off; pid {path}/pid; error_log {path}/error.log; worker_processes 1; events {{}}
             http {{ access_log off; client_body_temp_path {path}/a; proxy_temp_path {path}/b; fastcgi_temp_path {path}/c;
             uwsgi_temp_path {path}/d; scgi_temp_path {path}/e;
             map $http_upgrade $upgrade {{ default upgrade; '' close; }}
             server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{}; proxy_http_version 1.1;
             proxy_set_header Host $http_host; proxy_set_header X-Real-IP $remote_addr;
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
             proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $upgrade; }} }} }}",
            world.address()
        );
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(NGINX);
        command.args(["-p", folder.path().to_str().unwrap(), "-c", file.to_str().unwrap()]);
        let _running = Running(command.stderr(Stdio::null()).spawn().unwrap());
        eventually(|| std::net::TcpStream::connect(("127.0.0.1", port)).ok()).await;
        let front = format!("127.0.0.1:{port}").parse().unwrap();
        every_day_requests_pass(&world, front, if listed { "listed nginx" } else { "unlisted nginx" }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_sidecar_loses_no_request_behind_haproxy() {
    if !is_here_with("haproxy", "-v") {
        return;
    }
    for listed in [false, true] {
        let world = sidecar(listed).await;
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let config = folder.path().join("haproxy.cfg");
        let text = format!(
            "defaults\n mode http\n option forwardfor\n timeout connect 5s\n timeout client 10s\n timeout server 10s\n \
             timeout tunnel 10s\nlisten front\n bind 127.0.0.1:{port}\n http-request set-header X-Forwarded-Proto http\n \
             server gateway {}\n",
            world.address()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("haproxy");
        command.arg("-f").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let _running = Running(command.spawn().unwrap());
        eventually(|| std::net::TcpStream::connect(("127.0.0.1", port)).ok()).await;
        let front = format!("127.0.0.1:{port}").parse().unwrap();
        every_day_requests_pass(&world, front, if listed { "listed HAProxy" } else { "unlisted HAProxy" })
            .await;
    }
}
