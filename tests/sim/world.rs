// SPDX-License-Identifier: MIT OR Apache-2.0
//! The world around a network's workers: containers, links with weather, and an outside with a script, in virtual time.
//!
//! # How it works
//! A seed decides everything. Frames enter by the queue of any worker. Each step moves to the next moment at which anything happens, lets everybody act, and
//! then checks the books of all workers together. At the end every byte must have arrived as it was sent, every socket must be
//! closed, and nothing may be held.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use smoltcp::wire::EthernetAddress;
use wharf::dataplane::exchange::Exchange;
use wharf::dataplane::worker::Worker;
use wharf_stack::host::{self, Transport};
use wharf_stack::{
    Config, DropReason, FlowState, Ipv4Plan, Ipv6Plan, Ownership, PublicationId, PublishedPort,
};
use wharf_switch::{Duration, Fdb, Instant, MemoryPort, Offloads, Pool, PortId, Tally};

use crate::container::{self, Container, Opener, Part};
use crate::link::{Link, Weather};
use crate::outside::{Caller, Connection, Script, SimHost, Welcome};
use crate::peer::{Family, Habits, Peer};
use crate::random::Random;
use crate::station::{Outcome, Station};

/// What may be too little for every client at once.
const SMALL_MEMORY: usize = 1 << 17;
const MAX_STEPS: usize = 5_000_000;
const HORIZON: Instant = Instant::from_secs(3600);

/// Everything about one run that a seed decides.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    mtu: usize,
    offloads: Offloads,
    memory_bytes: usize,
    weather: Weather,
    /// What smoltcp's container does, and what the Linux-like peer does.
    mild: Vec<(Part, Script)>,
    harsh: Vec<(Part, Script)>,
    habits: Habits,
    family: Family,
    workers: usize,
    opener: Opener,
}

/// Who plays the containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cast {
    /// smoltcp's sockets.
    Mild,
    /// Our Linux-like peer.
    Harsh,
    /// Both, on two ports.
    Both,
    /// Both, as the servers of clients outside.
    Published,
}

pub(crate) fn config(mtu_bytes: usize, memory_bytes: usize, seed: u64) -> Config {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    Config {
        mtu_bytes,
        ipv4: Some(Ipv4Plan::new("10.0.2.0/24".parse().unwrap())),
        ipv6: Some(Ipv6Plan::new("fd00:db8::/64".parse().unwrap())),
        nat64: Some("64:ff9b:1::/96".parse().unwrap()),
        memory_bytes,
        ..Config::new(EthernetAddress([2, 0x77, 0, 0, 0, 1]), key)
    }
}

impl Plan {
    /// The plan of a seed.
    pub(crate) fn new(seed: u64, cast: Cast) -> Self {
        let random = &mut Random::new(seed);
        let bad = random.chance(700);
        let weather = Weather {
            loss: if bad { random.pick(&[0, 1, 10, 50]) } else { 0 },
            duplication: if bad { random.pick(&[0, 5, 50]) } else { 0 },
            reordering: if bad { random.pick(&[0, 10, 200]) } else { 0 },
            delay: Duration::from_micros(random.pick(&[0, 20, 1000])),
        };
        let count = 1 + random.below(5);
        let mild = (0..count).map(|number| conversation(number, random)).collect();
        let mtu = random.pick(&[576, 1500, 9000, 65_520]);
        let offloads =
            random.pick(&[Offloads::ALL, Offloads::NONE, Offloads { tso: false, ..Offloads::ALL }]);
        let memory_bytes = random.pick(&[1 << 17, 1 << 20, 256 << 20]);
        // A stream of its own, so that the rest of a seed's plan stays what it was.
        let random = &mut Random::new(seed ^ 0x11ee);
        let count = 1 + random.below(5);
        let mut harsh: Vec<_> = (0..count).map(|number| conversation(100 + number, random)).collect();
        for (_, script) in &mut harsh {
            // Long enough for a second SYN.
            if random.chance(100) {
                script.connect_delay = Duration::from_millis(500 + random.below(4000));
            }
            let late = &mut Random::new(random.clone().next());
            script.resets_at_end = late.chance(80).then(|| Duration::from_micros(late.below(20_000)));
            script.murmurs = late.pick(&[0, 0, 1, 20]);
        }
        let workers = random.pick(&[1, 1, 2, 3]);
        let keeps_order = weather.reordering == 0 && weather.duplication == 0 && workers == 1;
        let habits = Habits::new(random, keeps_order);
        let family = if mtu < 1280 {
            Family::V4
        } else {
            random.pick(&[Family::V4, Family::V4, Family::V6, Family::Nat64])
        };
        let mut plan = Self {
            mtu,
            offloads,
            memory_bytes,
            weather,
            mild,
            harsh,
            habits,
            family,
            workers,
            opener: Opener::Container,
        };
        match cast {
            Cast::Mild => plan.harsh.clear(),
            Cast::Harsh => plan.mild.clear(),
            Cast::Both => {}
            Cast::Published => plan.serve(),
        }
        plan
    }

    /// Clients outside open the connections, of a port that nobody serves too.
    fn serve(&mut self) {
        self.opener = Opener::Clients;
        if let Family::Nat64 = self.family {
            self.family = Family::V6;
        }
        for (part, script) in self.mild.iter_mut().chain(&mut self.harsh) {
            part.is_served = script.welcome == Welcome::Accept;
        }
    }

    /// The clients, each of which does what its script says.
    fn callers(&self, random: &mut Random) -> Vec<(Caller, SocketAddr)> {
        if self.opener == Opener::Container {
            return Vec::new();
        }
        let mild = self.mild.iter().map(|pair| (pair, IpAddr::from(container::ADDRESS)));
        let harsh = self.harsh.iter().map(|pair| (pair, self.family.addresses().0));
        mild.chain(harsh)
            .zip(20_000..)
            .map(|(((part, script), address), port)| {
                // Every other one is seen as the gateway.
                let from = match (port % 2 == 0, address.is_ipv4()) {
                    (true, _) => "127.0.0.1",
                    (false, true) => "198.51.100.7",
                    (false, false) => "2001:db8::7",
                };
                let script = Script { welcome: Welcome::Accept, ..*script };
                let from = SocketAddr::new(from.parse().unwrap(), port);
                let at = part.starts_at;
                let published_at = Instant::from_nanos(random.below(at.as_nanos() + 1));
                // Some come, or wait still, when it is too late; most have been connected then.
                let stays = Duration::from_micros(random.pick(&[0, 500, 20_000]));
                let withdrawn_at = if random.chance(500) { at + stays } else { Instant::FAR };
                let caller = Caller { at, from, port: part.port, script, published_at, withdrawn_at };
                (caller, SocketAddr::new(address, part.port))
            })
            .collect()
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
        // A program so slow that it would take hours shows nothing more.
        write_size: up / 1000 + 1 + random.below(50_000),
        read_size: down / 1000 + 1 + random.below(if slow { 2000 } else { 100_000 }),
        step: Duration::from_micros(random.pick(&[50, 1000, if slow { 50_000 } else { 100 }])),
        aborts_after: random.chance(60).then(|| random.below(down + 1)),
        receive_buffer: random.pick(&[2_000, 65_535, 500_000]),
        is_served: true,
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
        resets_at_end: None,
        murmurs: 0,
    };
    (part, script)
}

fn tcp_port(target: SocketAddr) -> PublishedPort {
    PublishedPort {
        transport: Transport::Tcp,
        outside: host::Family::of(target.ip()),
        target,
        is_local: false,
    }
}

/// A container, its port and its two directions of link.
struct Place {
    station: Box<dyn Station>,
    port: PortId,
    to_container: Link,
    to_gateway: Link,
}

/// A world in motion.
pub(crate) struct World {
    now: Instant,
    random: Random,
    workers: Vec<Worker<MemoryPort, SimHost>>,
    pool: Pool,
    places: Vec<Place>,
    scripts: Vec<Script>,
    has_vnet_header: bool,
    /// What each worker may hold.
    memory_bytes: usize,
    loses_frames: bool,
    opener: Opener,
    /// When ports are published, which, and what they lead to; when they are withdrawn.
    openings: Vec<(Instant, u16, SocketAddr)>,
    closings: Vec<(Instant, u16)>,
    published: HashMap<u16, PublicationId>,
}

impl World {
    pub(crate) fn new(seed: u64, plan: &Plan) -> Self {
        let mut random = Random::new(seed ^ 0x5eed);
        let pool = Pool::new(64);
        let config = config(plan.mtu, plan.memory_bytes, seed);
        let fdb = Arc::new(Fdb::new(64, [3; 16]));
        let host_random = Random::new(random.next());
        let scripts = || plan.mild.iter().chain(&plan.harsh);
        let workers = Exchange::new(Arc::new(Ownership::new(config.clone(), plan.workers)), plan.workers)
            .into_iter()
            .map(|exchange| {
                let mut host = SimHost::new(host_random.clone());
                host.scripts.extend(scripts().map(|(part, script)| (part.port, *script)));
                let share = Config { memory_bytes: plan.memory_bytes / plan.workers, ..config.clone() };
                Worker::new(share, Arc::clone(&fdb), pool.clone(), host, exchange)
            })
            .collect();
        let parts = |of: &[(Part, Script)]| of.iter().map(|(part, _)| *part).collect::<Vec<_>>();
        let mut world = Self {
            now: Instant::ZERO,
            random: Random::new(seed ^ 0x40b5),
            workers,
            pool,
            places: Vec::new(),
            scripts: scripts().map(|(_, script)| *script).collect(),
            has_vnet_header: plan.offloads.vnet_header,
            memory_bytes: plan.memory_bytes / plan.workers,
            loses_frames: plan.weather.loss > 0,
            opener: plan.opener,
            openings: Vec::new(),
            closings: Vec::new(),
            published: HashMap::new(),
        };
        if !plan.mild.is_empty() {
            let vnet = plan.offloads.vnet_header;
            let container = Container::new(plan.mtu, vnet, &parts(&plan.mild), plan.opener, &mut random);
            world.add(Box::new(container), plan, &mut random);
        }
        if !plan.harsh.is_empty() {
            let (mac, parts) = (config.mac, parts(&plan.harsh));
            let peer = Peer::new(
                plan.mtu,
                plan.offloads,
                plan.family,
                mac,
                plan.habits,
                &parts,
                plan.opener,
                &mut random,
            );
            world.add(Box::new(peer), plan, &mut random);
        }
        // A stream of its own, so that the rest of a seed's run stays what it was.
        for (caller, target) in plan.callers(&mut Random::new(seed ^ 0x9ab1)) {
            world.openings.push((caller.published_at, caller.port, target));
            world.closings.push((caller.withdrawn_at, caller.port));
            world.workers[0].host.callers.push(caller);
        }
        world
    }

    /// Attaches a container; every worker has its queue of the port.
    fn add(&mut self, station: Box<dyn Station>, plan: &Plan, random: &mut Random) {
        let port = || MemoryPort { offloads: plan.offloads, ..MemoryPort::default() };
        let mut workers = self.workers.iter_mut();
        let id = workers.next().unwrap().attach(port(), None).unwrap();
        workers.for_each(|worker| worker.switch.attach_as(id, port(), None).unwrap());
        self.places.push(Place {
            station,
            port: id,
            to_container: Link::new(plan.weather, Random::new(random.next())),
            to_gateway: Link::new(plan.weather, Random::new(random.next())),
        });
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
        self.places.iter_mut().for_each(|place| place.station.hang_up());
        self.workers.iter_mut().for_each(|worker| worker.host.fall_silent());
        // What was acknowledged is the servers' still, however slowly they read; and what is under way arrives.
        let end = self.now + Duration::from_secs(60);
        while let Some(next) = self.next().filter(|&next| next < end) {
            self.now = next.max(self.now + Duration::from_nanos(1));
            self.step();
        }
        for _ in 0..20 {
            self.now += Duration::from_secs(600);
            for _ in 0..4 {
                self.step();
            }
        }
        for worker in &self.workers {
            let load = worker.gateway.load();
            assert_eq!(load.tcp_flows, 0, "flows remain: {}", self.describe());
            assert_eq!(load.held_bytes, 0, "bytes remain held");
            assert_eq!(worker.host.open_sockets(), 0, "sockets remain open");
        }
    }

    fn step(&mut self) {
        for place in &mut self.places {
            while let Some(frame) = place.to_gateway.receive(self.now) {
                // The kernel's steering is a hint only: any worker may read the frame.
                let count = self.workers.len() as u64;
                let worker = &mut self.workers[self.random.below(count) as usize];
                let mut inbound = self.pool.for_len(frame.len());
                if self.has_vnet_header {
                    inbound.receive_buffer()[..frame.len()].copy_from_slice(&frame);
                    inbound.accept_received(frame.len()).expect("a container's header fits its frame");
                } else {
                    inbound.fill(&frame);
                }
                worker.switch.port_mut(place.port).unwrap().inbound.push_back(inbound);
                worker.mark_ready(place.port);
            }
            while let Some(frame) = place.to_container.receive(self.now) {
                place.station.receive(self.now, frame);
            }
            place.station.advance(self.now);
            while let Some(frame) = place.station.transmit() {
                place.to_gateway.send(self.now, frame);
            }
        }
        self.publish_and_withdraw();
        self.turn();
        for place in &mut self.places {
            for worker in &mut self.workers {
                for frame in worker.switch.port_mut(place.port).unwrap().outbound.drain(..) {
                    place.to_container.send(self.now, frame);
                }
            }
        }
    }

    /// Does what is due of the openings and closings, between the first worker's turns. A client that comes at the very
    /// moment of a closing comes first, and waits when the port goes.
    fn publish_and_withdraw(&mut self) {
        let (now, worker) = (self.now, &mut self.workers[0]);
        for (_, port, target) in self.openings.extract_if(.., |(at, ..)| *at <= now) {
            self.published.insert(port, worker.publish(tcp_port(target), port).unwrap());
        }
        worker.host.let_callers_in(now);
        for (_, port) in self.closings.extract_if(.., |(at, _)| *at <= now) {
            worker.withdraw(self.published.remove(&port).unwrap());
        }
    }

    /// Lets every worker do all it can at this moment, and checks the books after every turn.
    fn turn(&mut self) {
        loop {
            let mut more = false;
            for at in 0..self.workers.len() {
                let worker = &mut self.workers[at];
                let events = worker.host.advance(self.now);
                more |= !events.is_empty();
                more |= worker.turn(self.now, &events).more;
                self.check_books();
            }
            if !more && self.workers.iter().all(|worker| !worker.exchange.has_more()) {
                return self.workers.iter().for_each(|worker| self.check_flows(worker));
            }
        }
    }

    fn check_books(&self) {
        let mut books = Tally::default();
        for worker in &self.workers {
            books += worker.switch.tally;
            let held = worker.gateway.load().held_bytes;
            assert!(held <= self.memory_bytes, "{held} bytes held of {}", self.memory_bytes);
        }
        books.queued += self.workers[0].exchange.queued() as u64;
        books.check().unwrap();
    }

    /// Whoever looks at the flows sees as many bytes as went through them.
    fn check_flows(&self, worker: &Worker<MemoryPort, SimHost>) {
        for flow in worker.gateway.flows(self.now, &worker.host) {
            let Some(external) = flow.external else {
                assert_eq!(flow.state, FlowState::TimeWait);
                // Who was seen as another than itself has no script that its port would name.
                if let Some(script) = worker.host.script_of(flow.destination.port()) {
                    let bytes = (flow.bytes_sent, flow.bytes_received);
                    let has_them = |c: &Connection| c.closed && (c.received, c.delivered) == bytes;
                    let mut connections = self.connections().filter(|c| c.script.stream == script.stream);
                    assert!(script.resets() || connections.any(has_them), "{flow:?}");
                }
                continue;
            };
            let connection = worker.host.connection_at(external);
            assert!(connection.received <= flow.bytes_sent, "{flow:?}");
            assert!(connection.delivered >= flow.bytes_received, "{flow:?}");
            if connection.finished && !connection.script.resets() {
                assert_eq!(connection.received, flow.bytes_sent, "{flow:?}");
            }
        }
    }

    fn next(&mut self) -> Option<Instant> {
        let now = self.now;
        let workers = self.workers.iter().flat_map(|w| [w.host.next(), w.gateway.next_deadline()]);
        let places = self
            .places
            .iter_mut()
            .flat_map(|place| [place.to_container.next(), place.to_gateway.next(), place.station.next(now)]);
        let ports = self.openings.iter().map(|opening| opening.0);
        let ports =
            ports.chain(self.closings.iter().map(|closing| closing.0)).filter(|&at| at < Instant::FAR);
        workers.chain(places).flatten().chain(ports).min()
    }

    fn outcomes(&self) -> Vec<Outcome> {
        self.places.iter().flat_map(|place| place.station.outcomes()).collect()
    }

    fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.workers.iter().flat_map(|worker| worker.host.connections.values())
    }

    fn script_of(&self, part: &Part) -> &Script {
        self.scripts.iter().find(|script| script.stream == part.stream).unwrap()
    }

    /// The relay has reset the client before anything went through: nobody tries again.
    fn was_given_up(&self, script: &Script) -> bool {
        self.opener == Opener::Clients
            && self.connections().any(|c| c.script.stream == script.stream && c.was_given_up())
    }

    /// Every conversation that can end has ended.
    fn is_over(&self) -> bool {
        let outcomes = self.outcomes();
        outcomes.iter().all(|outcome| {
            let script = self.script_of(&outcome.part);
            outcome.ended
                || script.resets()
                || self.was_given_up(script)
                || matches!(script.welcome, Welcome::Silence | Welcome::Unreachable)
        }) && self.connections().all(|connection| {
            // A reset that was lost leaves a connection that only its idle timeout ends.
            let aborted = |o: &Outcome| o.aborted && o.part.stream == connection.script.stream;
            connection.closed || connection.script.welcome == Welcome::Silence || outcomes.iter().any(aborted)
        }) && self.workers.iter().all(|worker| worker.host.waiting() == 0)
    }

    fn check_streams(&self) {
        for outcome in self.outcomes() {
            let part = outcome.part;
            let connections: Vec<_> = self.connections().filter(|c| c.script.stream == part.stream).collect();
            assert!(!outcome.corrupt, "the container got other bytes than were sent: {part:?}");
            assert!(
                connections.iter().all(|c| !c.corrupt),
                "the server got other bytes than were sent: {part:?}"
            );
            let script = self.script_of(&part);
            if script.welcome != Welcome::Accept {
                assert_eq!((outcome.received, outcome.sent), (0, 0));
                continue;
            }
            if outcome.aborted || script.resets() {
                continue;
            }
            let was_full =
                |worker: &Worker<_, _>| worker.gateway.drops().get(DropReason::RelayMemoryExhausted) > 0;
            if connections.is_empty() && self.workers.iter().any(was_full) {
                // Refused: there was no memory for one more.
                assert_eq!(outcome.received, 0);
                continue;
            }
            if connections.iter().any(|c| c.came_too_late) {
                assert_eq!((outcome.received, connections.len()), (0, 1));
                continue;
            }
            // Every question where the container is was lost, or there was no memory for one more.
            if (self.loses_frames || self.memory_bytes <= SMALL_MEMORY)
                && connections.iter().any(|c| c.turned_away)
            {
                continue;
            }
            assert_eq!(
                outcome.received,
                part.expects,
                "bytes missing in the container: {part:?} {connections:#?} {}",
                self.describe()
            );
            let received: u64 = connections.iter().map(|c| c.received).sum();
            assert_eq!(received, part.sends, "bytes missing at the server: {connections:#?}");
        }
    }

    fn describe(&self) -> String {
        let stations: Vec<String> = self.places.iter().map(|place| place.station.describe()).collect();
        let connections: Vec<_> = self.connections().collect();
        let gateways: Vec<_> = self.workers.iter().map(|worker| &worker.gateway).collect();
        format!("{}\n{connections:#?}\n{gateways:?}", stations.join("\n"))
    }
}
