//! A path reaches no page that its route does not guard, however the application behind reads it: judged by what real
//! applications serve.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{ANY, Ask, Running, World, free_port, is_here_with, node};

const ROUTES: &str = r#"
sessions: { deadline: 1s }
routes:
  - { name: admin, match: { path: /admin/** }, require: { role: stytch_admin } }
  - { name: exact, match: { path: /exact }, require: { role: stytch_admin } }
  - { name: files, match: { path: /files/** }, require: authenticated, encoded_slash: keep, path_parameters: keep }
  - { name: members, match: { path: /** }, require: authenticated }
"#;

/// Spellings of the two guarded pages that some reader understands, and of others that everybody does.
const SPELLINGS: [(&str, &str); 46] = [
    ("/admin/users", "role_missing"),
    ("/ADMIN/users", "path_ambiguous"),
    ("/Admin/users", "path_ambiguous"),
    ("/admin/USERS", "role_missing"),
    ("/%41dmin/users", "path_ambiguous"),
    ("/adm%49n/users", "path_ambiguous"),
    ("/AdMiN", "path_ambiguous"),
    ("/ADMIN/", "path_ambiguous"),
    ("/exact", "role_missing"),
    ("/exact/", "role_missing"),
    ("/EXACT", "path_ambiguous"),
    ("/Exact/", "path_ambiguous"),
    ("/exact/below", "200"),
    ("/exact.", "path_ambiguous"),
    ("/exact..", "path_ambiguous"),
    ("/exact%20", "path_ambiguous"),
    ("/exact%20.%20", "path_ambiguous"),
    ("/exact%C2%A0", "path_ambiguous"),
    ("/EXACT.", "path_ambiguous"),
    ("/exact./", "path_ambiguous"),
    ("/admin./users", "path_ambiguous"),
    ("/admin%20/users", "path_ambiguous"),
    ("/admin/users.", "role_missing"),
    ("/exact%23x", "path_ambiguous"),
    ("/exact%3Fx", "path_ambiguous"),
    ("/exact%3fx/y", "path_ambiguous"),
    ("/EXACT%23", "path_ambiguous"),
    ("/admin%3F/users", "path_ambiguous"),
    ("/admin/users%3Fx", "role_missing"),
    ("/exact%2F", "path_ambiguous"),
    ("/admin%2Fusers", "path_ambiguous"),
    ("/exact;x", "path_ambiguous"),
    ("/EXACT;x", "path_ambiguous"),
    ("/exact.;x", "path_ambiguous"),
    ("/x/...", "path_ambiguous"),
    ("/x/.%20/admin/users", "path_ambiguous"),
    ("/x/..%20/admin/users", "path_ambiguous"),
    ("/x/%2e%2e%20/exact", "path_ambiguous"),
    ("/x/..%E3%80%80/exact", "path_ambiguous"),
    ("/x/..%E2%80%8B/exact", "path_ambiguous"),
    ("/files/..%2Fexact", "path_ambiguous"),
    ("/files/a%2Fb;c", "200"),
    ("/files/A.txt", "200"),
    ("/other", "200"),
    ("/Other/PAGE.", "200"),
    ("/a%20b%3Fc", "200"),
];

/// Every spelling is refused for its own reason, and what passes is served from no guarded page.
async fn judged_by(origin: &str) {
    let world = World::with_origin(ROUTES, &[], origin).await;
    for (path, expected) in SPELLINGS {
        let answer = world.get(path, "VIEWER").await;
        let found = if answer.status == 200 { "200".to_owned() } else { answer.reason() };
        assert_eq!(found, expected, "{path}");
        assert_ne!(answer.text(), "guarded", "{path} was served by the guarded page");
    }
    for path in ["/admin/users", "/exact", "/exact/"] {
        let ask = Ask::get(path).bearer(&world.persona("ADMIN").jwt);
        assert_eq!(world.send(ask).await.text(), "guarded", "{path} for an administrator");
    }
}

/// Express, and the port it is at; nothing where it is not installed.
fn express() -> Option<(Running, u16)> {
    let folder = node("express")?;
    let mut command = Command::new("node");
    command.arg("tests/origins/express.cjs").env("PORTCULLIS_NODE_PACKAGES", folder).stdout(Stdio::piped());
    let mut running = Running(command.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    Some((running, line.trim().parse().unwrap()))
}

#[tokio::test]
async fn express_serves_no_guarded_page_to_a_member_without_the_role() {
    let Some((_running, port)) = express() else { return };
    judged_by(&format!("http://127.0.0.1:{port}")).await;
}

/// An application that ignores letter case in all of Unicode, dots and blanks at the end of a segment, and what follows an
/// encoded `?` or `#`: ASP.NET on Windows behind a proxy that decodes.
async fn forgiving_application() -> SocketAddr {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while let Ok(byte) = stream.read_u8().await {
                    head.push(byte);
                    if !head.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let text = String::from_utf8_lossy(&std::mem::take(&mut head)).into_owned();
                    let target = text.split(' ').nth(1).unwrap();
                    let path = target.split('?').next().unwrap();
                    let decoded =
                        percent_encoding::percent_decode_str(path).decode_utf8().unwrap().to_lowercase();
                    let path = decoded.split(['?', '#']).next().unwrap();
                    let segments = path.split('/').map(|segment| {
                        let bare = segment.split(';').next().unwrap();
                        bare.trim_end_matches(|letter: char| {
                            letter == '.' || letter.is_whitespace() || letter == '\u{200b}'
                        })
                    });
                    let path = format!(
                        "/{}",
                        segments.filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
                    );
                    let page = match path.as_str() {
                        "/admin" | "/admin/users" | "/exact" => "guarded",
                        _ => "open",
                    };
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len());
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn the_most_forgiving_application_serves_no_guarded_page_either() {
    judged_by(&format!("http://{}", forgiving_application().await)).await;
}

#[tokio::test]
async fn nginx_in_between_decodes_no_path_into_a_guarded_page() {
    const NGINX: &str = "/usr/sbin/nginx";
    if !is_here_with(NGINX, "-v") {
        return;
    }
    let backend = forgiving_application().await;
    for pass in ["http://BACKEND", "http://BACKEND/", "http://BACKEND$uri"] {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let path = folder.path().display();
        let pass = pass.replace("BACKEND", &backend.to_string());
        let text = format!(
            "daemon off; master_process off; pid {path}/pid; error_log {path}/error.log; worker_processes 1; events {{}}
             http {{ access_log off; client_body_temp_path {path}/a; proxy_temp_path {path}/b; fastcgi_temp_path {path}/c;
             uwsgi_temp_path {path}/d; scgi_temp_path {path}/e;
             server {{ listen 127.0.0.1:{port}; merge_slashes off; location / {{ proxy_pass {pass}; }} }} }}"
        );
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(NGINX);
        command.args(["-p", folder.path().to_str().unwrap(), "-c", file.to_str().unwrap()]);
        let _running = Running(command.stderr(Stdio::null()).spawn().unwrap());
        crate::support::eventually(|| std::net::TcpStream::connect(("127.0.0.1", port)).ok()).await;
        judged_by(&format!("http://127.0.0.1:{port}")).await;
    }
}

#[tokio::test]
async fn an_upstream_says_what_it_makes_of_letter_case() {
    let origin = format!("http://{}", forgiving_application().await);
    for (word, shouted, whispered) in [
        // It tells cases apart: another page, which is no administrator's.
        ("sensitive", "200", "role_missing"),
        ("insensitive", "role_missing", "role_missing"),
        ("refuse", "path_ambiguous", "role_missing"),
    ] {
        let world = World::with_origin(ROUTES, &[("upstreams.app.letter_case", word)], &origin).await;
        for (path, expected) in [("/ADMIN/users", shouted), ("/admin/users", whispered), ("/Other", "200")] {
            let answer = world.get(path, "VIEWER").await;
            let found = if answer.status == 200 { "200".to_owned() } else { answer.reason() };
            assert_eq!(found, expected, "{word} {path}");
        }
    }
}

#[tokio::test]
async fn a_path_past_its_bound_is_refused_with_414() {
    let world = World::with(ROUTES, &[]).await;
    let path = format!("/{}", "a".repeat(8191));
    assert_eq!(world.get(&path, "VIEWER").await.status, 200);
    let longer = world.get(&format!("{path}a"), "VIEWER").await;
    assert_eq!((longer.status, longer.reason().as_str()), (414, "path_too_long"));
    let shorter = World::with(ROUTES, &[("limits.max_path_bytes", "100")]).await;
    assert_eq!(shorter.get(&path, "VIEWER").await.status, 414);
}
