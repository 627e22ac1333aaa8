// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which published sockets are to be looked after: those that may have something, once a turn.
//!
//! # How it works
//! A socket's event marks it as ready, and its next visit says what it waits for then: another event, an answer of the
//! link about where its container is, or a while. What waits for its visit waits in the host's queue, which costs nothing
//! here.

use core::net::SocketAddr;

use wharf_switch::{Duration, Instant};

use crate::env::Cx;
use crate::host::{FlowId, Owner, Token};
use crate::link::neighbors::RETRANSMIT;
use crate::slots::Slots;
use crate::timers::{Alarm, Timers};

/// How long a socket is left alone when there is no room for what it has.
const REST: Duration = Duration::from_millis(100);

/// A published socket.
#[derive(Debug)]
pub(super) struct Entry<T> {
    pub(super) socket: T,
    /// The container's end.
    pub(super) target: SocketAddr,
    state: State,
    /// When to look again although nothing has happened.
    again_at: Instant,
    alarm: Alarm,
}

/// What a socket waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// For an event.
    Idle,
    /// For its visit: there may be something.
    Ready,
    /// For an answer of the link.
    Unresolved,
    /// For descriptors, or room for flows.
    Resting,
}

/// The published sockets of one kind and worker.
#[derive(Debug)]
pub(super) struct Visits<T> {
    /// Whose events and deadlines they are.
    owner: Owner,
    entries: Slots<Entry<T>>,
    /// The sockets that are [`State::Ready`], each once, and some that are no more.
    ready: Vec<FlowId>,
    /// The list being worked on, kept for its memory.
    visiting: Vec<FlowId>,
    /// How many sockets are [`State::Unresolved`].
    unresolved: usize,
}

impl<T> Visits<T> {
    pub(super) const fn new(owner: Owner) -> Self {
        Self { owner, entries: Slots::new(), ready: Vec::new(), visiting: Vec::new(), unresolved: 0 }
    }

    /// Whether nothing is published.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.len() == 0
    }

    /// What the next socket to be added is called.
    pub(super) fn next_token(&self) -> Token {
        Token { owner: self.owner, flow: self.entries.next_id() }
    }

    pub(super) fn add(&mut self, socket: T, target: SocketAddr) -> FlowId {
        let (again_at, alarm) = (Instant::FAR, Alarm::default());
        self.entries.insert(Entry { socket, target, state: State::Idle, again_at, alarm })
    }

    /// Takes a socket out. What its events and deadlines still have to say finds nobody.
    pub(super) fn remove(&mut self, timers: &mut Timers, id: FlowId) -> Option<T> {
        let entry = self.entries.remove(id)?;
        self.unresolved -= usize::from(entry.state == State::Unresolved);
        timers.retire(entry.alarm);
        Some(entry.socket)
    }

    pub(super) fn get(&self, id: FlowId) -> Option<&Entry<T>> {
        self.entries.get(id)
    }

    pub(super) fn get_mut(&mut self, id: FlowId) -> Option<&mut Entry<T>> {
        self.entries.get_mut(id)
    }

    fn set_state(&mut self, id: FlowId, state: State) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let was = core::mem::replace(&mut entry.state, state);
        if state == State::Ready && was != State::Ready {
            self.ready.push(id);
        }
        self.unresolved += usize::from(state == State::Unresolved);
        self.unresolved -= usize::from(was == State::Unresolved);
    }

    /// A socket may have something. One that waits for something already goes on waiting.
    pub(super) fn handle_host(&mut self, id: FlowId) {
        if self.entries.get(id).is_some_and(|entry| entry.state == State::Idle) {
            self.set_state(id, State::Ready);
        }
    }

    /// A socket has rested, or the link wants to be asked again.
    pub(super) fn handle_timer<H, O>(&mut self, cx: &mut Cx<'_, H, O>, id: FlowId, at: Instant) {
        let token = Token { owner: self.owner, flow: id };
        let Some(entry) = self.entries.get_mut(id) else { return };
        if !entry.alarm.rings(at) {
            return;
        }
        let is_due = entry.again_at <= cx.now;
        if is_due {
            entry.again_at = Instant::FAR;
        }
        cx.env.timers.set(&mut entry.alarm, token, entry.again_at);
        if is_due {
            self.set_state(id, State::Ready);
        }
    }

    /// Whether the entry for `at` among the timers is of use still.
    pub(super) fn awaits(&self, id: FlowId, at: Instant) -> bool {
        self.entries.get(id).is_some_and(|entry| entry.alarm.is_set_for(at))
    }

    /// The link has said something: perhaps where a container is.
    pub(super) fn handle_neighbors(&mut self) {
        if self.unresolved == 0 {
            return;
        }
        for (id, entry) in self.entries.iter_mut() {
            if entry.state == State::Unresolved {
                entry.state = State::Ready;
                self.ready.push(id);
            }
        }
        self.unresolved = 0;
    }

    /// Whether [`Visits::make`] would have something to do.
    pub(super) fn has_more(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Visits every socket that is ready; `visit` says what it waits for then.
    pub(super) fn make<H, O>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        mut visit: impl FnMut(&mut Cx<'_, H, O>, FlowId, &mut Entry<T>) -> State,
    ) {
        core::mem::swap(&mut self.ready, &mut self.visiting);
        let mut visiting = core::mem::take(&mut self.visiting);
        for id in visiting.drain(..) {
            let Some(entry) = self.entries.get_mut(id) else { continue };
            entry.state = State::Idle;
            let state = visit(cx, id, entry);
            let pause = match state {
                State::Unresolved => RETRANSMIT,
                State::Resting => REST,
                State::Idle | State::Ready => Duration::MAX,
            };
            entry.again_at = cx.now + pause;
            cx.env.timers.set(&mut entry.alarm, Token { owner: self.owner, flow: id }, entry.again_at);
            self.set_state(id, state);
        }
        self.visiting = visiting;
    }
}
