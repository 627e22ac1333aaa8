// SPDX-License-Identifier: MIT OR Apache-2.0
//! A worker on a stage: one port in memory, a host whose every answer is written down beforehand, and virtual time.
//!
//! # How it works
//! Frames go in and come out as bytes, with a virtio-net header where the port has one, as from a TAP. After every turn
//! the books must balance. [`host::ScriptHost`] records what the gateway asks of the host.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test may fail, and not every test that stands on this stage uses all of it"
)]

pub mod frames;
pub mod host;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use smoltcp::wire::EthernetAddress;
use wharf::dataplane::exchange::Exchange;
use wharf::dataplane::worker::Worker;
use wharf_stack::host::{Family, Transport};
use wharf_stack::{Config, Ipv4Plan, Ipv6Plan, Ownership, PublicationId, PublishedPort};
use wharf_switch::offload::VNET_HEADER_LEN;
use wharf_switch::{Duration, Fdb, Frame, Instant, Offloads, Pool, Port, PortId, Received, Sent, Tally};

use self::host::ScriptHost;

/// The gateway's MAC address.
pub const GATEWAY_MAC: EthernetAddress = EthernetAddress([0x02, 0x77, 0, 0, 0, 1]);
/// The container's MAC address.
pub const CONTAINER_MAC: EthernetAddress = EthernetAddress([0x02, 0, 0, 0, 0, 0x64]);

/// A device in memory that hands over bytes as a TAP does.
#[derive(Debug)]
pub struct WirePort {
    /// What the container has sent.
    pub inbound: VecDeque<Vec<u8>>,
    /// What the container is sent.
    pub outbound: VecDeque<Vec<u8>>,
    /// How many frames `outbound` holds before the device is full.
    pub limit: usize,
    /// The device refuses frames as if it were gone.
    pub refuses: bool,
    /// What the device takes unfinished.
    pub offloads: Offloads,
}

impl Port for WirePort {
    fn recv(&mut self, frame: &mut Frame) -> Received {
        let Some(bytes) = self.inbound.pop_front() else { return Received::Empty };
        let room = frame.receive_buffer();
        let fits = bytes.len().min(room.len());
        room[..fits].copy_from_slice(&bytes[..fits]);
        match frame.accept_received(bytes.len()) {
            Ok(()) => Received::Frame,
            Err(reason) => Received::Dropped(reason),
        }
    }

    fn send(&mut self, frame: &mut Frame) -> Sent {
        if self.refuses {
            return Sent::Closed;
        }
        if self.outbound.len() >= self.limit {
            return Sent::Full;
        }
        self.outbound.push_back(frame.with_vnet_header().to_vec());
        Sent::Sent
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }
}

/// A network with both families and NAT64.
pub fn config() -> Config {
    Config {
        ipv4: Some(Ipv4Plan::new("10.0.2.0/24".parse().unwrap())),
        ipv6: Some(Ipv6Plan::new("fd00:db8::/64".parse().unwrap())),
        nat64: Some("64:ff9b:1::/96".parse().unwrap()),
        nameservers: vec!["192.0.2.53:53".parse().unwrap()],
        search: vec!["example.org".into()],
        memory_bytes: 16 << 20,
        ..Config::new(GATEWAY_MAC, [7; 32])
    }
}

/// Another network, whose MTU is smaller.
pub fn linked_config() -> Config {
    Config {
        ipv4: Some(Ipv4Plan::new("10.0.3.0/24".parse().unwrap())),
        ipv6: Some(Ipv6Plan::new("fd00:db9::/64".parse().unwrap())),
        mtu_bytes: 1400,
        ..config()
    }
}

/// Workers of one network, with one container's port.
#[derive(Debug)]
pub struct Stage {
    pub now: Instant,
    pub workers: Vec<Worker<WirePort, ScriptHost>>,
    pub port: PortId,
    config: Config,
    ownership: Arc<Ownership>,
    published: Option<PublicationId>,
}

impl Stage {
    /// A stage of one worker whose port takes everything whole.
    pub fn new(config: Config) -> Self {
        Self::with(config, 1, Offloads::ALL)
    }

    pub fn with(config: Config, workers: usize, offloads: Offloads) -> Self {
        let pool = Pool::new(16);
        let fdb = Arc::new(Fdb::new(64, [3; 16]));
        let ownership = Arc::new(Ownership::new(config.clone(), workers));
        let exchanges = Exchange::new(Arc::clone(&ownership), workers);
        let make = |exchange| {
            let share = Config { memory_bytes: config.memory_bytes / workers, ..config.clone() };
            Worker::new(share, Arc::clone(&fdb), pool.clone(), ScriptHost::default(), exchange)
        };
        let mut workers: Vec<_> = exchanges.into_iter().map(make).collect();
        let port = || WirePort {
            inbound: VecDeque::new(),
            outbound: VecDeque::new(),
            limit: usize::MAX,
            refuses: false,
            offloads,
        };
        let id = workers[0].attach(port(), None).unwrap();
        for worker in &mut workers[1..] {
            worker.switch.attach_as(id, port(), None).unwrap();
        }
        let now = Instant::from_secs(1);
        Self { now, workers, port: id, config, ownership, published: None }
    }

    /// Lets packets for another network go there.
    pub fn route_to(&mut self, other: &Self) {
        for (number, worker) in self.workers.iter_mut().enumerate() {
            let peer = &other.workers[number % other.workers.len()];
            worker.links.set(vec![Some(Arc::clone(&peer.inlet))]);
            worker.gateway.set_routes(other.config.routes_here(0));
        }
    }

    /// Publishes a TCP port of the container, one at a time.
    pub fn publish(&mut self, target: SocketAddr) {
        assert!(self.published.is_none());
        let port = PublishedPort {
            transport: Transport::Tcp,
            outside: Family::of(target.ip()),
            target,
            is_local: false,
        };
        self.published = Some(self.workers[0].publish(port, ()).unwrap());
    }

    /// Publishes a UDP port of the container to clients of a family. Its socket is the latest of the worker's, whose
    /// number is returned.
    pub fn publish_udp(&mut self, outside: Family, target: SocketAddr) -> (usize, PublicationId) {
        let port = PublishedPort { transport: Transport::Udp, outside, target, is_local: false };
        let worker = self.ownership.of_port(&port);
        (worker, self.workers[worker].publish(port, ()).unwrap())
    }

    /// The port is published no longer.
    pub fn withdraw(&mut self) {
        self.workers[0].withdraw(self.published.take().expect("a published port"));
    }

    /// Another container's port.
    pub fn add_port(&mut self, offloads: Offloads) -> PortId {
        let port = WirePort {
            inbound: VecDeque::new(),
            outbound: VecDeque::new(),
            limit: usize::MAX,
            refuses: false,
            offloads,
        };
        self.workers[0].attach(port, None).unwrap()
    }

    pub fn host(&mut self) -> &mut ScriptHost {
        &mut self.workers[0].host
    }

    pub fn wire(&mut self) -> &mut WirePort {
        let port = self.port;
        self.workers[0].switch.port_mut(port).unwrap()
    }

    /// The container sends a frame, without virtio-net header; the worker has its turns.
    pub fn receive(&mut self, frame: &[u8]) {
        self.receive_raw(0, [&[0; VNET_HEADER_LEN], frame].concat());
        self.settle();
    }

    /// Bytes arrive at a worker's queue of the port, as they are.
    pub fn receive_raw(&mut self, worker: usize, bytes: Vec<u8>) {
        let port = self.port;
        self.workers[worker].switch.port_mut(port).unwrap().inbound.push_back(bytes);
        self.workers[worker].mark_ready(port);
    }

    /// Time passes, stopping at every deadline.
    pub fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        for _ in 0..100_000 {
            let due = self.workers.iter().filter_map(|worker| worker.gateway.next_deadline()).min();
            let Some(due) = due.filter(|&due| due <= end) else { break };
            self.now = due.max(self.now);
            let before = due;
            self.settle();
            let after = self.workers.iter().filter_map(|worker| worker.gateway.next_deadline()).min();
            assert!(after != Some(before), "a deadline that passed stays due");
        }
        self.now = end;
        self.settle();
    }

    /// Lets every worker do all it can at this moment.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            let mut more = false;
            for at in 0..self.workers.len() {
                let worker = &mut self.workers[at];
                let events = worker.host.take_events();
                more |= worker.turn(self.now, &events).more | !worker.host.is_quiet();
                self.check_books();
            }
            if !more && self.workers.iter().all(|worker| !worker.exchange.has_more()) {
                return;
            }
        }
        panic!("the workers never come to rest");
    }

    pub fn check_books(&self) {
        let mut books = Tally::default();
        for worker in &self.workers {
            books += worker.switch.tally;
            let (gateway, switch) = (worker.gateway.drops().total(), worker.switch.drops.total());
            assert_eq!(gateway + switch, worker.switch.tally.dropped, "a drop without a reason");
        }
        books.queued += self.workers[0].exchange.queued() as u64;
        books.check().unwrap();
    }

    /// The next frame for the container, without its virtio-net header.
    pub fn sent(&mut self) -> Option<Vec<u8>> {
        let port = self.port;
        let mut ports = self.workers.iter_mut().map(|worker| worker.switch.port_mut(port).unwrap());
        let mut bytes = ports.find_map(|port| port.outbound.pop_front())?;
        bytes.drain(..VNET_HEADER_LEN);
        Some(bytes)
    }
}
