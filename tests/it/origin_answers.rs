//! Connections to origins that say more than their answer: none of them serves another request.

use std::time::Duration;

use crate::support::{Ask, Origin, Reply, World};

const ROUTES: &str = "routes: [ { name: public, match: { path: /** }, public: true } ]\n";
/// What a caller behind must never get: an answer that nobody was asked for.
const FORGED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged";

/// Asks once by `method`, then again after a moment, and tells how many connections that took.
async fn connections(reply: Reply, method: &str) -> usize {
    let origin = Origin::start(reply).await;
    let world = World::with_origin(ROUTES, &[], &origin.url()).await;
    for _ in 0..3 {
        let answer = world.send(Ask::new(method, "/")).await;
        assert!(!answer.text().contains("forged"), "{method} {}", answer.text());
        // What the origin sends besides is on its way meanwhile.
        tokio::time::sleep(Duration::from_millis(120)).await;
    }
    origin.connections()
}

#[tokio::test]
async fn a_connection_with_a_byte_more_than_the_answer_is_never_used_again() {
    const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    assert_eq!(connections(Reply::text(GOOD), "GET").await, 1, "one that says its answer alone is kept");
    assert_eq!(connections(Reply::text(&format!("{GOOD}{FORGED}")), "GET").await, 3);
    assert_eq!(connections(Reply::text(&format!("{GOOD}\n")), "GET").await, 3);
    assert_eq!(connections(Reply::Pieces(vec![GOOD, FORGED]), "GET").await, 3);
    // A chunked answer with something behind its end.
    let chunked =
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{FORGED}");
    assert_eq!(connections(Reply::text(&chunked), "GET").await, 3);
}

#[tokio::test]
async fn an_answer_that_has_no_body_is_followed_by_none() {
    for (method, head) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 45\r\n\r\n"),
    ] {
        assert_eq!(connections(Reply::text(head), method).await, 1, "{head}");
        assert_eq!(connections(Reply::text(&format!("{head}{FORGED}")), method).await, 3, "{head}");
        assert_eq!(connections(Reply::Pieces(vec![head, FORGED]), method).await, 3, "{head}");
    }
}
