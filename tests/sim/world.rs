// SPDX-License-Identifier: MIT OR Apache-2.0
//! The world around one worker: a container, a link with weather, and an outside with a script, in virtual time.
//!
//! # How it works
//! A seed decides everything. Each step moves to the next moment at which anything happens, lets everybody act, and
//! then checks the worker's books. At the end every byte must have arrived as it was sent, every socket must be
//! closed, and nothing may be held.

use std::sync::Arc;

use smoltcp::wire::{EthernetAddress, Ipv4Cidr};
use wharf::dataplane::exchange::Exchange;
use wharf::dataplane::worker::Worker;
use wharf_stack::{Config, Ipv4Plan, Ownership};
use wharf_switch::offload::VNET_HEADER_LEN;
use wharf_switch::{Duration, Fdb, Instant, MemoryPort, Offloads, Pool, PortId};

use crate::container::{Container, Conversation, Part};
use crate::link::{Link, Weather};
use crate::outside::{Script, SimHost, Welcome};
use crate::random::Random;

const MAX_STEPS: usize = 5_000_000;
const HORIZON: Instant = Instant::from_secs(3600);

/// Everything about one run that a seed decides.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    mtu: usize,
    offloads: Offloads,
    memory_bytes: usize,
    weather: Weather,
    parts: Vec<(Part, Script)>,
}

pub(crate) fn config(mtu: usize, memory_bytes: usize, seed: u64) -> Config {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    Config {
        mac: EthernetAddress([2, 0x77, 0, 0, 0, 1]),
        mtu_bytes: mtu,
        ipv4: Some(Ipv4Plan {
            subnet: Ipv4Cidr::new([10, 0, 2, 0].into(), 24),
            gateway: [10, 0, 2, 2].into(),
            dns: [10, 0, 2, 3].into(),
            first_lease: [10, 0, 2, 100].into(),
            last_lease: [10, 0, 2, 100].into(),
        }),
        ipv6: None,
        nat64: None,
        nameservers: Vec::new(),
        search: Vec::new(),
        ntp: Vec::new(),
        hostname: None,
        host_loopback: false,
        allow_link_local: false,
        memory_bytes,
        seed: key,
    }
}

impl Plan {
    /// The plan of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        let random = &mut Random::new(seed);
        let bad = random.chance(700);
        let weather = Weather {
            loss: if bad { random.pick(&[0, 1, 10, 50]) } else { 0 },
            duplication: if bad { random.pick(&[0, 5, 50]) } else { 0 },
            reordering: if bad { random.pick(&[0, 10, 200]) } else { 0 },
            delay: Duration::from_micros(random.pick(&[0, 20, 1000])),
        };
        let count = 1 + random.below(5);
        let parts = (0..count).map(|number| conversation(number, random)).collect();
        Self {
            mtu: random.pick(&[576, 1500, 9000, 65_520]),
            offloads: random.pick(&[Offloads::ALL, Offloads::NONE, Offloads { tso: false, ..Offloads::ALL }]),
            memory_bytes: random.pick(&[1 << 20, 256 << 20]),
            weather,
            parts,
        }
    }
}

fn conversation(number: u64, random: &mut Random) -> (Part, Script) {
    let size = |random: &mut Random| match random.below(5) {
        0 => 0,
        1 => random.below(10),
        2 => random.below(2000),
        _ => random.below(400_000),
    };
    let (up, down) = (size(random), size(random));
    let welcome = match random.below(20) {
        0 => Welcome::Refuse,
        1 => Welcome::Silence,
        2 => Welcome::Unreachable,
        _ => Welcome::Accept,
    };
    let slow = random.chance(200);
    let part = Part {
        stream: number * 2,
        port: 1000 + number as u16,
        sends: up,
        expects: down,
        starts_at: Instant::from_millis(random.below(50)),
        write_size: 1 + random.below(50_000),
        // A reader so slow that it would take hours shows nothing more.
        read_size: down / 1000 + 1 + random.below(if slow { 2000 } else { 100_000 }),
        step: Duration::from_micros(random.pick(&[50, 1000, if slow { 50_000 } else { 100 }])),
        aborts_after: random.chance(60).then(|| random.below(down + 1)),
        receive_buffer: random.pick(&[2_000, 65_535, 500_000]),
    };
    let script = Script {
        stream: number * 2,
        welcome,
        connect_delay: Duration::from_micros(random.pick(&[0, 100, 30_000])),
        expects: up,
        sends: down,
        answers_late: random.chance(300),
        receive_buffer: random.pick(&[1000, 20_000, 1_000_000]),
        read_every: Duration::from_micros(random.pick(&[20, 500, if slow { 20_000 } else { 50 }])),
        read_size: if slow { 200 + random.below(5000) } else { 1000 + random.below(1_000_000) },
        resets_after: random.chance(40).then(|| random.below(up + 1)),
    };
    (part, script)
}

/// A world in motion.
pub(crate) struct World {
    now: Instant,
    worker: Worker<MemoryPort, SimHost>,
    port: PortId,
    pool: Pool,
    container: Container,
    to_container: Link,
    to_gateway: Link,
    has_vnet_header: bool,
}

impl World {
    pub(crate) fn new(seed: u64, plan: &Plan) -> Self {
        let mut random = Random::new(seed ^ 0x5eed);
        let pool = Pool::new(64);
        let mut host = SimHost::new(Random::new(random.next()));
        for (part, script) in &plan.parts {
            host.scripts.insert(part.port, *script);
        }
        let fdb = Arc::new(Fdb::new(64, [3; 16]));
        let config = config(plan.mtu, plan.memory_bytes, seed);
        let exchange = Exchange::new(Ownership::new(config.clone(), 1), 1).remove(0);
        let mut worker = Worker::new(config, fdb, pool.clone(), host, exchange);
        let port = MemoryPort { offloads: plan.offloads, ..MemoryPort::default() };
        let port = worker.attach(port).unwrap();
        let parts: Vec<Part> = plan.parts.iter().map(|(part, _)| *part).collect();
        Self {
            now: Instant::ZERO,
            worker,
            port,
            pool,
            container: Container::new(plan.mtu, plan.offloads.vnet_header, &parts, &mut random),
            to_container: Link::new(plan.weather, Random::new(random.next())),
            to_gateway: Link::new(plan.weather, Random::new(random.next())),
            has_vnet_header: plan.offloads.vnet_header,
        }
    }

    /// Runs until everybody is done, then until every timer of the relay has run out.
    pub(crate) fn run(&mut self) {
        for step in 0.. {
            assert!(
                step < MAX_STEPS,
                "no end after {MAX_STEPS} steps at {:?}: {}",
                self.now,
                self.describe()
            );
            self.step();
            if self.is_over() {
                break;
            }
            let Some(next) = self.next() else { panic!("everybody waits for ever: {}", self.describe()) };
            assert!(next < HORIZON, "stuck at {:?}: {}", self.now, self.describe());
            self.now = next.max(self.now + Duration::from_nanos(1));
        }
        self.check_streams();
        self.container.hang_up();
        for _ in 0..20 {
            self.now += Duration::from_secs(600);
            for _ in 0..4 {
                self.step();
            }
        }
        let load = self.worker.gateway.load();
        assert_eq!(load.tcp_flows, 0, "flows remain");
        assert_eq!(load.held_bytes, 0, "bytes remain held");
        assert_eq!(self.worker.host.open_sockets(), 0, "sockets remain open");
    }

    fn step(&mut self) {
        while let Some(frame) = self.to_gateway.receive(self.now) {
            let mut inbound = self.pool.for_len(frame.len());
            inbound.fill(&frame);
            self.worker.switch.port_mut(self.port).unwrap().inbound.push_back(inbound);
            self.worker.mark_ready(self.port);
        }
        while let Some(frame) = self.to_container.receive(self.now) {
            self.container.nic.inbound.push_back(frame);
        }
        self.container.advance(self.now);
        while let Some(frame) = self.container.nic.outbound.pop_front() {
            self.to_gateway.send(self.now, frame);
        }
        let mut events = self.worker.host.advance(self.now);
        loop {
            let outlook = self.worker.turn(self.now, &events);
            self.worker.switch.tally.check().unwrap();
            events = self.worker.host.advance(self.now);
            if !outlook.more && events.is_empty() {
                break;
            }
        }
        let outbound = &mut self.worker.switch.port_mut(self.port).unwrap().outbound;
        for mut frame in outbound.drain(..) {
            if self.has_vnet_header {
                frame.drain(..VNET_HEADER_LEN);
            }
            self.to_container.send(self.now, frame);
        }
    }

    fn next(&mut self) -> Option<Instant> {
        let deadline = self.worker.turn(self.now, &[]).deadline;
        [
            self.to_container.next(),
            self.to_gateway.next(),
            self.container.next(self.now),
            self.worker.host.next(),
            deadline,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Every conversation that can end has ended.
    fn is_over(&self) -> bool {
        self.container.conversations.iter().all(|conversation| {
            let script = self.worker.host.scripts[&conversation.part.port];
            conversation.ended
                || script.resets_after.is_some()
                || matches!(script.welcome, Welcome::Silence | Welcome::Unreachable)
        }) && self.worker.host.connections.values().all(|connection| {
            // A reset that was lost leaves a connection that only its idle timeout ends.
            let aborted = |c: &Conversation| c.aborted && c.part.stream == connection.script.stream;
            connection.closed
                || connection.script.welcome == Welcome::Silence
                || self.container.conversations.iter().any(aborted)
        })
    }

    fn check_streams(&self) {
        for conversation in &self.container.conversations {
            let part = conversation.part;
            let connections: Vec<_> =
                self.worker.host.connections.values().filter(|c| c.script.stream == part.stream).collect();
            assert!(!conversation.corrupt, "the container got other bytes than were sent: {part:?}");
            assert!(
                connections.iter().all(|c| !c.corrupt),
                "the server got other bytes than were sent: {part:?}"
            );
            let script = self.worker.host.scripts[&part.port];
            if script.welcome != Welcome::Accept {
                assert_eq!((conversation.received, conversation.sent), (0, 0));
                continue;
            }
            if conversation.aborted || script.resets_after.is_some() {
                continue;
            }
            assert_eq!(
                conversation.received, part.expects,
                "bytes missing in the container: {part:?} {connections:#?}"
            );
            let received: u64 = connections.iter().map(|c| c.received).sum();
            assert_eq!(received, part.sends, "bytes missing at the server: {connections:#?}");
        }
    }

    fn describe(&self) -> String {
        let (conversations, connections) = (&self.container.conversations, &self.worker.host.connections);
        format!("{conversations:#?}\n{connections:#?}\n{:?}", self.worker.gateway)
    }
}
