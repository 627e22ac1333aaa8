// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two linked networks: containers of both speak TCP and UDP with each other through both gateways.
//!
//! # How it works
//! A seed decides everything: the weather on each container's link, workers, MTUs, and who sends what when. Each step moves to
//! the next moment at which anything happens; after every turn of a worker the books of each network must balance, and what
//! one has routed out the other has in, or waiting. At the end every stream has arrived as it was sent, and so has every
//! datagram that no link has lost.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use smoltcp::iface::{Config as InterfaceConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpAddress, IpCidr, IpEndpoint, IpProtocol, IpRepr,
    Ipv4Packet, Ipv6Packet, UdpPacket, UdpRepr,
};
use wharf::dataplane::exchange::Exchange;
use wharf::dataplane::worker::Worker;
use wharf_stack::{Config, DropReason, Ipv4Plan, Ipv6Plan, Ownership};
use wharf_switch::{Duration, Fdb, Instant, MemoryPort, Offloads, Pool, PortId, Tally};

use crate::container::{Nic, moment};
use crate::link::{Link, Weather};
use crate::outside::SimHost;
use crate::random::{Random, pattern};
use crate::world::config;

const HORIZON: Instant = Instant::from_secs(3600);
const TCP_PORT: u16 = 1000;
const UDP_PORT: u16 = 9;
const ETHERNET_LEN: usize = 14;
const UDP_LEN: usize = 8;

/// Everything about one run that a seed decides.
#[derive(Clone, Debug)]
struct Plan {
    weather: Weather,
    mtus: [usize; 2],
    workers: [usize; 2],
    is_ipv6: bool,
    streams: Vec<Stream>,
    datagrams: Vec<Datagram>,
}

/// A connection, opened by a container of one side.
#[derive(Clone, Copy, Debug)]
struct Stream {
    opener: usize,
    /// What the opener sends, and what it gets.
    sizes: [u64; 2],
    starts_at: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Datagram {
    sender: usize,
    len: u64,
    at: Instant,
}

impl Plan {
    fn new(seed: u64) -> Self {
        let random = &mut Random::new(seed ^ 0x11ed);
        let bad = random.chance(700);
        let weather = Weather {
            loss: if bad { random.pick(&[0, 10, 50]) } else { 0 },
            duplication: if bad { random.pick(&[0, 5, 50]) } else { 0 },
            reordering: if bad { random.pick(&[0, 10, 200]) } else { 0 },
            delay: Duration::from_micros(random.pick(&[0, 20, 1000])),
        };
        let moment = |random: &mut Random| Instant::from_millis(random.below(50));
        let streams = (0..1 + random.below(4)).map(|_| Stream {
            opener: random.below(2) as usize,
            sizes: [random.below(100_000), random.below(100_000)],
            starts_at: moment(random),
        });
        let streams = streams.collect();
        let datagrams = (0..random.below(20)).map(|_| Datagram {
            sender: random.below(2) as usize,
            len: random.below(1000),
            at: moment(random),
        });
        let datagrams = datagrams.collect();
        let mtu = |random: &mut Random| random.pick(&[1280, 1500, 9000, 65_520]);
        Self {
            weather,
            mtus: [mtu(random), mtu(random)],
            workers: [1 + random.below(3) as usize, 1 + random.below(3) as usize],
            is_ipv6: random.chance(400),
            streams,
            datagrams,
        }
    }
}

/// The address of the container on a side.
fn address(side: usize, is_ipv6: bool) -> IpAddr {
    let text = match (side, is_ipv6) {
        (0, false) => "10.0.2.100",
        (_, false) => "10.0.3.100",
        (0, true) => "fd00:db8::100",
        (_, true) => "fd00:db9::100",
    };
    text.parse().unwrap()
}

fn config_of(side: usize, mtu: usize, seed: u64) -> Config {
    let config = config(mtu, 1 << 20, seed);
    if side == 0 {
        return config;
    }
    Config {
        ipv4: Some(Ipv4Plan::new("10.0.3.0/24".parse().unwrap())),
        ipv6: Some(Ipv6Plan::new("fd00:db9::/64".parse().unwrap())),
        ..config
    }
}

/// One container's end of a connection.
#[derive(Debug)]
struct End {
    handle: SocketHandle,
    /// Where it connects to, if it opens, and when; taken when it does.
    opens: Option<(IpEndpoint, Instant)>,
    /// Names of the two byte streams, sizes, and how far they are.
    out: (u64, u64, u64),
    into: (u64, u64, u64),
}

/// A container played by smoltcp, with datagrams of its own making.
struct Container {
    nic: Nic,
    interface: Interface,
    sockets: SocketSet<'static>,
    ends: Vec<End>,
    /// What it will send: number and datagram.
    unsent: Vec<(u64, Datagram)>,
    received: BTreeSet<u64>,
    /// Datagrams of both that its link has lost.
    lost: BTreeSet<u64>,
    side: usize,
    is_ipv6: bool,
}

impl Container {
    fn new(side: usize, plan: &Plan, random: &mut Random) -> Self {
        let mut nic = Nic::new(plan.mtus[side], false);
        let mut config = InterfaceConfig::new(mac(side).into());
        config.random_seed = random.next();
        let mut interface = Interface::new(config, &mut nic, moment(Instant::ZERO));
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(address(side, false).into(), 24)).unwrap();
            addresses.push(IpCidr::new(address(side, true).into(), 64)).unwrap();
        });
        let networks = config_of(side, 1500, 0);
        let routes = interface.routes_mut();
        routes.add_default_ipv4_route(networks.ipv4.unwrap().gateway).unwrap();
        routes.add_default_ipv6_route(networks.ipv6.unwrap().gateway).unwrap();
        let mut sockets = SocketSet::new(Vec::new());
        let ends = (0..).zip(&plan.streams).map(|(number, stream)| {
            let buffer = || SocketBuffer::new(vec![0; 64 * 1024]);
            let mut socket = Socket::new(buffer(), buffer());
            let port = TCP_PORT + number;
            let is_opener = stream.opener == side;
            if !is_opener {
                socket.listen(port).unwrap();
            }
            let to = IpEndpoint::new(address(1 - side, plan.is_ipv6).into(), port);
            let (mine, other) = (usize::from(!is_opener), usize::from(is_opener));
            let name = |which: usize| u64::from(number) * 2 + which as u64;
            End {
                handle: sockets.add(socket),
                opens: is_opener.then_some((to, stream.starts_at)),
                out: (name(mine), stream.sizes[mine], 0),
                into: (name(other), stream.sizes[other], 0),
            }
        });
        let ends = ends.collect();
        let own = (0..).zip(plan.datagrams.iter().copied()).filter(|(_, datagram)| datagram.sender == side);
        let unsent = own.collect();
        let (received, lost) = (BTreeSet::new(), BTreeSet::new());
        Self { nic, interface, sockets, ends, unsent, received, lost, side, is_ipv6: plan.is_ipv6 }
    }

    fn receive(&mut self, frame: Vec<u8>) {
        match datagram_of(&frame) {
            Some(number) => {
                self.check_datagram(number, &frame);
                self.received.insert(number);
            }
            None => self.nic.inbound.push_back(frame),
        }
    }

    /// A datagram of the other side's container must be as that has sent it, but for the hop.
    fn check_datagram(&self, number: u64, frame: &[u8]) {
        let ip = &frame[ETHERNET_LEN..];
        let hop_limit = if self.is_ipv6 {
            Ipv6Packet::new_unchecked(ip).hop_limit()
        } else {
            let ip = Ipv4Packet::new_unchecked(ip);
            assert!(ip.verify_checksum());
            ip.hop_limit()
        };
        assert_eq!(hop_limit, 63, "two gateways are one hop");
        let addresses = [1 - self.side, self.side].map(|side| IpAddress::from(address(side, self.is_ipv6)));
        let udp = UdpPacket::new_checked(&ip[ip_header_len(self.is_ipv6)..]).unwrap();
        // The checksum covers the addresses.
        assert!(udp.verify_checksum(&addresses[0], &addresses[1]));
        let bytes = &udp.payload()[8..];
        assert!(bytes.iter().zip(0..).all(|(&byte, at)| byte == pattern(number, at)), "datagram {number}");
    }

    fn advance(&mut self, now: Instant) {
        self.interface.poll(moment(now), &mut self.nic, &mut self.sockets);
        for (end, local_port) in self.ends.iter_mut().zip(40_000..) {
            let socket = self.sockets.get_mut::<Socket<'_>>(end.handle);
            if let Some((to, _)) = end.opens.take_if(|(_, at)| *at <= now) {
                socket.connect(self.interface.context(), to, local_port).unwrap();
            }
            end.advance(socket);
        }
        self.interface.poll(moment(now), &mut self.nic, &mut self.sockets);
        for (number, datagram) in self.unsent.extract_if(.., |(_, datagram)| datagram.at <= now) {
            self.nic.outbound.push_back(datagram_frame(self.side, self.is_ipv6, number, datagram.len));
        }
    }

    fn next(&mut self, now: Instant) -> Option<Instant> {
        let delay = self.interface.poll_delay(moment(now), &self.sockets);
        let stack = delay.map(|delay| now + Duration::from_micros(delay.total_micros().max(1)));
        let opens = self.ends.iter().filter_map(|end| end.opens.map(|(_, at)| at));
        stack.into_iter().chain(opens).chain(self.unsent.iter().map(|(_, datagram)| datagram.at)).min()
    }

    fn is_done(&self) -> bool {
        let is_done = |end: &End| end.out.2 == end.out.1 && end.into.2 == end.into.1;
        self.unsent.is_empty() && self.ends.iter().all(is_done)
    }
}

impl End {
    /// Writes and reads all there is room and data for: the windows stay open.
    fn advance(&mut self, socket: &mut Socket<'_>) {
        let (name, size, sent) = &mut self.out;
        if socket.can_send() {
            let bytes: Vec<u8> =
                (*sent..*size.min(&mut (*sent + 20_000))).map(|at| pattern(*name, at)).collect();
            *sent += socket.send_slice(&bytes).unwrap() as u64;
        }
        if *sent == *size && socket.may_send() {
            socket.close();
        }
        let (name, _, received) = &mut self.into;
        while socket.can_recv() {
            let mut bytes = [0; 4096];
            let count = socket.recv_slice(&mut bytes).unwrap();
            for (&byte, at) in bytes[..count].iter().zip(*received..) {
                assert_eq!(byte, pattern(*name, at), "stream {name} at {at}");
            }
            *received += count as u64;
        }
    }
}

fn mac(side: usize) -> EthernetAddress {
    EthernetAddress([2, 0, 0, 0, 1, side as u8])
}

fn ip_header_len(is_ipv6: bool) -> usize {
    if is_ipv6 { 40 } else { 20 }
}

/// A datagram from one side's container to the other's, by its gateway. It begins with its number.
fn datagram_frame(side: usize, is_ipv6: bool, number: u64, len: u64) -> Vec<u8> {
    let payload: Vec<u8> =
        number.to_be_bytes().into_iter().chain((0..len).map(|at| pattern(number, at))).collect();
    let udp_len = UDP_LEN + payload.len();
    let mut frame = vec![0; ETHERNET_LEN + ip_header_len(is_ipv6) + udp_len];
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame);
    ethernet.set_src_addr(mac(side));
    ethernet.set_dst_addr(config_of(side, 1500, 0).mac);
    ethernet.set_ethertype(if is_ipv6 { EthernetProtocol::Ipv6 } else { EthernetProtocol::Ipv4 });
    let [src, dst] = [side, 1 - side].map(|side| IpAddress::from(address(side, is_ipv6)));
    let ip = IpRepr::new(src, dst, IpProtocol::Udp, udp_len, 64);
    ip.emit(ethernet.payload_mut(), &ChecksumCapabilities::default());
    UdpRepr { src_port: UDP_PORT, dst_port: UDP_PORT }.emit(
        &mut UdpPacket::new_unchecked(&mut ethernet.payload_mut()[ip_header_len(is_ipv6)..]),
        &src,
        &dst,
        payload.len(),
        |room| room.copy_from_slice(&payload),
        &ChecksumCapabilities::default(),
    );
    frame
}

/// The number of a datagram of [`datagram_frame`]'s, if the frame holds one.
fn datagram_of(frame: &[u8]) -> Option<u64> {
    let ethernet = EthernetFrame::new_checked(frame).unwrap();
    let ip = ethernet.payload();
    let (protocol, is_ipv6) = match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => (Ipv4Packet::new_checked(ip).ok()?.next_header(), false),
        EthernetProtocol::Ipv6 => (Ipv6Packet::new_checked(ip).ok()?.next_header(), true),
        _ => return None,
    };
    let udp = || UdpPacket::new_checked(&ip[ip_header_len(is_ipv6)..]).unwrap();
    let number = (protocol == IpProtocol::Udp).then(|| *udp().payload().first_chunk().unwrap())?;
    Some(u64::from_be_bytes(number))
}

/// A network with its container, and what lies between.
struct Side {
    workers: Vec<Worker<MemoryPort, SimHost>>,
    port: PortId,
    container: Container,
    to_container: Link,
    to_gateway: Link,
}

impl Side {
    fn new(side: usize, seed: u64, plan: &Plan, random: &mut Random) -> Self {
        let config = config_of(side, plan.mtus[side], seed);
        let fdb = Arc::new(Fdb::new(64, [3; 16]));
        let count = plan.workers[side];
        let exchanges = Exchange::new(Arc::new(Ownership::new(config.clone(), count)), count);
        let make = |exchange| {
            let host = SimHost::new(Random::new(seed));
            Worker::new(config.clone(), Arc::clone(&fdb), Pool::new(64), host, exchange)
        };
        let mut workers: Vec<_> = exchanges.into_iter().map(make).collect();
        let port = || MemoryPort { offloads: Offloads::NONE, ..MemoryPort::default() };
        let (first, others) = workers.split_first_mut().unwrap();
        let id = first.attach(port(), None).unwrap();
        others.iter_mut().for_each(|worker| worker.switch.attach_as(id, port(), None).unwrap());
        let mut link = || Link::new(plan.weather, Random::new(random.next()));
        let (to_container, to_gateway) = (link(), link());
        let container = Container::new(side, plan, random);
        Self { workers, port: id, container, to_container, to_gateway }
    }

    /// What a network's workers have booked together, which must balance.
    fn books(&self) -> Tally {
        let mut books = Tally::default();
        self.workers.iter().for_each(|worker| books += worker.switch.tally);
        books.queued += self.workers[0].exchange.queued() as u64;
        books.check().unwrap();
        books
    }

    /// Packets of the other network that wait.
    fn waiting(&self) -> u64 {
        self.workers.iter().map(|worker| worker.inlet.len() as u64).sum()
    }

    fn carry(&mut self, now: Instant, random: &mut Random) {
        while let Some(bytes) = self.to_gateway.receive(now) {
            // The kernel's steering is a hint only: any worker may read the frame.
            let at = random.below(self.workers.len() as u64) as usize;
            let mut frame = Pool::new(0).large();
            frame.fill(&bytes);
            self.workers[at].switch.port_mut(self.port).unwrap().inbound.push_back(frame);
            self.workers[at].mark_ready(self.port);
        }
        while let Some(frame) = self.to_container.receive(now) {
            self.container.receive(frame);
        }
        self.container.advance(now);
        for frame in self.container.nic.outbound.drain(..) {
            let lost = self.to_gateway.send(now, frame);
            self.container.lost.extend(lost.and_then(|frame| datagram_of(&frame)));
        }
    }

    fn send_out(&mut self, now: Instant) {
        for worker in &mut self.workers {
            for frame in worker.switch.port_mut(self.port).unwrap().outbound.drain(..) {
                let lost = self.to_container.send(now, frame);
                self.container.lost.extend(lost.and_then(|frame| datagram_of(&frame)));
            }
        }
    }

    fn next(&mut self, now: Instant) -> Option<Instant> {
        let workers = self.workers.iter().filter_map(|worker| worker.gateway.next_deadline());
        let links = [self.to_container.next(), self.to_gateway.next(), self.container.next(now)];
        workers.chain(links.into_iter().flatten()).min()
    }
}

fn link(sides: &mut [Side; 2], plan: &Plan) {
    for (here, there) in [(0, 1), (1, 0)] {
        let inlets: Vec<_> = sides[there].workers.iter().map(|worker| Arc::clone(&worker.inlet)).collect();
        let routes = config_of(there, plan.mtus[there], 0).routes_here(0);
        for (number, worker) in sides[here].workers.iter_mut().enumerate() {
            worker.links.set(vec![inlets.get(number % inlets.len()).cloned()]);
            worker.gateway.set_routes(routes.clone());
        }
    }
}

/// Lets every worker of both networks do all it can at this moment.
fn turn(sides: &mut [Side; 2], now: Instant) {
    loop {
        let mut more = false;
        for side in [0, 1] {
            for at in 0..sides[side].workers.len() {
                more |= sides[side].workers[at].turn(now, &[]).more;
                let books = sides.each_ref().map(Side::books);
                for (here, there) in [(0, 1), (1, 0)] {
                    assert_eq!(books[here].routed_out, books[there].routed_in + sides[there].waiting());
                }
            }
        }
        let waits = |side: &Side| side.waiting() > 0 || side.workers.iter().any(|w| w.exchange.has_more());
        if !more && !sides.iter().any(waits) {
            return;
        }
    }
}

/// Runs a seed until everything has arrived.
pub(crate) fn run(seed: u64) {
    let plan = Plan::new(seed);
    let mut random = Random::new(seed ^ 0x5eed);
    let mut sides = [0, 1].map(|side| Side::new(side, seed, &plan, &mut random));
    link(&mut sides, &plan);
    let mut now = Instant::ZERO;
    let mut settles_at = None;
    loop {
        sides.iter_mut().for_each(|side| side.carry(now, &mut random));
        turn(&mut sides, now);
        sides.iter_mut().for_each(|side| side.send_out(now));
        if settles_at.is_none() && sides.iter().all(|side| side.container.is_done()) {
            settles_at = Some(now + Duration::from_secs(5));
        }
        if settles_at.is_some_and(|end| now >= end) {
            break;
        }
        let next = sides.iter_mut().filter_map(|side| side.next(now)).min();
        let next = next.unwrap_or_else(|| panic!("seed {seed}: everybody waits for ever: {plan:#?}"));
        now = next.max(now + Duration::from_nanos(1));
        assert!(now < HORIZON, "seed {seed} is stuck: {plan:#?}");
    }
    check_datagrams(seed, &plan, &sides);
}

/// Each datagram has arrived on the other side, was lost by a link, or is booked as one that could not wait until its
/// container was found.
fn check_datagrams(seed: u64, plan: &Plan, sides: &[Side; 2]) {
    let arrived = |number: &u64| {
        sides
            .iter()
            .any(|side| side.container.received.contains(number) || side.container.lost.contains(number))
    };
    let missing = (0..plan.datagrams.len() as u64).filter(|number| !arrived(number)).count() as u64;
    let unfound: u64 = sides.iter().flat_map(|side| &side.workers).map(unfound).sum();
    assert!(missing <= unfound, "seed {seed}: {missing} datagrams missing, {unfound} booked: {plan:#?}");
    assert!(sides.iter().all(|side| side.books().routed_out > 0), "seed {seed}: nothing was routed");
}

/// Packets dropped because their container was not found.
fn unfound(worker: &Worker<MemoryPort, SimHost>) -> u64 {
    use DropReason::{ContainerNotFound, NeighborQuestionsExhausted, NeighborQueueFull};
    let drops = worker.gateway.drops();
    [ContainerNotFound, NeighborQuestionsExhausted, NeighborQueueFull]
        .map(|reason| drops.get(reason))
        .iter()
        .sum()
}
