// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stream of events: one JSON object per line, for as long as the client listens.
//!
//! # Bounds
//! Events wait in the [backlog](crate::control::events::BACKLOG), which all listeners share, and one line in the connection.
//! Whoever is slower than that is told how many are lost: `{"event":"lost","count":7}`.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::ending::Ending;
use crate::control::model::{Event, Lost, LostTag};
use crate::control::spec::Name;

/// What one client listens to.
struct Listener {
    events: Receiver<Event>,
    /// Events of other networks are left out.
    network: Option<Name>,
    ending: Ending,
    /// It is one of the listeners that there may be.
    _permit: OwnedSemaphorePermit,
}

impl Listener {
    /// The next line, if there is one.
    async fn next(mut self) -> Option<(Self, Bytes)> {
        loop {
            let heard = tokio::select! {
                // What happened before the end is told before it.
                biased;
                heard = self.events.recv() => heard,
                () = self.ending.begun() => return None,
            };
            let line = match heard {
                Ok(event) if self.is_meant(&event) => serde_json::to_vec(&event),
                Ok(_) => continue,
                Err(RecvError::Lagged(count)) => serde_json::to_vec(&Lost { event: LostTag::Lost, count }),
                Err(RecvError::Closed) => return None,
            };
            let mut line = line.ok()?;
            line.push(b'\n');
            return Some((self, line.into()));
        }
    }

    fn is_meant(&self, event: &Event) -> bool {
        self.network.as_ref().is_none_or(|network| network.as_str() == event.network)
    }
}

type Next = Pin<Box<dyn Future<Output = Option<(Listener, Bytes)>> + Send>>;

/// The lines as the body of an answer.
pub(super) struct EventStream(Next);

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").finish_non_exhaustive()
    }
}

impl EventStream {
    pub(super) fn new(
        events: Receiver<Event>,
        network: Option<Name>,
        ending: Ending,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self(Box::pin(Listener { events, network, ending, _permit: permit }.next()))
    }
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some((listener, line)) = ready!(self.0.as_mut().poll(context)) else {
            self.0 = Box::pin(std::future::ready(None));
            return Poll::Ready(None);
        };
        self.0 = Box::pin(listener.next());
        Poll::Ready(Some(Ok(Frame::data(line))))
    }
}
