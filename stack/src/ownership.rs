// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which worker owns a packet: every flow has one, whichever queue its frames come in by.
//!
//! # How it works
//! | packet | owner |
//! |---|---|
//! | TCP, UDP, echo to the outside | keyed hash of protocol, internal address, internal port or identifier |
//! | a fragment | keyed hash of source, destination, identification; once whole, as above |
//! | ARP, and whatever ends at the gateway itself | worker 0 |
//!
//! The kernel's steering of a device's queues is a hint only: it is lost when a flow is idle, and a worker hands over
//! what it does not own.

use core::hash::BuildHasher;

use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol};
use wharf_switch::Frame;

use crate::Config;
use crate::keyed::KeyedState;
use crate::local::Local;
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
        let hash = if let Some(fragment) = packet.fragment {
            self.hasher.hash_one((packet.src, packet.dst, fragment.ident))
        } else {
            if Local::is_for_us(&self.config, &packet) {
                return 0;
            }
            let Some(internal) = internal_port(&packet, frame) else { return 0 };
            self.hasher.hash_one((u8::from(packet.protocol), packet.src, internal))
        };
        usize::try_from(hash % self.workers as u64).unwrap_or(0)
    }
}

/// The port or identifier by which a container tells its flows apart.
fn internal_port(packet: &Packet, frame: &Frame) -> Option<u16> {
    let bytes = packet.payload(frame);
    let at = match packet.protocol {
        IpProtocol::Tcp | IpProtocol::Udp => 0,
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
    use smoltcp::wire::EthernetAddress;
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

    #[test]
    fn the_gateways_services_are_worker_zeros() {
        let ownership = Ownership::new(config(), 3);
        for port in 1000..1100 {
            assert_eq!(ownership.owner(&datagram("10.0.2.3", port, 53)), 0);
        }
    }
}
