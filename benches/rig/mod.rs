// SPDX-License-Identifier: MIT OR Apache-2.0
//! A worker on a test stand: a port and a host that cost next to nothing themselves and allocate nothing.
//!
//! # How it works
//! The port plays a container that always does the same: it sends segments of one size, or acknowledges everything at
//! once. The host takes everything, and has bytes for ever.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test stand may panic, and not every bench uses all of it"
)]

pub mod stages;

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol,
    Ipv4Packet, TcpPacket, TcpSeqNumber,
};
use wharf::dataplane::exchange::Exchange;
use wharf::dataplane::worker::Worker;
use wharf_stack::host::{
    Accept, Datagram, Family, Host, HostError, HostEvent, IcmpReport, Io, Outgoing, Sender, SocketId,
    StreamRead, Token,
};
use wharf_stack::{Config, Ipv4Plan, Ownership};
use wharf_switch::{Checksum, Duration, Fdb, Frame, Instant, Offloads, Pool, Port, PortId, Received, Sent};

pub const GATEWAY_MAC: EthernetAddress = EthernetAddress([2, 0x77, 0, 0, 0, 1]);
pub const CONTAINER_MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 0x64]);
/// Whom the container speaks with.
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// Ethernet, IPv4 and TCP headers without options.
pub const HEADERS: usize = 54;

/// A network with IPv4 alone.
pub fn config() -> Config {
    let ipv4 = Ipv4Plan::new("10.0.2.0/24".parse().unwrap());
    Config { ipv4: Some(ipv4), ..Config::new(GATEWAY_MAC, [7; 32]) }
}

/// A TCP frame from the container to the server.
pub fn tcp_frame(syn: bool, payload_len: usize) -> Vec<u8> {
    let tcp_len = if syn { 32 } else { 20 };
    let mut bytes = vec![0; 34 + tcp_len + payload_len];
    let mut ethernet = EthernetFrame::new_unchecked(&mut bytes);
    ethernet.set_dst_addr(GATEWAY_MAC);
    ethernet.set_src_addr(CONTAINER_MAC);
    ethernet.set_ethertype(EthernetProtocol::Ipv4);
    let mut ip = Ipv4Packet::new_unchecked(ethernet.payload_mut());
    ip.set_version(4);
    ip.set_header_len(20);
    ip.set_total_len((20 + tcp_len + payload_len) as u16);
    ip.set_hop_limit(64);
    ip.set_next_header(IpProtocol::Tcp);
    ip.set_src_addr([10, 0, 2, 100].into());
    ip.set_dst_addr(SERVER);
    ip.fill_checksum();
    let mut tcp = TcpPacket::new_unchecked(ip.payload_mut());
    tcp.set_src_port(40_000);
    tcp.set_dst_port(80);
    tcp.set_header_len(tcp_len as u8);
    tcp.set_window_len(65_535);
    tcp.set_syn(syn);
    tcp.set_ack(!syn);
    if syn {
        tcp.options_mut().copy_from_slice(&[2, 4, 5, 0xb4, 4, 2, 3, 3, 7, 0, 0, 0]);
    }
    bytes
}

/// The container's end of the wire.
#[derive(Debug)]
pub struct Lane {
    syn: Vec<u8>,
    data: Vec<u8>,
    /// A frame of another kind that comes first.
    once: Option<Vec<u8>>,
    /// Frames to hand over.
    pub waiting: usize,
    seq: u32,
    /// The next number of the gateway's, as last seen.
    ack: u32,
    pub sent_frames: u64,
    pub sent_bytes: u64,
}

impl Port for Lane {
    fn recv(&mut self, frame: &mut Frame) -> Received {
        if self.waiting == 0 {
            return Received::Empty;
        }
        self.waiting -= 1;
        if let Some(bytes) = self.once.take() {
            frame.fill(&bytes);
            return Received::Frame;
        }
        let is_syn = self.sent_frames == 0;
        frame.fill(if is_syn { &self.syn } else { &self.data });
        frame.offload.checksum = Checksum::Partial { start: 34, offset: 16 };
        let mut tcp = TcpPacket::new_unchecked(&mut frame.bytes_mut()[34..]);
        tcp.set_seq_number(TcpSeqNumber(self.seq.cast_signed()));
        tcp.set_ack_number(TcpSeqNumber(self.ack.cast_signed()));
        let payload = if is_syn { 1 } else { self.data.len() - HEADERS };
        self.seq = self.seq.wrapping_add(payload as u32);
        Received::Frame
    }

    fn send(&mut self, frame: &mut Frame) -> Sent {
        let bytes = frame.with_vnet_header();
        self.sent_bytes += bytes.len() as u64;
        if let Some(Ok(tcp)) = bytes.get(10 + 34..).map(TcpPacket::new_checked) {
            let taken = tcp.payload().len() as u32 + u32::from(tcp.syn());
            self.ack = tcp.seq_number().0.cast_unsigned().wrapping_add(taken);
            self.sent_frames += 1;
        }
        Sent::Sent
    }

    fn offloads(&self) -> Offloads {
        Offloads::ALL
    }
}

/// A host that takes everything and has `chunk` bytes whenever it is asked.
#[derive(Debug)]
pub struct Spring {
    pub token: Option<Token>,
    pub chunk: usize,
    left: usize,
    pub taken: u64,
}

impl Host for Spring {
    type Listener = Infallible;
    type Stream = Infallible;

    fn tcp_listen(&mut self, _: Token, listener: Infallible) -> Result<SocketId, HostError> {
        match listener {}
    }

    fn tcp_accept(&mut self, _: SocketId) -> Accept<Infallible> {
        Accept::Blocked
    }

    fn tcp_adopt(&mut self, _: Token, stream: Infallible) -> Result<SocketId, HostError> {
        match stream {}
    }

    fn tcp_refuse(&mut self, stream: Infallible) {
        match stream {}
    }

    fn tcp_connect(&mut self, token: Token, _: Sender, _: SocketAddr, _: u8) -> Result<SocketId, HostError> {
        self.token = Some(token);
        Ok(SocketId(0))
    }

    fn tcp_error(&mut self, _: SocketId) -> Option<HostError> {
        None
    }

    fn tcp_established(&mut self, _: SocketId) {}

    fn tcp_segment_size(&mut self, _: SocketId) -> Option<u16> {
        None
    }

    fn tcp_send(&mut self, _: SocketId, data: &[u8]) -> Io<usize> {
        self.taken += data.len() as u64;
        Io::Done(data.len())
    }

    fn tcp_recv(&mut self, _: SocketId, buffer: &mut [u8]) -> StreamRead {
        if self.left == 0 {
            return StreamRead::Blocked;
        }
        self.left -= 1;
        StreamRead::Data(self.chunk.min(buffer.len()))
    }

    fn tcp_finish(&mut self, _: SocketId) {}

    fn tcp_reset(&mut self, _: SocketId) {}

    fn udp_open(&mut self, _: Token, _: Sender, _: Family) -> Result<SocketId, HostError> {
        Err(HostError::Exhausted)
    }

    fn udp_listen(&mut self, _: Token, listener: Infallible) -> Result<SocketId, HostError> {
        match listener {}
    }

    fn echo_open(&mut self, _: Token, _: Sender, _: Family) -> Result<SocketId, HostError> {
        Err(HostError::Exhausted)
    }

    fn send_to(&mut self, _: SocketId, _: Outgoing, _: &[u8]) -> Result<Io<()>, HostError> {
        Ok(Io::Blocked)
    }

    fn recv_from(&mut self, _: SocketId, _: &mut [u8]) -> Io<Datagram> {
        Io::Blocked
    }

    fn icmp_report(&mut self, _: SocketId) -> Option<IcmpReport> {
        None
    }

    fn close(&mut self, _: SocketId) {}
}

/// One worker with an open connection; more of them on demand.
pub struct Stand {
    pub worker: Worker<Lane, Spring>,
    port: PortId,
    now: Instant,
}

impl Stand {
    /// Container's segments and host's chunks carry `payload_len` bytes.
    pub fn new(payload_len: usize, acknowledges_only: bool) -> Self {
        let mut stand = Self::idle(config(), payload_len, acknowledges_only);
        stand.shake_hands();
        stand
    }

    fn shake_hands(&mut self) {
        self.turn(1, false);
        self.turn(0, true);
        // The answer to the SYN-ACK.
        self.turn(1, false);
    }

    /// Opens the `number`th further connection; the container goes on with this one.
    pub fn connect(&mut self, number: u16) {
        let lane = self.lane();
        for frame in [&mut lane.syn, &mut lane.data] {
            TcpPacket::new_unchecked(&mut frame[34..]).set_dst_port(number);
        }
        (lane.seq, lane.sent_frames) = (1, 0);
        self.shake_hands();
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.worker.gateway.flows(self.now, &self.worker.host).count()
    }

    /// One whose container is silent so far.
    fn idle(config: Config, payload_len: usize, acknowledges_only: bool) -> Self {
        let exchange = Exchange::new(Arc::new(Ownership::new(config.clone(), 1)), 1).remove(0);
        let fdb = Arc::new(Fdb::new(1024, [3; 16]));
        let host = Spring { token: None, chunk: payload_len, left: 0, taken: 0 };
        let mut worker = Worker::new(config, fdb, Pool::new(64), host, exchange);
        let lane = Lane {
            syn: tcp_frame(true, 0),
            data: tcp_frame(false, if acknowledges_only { 0 } else { payload_len }),
            once: None,
            waiting: 0,
            seq: 1,
            ack: 0,
            sent_frames: 0,
            sent_bytes: 0,
        };
        let port = worker.attach(lane, None).unwrap();
        Self { worker, port, now: Instant::from_secs(1) }
    }

    /// One turn: the container hands over `frames` frames, and the host has something if `is_readable`.
    pub fn turn(&mut self, frames: usize, is_readable: bool) {
        self.now += Duration::from_micros(10);
        self.worker.switch.port_mut(self.port).unwrap().waiting += frames;
        self.worker.mark_ready(self.port);
        self.worker.host.left = usize::from(is_readable);
        let event = self.worker.host.token.filter(|_| is_readable);
        match event {
            Some(token) => {
                let event = HostEvent { token, readable: true, writable: true, error: false };
                self.worker.turn(self.now, &[event])
            }
            None => self.worker.turn(self.now, &[]),
        };
    }

    /// Makes the server a container of another network, to which what the container sends is routed.
    pub fn link(&mut self) -> Self {
        let subnet = "198.51.100.0/24".parse().unwrap();
        let config = Config { ipv4: Some(Ipv4Plan::new(subnet)), mtu_bytes: 65_535, ..config() };
        self.worker.gateway.set_routes(config.routes_here(0));
        let mut other = Self::idle(config, 0, true);
        self.worker.links.set(vec![Some(Arc::clone(&other.worker.inlet))]);
        self.turn(1, false);
        other.turn(0, false);
        other.hear_from_server();
        other
    }

    /// The server, asked for by the gateway, says where it is.
    fn hear_from_server(&mut self) {
        let arp = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: CONTAINER_MAC,
            source_protocol_addr: SERVER,
            target_hardware_addr: GATEWAY_MAC,
            target_protocol_addr: [198, 51, 100, 2].into(),
        };
        let mut bytes = vec![0; 14 + arp.buffer_len()];
        let mut ethernet = EthernetFrame::new_unchecked(&mut bytes);
        ethernet.set_dst_addr(GATEWAY_MAC);
        ethernet.set_src_addr(CONTAINER_MAC);
        ethernet.set_ethertype(EthernetProtocol::Arp);
        arp.emit(&mut ArpPacket::new_unchecked(ethernet.payload_mut()));
        self.lane().once = Some(bytes);
        self.turn(1, false);
    }

    pub fn lane(&mut self) -> &mut Lane {
        self.worker.switch.port_mut(self.port).unwrap()
    }
}

/// The ends of the benches' connection.
pub fn ends() -> (IpAddr, IpAddr) {
    ([10, 0, 2, 100].into(), SERVER.into())
}

/// Runs `step` until it has warmed up, then asserts that a thousand of them allocate nothing.
pub fn assert_allocates_nothing(name: &str, mut step: impl FnMut()) {
    let one = allocation_counter::measure(|| drop(std::hint::black_box(Box::new(7))));
    assert_eq!(one.count_total, 1, "allocations are not counted");
    (0..2000).for_each(|_| step());
    let counted = allocation_counter::measure(|| (0..1000).for_each(|_| step()));
    assert_eq!(counted.count_total, 0, "{name}: {} allocations in 1000 steps", counted.count_total);
    println!("{name}: no allocation in 1000 steps");
}
