// SPDX-License-Identifier: MIT OR Apache-2.0
//! Published TCP ports: the host listens, and who connects is connected to a container.
//!
//! # Path
//! Once a turn [`Listeners::accept`] looks where the container of each ready listener is on the link, and only then takes
//! clients from it: until the link has answered they wait in the host's backlog. Each accepted client is an [`Inbound`],
//! given to the worker that owns its flow ([`Ownership`](crate::Ownership)), whose relay opens it. Nobody at the
//! container's address: the clients are reset.
//!
//! Withdrawing closes the listener, with which the host resets whoever waits in its backlog; connections that were
//! accepted go on.
//!
//! # Bounds
//! [`ACCEPTS_PER_VISIT`] clients for each listener and turn; the listener remembers that there may be more, for no
//! second event says so. When the host is out of descriptors, or this worker's relay has no room for another flow of the
//! container, a listener rests.

use core::net::SocketAddr;

use super::seen_as;
use super::visits::{Entry, State, Visits};
use crate::env::{Cx, Outbox};
use crate::host::{Accept, Host, HostError, Owner, SocketId, Token};
use crate::link::{Link, Located};
use crate::transit::flow::FlowKey;
use crate::transit::tcp::{Inbound, Relay};

/// Clients taken from one listener in one turn.
const ACCEPTS_PER_VISIT: usize = 32;

/// The listeners of one worker.
pub(super) type Listeners = Visits<SocketId>;

impl Listeners {
    pub(super) const fn of_tcp() -> Self {
        Self::new(Owner::Listener)
    }

    /// Connects whoever comes to `listener` to `target`.
    pub(super) fn publish<H: Host>(
        &mut self,
        host: &mut H,
        target: SocketAddr,
        listener: H::Listener,
    ) -> Result<Token, HostError> {
        let token = self.next_token();
        let socket = host.tcp_listen(token, listener)?;
        self.add(socket, target);
        Ok(token)
    }

    /// Takes clients from the listeners that may have some, and adds them to `inbound`, as many as `relay` has room for.
    pub(super) fn accept<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        link: &mut Link,
        relay: &Relay,
        inbound: &mut Vec<Inbound<H::Stream>>,
    ) {
        self.make(cx, |cx, _, listener| listener.accept(cx, link, relay, inbound));
    }
}

impl Entry<SocketId> {
    /// Gives the listener its share of the turn. Returns what it waits for then.
    fn accept<H: Host, O: Outbox>(
        &self,
        cx: &mut Cx<'_, H, O>,
        link: &mut Link,
        relay: &Relay,
        inbound: &mut Vec<Inbound<H::Stream>>,
    ) -> State {
        let located = link.locate(cx, self.target.ip());
        let room = match located {
            Located::Asked => return State::Unresolved,
            Located::At(container) => relay.room_for(&cx.env.budget, container),
            Located::Nowhere => usize::MAX,
        };
        for _ in 0..ACCEPTS_PER_VISIT {
            if inbound.len() >= room {
                return State::Resting;
            }
            match (cx.host.tcp_accept(self.socket), located) {
                (Accept::Client { stream, from }, Located::At(container_mac)) => {
                    let seen = seen_as(&cx.env.config, from.ip(), self.target.ip());
                    let key = FlowKey { container: self.target, remote: SocketAddr::new(seen, from.port()) };
                    inbound.push(Inbound { key, container_mac, stream });
                }
                (Accept::Client { stream, .. }, _) => cx.host.tcp_refuse(stream),
                (Accept::Gone, _) => {}
                (Accept::Blocked, _) => return State::Idle,
                (Accept::Exhausted, _) => return State::Resting,
            }
        }
        State::Ready
    }
}
