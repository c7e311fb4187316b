//! A gateway between a stranger who sends anything and an origin that reads strictly: what was forwarded must be one
//! thing to every reader, and be what the gateway says it decided on.
//!
//! Must not share a line with the parsers of the gateway; of its own code only the canonical form of a path is asked.

use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

use portcullis::app::Gateway;
use portcullis::config::{LoadOptions, SecretPolicy, load};
use portcullis::emulator::{Emulator, EmulatorSettings};
use portcullis::policy::CanonicalPath;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

const YAML: &str = r#"
log: { level: error }
limits: { header_timeout: 2s, max_connections: 20000 }
routes:
  - { name: private, match: { path: /private/** }, require: authenticated }
  - { name: kept, match: { path: /kept/** }, public: true, encoded_slash: keep, path_parameters: keep }
  - { name: open, match: { path: /** }, public: true }
"#;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// A connection on which nothing comes for so long has nothing more to say.
const SILENCE: Duration = Duration::from_millis(4);

/// One request as the origin read it, strictly.
#[derive(Debug, Clone)]
struct Seen {
    method: String,
    target: String,
    fields: Vec<(String, String)>,
}

struct Setup {
    runtime: Runtime,
    gateway: SocketAddr,
    lines: Lines,
    /// What the origin read, or why it could not.
    seen: Arc<Mutex<Vec<Result<Seen, String>>>>,
    _running: (Gateway, Emulator),
}

/// Sends the bytes to the gateway, and holds whatever reaches the origin against what must be so. How many requests did.
pub fn request(bytes: &[u8]) -> usize {
    static SETUP: OnceLock<Setup> = OnceLock::new();
    let setup = SETUP.get_or_init(start);
    setup.runtime.block_on(send(setup.gateway, bytes));
    let seen = std::mem::take(&mut *setup.seen.lock().expect("the list"));
    let count = seen.len();
    for seen in seen {
        let seen = seen.unwrap_or_else(|why| panic!("ambiguous to the origin: {why}"));
        hold_against_the_log(&seen, &setup.lines);
    }
    count
}

fn hold_against_the_log(seen: &Seen, lines: &Lines) {
    let field = |name: &str| {
        let mut all = seen.fields.iter().filter(|(field, _)| field == name);
        let first = all.next().unwrap_or_else(|| panic!("no {name}: {seen:?}"));
        assert!(all.next().is_none(), "{name} twice: {seen:?}");
        first.1.as_str()
    };
    let path = seen.target.split('?').next().unwrap_or_default();
    let canonical = CanonicalPath::parse(path);
    assert!(canonical.is_ok_and(|canonical| canonical.as_str() == path), "not canonical: {seen:?}");
    assert!(!path.starts_with("/private/") && path != "/private", "not allowed: {seen:?}");
    for (name, _) in &seen.fields {
        assert!(!name.starts_with("x-auth-") && !name.contains('_'), "a managed name: {seen:?}");
    }
    assert_eq!(field("x-forwarded-for"), "127.0.0.1");
    let line = lines.of(field("x-request-id"));
    assert_eq!(
        (line["method"].as_str(), line["path"].as_str()),
        (Some(fold(&seen.method)), Some(path)),
        "{seen:?}"
    );
    let host = field("host");
    assert_eq!(field("x-forwarded-host"), host);
    assert!(host.starts_with(line["host"].as_str().expect("a host")), "{seen:?} {line}");
}

/// As methods are labelled.
fn fold(method: &str) -> &str {
    let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"];
    if known.contains(&method) { method } else { "_OTHER" }
}

async fn send(gateway: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(gateway).await.expect("the gateway takes connections");
    drop(stream.write_all(bytes).await);
    let mut buffer = [0; 4096];
    while let Ok(Ok(1..)) = tokio::time::timeout(SILENCE, stream.read(&mut buffer)).await {}
}

fn start() -> Setup {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let lines = Lines::default();
    let (gateway, emulator) = runtime.block_on(async {
        let origin = TcpListener::bind(any).await.expect("an address");
        let address = origin.local_addr().expect("an address");
        tokio::spawn(serve(origin, Arc::clone(&seen)));
        let emulator =
            Emulator::start(EmulatorSettings { address: any, seed: None }).await.expect("a stand-in");
        let file = std::env::temp_dir().join(format!("portcullis-wire-{}.yaml", std::process::id()));
        std::fs::write(&file, YAML).expect("the configuration can be written down");
        let set = |key: &str, value: String| (key.to_owned(), value);
        let overrides = vec![
            set("stytch.project_id", emulator.project_id()),
            set("stytch.secret.value", emulator.secret()),
            set("stytch.base_url", emulator.url()),
            set("upstreams.app.url", format!("http://{address}")),
            set("ops.address", any.to_string()),
        ];
        let options = LoadOptions { file, overrides, secrets: SecretPolicy::Required };
        let mut config = load(&options).unwrap_or_else(|invalid| panic!("{}", invalid.render(false)));
        config.listeners.iter_mut().for_each(|listener| listener.address = any);
        let gateway = Gateway::start(config, lines.clone()).await.expect("a gateway");
        assert!(gateway.ready(Duration::from_secs(10)).await);
        (gateway, emulator)
    });
    let address = gateway.traffic().first().expect("a listener").0;
    Setup { runtime, gateway: address, lines, seen, _running: (gateway, emulator) }
}

async fn serve(listener: TcpListener, seen: Arc<Mutex<Vec<Result<Seen, String>>>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let seen = Arc::clone(&seen);
        tokio::spawn(async move {
            let mut read = Vec::new();
            let mut buffer = [0; 16 * 1024];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                read.extend_from_slice(&buffer[..count]);
                loop {
                    match parse(&read) {
                        Ok(None) => break,
                        Ok(Some((request, length))) => {
                            read.drain(..length);
                            let answers = request.method != "HEAD";
                            seen.lock().expect("the list").push(Ok(request));
                            let end = if answers { ANSWER.len() } else { ANSWER.len() - 2 };
                            drop(stream.write_all(&ANSWER[..end]).await);
                        }
                        Err(why) => {
                            let text = String::from_utf8_lossy(&read).into_owned();
                            seen.lock().expect("the list").push(Err(format!("{why}: {text:?}")));
                            return;
                        }
                    }
                }
            }
        });
    }
}

/// One whole request and its length, nothing yet, or what RFC 9112 does not allow.
fn parse(bytes: &[u8]) -> Result<Option<(Seen, usize)>, &'static str> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    // Bytes past ASCII may be in values, and mean nothing to anybody (RFC 9110 section 5.5).
    let head: String = bytes[..end].iter().copied().map(char::from).collect();
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let [method, target, "HTTP/1.1"] = line.split(' ').collect::<Vec<_>>()[..] else {
        return Err("a request line of other than three parts");
    };
    if method.is_empty() || !method.bytes().all(is_token) {
        return Err("a method that is no token");
    }
    if !target.starts_with('/') || !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err("a target in another than origin form");
    }
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or("a field without a colon")?;
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err("a field whose name is no token");
        }
        if value.chars().any(|letter| (letter < ' ' && letter != '\t') || letter == '\u{7f}') {
            return Err("a control byte in a field");
        }
        fields.push((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()));
    }
    let all = |name: &str| {
        fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str()).collect::<Vec<_>>()
    };
    if all("host").len() != 1 {
        return Err("other than one host");
    }
    for gone in ["connection", "upgrade", "expect", "keep-alive", "proxy-connection"] {
        if !all(gone).is_empty() {
            return Err("a field that concerns one connection only");
        }
    }
    let body = &bytes[end + 4..];
    let length = match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => Some(0),
        ([length], []) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
            let length = length.parse::<usize>().map_err(|_| "a length past all bounds")?;
            (body.len() >= length).then_some(length)
        }
        ([], ["chunked"]) => chunks(body)?,
        _ => return Err("a length that can be read in more than one way"),
    };
    let seen = Seen { method: method.to_owned(), target: target.to_owned(), fields };
    Ok(length.map(|length| (seen, end + 4 + length)))
}

/// The length of a chunked body, trailers included.
fn chunks(body: &[u8]) -> Result<Option<usize>, &'static str> {
    let mut at = 0;
    loop {
        let Some(line) = body[at..].windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&body[at..at + line]).map_err(|_| "a chunk size that is no text")?;
        if size.is_empty() || size.len() > 8 || !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("a chunk size that is no number");
        }
        let size = usize::from_str_radix(size, 16).map_err(|_| "a chunk size that is no number")?;
        at += line + 2;
        if size == 0 {
            break;
        }
        if body.len() < at + size + 2 {
            return Ok(None);
        }
        if &body[at + size..at + size + 2] != b"\r\n" {
            return Err("a chunk that does not end where it should");
        }
        at += size + 2;
    }
    loop {
        let Some(line) = body[at..].windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let trailer = String::from_utf8_lossy(&body[at..at + line]).to_ascii_lowercase();
        if trailer.starts_with("x-auth-") {
            return Err("a managed name in a trailer");
        }
        at += line + 2;
        if line == 0 {
            return Ok(Some(at));
        }
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Access lines by the request's id.
#[derive(Clone, Default)]
struct Lines(Arc<(Mutex<Written>, Condvar)>);

#[derive(Default)]
struct Written {
    /// Of a line that is not whole yet.
    rest: Vec<u8>,
    whole: HashMap<String, serde_json::Value>,
}

impl Lines {
    /// The line about a request, which is written once its answer has ended.
    fn of(&self, id: &str) -> serde_json::Value {
        let (written, more) = &*self.0;
        let written = written.lock().expect("the lines");
        let within = Duration::from_secs(10);
        let found = more.wait_timeout_while(written, within, |written| !written.whole.contains_key(id));
        let line = found.expect("the lines").0.whole.remove(id);
        line.unwrap_or_else(|| panic!("no line about {id}"))
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let (written, more) = &*self.0;
        let mut written = written.lock().expect("the lines");
        written.rest.extend_from_slice(bytes);
        while let Some(end) = written.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = written.rest.drain(..=end).collect();
            let line: serde_json::Value = serde_json::from_slice(&line).expect("a line of JSON");
            // Of those never forwarded nobody asks.
            if line["upstream"] == "app" {
                let id = line["request_id"].as_str().unwrap_or_default().to_owned();
                written.whole.insert(id, line);
            }
        }
        more.notify_all();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
