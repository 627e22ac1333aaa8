// SPDX-License-Identifier: MIT OR Apache-2.0
//! One client: its requests, one after the other.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use super::answer::{self, Answer};
use super::ending::Ending;
use super::events::EventStream;
use super::patience::{Patience, Phase, Watched};
use super::request::{Request, take_body};
use super::routes::{self, Found, Handler, Route};
use crate::control::error::{Code, Error};
use crate::control::model::Mode;
use crate::control::registry::Registry;

/// The largest head of a request; hyper answers a larger one with an empty 431.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Clients that listen to events, fewer than there are connections: others can be served beside them.
const MAX_LISTENERS: usize = 32;

/// Who is behind a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// Our own user, or root.
    Trusted,
    /// Somebody else, with this user id.
    Foreign(u32),
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    registry: Arc<Registry>,
    ending: Ending,
    listeners: Arc<Semaphore>,
}

/// Serves a client until it leaves, has tried our patience, or the process ends.
pub(super) async fn serve<S>(stream: S, peer: Peer, shared: Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let patience = Patience::new();
    let service = service_fn(|request| answer(request, peer, Arc::clone(&shared), patience.clone()));
    let watched = Watched { stream, patience: patience.clone() };
    let connection = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        // `patience` is about the whole request, and about the time between two of them.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(watched), service);
    let mut connection = pin!(connection);
    let mut is_ending = false;
    loop {
        tokio::select! {
            served = connection.as_mut() => {
                if let Err(error) = served {
                    tracing::debug!(%error, "a client of the API is gone");
                }
                return;
            }
            () = patience.exhausted() => return,
            () = shared.ending.begun(), if !is_ending => {
                is_ending = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

async fn answer(
    request: hyper::Request<Incoming>,
    peer: Peer,
    shared: Arc<Shared>,
    patience: Patience,
) -> Result<Answer, Infallible> {
    let answer = match peer {
        Peer::Trusted => shared.answer(request, &patience).await,
        Peer::Foreign(uid) => Ok(refusal(uid)),
    };
    let answer = answer.unwrap_or_else(answer::failure);
    if !is_stream(&answer) {
        patience.enter(Phase::Idle);
    }
    Ok(answer)
}

fn is_stream(answer: &Answer) -> bool {
    matches!(answer.body(), http_body_util::Either::Right(_))
}

fn refusal(uid: u32) -> Answer {
    let message = format!("user {uid} is neither the one that wharf runs as nor root");
    answer::last(answer::failure(Error::new(Code::Forbidden, message)))
}

impl Shared {
    pub(super) fn new(registry: Arc<Registry>, ending: Ending) -> Self {
        Self { registry, ending, listeners: Arc::new(Semaphore::new(MAX_LISTENERS)) }
    }

    async fn answer(&self, request: hyper::Request<Incoming>, patience: &Patience) -> Result<Answer, Error> {
        let (head, body) = request.into_parts();
        let (route, item) = match routes::find(&head.method, head.uri.path())? {
            Found::Route(route, item) => (route, item),
            Found::OtherMethods(allowed) => return Ok(answer::method_not_allowed(&allowed)),
            Found::Nothing => {
                let error = Error::not_found(format!("there is nothing at {}", head.uri.path()));
                return Err(error.hint("GET /v1/openapi.json says what there is"));
            }
        };
        let body = take_body(body, &head.headers, matches!(route.handler, Handler::Tell(_))).await?;
        patience.enter(Phase::Working);
        self.handle(route, Request::new(item, head.uri.query(), route.parameters, body)?).await
    }

    pub(super) async fn handle(&self, route: &Route, request: Request) -> Result<Answer, Error> {
        match route.handler {
            Handler::Ask(handler) | Handler::Tell(handler) => {
                let registry = Arc::clone(&self.registry);
                // It may wait for a worker, while others are accepted and answered.
                let handled = tokio::task::spawn_blocking(move || handler(&registry, &request)).await;
                handled
                    .unwrap_or_else(|panic| Err(Error::internal(&panic).hint("please report this as a bug")))
            }
            Handler::Events => self.events(&request),
            Handler::Shutdown => self.shut_down(),
        }
    }

    fn events(&self, request: &Request) -> Result<Answer, Error> {
        let network = request.network()?;
        let permit = Arc::clone(&self.listeners).try_acquire_owned().map_err(|_| {
            Error::new(Code::Exhausted, format!("{MAX_LISTENERS} clients listen to events already"))
        })?;
        let events = self.registry.events().listen();
        Ok(answer::events(EventStream::new(events, network, self.ending.clone(), permit)))
    }

    fn shut_down(&self) -> Result<Answer, Error> {
        match self.registry.info().mode {
            Mode::Daemon => {
                self.ending.begin();
                Ok(answer::done(StatusCode::ACCEPTED))
            }
            Mode::Run => {
                let error = Error::new(Code::Unsupported, "a sandbox of `wharf run` ends with its command");
                Err(error)
            }
        }
    }
}
