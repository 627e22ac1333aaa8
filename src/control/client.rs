// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client of the API, for the command lines.
//!
//! # Bounds
//! One connection per request. An answer is as large as the process that gives it likes; it is our own user's or root's.

use std::io;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::handshake;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::api::percent::encode;
use super::error::{Body, Error as Refusal};
use super::runtime_dir::{API_SOCKET, ATTACH_SOCKET, of_run, of_run_in, runs_in, runtime_dir};

/// The socket that is asked where none is named.
const SOCKET_VARIABLE: &str = "WHARF_SOCKET";

/// Why there is no answer, or another than the one hoped for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process that was asked refuses.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Nobody listens where a daemon would.
    #[error("no daemon is running; start one: `wharf up`")]
    NoDaemon,
    /// Nobody listens in the directory that was named.
    #[error("no daemon has its sockets in {directory}; start one: `wharf up --runtime-dir {directory}`", directory = .0.display())]
    NoDaemonIn(PathBuf),
    /// Nobody listens at the socket that was named.
    #[error("nobody answers at {0}: {1}")]
    NoAnswer(PathBuf, io::Error),
    /// There is no daemon, and there are several sandboxes.
    #[error("no daemon is running, and there are several sandboxes; say which: {}", listed(.0))]
    Several(Vec<u32>),
    /// What is said is not the API.
    #[error("{0} does not speak wharf's API: {1}")]
    NotOurs(PathBuf, String),
}

fn listed(pids: &[u32]) -> String {
    pids.iter().map(|pid| format!("--run {pid}")).collect::<Vec<_>>().join(", ")
}

impl Error {
    /// The exit status of a command that met it.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Refused(refusal) => refusal.code.exit_status(),
            _ => crate::cli::EXIT_FAILURE,
        }
    }
}

/// Which process is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Whom {
    /// The daemon; without one the only sandbox there is.
    #[default]
    Found,
    /// The same with their sockets in this directory.
    In(PathBuf),
    /// Whoever listens at this socket.
    Socket(PathBuf),
    /// The `wharf run` with this process id.
    Run(u32),
}

impl Whom {
    /// The socket that is named, if one is: `$WHARF_SOCKET` stands for one that is not.
    fn socket(&self) -> Option<PathBuf> {
        match self {
            Self::Found => {
                std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from)
            }
            Self::In(_) => None,
            Self::Socket(path) => Some(path.clone()),
            Self::Run(pid) => Some(of_run(*pid).join(API_SOCKET)),
        }
    }

    /// Where a daemon takes descriptors, or would.
    #[must_use]
    pub fn attach_socket(&self) -> PathBuf {
        let socket = self.socket().unwrap_or_else(|| match self {
            Self::In(directory) => directory.join(API_SOCKET),
            _ => runtime_dir().join(API_SOCKET),
        });
        beside(&socket)
    }
}

/// Where the daemon that serves the API at `socket` takes descriptors.
fn beside(socket: &Path) -> PathBuf {
    socket.with_file_name(ATTACH_SOCKET)
}

/// Somebody who answers.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Finds who is meant.
    ///
    /// # Errors
    /// Nobody answers, or several would and none is named.
    pub async fn find(whom: &Whom) -> Result<Self, Error> {
        let Some(socket) = whom.socket() else {
            let Whom::In(directory) = whom else { return Self::in_directory(&runtime_dir()).await };
            return Self::in_directory(directory).await.map_err(|error| match error {
                Error::NoDaemon => Error::NoDaemonIn(directory.clone()),
                error => error,
            });
        };
        match UnixStream::connect(&socket).await {
            Ok(_) => Ok(Self { socket }),
            Err(error) => Err(Error::NoAnswer(socket, error)),
        }
    }

    /// Where the same daemon takes descriptors.
    #[must_use]
    pub fn attach_socket(&self) -> PathBuf {
        beside(&self.socket)
    }

    /// The daemon with its sockets in this directory, else the only sandbox beside it.
    async fn in_directory(directory: &Path) -> Result<Self, Error> {
        let socket = directory.join(API_SOCKET);
        match UnixStream::connect(&socket).await {
            Ok(_) => return Ok(Self { socket }),
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(Error::NoAnswer(socket, error)),
        }
        let mut answering = Vec::new();
        for pid in runs_in(directory) {
            let socket = of_run_in(directory, pid).join(API_SOCKET);
            if UnixStream::connect(&socket).await.is_ok() {
                answering.push((pid, socket));
            }
        }
        match answering.as_slice() {
            [] => Err(Error::NoDaemon),
            [(_, socket)] => Ok(Self { socket: socket.clone() }),
            several => Err(Error::Several(several.iter().map(|(pid, _)| *pid).collect())),
        }
    }

    /// Asks for something, as the bytes that are answered.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_bytes(&self, target: &Target) -> Result<Bytes, Error> {
        self.whole(Method::GET, target, Bytes::new()).await
    }

    /// Asks for something.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get<T: DeserializeOwned>(&self, target: &Target) -> Result<T, Error> {
        self.parse(&self.get_bytes(target).await?)
    }

    /// Tells something, and returns the bytes that are answered.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn post(&self, target: &Target, body: &impl Serialize) -> Result<Bytes, Error> {
        let body = serde_json::to_vec(body).map_err(|error| Refusal::internal(&error))?;
        self.whole(Method::POST, target, body.into()).await
    }

    /// Has something done that needs nothing to be told.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn order(&self, target: &Target) -> Result<Bytes, Error> {
        self.whole(Method::POST, target, Bytes::new()).await
    }

    /// Ends something.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete(&self, target: &Target) -> Result<Bytes, Error> {
        self.whole(Method::DELETE, target, Bytes::new()).await
    }

    /// What was answered as what it means.
    ///
    /// # Errors
    /// It means nothing.
    pub fn parse<T: DeserializeOwned>(&self, answer: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(answer).map_err(|error| self.not_ours(&error))
    }

    /// Listens to lines that come one by one.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn listen(&self, target: &Target) -> Result<Lines, Error> {
        let answer = self.send(Method::GET, target, Bytes::new()).await?;
        Ok(Lines { body: answer.into_body(), heard: Vec::new(), client: self.clone() })
    }

    async fn whole(&self, method: Method, target: &Target, body: Bytes) -> Result<Bytes, Error> {
        let answer = self.send(method, target, body).await?;
        let answer = answer.into_body().collect().await.map_err(|error| self.not_ours(&error))?;
        Ok(answer.to_bytes())
    }

    /// Sends a request, and returns the answer if it is a success.
    async fn send(&self, method: Method, target: &Target, body: Bytes) -> Result<Response<Incoming>, Error> {
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.map_err(|error| Error::NoAnswer(self.socket.clone(), error))?;
        let (mut sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| self.not_ours(&error))?;
        tokio::spawn(connection);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = target.0.parse().map_err(|error| self.not_ours(&error))?;
        let fields = request.headers_mut();
        fields.insert(HOST, hyper::header::HeaderValue::from_static("wharf"));
        fields.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
        let answer = sender.send_request(request).await.map_err(|error| self.not_ours(&error))?;
        if answer.status().is_success() { Ok(answer) } else { Err(self.failure(answer).await) }
    }

    async fn failure(&self, answer: Response<Incoming>) -> Error {
        let status = answer.status();
        let body = answer.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        match serde_json::from_slice::<Body>(&body) {
            Ok(body) => Error::Refused(body.error),
            // An error of another kind than there were when this client was made, too.
            Err(_) => {
                Error::NotOurs(self.socket.clone(), format!("{status}: {}", String::from_utf8_lossy(&body)))
            }
        }
    }

    fn not_ours(&self, error: &dyn std::error::Error) -> Error {
        Error::NotOurs(self.socket.clone(), error.to_string())
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// What a request is about: a path and a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target(String);

impl Target {
    /// A path as it stands.
    #[must_use]
    pub fn new(path: &str) -> Self {
        Self(path.to_owned())
    }

    /// With this as its last segment.
    #[must_use]
    pub fn item(self, name: &str) -> Self {
        Self(format!("{}/{}", self.0, encode(name)))
    }

    /// With this parameter, if it has a value.
    #[must_use]
    pub fn with(self, key: &str, value: Option<&str>) -> Self {
        let Some(value) = value else { return self };
        let separator = if self.0.contains('?') { '&' } else { '?' };
        Self(format!("{}{separator}{key}={}", self.0, encode(value)))
    }
}

/// Lines as they come.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    heard: Vec<u8>,
    client: Client,
}

impl Lines {
    /// The next line, without its end; `None` when there are no more.
    ///
    /// # Errors
    /// The stream was cut.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        loop {
            if let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let rest = self.heard.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.heard, rest);
                line.pop();
                return Ok(Some(line));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(self.client.not_ours(&error)),
                Some(Ok(frame)) => self.heard.extend(frame.into_data().unwrap_or_default()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::scratch::Scratch;

    fn sandbox_socket(directory: &Path, pid: u32) -> PathBuf {
        of_run_in(directory, pid).join(API_SOCKET)
    }

    fn listening(path: &Path) -> UnixListener {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        UnixListener::bind(path).unwrap()
    }

    #[tokio::test]
    async fn the_daemon_is_asked_else_the_only_sandbox_that_answers() {
        let directory = Scratch::new();
        let found = || Client::in_directory(&directory);
        assert!(matches!(found().await.unwrap_err(), Error::NoDaemon));
        // Killed, so that its socket is left.
        drop(listening(&sandbox_socket(&directory, 4)));
        std::fs::create_dir(directory.join("run-x")).unwrap();
        assert!(matches!(found().await.unwrap_err(), Error::NoDaemon));
        let _one = listening(&sandbox_socket(&directory, 17));
        assert_eq!(found().await.unwrap().socket, sandbox_socket(&directory, 17));
        let other = listening(&sandbox_socket(&directory, 5));
        let error = found().await.unwrap_err();
        assert!(error.to_string().ends_with("--run 5, --run 17"), "{error}");
        drop(other);
        assert!(found().await.is_ok());
        let _daemon = listening(&directory.join(API_SOCKET));
        assert_eq!(found().await.unwrap().socket, directory.join(API_SOCKET));
    }

    #[test]
    fn names_cannot_reach_beyond_their_segment() {
        let target = Target::new("/v1/ports").item("../x?y").with("network", None).with("a", Some("&b=c"));
        assert_eq!(target.with("d", Some("")).0, "/v1/ports/..%2Fx%3Fy?a=%26b%3Dc&d=");
    }

    #[tokio::test]
    async fn whoever_speaks_otherwise_is_told_apart_from_a_refusal() {
        let directory = Scratch::new();
        let path = directory.join(API_SOCKET);
        let listener = listening(&path);
        let answers = ["220 smtp\r\n", "HTTP/1.1 500 X\r\nContent-Length: 2\r\n\r\nno"];
        let server = std::thread::spawn(move || {
            use std::io::{Read as _, Write as _};
            // The first connection only looks whether somebody is there.
            listener.accept().unwrap();
            for answer in answers {
                let mut stream = listener.accept().unwrap().0;
                let _ = stream.read(&mut [0; 1024]);
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let client = Client::find(&Whom::Socket(path)).await.unwrap();
        for _ in answers {
            let error = client.get_bytes(&Target::new("/v1/info")).await.unwrap_err();
            assert!(matches!(error, Error::NotOurs(..)), "{error}");
            assert_eq!(error.exit_status(), crate::cli::EXIT_FAILURE);
        }
        server.join().unwrap();
    }
}
