// SPDX-License-Identifier: MIT OR Apache-2.0
//! One worker's turn: inhale, decide, exhale, tick.
//!
//! # How it works
//! A turn is synchronous and is told the time, so the simulator drives the very loop that production runs. Ports and
//! sockets are edge-triggered: what is marked ready is used until it says that it has nothing more.
//!
//! # Bounds
//! At most [`BURST`] frames per port and turn, and none after [`BURST_BYTES`] of them for the gateway; at most [`BURST`] frames
//! and clients that other workers hand over, and packets of other networks.

use std::sync::Arc;

use wharf_stack::host::{Host, HostError, HostEvent};
use wharf_stack::{Addressee, Config, Gateway, Handled, Inbound, Outbox, PublicationId, PublishedPort};
use wharf_switch::frame::LARGE_BUFFER_LEN;
use wharf_switch::{Egress, Fdb, Frame, Instant, Policy, Pool, Port, PortId, Received, Switch, TooManyPorts};

use super::exchange::{Exchange, Owned};
use super::link::{Inlet, Links};

/// Frames taken from one port in one turn.
pub const BURST: usize = 32;
/// Bytes for the gateway after which no further frame is taken from a port in a turn: at its end their senders get the
/// acknowledgments that they may wait for.
const BURST_BYTES: usize = 512 * 1024;
/// Bytes that are gathered for the gateway before it gets them: they are copied once more from there, and should still be
/// in the processor's cache then.
const GATHERED_BYTES: usize = 256 * 1024;

/// What a turn leaves to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// Something can be done at once.
    pub more: bool,
    /// Something happened in this turn.
    pub worked: bool,
    /// When the next deadline is due.
    pub deadline: Option<Instant>,
}

/// A worker: its queue of every port, its own gateway, its own flows.
#[derive(Debug)]
pub struct Worker<P, H: Host> {
    /// The switch, with this worker's queue of every port.
    pub switch: Switch<P>,
    /// The gateway, with this worker's flows.
    pub gateway: Gateway,
    /// The host's sockets.
    pub host: H,
    /// The way to the other workers.
    pub exchange: Exchange<H::Stream>,
    /// Where packets of other networks come in.
    pub inlet: Arc<Inlet>,
    /// The way to other networks.
    pub links: Links,
    pool: Pool,
    /// Ports that may have frames.
    ready: Ready,
    /// Ports whose device is gone.
    closed: Vec<(PortId, P)>,
    /// Ports whose hosts are to be asked for their multicast groups.
    unasked: Vec<PortId>,
    /// The frame being received, kept between turns.
    frame: Frame,
    /// Frames for the gateway.
    gathered: Gathered,
    /// Clients being accepted, kept for its memory.
    clients: Vec<Inbound<H::Stream>>,
}

/// Ports that may have frames, each once. To ask is to look at one place, however many there are.
#[derive(Debug, Default)]
struct Ready {
    ports: Vec<PortId>,
    /// For each place in the port table, whether its port is among them.
    marked: Vec<bool>,
}

impl Ready {
    fn insert(&mut self, id: PortId) {
        let place = id.index as usize;
        if self.marked.len() <= place {
            self.marked.resize(place + 1, false);
        }
        if let Some(marked) = self.marked.get_mut(place)
            && !std::mem::replace(marked, true)
        {
            self.ports.push(id);
        }
    }

    fn get(&self, at: usize) -> Option<PortId> {
        self.ports.get(at).copied()
    }

    fn remove_at(&mut self, at: usize) {
        let id = self.ports.swap_remove(at);
        if let Some(marked) = self.marked.get_mut(id.index as usize) {
            *marked = false;
        }
    }

    fn remove(&mut self, id: PortId) {
        if let Some(at) = self.ports.iter().position(|&ready| ready == id) {
            self.remove_at(at);
        }
    }

    fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }
}

/// Frames for the gateway in the order in which they came, so that it sees what belongs together.
#[derive(Debug, Default)]
struct Gathered {
    /// The first `count` are meant, the others are kept for their memory.
    frames: Vec<Frame>,
    count: usize,
    bytes: usize,
}

impl Gathered {
    /// Takes in what is in `frame`, and leaves an empty one that anything can be received into.
    fn push(&mut self, frame: &mut Frame, pool: &Pool) {
        if self.frames.len() == self.count {
            self.frames.push(pool.large());
        }
        self.bytes += frame.len();
        if let Some(place) = self.frames.get_mut(self.count) {
            std::mem::swap(place, frame);
            self.count += 1;
        }
        // What another worker handed over may be small, and was kept.
        if frame.buffer_len() < LARGE_BUFFER_LEN {
            *frame = pool.large();
        }
    }

    fn is_full(&self) -> bool {
        self.count == BURST || self.bytes >= GATHERED_BYTES
    }

    fn frames(&mut self) -> &mut [Frame] {
        self.frames.get_mut(..self.count).unwrap_or_default()
    }

    fn clear(&mut self) {
        (self.count, self.bytes) = (0, 0);
    }
}

/// The way out of the gateway: the forwarding decision, then a port; or another network.
struct Exit<'a, P> {
    switch: &'a mut Switch<P>,
    links: &'a mut Links,
    now: Instant,
}

impl<P: Port> Outbox for Exit<'_, P> {
    fn send(&mut self, frame: &mut Frame) {
        self.switch.tally.originated += 1;
        match self.switch.decide(PortId::GATEWAY, frame, self.now) {
            Ok(egress) => {
                self.switch.deliver(egress, frame, PortId::GATEWAY, self.now);
            }
            Err(reason) => self.switch.discard(reason),
        }
    }

    fn route(&mut self, network: usize, frame: &mut Frame) {
        self.switch.tally.originated += 1;
        match self.links.hand_over(network, frame) {
            Ok(()) => self.switch.tally.routed_out += 1,
            Err(reason) => self.switch.discard(reason),
        }
    }

    fn drop_unsent(&mut self) {
        self.switch.tally.originated += 1;
        self.switch.tally.dropped += 1;
    }
}

impl<P: Port, H: Host> Worker<P, H> {
    /// A worker without ports.
    #[must_use]
    pub fn new(config: Config, fdb: Arc<Fdb>, pool: Pool, host: H, exchange: Exchange<H::Stream>) -> Self {
        let frame = pool.large();
        Self {
            switch: Switch::new(config.mac, fdb, pool.clone()),
            gateway: Gateway::new(config, pool.clone(), exchange.number()),
            host,
            exchange,
            inlet: Arc::default(),
            links: Links::new(pool.clone()),
            pool,
            ready: Ready::default(),
            closed: Vec::new(),
            unasked: Vec::new(),
            frame,
            gathered: Gathered::default(),
            clients: Vec::new(),
        }
    }

    /// Attaches a port; it is taken to have frames waiting. A port that is not alone has a policy: see
    /// [`wharf_switch::policy`].
    ///
    /// # Errors
    /// [`TooManyPorts`].
    pub fn attach(&mut self, port: P, policy: Option<Arc<Policy>>) -> Result<PortId, TooManyPorts> {
        let id = self.switch.attach(port, policy)?;
        self.mark_ready(id);
        self.gateway.handle_port_up();
        self.unasked.push(id);
        Ok(id)
    }

    /// Gives an attached port another policy, from the next frame on.
    pub fn set_policy(&mut self, id: PortId, policy: Option<Arc<Policy>>) {
        if self.switch.set_policy(id, policy) && self.exchange.number() == 0 {
            self.unasked.push(id);
        }
    }

    /// Attaches this worker's queue of a port that has its id from another worker.
    ///
    /// # Errors
    /// [`TooManyPorts`].
    pub fn attach_as(
        &mut self,
        id: PortId,
        port: P,
        policy: Option<Arc<Policy>>,
    ) -> Result<(), TooManyPorts> {
        self.switch.attach_as(id, port, policy)?;
        self.mark_ready(id);
        Ok(())
    }

    /// Takes a port out.
    pub fn detach(&mut self, id: PortId) -> Option<P> {
        self.ready.remove(id);
        self.switch.detach(id)
    }

    /// The next port that a turn has detached because its device is gone.
    pub fn take_closed(&mut self) -> Option<(PortId, P)> {
        self.closed.pop()
    }

    /// Makes a socket of the host lead to a container's port. For the worker that
    /// [`Ownership::of_port`](wharf_stack::Ownership::of_port) names.
    ///
    /// # Errors
    /// What [`Host::tcp_listen`] or [`Host::udp_listen`] said.
    pub fn publish(
        &mut self,
        port: PublishedPort,
        listener: H::Listener,
    ) -> Result<PublicationId, HostError> {
        self.gateway.publish(&mut self.host, port, listener)
    }

    /// Ends that.
    pub fn withdraw(&mut self, id: PublicationId) {
        self.gateway.withdraw(&mut self.host, id);
    }

    /// A port may have frames, or room for some.
    pub fn mark_ready(&mut self, id: PortId) {
        self.ready.insert(id);
    }

    /// Does what there is to do, a bounded amount of it.
    pub fn turn(&mut self, now: Instant, events: &[HostEvent]) -> Outlook {
        let mut worked = self.inhale(now) | self.collect(now) | !events.is_empty();
        self.gateway.flush(&mut self.host);
        for &event in events {
            let mut out = Exit { switch: &mut self.switch, links: &mut self.links, now };
            self.gateway.handle_host(now, event, &mut self.host, &mut out);
        }
        worked |= self.gateway.has_more();
        self.welcome_clients(now);
        self.ask_for_groups(now);
        let mut out = Exit { switch: &mut self.switch, links: &mut self.links, now };
        self.gateway.exhale(now, &mut self.host, &mut out);
        self.gateway.handle_timers(now, &mut self.host, &mut out);
        self.gateway.flush(&mut self.host);
        let waits = self.exchange.has_more() || !self.inlet.is_empty();
        let more = waits || !self.ready.is_empty() || self.gateway.has_more();
        Outlook { more, worked, deadline: self.gateway.next_deadline() }
    }

    /// Takes a burst from every ready port. Returns whether there was a frame.
    fn inhale(&mut self, now: Instant) -> bool {
        let mut worked = false;
        let mut at = 0;
        while let Some(id) = self.ready.get(at) {
            let (mut taken, mut bytes) = (0, 0);
            self.switch.flush(id);
            let exhausted = loop {
                if taken == BURST || bytes >= BURST_BYTES {
                    break false;
                }
                match self.switch.receive(id, &mut self.frame) {
                    Received::Frame => bytes += self.forward(now, id),
                    Received::Dropped(_) => {}
                    Received::Empty => break true,
                    Received::Closed => {
                        self.closed.extend(self.switch.detach(id).map(|port| (id, port)));
                        break true;
                    }
                }
                taken += 1;
            };
            self.enter_gateway(now);
            worked |= taken > 0;
            if exhausted {
                self.ready.remove_at(at);
            } else {
                at += 1;
            }
        }
        worked
    }

    /// Asks who is behind a new port for the multicast groups that it has joined: see [`wharf_switch::snoop`].
    fn ask_for_groups(&mut self, now: Instant) {
        while let Some(id) = self.unasked.pop() {
            if !self.switch.is_snooped(id) {
                continue;
            }
            for mut query in self.gateway.group_queries() {
                self.switch.tally.originated += 1;
                self.switch.deliver(Egress::One(id), &mut query, PortId::GATEWAY, now);
            }
        }
    }

    /// Sends the received frame where it belongs. Returns how many bytes of it are for the gateway.
    fn forward(&mut self, now: Instant, ingress: PortId) -> usize {
        let delivered = match self.switch.decide(ingress, &mut self.frame, now) {
            Ok(egress) => self.switch.deliver(egress, &mut self.frame, ingress, now),
            Err(reason) => {
                self.switch.discard_from(ingress, reason);
                return 0;
            }
        };
        if !delivered.gateway {
            return 0;
        }
        let len = self.frame.len();
        self.hand_to_owner(now);
        len
    }

    /// Sees to it that the owner's gateway gets what is in `frame`.
    fn hand_to_owner(&mut self, now: Instant) {
        match self.exchange.addressee(&self.frame) {
            Addressee::Worker(number) if number == self.exchange.number() => self.gather(now),
            Addressee::Worker(number) => {
                let frame = std::mem::replace(&mut self.frame, self.pool.large());
                self.hand_over(number, frame);
            }
            Addressee::Everybody => {
                for number in self.exchange.others() {
                    let copy = self.frame.copy(&self.pool);
                    self.switch.tally.replicated += 1;
                    self.hand_over(number, copy);
                }
                self.gather(now);
            }
        }
    }

    fn hand_over(&mut self, number: usize, frame: Frame) {
        if let Err(reason) = self.exchange.hand_over(number, frame) {
            self.switch.discard(reason);
        }
    }

    /// Keeps what is in `frame` for the gateway, until there is enough.
    fn gather(&mut self, now: Instant) {
        self.gathered.push(&mut self.frame, &self.pool);
        if self.gathered.is_full() {
            self.enter_gateway(now);
        }
    }

    /// Gives the gateway what was gathered.
    fn enter_gateway(&mut self, now: Instant) {
        while self.gathered.count > 0 {
            let mut gathered = std::mem::take(&mut self.gathered);
            let mut frames = gathered.frames();
            while !frames.is_empty() {
                let mut out = Exit { switch: &mut self.switch, links: &mut self.links, now };
                let handled = self.gateway.handle_frames(now, frames, &mut self.host, &mut out);
                self.book(handled);
                frames = frames.get_mut(handled.count..).unwrap_or_default();
            }
            gathered.clear();
            self.gathered = gathered;
            while let Some(whole) = self.gateway.take_whole() {
                // Its fragments are absorbed; the whole is a new frame.
                self.switch.tally.originated += 1;
                self.frame = whole;
                self.hand_to_owner(now);
            }
        }
    }

    /// Gives the gateway a packet of another network.
    fn enter_routed(&mut self, now: Instant, frame: Frame) {
        self.switch.tally.routed_in += 1;
        let mut out = Exit { switch: &mut self.switch, links: &mut self.links, now };
        let result = self.gateway.handle_routed(now, frame, &mut self.host, &mut out);
        self.book(Handled { count: 1, dropped: usize::from(result.is_err()) });
    }

    /// Books what became of frames that the gateway got.
    fn book(&mut self, Handled { count, dropped }: Handled) {
        self.switch.tally.dropped += dropped as u64;
        self.switch.tally.absorbed += (count - dropped) as u64;
    }

    /// Takes what other workers handed over, of this network and of others. Returns whether there was something.
    fn collect(&mut self, now: Instant) -> bool {
        let mut collected = 0;
        while collected < BURST {
            let Some(frame) = self.exchange.receive() else { break };
            self.frame = frame;
            self.gather(now);
            collected += 1;
        }
        self.enter_gateway(now);
        for _ in 0..BURST {
            let Some(client) = self.exchange.receive_client() else { break };
            self.open_inbound(now, client);
            collected += 1;
        }
        for _ in 0..BURST {
            let Some(frame) = self.inlet.take() else { break };
            self.enter_routed(now, frame);
            collected += 1;
        }
        collected > 0
    }

    /// Takes clients that came to the published ports and sees to it that the owners of their flows get them.
    fn welcome_clients(&mut self, now: Instant) {
        let mut clients = std::mem::take(&mut self.clients);
        let mut out = Exit { switch: &mut self.switch, links: &mut self.links, now };
        self.gateway.accept(now, &mut self.host, &mut out, &mut clients);
        for client in clients.drain(..) {
            match self.exchange.hand_over_client(client) {
                Owned::Here(client) => self.open_inbound(now, client),
                Owned::Elsewhere => {}
                Owned::Refused(client) => self.host.tcp_refuse(client.into_stream()),
            }
        }
        self.clients = clients;
    }

    /// Connects a client to its container.
    fn open_inbound(&mut self, now: Instant, client: Inbound<H::Stream>) {
        let mut out = Exit { switch: &mut self.switch, links: &mut self.links, now };
        let is_ours = |container, remote| self.exchange.owns_tcp(container, remote);
        self.gateway.open_inbound(now, client, &mut self.host, &mut out, is_ours);
    }
}
