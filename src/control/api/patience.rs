// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long a client may take before its connection is closed.
//!
//! # How it works
//! | phase | from | to | limit |
//! |---|---|---|---|
//! | [`Idle`](Phase::Idle) | the answer is made, or the connection new | the first byte of a request | [`MAX_IDLE`] since it took a byte |
//! | [`Asking`](Phase::Asking) | then | its last byte | [`MAX_ASKING`] |
//! | [`Working`](Phase::Working) | then | the answer is made, or for an event stream ever | none |

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// How long a client may keep a connection without a request, or not read its answer.
pub(super) const MAX_IDLE: Duration = Duration::from_secs(60);
/// How long a client may take to send a request.
pub(super) const MAX_ASKING: Duration = Duration::from_secs(10);

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A request, and the client for the last answer.
    Idle,
    /// The rest of a request.
    Asking,
    /// Ourselves.
    Working,
}

impl Phase {
    const fn limit(self) -> Option<Duration> {
        match self {
            Self::Idle => Some(MAX_IDLE),
            Self::Asking => Some(MAX_ASKING),
            Self::Working => None,
        }
    }
}

/// The patience with one connection.
#[derive(Clone, Debug)]
pub(super) struct Patience(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    phase: Mutex<(Phase, Instant)>,
    changed: Notify,
}

impl Patience {
    pub(super) fn new() -> Self {
        let phase = Mutex::new((Phase::Idle, Instant::now()));
        Self(Arc::new(Shared { phase, changed: Notify::new() }))
    }

    fn with<T>(&self, f: impl FnOnce(&mut (Phase, Instant)) -> T) -> T {
        f(&mut self.0.phase.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A phase begins.
    pub(super) fn enter(&self, phase: Phase) {
        self.with(|current| *current = (phase, Instant::now()));
        self.0.changed.notify_one();
    }

    fn heard(&self) {
        if self.with(|(phase, _)| *phase == Phase::Idle) {
            self.enter(Phase::Asking);
        }
    }

    fn told(&self) {
        self.with(|(phase, since)| {
            if *phase == Phase::Idle {
                *since = Instant::now();
            }
        });
    }

    /// Ends when the client has taken too long.
    pub(super) async fn exhausted(&self) {
        loop {
            let changed = self.0.changed.notified();
            let deadline = self.with(|(phase, since)| phase.limit().map(|limit| *since + limit));
            match deadline {
                None => changed.await,
                Some(deadline) if deadline <= Instant::now() => return,
                Some(deadline) => tokio::select! {
                    () = sleep_until(deadline) => {}
                    () = changed => {}
                },
            }
        }
    }
}

/// A connection, and what is heard of and told to its client.
#[derive(Debug)]
pub(super) struct Watched<S> {
    pub(super) stream: S,
    pub(super) patience: Patience,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.patience.heard();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.patience.told();
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices))?;
        self.patience.told();
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
