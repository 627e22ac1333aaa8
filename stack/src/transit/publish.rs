// SPDX-License-Identifier: MIT OR Apache-2.0
//! Published ports: the host listens, and who connects is connected to a container.
//!
//! # Path
//! A listener's event marks it as ready. Once a turn [`Publications::accept`] looks where the container of each ready
//! listener is on the link, and only then takes clients from it: until the link has answered they wait in the host's
//! backlog, which costs nothing here. Each accepted client is an [`Inbound`], given to the worker that owns its flow
//! ([`Ownership`](crate::Ownership)), whose relay opens it.
//!
//! # How it works
//! The container sees the client under its own address, unless an answer to that address would not come to the gateway
//! ([`seen_as`]). Nobody at the container's address: the clients are reset.
//!
//! Ports are published and withdrawn at any time. Withdrawing closes the listener, with which the host resets whoever
//! waits in its backlog; connections that were accepted go on.
//!
//! # Bounds
//! [`ACCEPTS_PER_VISIT`] clients for each listener and turn; the listener remembers that there may be more, for no
//! second event says so. When the host is out of descriptors, or this worker's relay holds as many flows as it may, a
//! listener rests for [`REST`].

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use wharf_switch::{Duration, Instant};

use crate::Config;
use crate::env::{Cx, Outbox};
use crate::host::{Accept, FlowId, Host, HostError, Owner, SocketId, Token};
use crate::link::neighbors::RETRANSMIT;
use crate::link::{Link, Located};
use crate::slots::Slots;
use crate::timers::{Alarm, Timers};
use crate::transit::flow::FlowKey;
use crate::transit::tcp::Inbound;

/// Clients taken from one listener in one turn.
const ACCEPTS_PER_VISIT: usize = 32;
/// How long a listener is left alone when there is no descriptor or no flow for its next client.
const REST: Duration = Duration::from_millis(100);

/// Names a port as long as it is published; one that is published later has another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicationId(FlowId);

/// A listener of the host's, and where its clients go.
#[derive(Debug)]
struct Listener {
    socket: SocketId,
    /// The container's end.
    target: SocketAddr,
    state: State,
    /// When to look again although nothing has happened.
    again_at: Instant,
    alarm: Alarm,
}

/// What a listener waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// For a client.
    Idle,
    /// For its visit: clients may wait.
    Ready,
    /// For an answer of the link: clients wait.
    Unresolved,
    /// For descriptors, or room for flows: clients wait.
    Resting,
}

/// The listeners of one worker.
#[derive(Debug)]
pub(crate) struct Publications {
    listeners: Slots<Listener>,
    /// The listeners that are [`State::Ready`], each once, and some that are no more.
    ready: Vec<FlowId>,
    /// The list being worked on, kept for its memory.
    visiting: Vec<FlowId>,
    /// How many listeners are [`State::Unresolved`].
    unresolved: usize,
}

impl Publications {
    pub(crate) const fn new() -> Self {
        Self { listeners: Slots::new(), ready: Vec::new(), visiting: Vec::new(), unresolved: 0 }
    }

    /// Connects whoever comes to `listener` to `target`.
    pub(crate) fn publish<H: Host>(
        &mut self,
        host: &mut H,
        listener: H::Listener,
        target: SocketAddr,
    ) -> Result<PublicationId, HostError> {
        let socket = host.tcp_listen(token(self.listeners.next_id()), listener)?;
        let (again_at, alarm) = (Instant::FAR, Alarm::default());
        let listener = Listener { socket, target, state: State::Idle, again_at, alarm };
        Ok(PublicationId(self.listeners.insert(listener)))
    }

    /// Closes a listener. What its clients, events and deadlines still have to say finds nobody.
    pub(crate) fn withdraw<H: Host>(
        &mut self,
        host: &mut H,
        timers: &mut Timers,
        PublicationId(id): PublicationId,
    ) {
        let Some(listener) = self.listeners.remove(id) else { return };
        self.unresolved -= usize::from(listener.state == State::Unresolved);
        timers.retire(listener.alarm);
        host.close(listener.socket);
    }

    fn set_state(&mut self, id: FlowId, state: State) {
        let Some(listener) = self.listeners.get_mut(id) else { return };
        let was = core::mem::replace(&mut listener.state, state);
        if state == State::Ready && was != State::Ready {
            self.ready.push(id);
        }
        self.unresolved += usize::from(state == State::Unresolved);
        self.unresolved -= usize::from(was == State::Unresolved);
    }

    /// Clients came to a listener. One that waits for something already goes on waiting.
    pub(crate) fn handle_host(&mut self, id: FlowId) {
        if self.listeners.get(id).is_some_and(|listener| listener.state == State::Idle) {
            self.set_state(id, State::Ready);
        }
    }

    /// A listener has rested, or the link wants to be asked again.
    pub(crate) fn handle_timer<H, O>(&mut self, cx: &mut Cx<'_, H, O>, id: FlowId, at: Instant) {
        let Some(listener) = self.listeners.get_mut(id) else { return };
        if !listener.alarm.rings(at) {
            return;
        }
        let is_due = listener.again_at <= cx.now;
        if is_due {
            listener.again_at = Instant::FAR;
        }
        cx.env.timers.set(&mut listener.alarm, token(id), listener.again_at);
        if is_due {
            self.set_state(id, State::Ready);
        }
    }

    /// Whether the entry for `at` among the timers is of use still.
    pub(crate) fn awaits(&self, id: FlowId, at: Instant) -> bool {
        self.listeners.get(id).is_some_and(|listener| listener.alarm.is_set_for(at))
    }

    /// The link has said something: perhaps where a container is.
    pub(crate) fn handle_neighbors(&mut self) {
        if self.unresolved == 0 {
            return;
        }
        for (id, listener) in self.listeners.iter_mut() {
            if listener.state == State::Unresolved {
                listener.state = State::Ready;
                self.ready.push(id);
            }
        }
        self.unresolved = 0;
    }

    /// Whether [`Publications::accept`] would have something to do.
    pub(crate) fn has_more(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes clients from the listeners that may have some, and adds them to `inbound`, up to `room` of them.
    pub(crate) fn accept<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        link: &mut Link,
        room: usize,
        inbound: &mut Vec<Inbound<H::Stream>>,
    ) {
        core::mem::swap(&mut self.ready, &mut self.visiting);
        let mut visiting = core::mem::take(&mut self.visiting);
        for id in visiting.drain(..) {
            let Some(listener) = self.listeners.get_mut(id) else { continue };
            listener.state = State::Idle;
            let state = listener.visit(cx, link, room, inbound);
            let pause = match state {
                State::Unresolved => RETRANSMIT,
                State::Resting => REST,
                State::Idle | State::Ready => Duration::MAX,
            };
            listener.again_at = cx.now + pause;
            cx.env.timers.set(&mut listener.alarm, token(id), listener.again_at);
            self.set_state(id, state);
        }
        self.visiting = visiting;
    }
}

impl Listener {
    /// Gives the listener its share of the turn. Returns what it waits for then.
    fn visit<H: Host, O: Outbox>(
        &self,
        cx: &mut Cx<'_, H, O>,
        link: &mut Link,
        room: usize,
        inbound: &mut Vec<Inbound<H::Stream>>,
    ) -> State {
        let located = link.locate(cx, self.target.ip());
        if located == Located::Asked {
            return State::Unresolved;
        }
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

fn token(flow: FlowId) -> Token {
    Token { owner: Owner::Listener, flow }
}

/// The address under which the container at `container` sees a client: its own, unless the container would not send
/// its answers to the gateway then, or has no such address family; else the gateway's.
fn seen_as(config: &Config, client: IpAddr, container: IpAddr) -> IpAddr {
    match (client, container) {
        (IpAddr::V4(address), IpAddr::V4(_)) if is_beyond_v4(config, address) => client,
        (IpAddr::V6(address), IpAddr::V6(_)) if is_beyond_v6(config, address) => client,
        (_, IpAddr::V4(_)) => config.ipv4.map_or(client, |plan| plan.gateway.into()),
        (_, IpAddr::V6(_)) => config.ipv6.map_or(client, |plan| plan.gateway.into()),
    }
}

/// Whether a container reaches `address` through the gateway.
fn is_beyond_v4(config: &Config, address: Ipv4Addr) -> bool {
    let is_unicast = !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast();
    let is_on_link =
        address.is_link_local() || config.ipv4.is_some_and(|plan| plan.subnet.contains_addr(&address));
    is_unicast && !address.is_loopback() && !is_on_link
}

/// Whether a container reaches `address` through the gateway, as the client and nobody else: what lies under the NAT64
/// prefix is an IPv4 host.
fn is_beyond_v6(config: &Config, address: Ipv6Addr) -> bool {
    let is_unicast = !address.is_unspecified() && !address.is_multicast();
    let is_on_link = address.is_unicast_link_local()
        || config.ipv6.is_some_and(|plan| plan.subnet.contains_addr(&address));
    let is_translated = config.nat64.is_some_and(|prefix| prefix.contains_addr(&address));
    is_unicast && !address.is_loopback() && !is_on_link && !is_translated
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::config;

    fn seen(client: &str, container: &str) -> String {
        seen_as(&config(), client.parse().unwrap(), container.parse().unwrap()).to_string()
    }

    #[test]
    fn a_client_from_elsewhere_is_seen_as_itself() {
        for client in ["203.0.113.9", "10.0.3.1", "192.168.1.1"] {
            assert_eq!(seen(client, "10.0.2.100"), client);
        }
        for client in ["2001:db8:1::9", "fd00:db9::1"] {
            assert_eq!(seen(client, "fd00:db8::100"), client);
        }
    }

    #[test]
    fn a_client_that_the_container_could_not_answer_is_seen_as_the_gateway() {
        for client in
            ["127.0.0.1", "127.9.9.9", "10.0.2.2", "10.0.2.3", "10.0.2.100", "10.0.2.77", "169.254.1.1"]
        {
            assert_eq!(seen(client, "10.0.2.100"), "10.0.2.2", "{client}");
        }
        for client in ["::1", "fd00:db8::2", "fd00:db8::100", "fe80::9", "64:ff9b:1::203.0.113.9"] {
            assert_eq!(seen(client, "fd00:db8::100"), "fd00:db8::2", "{client}");
        }
    }

    #[test]
    fn a_client_of_the_other_family_is_seen_as_the_gateway() {
        assert_eq!(seen("2001:db8:1::9", "10.0.2.100"), "10.0.2.2");
        assert_eq!(seen("203.0.113.9", "fd00:db8::100"), "fd00:db8::2");
    }
}
