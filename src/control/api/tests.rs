// SPDX-License-Identifier: MIT OR Apache-2.0
//! Clients of all sorts, in virtual time. The registry and its networks are real, as are the workers.

mod document;
mod schema;

use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::connection::serve;
use super::patience::{MAX_ASKING, MAX_IDLE};
use super::*;
use crate::control::events::BACKLOG;
use crate::control::model::{EventKind, Mode, PortKind, PublishRequest};
use crate::control::network::{AttachRequest, Attachment, Surroundings};
use crate::control::spec::{File, Name, NetworkSpec, Size, Text};
use crate::control::state::State;
use crate::host::SocketLimit;
use crate::port::{Device, Messages};
use crate::publish::Opened;

/// A process with the network `default`, where `web` is published, and attached if the process attaches anybody.
struct Stage {
    registry: Arc<Registry>,
    ending: Ending,
    shared: Arc<Shared>,
    /// The other end of `web`'s cable.
    _cable: Option<OwnedFd>,
}

/// Attaches `web`, and returns the other end of its cable.
fn attach_web(registry: &Registry) -> OwnedFd {
    let name = Some(Name::parse("web").unwrap());
    let mut request = AttachRequest { name, at: "a test".to_owned(), ..AttachRequest::default() };
    registry.offer(&mut request).unwrap();
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (ours, cable) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let queues = vec![Device::from(Messages::new(ours))];
    let attachment = Attachment { kind: PortKind::Stream, queues, view: None };
    registry.attach(request, attachment, oneshot::channel().0, Opened::default()).unwrap();
    cable
}

impl Stage {
    fn new(mode: Mode) -> Self {
        let around = Surroundings { sockets: SocketLimit::new(64), ..Surroundings::default() };
        let registry = Arc::new(Registry::new(mode, around, State::default(), unbounded_channel().0));
        let spec = NetworkSpec { memory: Text(Size(1 << 20)), ..NetworkSpec::default() };
        let networks = [(Name::parse("default").unwrap(), spec)].into();
        registry.restore(None, File { version: 1, networks }, Opened::default()).unwrap();
        let cable = (mode == Mode::Daemon).then(|| attach_web(&registry));
        let wish = PublishRequest { network: None, ports: "127.0.0.1:0:web:80".to_owned() };
        registry.publish(&wish, Opened::default()).unwrap();
        let ending = Ending::default();
        let shared = Arc::new(Shared::new(Arc::clone(&registry), ending.clone()));
        Self { registry, ending, shared, _cable: cable }
    }

    /// A client whose connection takes `buffer` bytes that nobody reads.
    fn connect(&self, peer: Peer, buffer: usize) -> (DuplexStream, JoinHandle<()>) {
        let (client, server) = duplex(buffer);
        (client, tokio::spawn(serve(server, peer, Arc::clone(&self.shared))))
    }

    /// What is answered to these bytes until the connection ends.
    async fn say(&self, bytes: impl AsRef<[u8]>) -> String {
        let (mut client, _) = self.connect(Peer::Trusted, 1 << 20);
        client.write_all(bytes.as_ref()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// The status and the body of the answer to a request.
    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: wharf\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let answer = self.say(request).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_told_so_and_the_next_is_served() {
    let stage = Stage::new(Mode::Daemon);
    for (method, path, body, status, hints) in [
        ("GET", "/", "", 404, ["not_found", "openapi.json"]),
        ("GET", "/v1/networks/default", "", 405, ["invalid", "it has DELETE"]),
        ("PUT", "/v1/networks", "", 405, ["invalid", "it has GET, POST"]),
        ("GET", "/v1/ports?net=a", "", 400, ["no parameter `net`", "there is network"]),
        ("GET", "/v1/info?network=a", "", 400, ["no parameter `network`", "there are none"]),
        ("GET", "/v1/ports?network=A%2", "", 400, ["invalid", "percent-encoded"]),
        ("GET", "/v1/ports?network=none", "", 404, ["not_found", "there is default"]),
        ("GET", "/v1/flows?protocol=sctp", "", 400, ["invalid", "tcp, udp, icmp, icmpv6"]),
        ("GET", "/v1/info", "{}", 400, ["invalid", "no body"]),
        ("DELETE", "/v1/ports/%ff", "", 400, ["invalid", "percent-encoded"]),
        ("DELETE", "/v1/ports/a%2fb", "", 400, ["invalid", "a/b"]),
        ("DELETE", "/v1/ports/nobody", "", 404, ["not_found", "nobody"]),
        ("DELETE", "/v1/publications/-1", "", 400, ["invalid", "-1"]),
        ("DELETE", "/v1/publications/99", "", 404, ["not_found", "99"]),
        ("POST", "/v1/networks", "", 400, ["invalid", "missing"]),
        ("POST", "/v1/networks", "{]", 400, ["invalid", "line 1 column 2"]),
        ("POST", "/v1/networks", r#"{"name":"a","specs":{}}"#, 400, ["invalid", "unknown field `specs`"]),
        ("POST", "/v1/networks", r#"{"name":"a","spec":{"mtu":"x"}}"#, 400, ["invalid", "expected usize"]),
        ("POST", "/v1/networks", r#"{"name":"default"}"#, 409, ["exists", "default"]),
        ("POST", "/v1/publications", r#"{"ports":"80"}"#, 400, ["invalid", "8080:80"]),
        (
            "POST",
            "/v1/publications",
            r#"{"ports":"unix:/tmp/nobody-makes-this:web:80"}"#,
            501,
            ["unsupported", "`wharf publish` makes such a socket"],
        ),
        ("POST", "/v1/reload", "", 400, ["invalid", "--config"]),
    ] {
        let (got, answer) = stage.ask(method, path, body).await;
        assert_eq!(got, status, "{method} {path}: {answer}");
        let failure: crate::control::error::Body = serde_json::from_str(&answer).unwrap();
        assert_eq!(failure.error.code.http_status() == status, status != 405, "{answer}");
        assert!(hints.iter().all(|hint| answer.contains(hint)), "{method} {path}: {answer}");
    }
    let allowed = stage.say("PUT /v1/networks HTTP/1.1\r\nConnection: close\r\n\r\n").await;
    assert!(allowed.to_lowercase().contains("\r\nallow: get, post\r\n"), "{allowed}");
    assert_eq!(stage.ask("GET", "/v1/info", "").await.0, 200);
}

#[tokio::test]
async fn what_is_no_http_or_too_large_ends_the_connection_with_a_status() {
    let stage = Stage::new(Mode::Daemon);
    let huge_head = format!("GET /v1/info HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(16 << 10));
    let huge_path = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000));
    let many_fields = format!("GET /v1/info HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(200));
    let told = "POST /v1/networks HTTP/1.1\r\nConnection: close\r\nContent-Length: 65537\r\n\r\n".to_owned();
    let chunks = "8000\r\n".to_owned() + &" ".repeat(0x8000) + "\r\n";
    let untold =
        "POST /v1/networks HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
    let untold = untold + &chunks.repeat(3) + "0\r\n\r\n";
    for (request, status) in [
        ("\0\0\0\0\r\n\r\n".to_owned(), "400"),
        ("{\"execute\":\"list_hostfwd\"}\r\n\r\n".to_owned(), "400"),
        ("GET /v1/info HTTP/3.0\r\n\r\n".to_owned(), "400"),
        ("POST /v1/networks HTTP/1.1\r\nContent-Length: -1\r\n\r\n".to_owned(), "400"),
        (huge_head, "431"),
        (huge_path, "431"),
        (many_fields, "431"),
        (told, "413"),
        (untold, "413"),
    ] {
        let answer = stage.say(&request).await;
        assert_eq!(answer.get(9..12), Some(status), "{}: {answer}", request.get(..40).unwrap_or(&request));
    }
    assert_eq!(stage.ask("GET", "/v1/info", "").await.0, 200);
}

/// How long the server has patience after `bytes`, without anybody reading its answers.
async fn patience_after(stage: &Stage, bytes: &[u8]) -> Duration {
    let start = Instant::now();
    let (mut client, served) = stage.connect(Peer::Trusted, 1024);
    client.write_all(bytes).await.unwrap();
    served.await.unwrap();
    start.elapsed().min(MAX_IDLE * 2)
}

#[tokio::test(start_paused = true)]
async fn nobody_is_waited_for_longer_than_told() {
    let stage = Stage::new(Mode::Daemon);
    let half_a_body = b"POST /v1/networks HTTP/1.1\r\nContent-Length: 9\r\n\r\n{";
    for (bytes, patience) in [
        (&b""[..], MAX_IDLE),
        (b"G", MAX_ASKING),
        (b"GET /v1/info HTTP/1.1\r\nHost: wharf\r\n", MAX_ASKING),
        (half_a_body, MAX_ASKING),
        (b"GET /v1/info HTTP/1.1\r\n\r\n", MAX_IDLE),
        // The answer does not fit the connection.
        (b"GET /v1/openapi.json HTTP/1.1\r\n\r\n", MAX_IDLE),
    ] {
        let waited = patience_after(&stage, bytes).await;
        // A timer of the runtime may be a millisecond late.
        assert_eq!(waited.as_secs(), patience.as_secs(), "{}", String::from_utf8_lossy(bytes));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_on_is_kept() {
    let stage = Stage::new(Mode::Daemon);
    let (mut client, served) = stage.connect(Peer::Trusted, 1 << 20);
    for _ in 0..3 {
        client.write_all(b"GET /v1/info ").await.unwrap();
        sleep(MAX_ASKING / 2).await;
        client.write_all(b"HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        sleep(MAX_IDLE / 2).await;
        let mut rest = [0; 4096];
        assert!(client.read(&mut rest).await.unwrap() > 0);
    }
    assert!(!served.is_finished());
}

#[tokio::test]
async fn a_stranger_is_refused_whatever_it_asks() {
    let stage = Stage::new(Mode::Daemon);
    for request in ["GET /v1/info HTTP/1.1\r\n\r\n", "POST /v1/shutdown HTTP/1.1\r\n\r\n"] {
        let (mut client, _) = stage.connect(Peer::Foreign(12_345), 4096);
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // To its end: the connection is closed.
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("user 12345"), "{answer}");
    }
    assert_eq!(stage.ask("GET", "/v1/info", "").await.0, 200);
}

#[tokio::test]
async fn a_handler_that_panics_is_a_failure_of_one_request() {
    let stage = Stage::new(Mode::Daemon);
    let bug = routes::Route {
        method: hyper::Method::GET,
        path: "/bug",
        parameters: &[],
        handler: routes::Handler::Ask(|registry, _| {
            let _networks = registry.networks();
            panic!("a bug")
        }),
    };
    let error = stage.shared.handle(&bug, request::Request::default()).await.unwrap_err();
    assert_eq!(error.code, crate::control::error::Code::Internal);
    assert_eq!(stage.ask("GET", "/v1/networks", "").await.0, 200);
}

/// Lines of a chunked answer: each event is a chunk.
fn lines(answer: &str) -> Vec<serde_json::Value> {
    answer
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A client that has heard the status of the answer, and that status.
async fn ask_to_listen(stage: &Stage, path: &str, buffer: usize) -> (DuplexStream, String) {
    let (mut client, _) = stage.connect(Peer::Trusted, buffer);
    client.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
    let mut status = [0; 12];
    client.read_exact(&mut status).await.unwrap();
    (client, String::from_utf8_lossy(&status[9..]).into_owned())
}

async fn listen(stage: &Stage, path: &str, buffer: usize) -> DuplexStream {
    let (client, status) = ask_to_listen(stage, path, buffer).await;
    assert_eq!(status, "200");
    client
}

async fn rest(mut client: DuplexStream) -> String {
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn listeners_hear_what_happens_to_the_network_that_they_ask_for() {
    let stage = Stage::new(Mode::Daemon);
    let all = listen(&stage, "/v1/events", 1 << 20).await;
    let one = listen(&stage, "/v1/events?network=other", 1 << 20).await;
    assert_eq!(stage.ask("POST", "/v1/networks", r#"{"name":"other"}"#).await.0, 201);
    assert_eq!(stage.ask("DELETE", "/v1/ports/web", "").await.0, 204);
    assert_eq!(stage.ask("DELETE", "/v1/networks/other", "").await.0, 204);
    stage.ending.begin();
    let told = |answer: &str| {
        lines(answer).iter().map(|line| line["event"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(told(&rest(all).await), ["network_up", "detach", "network_down"]);
    assert_eq!(told(&rest(one).await), ["network_up", "network_down"]);
}

#[tokio::test]
async fn a_slow_listener_is_told_what_it_lost_and_no_more_are_taken_than_can_be() {
    const TOLD: usize = BACKLOG * 3;
    let stage = Stage::new(Mode::Daemon);
    let mut slow = listen(&stage, "/v1/events", 1024).await;
    for _ in 0..TOLD {
        stage.registry.events().tell("default", EventKind::NetworkLost);
        // The server may send what fits.
        tokio::task::yield_now().await;
    }
    let mut heard = String::new();
    let mut buffer = [0; 4096];
    let count = |heard: &str| {
        let whole = heard.rfind('\n').map_or("", |end| &heard[..end]);
        lines(whole).iter().map(|line| line["count"].as_u64().unwrap_or(1)).sum::<u64>()
    };
    while count(&heard) < TOLD as u64 {
        let read = slow.read(&mut buffer).await.unwrap();
        assert!(read > 0, "the stream ended");
        heard.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    assert_eq!(count(&heard), TOLD as u64);
    assert_eq!(heard.matches(r#"{"event":"lost","count":"#).count(), 1, "{}", heard.len());

    let mut others = Vec::new();
    for _ in 0..31 {
        others.push(listen(&stage, "/v1/events", 1024).await);
    }
    assert_eq!(ask_to_listen(&stage, "/v1/events", 1024).await.1, "503");
    // Whoever leaves makes room, though nothing happens.
    drop(others.pop());
    while ask_to_listen(&stage, "/v1/events", 1024).await.1 == "503" {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_daemon_is_ended_by_a_client_and_a_run_is_not() {
    let run = Stage::new(Mode::Run);
    let (status, answer) = run.ask("POST", "/v1/shutdown", "").await;
    assert!(status == 501 && answer.contains("unsupported"), "{answer}");
    let daemon = Stage::new(Mode::Daemon);
    let listener = listen(&daemon, "/v1/events", 1024).await;
    let (idle, idle_served) = daemon.connect(Peer::Trusted, 1024);
    assert_eq!(daemon.ask("POST", "/v1/shutdown", "").await.0, 202);
    daemon.ending.begun().await;
    assert!(rest(listener).await.ends_with("0\r\n\r\n"));
    idle_served.await.unwrap();
    drop(idle);
}
