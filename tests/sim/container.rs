// SPDX-License-Identifier: MIT OR Apache-2.0
//! A container played by smoltcp: its TCP sockets are the relay's peers.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant as Moment;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpCidr, IpProtocol, Ipv4Packet, TcpPacket,
};
use wharf_switch::offload::VNET_HEADER_LEN;
use wharf_switch::{Duration, Instant};

use crate::random::{Random, pattern};
use crate::station::{Outcome, Station};

pub(crate) const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 0x64]);
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

const FIRST_PORT: u16 = 40_000;
const PATIENCE: Duration = Duration::from_secs(120);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// What a container does with one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) stream: u64,
    pub(crate) port: u16,
    pub(crate) sends: u64,
    pub(crate) expects: u64,
    pub(crate) starts_at: Instant,
    pub(crate) write_size: u64,
    pub(crate) read_size: u64,
    pub(crate) step: Duration,
    /// Resets the connection after so many received bytes.
    pub(crate) aborts_after: Option<u64>,
    pub(crate) receive_buffer: usize,
    /// Somebody listens, where clients open the connections.
    pub(crate) is_served: bool,
}

/// Who opens the connections of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opener {
    /// The container, towards the outside.
    Container,
    /// Clients of published ports.
    Clients,
}

/// One connection, seen from the container.
#[derive(Debug)]
pub(crate) struct Conversation {
    outcome: Outcome,
    handle: SocketHandle,
    started: bool,
    next_at: Instant,
    pause: Duration,
    /// Bytes sent, received and not yet acknowledged, and when they last changed.
    progress: (u64, u64, usize),
    progress_at: Instant,
    /// When its socket last sent anything.
    spoke_at: Instant,
}

/// The wire's end in the container.
#[derive(Debug, Default)]
pub(crate) struct Nic {
    pub(crate) inbound: VecDeque<Vec<u8>>,
    pub(crate) outbound: VecDeque<Vec<u8>>,
    mtu: usize,
    trusts_checksums: bool,
}

impl Nic {
    pub(crate) fn new(mtu: usize, trusts_checksums: bool) -> Self {
        Self { mtu, trusts_checksums, ..Self::default() }
    }
}

pub(crate) struct Rx(Vec<u8>);
pub(crate) struct Tx<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Nic {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: Moment) -> Option<(Rx, Tx<'_>)> {
        let frame = self.inbound.pop_front()?;
        Some((Rx(frame), Tx(&mut self.outbound)))
    }

    fn transmit(&mut self, _: Moment) -> Option<Tx<'_>> {
        Some(Tx(&mut self.outbound))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + 14;
        if self.trusts_checksums {
            capabilities.checksum.tcp = Checksum::Tx;
        }
        capabilities
    }
}

/// A container with its connections.
pub(crate) struct Container {
    nic: Nic,
    interface: Interface,
    sockets: SocketSet<'static>,
    conversations: Vec<Conversation>,
    /// The port of the first conversation; the others follow.
    first_port: u16,
    has_vnet_header: bool,
}

/// The same moment for smoltcp.
pub(crate) fn moment(now: Instant) -> Moment {
    Moment::from_micros(i64::try_from(now.as_nanos() / 1000).unwrap())
}

impl Container {
    pub(crate) fn new(
        mtu: usize,
        has_vnet_header: bool,
        parts: &[Part],
        opener: Opener,
        random: &mut Random,
    ) -> Self {
        let listens = opener == Opener::Clients;
        let mut nic = Nic::new(mtu, has_vnet_header);
        let mut config = Config::new(MAC.into());
        config.random_seed = random.next();
        let mut interface = Interface::new(config, &mut nic, Moment::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(ADDRESS.into(), 24)).unwrap();
        });
        interface.routes_mut().add_default_ipv4_route(Ipv4Addr::new(10, 0, 2, 2)).unwrap();
        let mut sockets = SocketSet::new(Vec::new());
        let conversations = parts
            .iter()
            .map(|&part| {
                let buffer = |size| SocketBuffer::new(vec![0; size]);
                let mut socket = Socket::new(buffer(part.receive_buffer), buffer(64 * 1024));
                let mut outcome = Outcome::new(part);
                if listens && part.is_served {
                    socket.listen(part.port).unwrap();
                }
                outcome.ended = listens && !part.is_served;
                Conversation {
                    outcome,
                    handle: sockets.add(socket),
                    started: listens,
                    next_at: part.starts_at,
                    pause: part.step,
                    progress: (0, 0, 0),
                    progress_at: part.starts_at,
                    spoke_at: part.starts_at,
                }
            })
            .collect();
        let first_port = if listens { parts.first().map_or(0, |part| part.port) } else { FIRST_PORT };
        Self { nic, interface, sockets, conversations, first_port, has_vnet_header }
    }

    /// Every frame that waits in the NIC was sent just now.
    fn note_who_speaks(&mut self, now: Instant) {
        for frame in &self.nic.outbound {
            let frame = EthernetFrame::new_unchecked(frame);
            if frame.ethertype() != EthernetProtocol::Ipv4 {
                continue;
            }
            let packet = Ipv4Packet::new_unchecked(frame.payload());
            if packet.next_header() != IpProtocol::Tcp {
                continue;
            }
            let number = TcpPacket::new_unchecked(packet.payload()).src_port() - self.first_port;
            self.conversations[usize::from(number)].spoke_at = now;
        }
    }
}

impl Station for Container {
    fn receive(&mut self, _: Instant, mut frame: Vec<u8>) {
        if self.has_vnet_header {
            frame.drain(..VNET_HEADER_LEN);
        }
        self.nic.inbound.push_back(frame);
    }

    fn transmit(&mut self) -> Option<Vec<u8>> {
        let mut frame = self.nic.outbound.pop_front()?;
        if self.has_vnet_header {
            frame.splice(..0, [0; VNET_HEADER_LEN]);
        }
        Some(frame)
    }

    fn outcomes(&self) -> Vec<Outcome> {
        self.conversations.iter().map(|conversation| conversation.outcome).collect()
    }

    fn describe(&self) -> String {
        format!("{:#?}", self.conversations)
    }

    fn advance(&mut self, now: Instant) {
        self.interface.poll(moment(now), &mut self.nic, &mut self.sockets);
        self.note_who_speaks(now);
        for (conversation, local_port) in self.conversations.iter_mut().zip(FIRST_PORT..) {
            if conversation.next_at > now || conversation.outcome.ended {
                continue;
            }
            let socket = self.sockets.get_mut::<Socket<'_>>(conversation.handle);
            if !conversation.started {
                conversation.started = true;
                let to = (SERVER, conversation.outcome.part.port);
                socket.connect(self.interface.context(), to, local_port).unwrap();
            }
            if conversation.is_stuck(now, socket) {
                socket.abort();
                conversation.outcome.aborted = true;
                conversation.outcome.ended = true;
                continue;
            }
            conversation.advance(socket);
            // Whoever has nothing to do looks less and less often.
            let progress = (conversation.outcome.sent, conversation.outcome.received, socket.send_queue());
            let is_idle = progress == conversation.progress;
            if !is_idle {
                (conversation.progress, conversation.progress_at) = (progress, now);
            }
            conversation.pause = if is_idle { conversation.pause * 2 } else { Duration::ZERO };
            conversation.pause = conversation.pause.clamp(conversation.outcome.part.step, LONGEST_PAUSE);
            conversation.next_at = now + conversation.pause;
        }
        self.interface.poll(moment(now), &mut self.nic, &mut self.sockets);
        self.note_who_speaks(now);
    }

    fn hang_up(&mut self) {
        for conversation in &mut self.conversations {
            conversation.outcome.ended = true;
            self.sockets.get_mut::<Socket<'_>>(conversation.handle).abort();
        }
    }

    fn next(&mut self, now: Instant) -> Option<Instant> {
        let delay = self.interface.poll_delay(moment(now), &self.sockets);
        let stack = delay.map(|delay| now + Duration::from_micros(delay.total_micros().max(1)));
        let own = self.conversations.iter().filter(|c| !c.outcome.ended).map(|c| c.next_at.max(now)).min();
        stack.into_iter().chain(own).min()
    }
}

impl Conversation {
    /// Leaving a closed window, smoltcp 0.14 turns its retransmission timer off although data is in flight; and in
    /// LAST-ACK it never hears that a closed window opened. Such a sender is stuck by its own fault.
    fn is_stuck(&self, now: Instant, socket: &Socket<'_>) -> bool {
        let is_deaf = now.since(self.spoke_at) > PATIENCE || socket.state() == State::LastAck;
        is_deaf && now.since(self.progress_at) > PATIENCE && socket.send_queue() > 0
    }

    fn advance(&mut self, socket: &mut Socket<'_>) {
        let part = self.outcome.part;
        if part.aborts_after.is_some_and(|limit| self.outcome.received >= limit)
            && socket.state() == State::Established
        {
            socket.abort();
            self.outcome.aborted = true;
            self.outcome.ended = true;
            return;
        }
        let wanted = part.write_size.min(part.sends - self.outcome.sent);
        if wanted > 0 && socket.can_send() {
            let bytes: Vec<u8> =
                (self.outcome.sent..self.outcome.sent + wanted).map(|at| pattern(part.stream, at)).collect();
            self.outcome.sent += socket.send_slice(&bytes).unwrap() as u64;
        }
        if self.outcome.sent == part.sends && socket.may_send() {
            socket.close();
        }
        if socket.can_recv() {
            // smoltcp forgets what was not read when TIME-WAIT ends.
            let hurry = socket.state() == State::TimeWait;
            let mut bytes = vec![0; if hurry { socket.recv_queue() } else { part.read_size as usize }];
            let count = socket.recv_slice(&mut bytes).unwrap();
            for (&byte, at) in bytes[..count].iter().zip(self.outcome.received..) {
                self.outcome.corrupt |= byte != pattern(part.stream + 1, at);
            }
            self.outcome.received += count as u64;
        }
        self.outcome.ended = matches!(socket.state(), State::Closed | State::TimeWait) && !socket.can_recv();
    }
}
