// SPDX-License-Identifier: MIT OR Apache-2.0
//! The API: HTTP/1.1 and JSON on a unix stream socket, version 1.
//!
//! # Path
//! ```text
//! accept --> connection --> routes: which handler? --> request: query, body --> registry --> answer
//!            (patience)                                                 events --> a line each
//! ```
//!
//! # How it works
//! One task per connection on a runtime with one thread. Handlers run beside it, since the registry may wait for a worker;
//! a handler that panics is answered by 500 and harms nobody else.
//!
//! # Bounds
//! | what | limit |
//! |---|---|
//! | connections | [`MAX_CONNECTIONS`], further ones wait to be accepted |
//! | head and body of a request | 16 KiB and 64 KiB |
//! | time to send a request | 10 s |
//! | time without a request, or without reading the answer | 60 s |
//! | listeners to events | 32, each with what the events' backlog holds |
//!
//! # Sources
//! RFC 9110, RFC 9112. What is no HTTP is answered by an empty 400 or 431.

mod answer;
mod connection;
mod ending;
mod events;
mod patience;
pub(in crate::control) mod percent;
mod request;
mod routes;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use connection::{Peer, Shared};
pub use ending::Ending;

use super::registry::Registry;

/// Clients at a time.
const MAX_CONNECTIONS: usize = 64;
/// How long answers may take when the process ends.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// How long to wait when there is no descriptor for a client.
const NO_DESCRIPTOR: Duration = Duration::from_millis(100);

/// Serves the API of `registry` until the process is to end, and begins its end when a client asks for that.
pub async fn serve(listener: UnixListener, registry: Arc<Registry>, ending: Ending) {
    let own = rustix::process::geteuid().as_raw();
    let shared = Arc::new(Shared::new(registry, ending.clone()));
    let mut connections = JoinSet::new();
    loop {
        let has_room = connections.len() < MAX_CONNECTIONS;
        tokio::select! {
            () = ending.begun() => break,
            Some(_) = connections.join_next() => {}
            accepted = accept(&listener, own), if has_room => {
                if let Some((stream, peer)) = accepted {
                    connections.spawn(connection::serve(stream, peer, Arc::clone(&shared)));
                }
            }
        }
    }
    let last_answers = async { while connections.join_next().await.is_some() {} };
    // Whoever does not read its answer by then will not.
    let _ = timeout(LAST_ANSWERS, last_answers).await;
}

/// The next client.
async fn accept(listener: &UnixListener, own: u32) -> Option<(UnixStream, Peer)> {
    let accepted = listener.accept().await.and_then(|(stream, _)| {
        let peer = peer(&stream, own)?;
        Ok((stream, peer))
    });
    match accepted {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::warn!(%error, "cannot accept a client of the API");
            sleep(NO_DESCRIPTOR).await;
            None
        }
    }
}

fn peer(stream: &UnixStream, own: u32) -> io::Result<Peer> {
    let uid = stream.peer_cred()?.uid();
    Ok(if uid == own || uid == 0 { Peer::Trusted } else { Peer::Foreign(uid) })
}

#[cfg(test)]
mod tests;
