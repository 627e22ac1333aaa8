// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which worker owns a packet: every flow has one, whichever queue its frames come in by.
//!
//! # How it works
//! | packet | owner |
//! |---|---|
//! | TCP | keyed hash of both ends: the clients of one published port spread over all workers |
//! | ICMP error about TCP | as the segment it quotes |
//! | UDP, echo to the outside | keyed hash of protocol, internal address, internal port or identifier |
//! | UDP to a client that a container knows by the gateway's address | the same |
//! | ARP reply, Neighbor Advertisement | everybody: any worker may have asked |
//! | a fragment | keyed hash of source, destination, identification; once whole, as above |
//! | ARP, and whatever else ends at the gateway itself | worker 0 |
//!
//! The kernel's steering of a device's queues is a hint only: it is lost when a flow is idle, and a worker hands over
//! what it does not own.

use core::hash::{BuildHasher, Hash};
use core::net::SocketAddr;

use smoltcp::wire::{
    ArpOperation, ArpPacket, EthernetFrame, EthernetProtocol, Icmpv6Message, IpProtocol, Ipv6Packet,
};
use wharf_switch::Frame;

use crate::Config;
use crate::host::Transport;
use crate::keyed::KeyedState;
use crate::local::{Local, dns};
use crate::transit::flow::FlowKey;
use crate::transit::publish::PublishedPort;
use crate::transit::quoted::QuotedSegment;
use crate::transit::{tcp, udp};
use crate::wire::Packet;

/// Who must see a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressee {
    /// The worker with this number.
    Worker(usize),
    /// Every worker.
    Everybody,
}

/// The rule of one network.
#[derive(Debug)]
pub struct Ownership {
    config: Config,
    hasher: KeyedState,
    workers: usize,
}

impl Ownership {
    /// The rule of the network `config` describes, shared by `workers` workers (at least one).
    #[must_use]
    pub fn new(config: Config, workers: usize) -> Self {
        let hasher = KeyedState::new(&config.seed, b"ownership");
        Self { config, hasher, workers: workers.max(1) }
    }

    /// Who must see a frame for the gateway.
    #[must_use]
    pub fn addressee(&self, frame: &Frame) -> Addressee {
        match self.workers {
            1 => Addressee::Worker(0),
            _ if is_neighbors_answer(frame) => Addressee::Everybody,
            _ => Addressee::Worker(self.owner(frame)),
        }
    }

    fn owner(&self, frame: &Frame) -> usize {
        // ARP is worker 0's, and so is to drop what cannot be read.
        let Ok(packet) = Packet::parse(frame) else { return 0 };
        if let Some(fragment) = packet.fragment {
            return self.pick(&(packet.src, packet.dst, fragment.ident));
        }
        if let Some(key) = tcp_flow(&packet, frame) {
            // The gateway's own TCP service has no flows.
            let is_service = key.remote.port() == dns::PORT && Local::is_for_us(&self.config, &packet);
            return if is_service { 0 } else { self.pick(&key) };
        }
        if Local::is_for_us(&self.config, &packet) && !may_be_for_client(&self.config, &packet, frame) {
            return 0;
        }
        internal_port(&packet, frame)
            .map_or(0, |internal| self.pick(&(u8::from(packet.protocol), packet.src, internal)))
    }

    /// The number of the worker that watches a published port: of TCP the first, which hands connections to their owners,
    /// of UDP the owner of what the container's port sends.
    #[must_use]
    pub fn of_port(&self, port: &PublishedPort) -> usize {
        match port.transport {
            Transport::Tcp => 0,
            Transport::Udp => {
                let (address, internal) = (port.target.ip(), port.target.port());
                self.pick(&(u8::from(IpProtocol::Udp), address, internal))
            }
        }
    }

    /// The number of the worker that owns the TCP flow between these ends.
    #[must_use]
    pub fn owner_of_tcp(&self, container: SocketAddr, remote: SocketAddr) -> usize {
        self.pick(&FlowKey { container, remote })
    }

    fn pick(&self, key: &impl Hash) -> usize {
        usize::try_from(self.hasher.hash_one(key) % self.workers as u64).unwrap_or(0)
    }
}

/// Whether a frame answers a question of a gateway's about who is where, which may have been any worker's.
fn is_neighbors_answer(frame: &Frame) -> bool {
    let Ok(ethernet) = EthernetFrame::new_checked(frame.bytes()) else { return false };
    match ethernet.ethertype() {
        EthernetProtocol::Arp => {
            ArpPacket::new_checked(ethernet.payload()).is_ok_and(|arp| arp.operation() == ArpOperation::Reply)
        }
        EthernetProtocol::Ipv6 => Ipv6Packet::new_checked(ethernet.payload()).is_ok_and(|packet| {
            packet.next_header() == IpProtocol::Icmpv6
                && packet.payload().first() == Some(&u8::from(Icmpv6Message::NeighborAdvert))
        }),
        EthernetProtocol::Ipv4 | EthernetProtocol::Unknown(_) => false,
    }
}

/// Whether a packet to the gateway may be for a client of a published UDP port whom the container knows by the gateway's
/// address.
fn may_be_for_client(config: &Config, packet: &Packet, frame: &Frame) -> bool {
    config.is_gateway(packet.dst)
        && packet.protocol == IpProtocol::Udp
        && udp::ends(packet, frame).is_some_and(|ends| !Local::is_service(ends.remote.port()))
}

/// The TCP flow that a packet is of, or about.
fn tcp_flow(packet: &Packet, frame: &Frame) -> Option<FlowKey> {
    match packet.protocol {
        IpProtocol::Tcp => tcp::key_of(packet, frame),
        IpProtocol::Icmp | IpProtocol::Icmpv6 => QuotedSegment::parse(packet, frame).map(|quoted| quoted.key),
        _ => None,
    }
}

/// The port or identifier by which a container tells its flows apart.
fn internal_port(packet: &Packet, frame: &Frame) -> Option<u16> {
    let bytes = packet.payload(frame);
    let at = match packet.protocol {
        IpProtocol::Udp => 0,
        IpProtocol::Icmp | IpProtocol::Icmpv6 => 4,
        _ => return None,
    };
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::config;
    use crate::host::Family;
    use crate::wire::emit::{self, Path};
    use smoltcp::wire::{
        ArpRepr, EthernetAddress, Icmpv4Message, Icmpv4Packet, TcpControl, TcpRepr, TcpSeqNumber,
    };
    use wharf_switch::Pool;

    fn datagram(dst: &str, src_port: u16, dst_port: u16) -> Frame {
        let path = Path {
            src_mac: EthernetAddress([2, 0, 0, 0, 0, 9]),
            dst_mac: config().mac,
            src: "10.0.2.100".parse().unwrap(),
            dst: dst.parse().unwrap(),
        };
        let mut frame = Pool::new(1).small();
        emit::udp(&mut frame, &path, (src_port, dst_port), 64, 0, 0);
        frame
    }

    #[test]
    fn one_internal_endpoint_has_one_owner_for_all_destinations() {
        let ownership = Ownership::new(config(), 3);
        let owner = ownership.owner(&datagram("198.51.100.1", 5000, 1));
        for last in 2..100 {
            let other = datagram(&format!("198.51.100.{last}"), 5000, last);
            assert_eq!(ownership.owner(&other), owner);
        }
    }

    #[test]
    fn flows_spread_over_all_workers() {
        let ownership = Ownership::new(config(), 3);
        let mut seen = [0; 3];
        for port in 1000..1300 {
            seen[ownership.owner(&datagram("198.51.100.1", port, 1))] += 1;
        }
        assert!(seen.iter().all(|&count| count > 50), "{seen:?}");
    }

    /// A segment between two ends, the container's first or last.
    fn segment(from: (&str, u16), to: (&str, u16)) -> Frame {
        let path = Path {
            src_mac: EthernetAddress([2, 0, 0, 0, 0, 9]),
            dst_mac: config().mac,
            src: from.0.parse().unwrap(),
            dst: to.0.parse().unwrap(),
        };
        let header = TcpRepr {
            src_port: from.1,
            dst_port: to.1,
            control: TcpControl::None,
            seq_number: TcpSeqNumber(1),
            ack_number: None,
            window_len: 0,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        let mut frame = Pool::new(1).small();
        emit::tcp(&mut frame, &path, &header, 0, u16::MAX);
        frame
    }

    #[test]
    fn clients_of_one_published_port_spread_over_all_workers() {
        let ownership = Ownership::new(config(), 3);
        let mut seen = [0; 3];
        for port in 1000..1300 {
            // Clients that are seen as the gateway are no different.
            for client in ["203.0.113.9", "10.0.2.2"] {
                let owner = ownership.owner(&segment(("10.0.2.100", 80), (client, port)));
                let ends = ("10.0.2.100:80", format!("{client}:{port}"));
                assert_eq!(ownership.owner_of_tcp(ends.0.parse().unwrap(), ends.1.parse().unwrap()), owner);
                seen[owner] += 1;
            }
        }
        assert!(seen.iter().all(|&count| count > 100), "{seen:?}");
    }

    #[test]
    fn an_icmp_error_about_a_segment_belongs_to_the_segments_owner() {
        let ownership = Ownership::new(config(), 3);
        for port in 1000..1100 {
            let quoted = segment(("203.0.113.9", port), ("10.0.2.100", 80));
            let path = Path {
                src_mac: EthernetAddress([2, 0, 0, 0, 0, 9]),
                dst_mac: config().mac,
                src: "10.0.2.100".parse().unwrap(),
                dst: "203.0.113.9".parse().unwrap(),
            };
            let quoted = &quoted.bytes()[14..];
            let mut frame = Pool::new(1).small();
            let body = emit::ip(&mut frame, &path, IpProtocol::Icmp, 64, 8 + quoted.len());
            body.fill(0);
            body[8..].copy_from_slice(quoted);
            let mut icmp = Icmpv4Packet::new_unchecked(body);
            icmp.set_msg_type(Icmpv4Message::DstUnreachable);
            icmp.set_msg_code(3);
            icmp.fill_checksum();
            let (container, client) = ("10.0.2.100:80", format!("203.0.113.9:{port}"));
            let owner = ownership.owner_of_tcp(container.parse().unwrap(), client.parse().unwrap());
            assert_eq!(ownership.owner(&frame), owner);
        }
    }

    #[test]
    fn answers_to_clients_that_are_seen_as_the_gateway_belong_to_their_port() {
        let ownership = Ownership::new(config(), 3);
        for port in 1000..1100 {
            let published = PublishedPort {
                transport: Transport::Udp,
                outside: Family::V4,
                target: SocketAddr::from(([10, 0, 2, 100], port)),
                is_local: false,
            };
            let owner = ownership.of_port(&published);
            assert_eq!(ownership.owner(&datagram("10.0.2.2", port, 5555)), owner);
            assert_eq!(ownership.owner(&datagram("203.0.113.9", port, 5555)), owner);
            assert_eq!(ownership.of_port(&PublishedPort { transport: Transport::Tcp, ..published }), 0);
        }
    }

    #[test]
    fn answers_about_who_is_where_are_everybodys() {
        let ownership = Ownership::new(config(), 3);
        let arp = |operation| {
            let repr = ArpRepr::EthernetIpv4 {
                operation,
                source_hardware_addr: EthernetAddress([2, 0, 0, 0, 0, 9]),
                source_protocol_addr: [10, 0, 2, 100].into(),
                target_hardware_addr: config().mac,
                target_protocol_addr: [10, 0, 2, 2].into(),
            };
            let mut frame = Pool::new(1).small();
            frame.set_len(14 + repr.buffer_len());
            let mut ethernet = EthernetFrame::new_unchecked(frame.bytes_mut());
            ethernet.set_ethertype(EthernetProtocol::Arp);
            repr.emit(&mut ArpPacket::new_unchecked(ethernet.payload_mut()));
            frame
        };
        assert_eq!(ownership.addressee(&arp(ArpOperation::Reply)), Addressee::Everybody);
        assert_eq!(ownership.addressee(&arp(ArpOperation::Request)), Addressee::Worker(0));
    }

    #[test]
    fn the_gateways_services_are_worker_zeros() {
        let ownership = Ownership::new(config(), 3);
        for port in 1000..1100 {
            for (service, its_port) in [("10.0.2.3", 53), ("10.0.2.2", 53), ("10.0.2.2", 67)] {
                assert_eq!(ownership.owner(&datagram(service, port, its_port)), 0);
            }
            assert_eq!(ownership.owner(&segment(("10.0.2.100", port), ("10.0.2.3", 53))), 0);
        }
    }
}
