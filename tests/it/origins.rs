//! Where origins are and how they are reached.

use tokio::net::{TcpStream, UnixListener};

use crate::support::{Ask, Origin, Reply, World};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

const FRONT: &str = r#"
listeners: [ { address: "127.0.0.1:0" } ]
routes: [ { name: everything, match: { path: /** }, require: authenticated } ]
"#;

/// The origin under a socket in `directory` as well.
fn under_socket(origin: &Origin, directory: &tempfile::TempDir) -> String {
    let path = directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let address = origin.url().trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let address = address.clone();
            tokio::spawn(async move {
                let mut origin = TcpStream::connect(address).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut stream, &mut origin).await);
            });
        }
    });
    format!("unix:{}", path.display())
}

#[tokio::test]
async fn an_origin_under_a_unix_socket_gets_what_any_other_gets() {
    let origin = Origin::start(Reply::text(OK)).await;
    let directory = tempfile::tempdir().unwrap();
    let world = World::with_origin(FRONT, &[], &under_socket(&origin, &directory)).await;
    for _ in 0..3 {
        let answer = world.get("/a?b=c", "VIEWER").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    }
    let heads = origin.heads();
    assert_eq!(heads.len(), 3);
    assert!(heads[0].starts_with("GET /a?b=c HTTP/1.1\r\n"), "{}", heads[0]);
    assert!(heads[0].contains(&format!("x-auth-member-id: {}", world.persona("VIEWER").member_id)));
}

#[tokio::test]
async fn a_socket_nobody_listens_on_is_an_origin_that_cannot_be_reached() {
    let world = World::with_origin(FRONT, &[], "unix:/nonexistent/portcullis.sock").await;
    let viewer = world.persona("VIEWER").jwt.clone();
    let answer = world.send(Ask::get("/").bearer(&viewer)).await;
    assert_eq!(answer.status, 502);
    assert!(answer.text().contains("origin_unreachable"), "{}", answer.text());
}
