// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which worker owns a packet: every flow has one, whichever queue its frames come in by.
//!
//! # How it works
//! | packet | owner |
//! |---|---|
//! | TCP | keyed hash of both ends: the clients of one published port spread over all workers |
//! | ICMP error about TCP | as the segment it quotes |
//! | UDP, echo to the outside | keyed hash of protocol, internal address, internal port or identifier |
//! | a fragment | keyed hash of source, destination, identification; once whole, as above |
//! | ARP, and whatever else ends at the gateway itself | worker 0 |
//!
//! The kernel's steering of a device's queues is a hint only: it is lost when a flow is idle, and a worker hands over
//! what it does not own.

use core::hash::{BuildHasher, Hash};
use core::net::SocketAddr;

use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol};
use wharf_switch::Frame;

use crate::Config;
use crate::keyed::KeyedState;
use crate::local::{Local, dns};
use crate::transit::flow::FlowKey;
use crate::transit::quoted::QuotedSegment;
use crate::transit::tcp;
use crate::wire::Packet;

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

    /// The number of the worker that must see a frame for the gateway.
    #[must_use]
    pub fn owner(&self, frame: &Frame) -> usize {
        if self.workers == 1 {
            return 0;
        }
        let ethertype = EthernetFrame::new_checked(frame.bytes()).map(|ethernet| ethernet.ethertype());
        let packet = match ethertype {
            Ok(EthernetProtocol::Ipv4) => Packet::parse_ipv4(frame),
            Ok(EthernetProtocol::Ipv6) => Packet::parse_ipv6(frame),
            Ok(EthernetProtocol::Arp | EthernetProtocol::Unknown(_)) | Err(_) => return 0,
        };
        // What cannot be read is worker 0's to drop.
        let Ok(packet) = packet else { return 0 };
        if let Some(fragment) = packet.fragment {
            return self.pick(&(packet.src, packet.dst, fragment.ident));
        }
        if let Some(key) = tcp_flow(&packet, frame) {
            // The gateway's own TCP service has no flows.
            let is_service = key.remote.port() == dns::PORT && Local::is_for_us(&self.config, &packet);
            return if is_service { 0 } else { self.pick(&key) };
        }
        if Local::is_for_us(&self.config, &packet) {
            return 0;
        }
        internal_port(&packet, frame)
            .map_or(0, |internal| self.pick(&(u8::from(packet.protocol), packet.src, internal)))
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
    use crate::wire::emit::{self, Path};
    use smoltcp::wire::{EthernetAddress, Icmpv4Message, Icmpv4Packet, TcpControl, TcpRepr, TcpSeqNumber};
    use wharf_switch::Pool;

    fn datagram(dst: &str, src_port: u16, dst_port: u16) -> Frame {
        let path = Path {
            src_mac: EthernetAddress([2, 0, 0, 0, 0, 9]),
            dst_mac: config().mac,
            src: "10.0.2.100".parse().unwrap(),
            dst: dst.parse().unwrap(),
        };
        let mut frame = Pool::new(1).small();
        emit::udp(&mut frame, &path, (src_port, dst_port), 64, 0);
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
    fn the_gateways_services_are_worker_zeros() {
        let ownership = Ownership::new(config(), 3);
        for port in 1000..1100 {
            assert_eq!(ownership.owner(&datagram("10.0.2.3", port, 53)), 0);
            assert_eq!(ownership.owner(&segment(("10.0.2.100", port), ("10.0.2.3", 53))), 0);
        }
    }
}
