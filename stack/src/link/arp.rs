// SPDX-License-Identifier: MIT OR Apache-2.0
//! ARP: the gateway answers for its own IPv4 addresses and learns who asked.
//!
//! # How it works
//! Reception, reduced to what the gateway does (*ours*: the gateway's or the DNS forwarder's address):
//!
//! | sender's address | target | request | reply |
//! |---|---|---|---|
//! | ours | any | defended once in 10 s, else dropped | same |
//! | 0.0.0.0 (a probe) | ours | answered | dropped |
//! | 0.0.0.0 (a probe) | other | dropped: whose address it is shall answer | dropped |
//! | a host's | ours | learned, answered | learned |
//! | a host's | its own (an announcement) | learned | learned |
//! | a host's | other | updated if known, else dropped | updated if known, else dropped |
//!
//! # Sources
//! RFC 826 (reception), RFC 5227 (probes, announcements, defence).

use core::net::Ipv4Addr;

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol};
use wharf_switch::frame::ETHERNET_HEADER_LEN;
use wharf_switch::{Duration, Frame, Instant};

use super::neighbors::{Neighbors, Noted};
use crate::DropReason;

/// RFC 5227 section 1.1: "DEFEND_INTERVAL 10 seconds (minimum interval between defensive ARPs)".
pub const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// Bytes of an ARP packet for Ethernet and IPv4.
const ARP_LEN: usize = 28;

/// The gateway's ARP.
#[derive(Debug)]
pub struct Arp {
    mac: EthernetAddress,
    defended: Option<Instant>,
}

impl Arp {
    /// ARP of a gateway whose MAC address is `mac`.
    #[must_use]
    pub fn new(mac: EthernetAddress) -> Self {
        Self { mac, defended: None }
    }

    /// Takes an ARP packet (what follows the Ethernet header). `Ok(Some)` is to be sent ([`emit`]), `Ok(None)` was
    /// of use.
    ///
    /// # Errors
    /// Why the packet was of no use.
    pub fn handle(
        &mut self,
        now: Instant,
        neighbors: &mut Neighbors,
        packet: &[u8],
    ) -> Result<Option<ArpRepr>, DropReason> {
        let repr = ArpPacket::new_checked(packet).and_then(|packet| ArpRepr::parse(&packet));
        let ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: sender_mac,
            source_protocol_addr: sender,
            target_protocol_addr: target,
            ..
        } = repr.map_err(|_| DropReason::ArpMalformed)?
        else {
            return Err(DropReason::ArpMalformed);
        };
        if matches!(operation, ArpOperation::Unknown(_)) {
            return Err(DropReason::ArpMalformed);
        }
        if !sender_mac.is_unicast() || sender_mac == self.mac {
            return Err(DropReason::ArpSenderInvalid);
        }
        let target_is_ours = neighbors.scope().is_ours(target.into());
        if neighbors.scope().is_ours(sender.into()) {
            return self.defend(now, sender);
        }
        let asks = operation == ArpOperation::Request;
        if sender.is_unspecified() {
            // RFC 5227 section 1.1: "the term 'ARP Probe' is used to refer to an ARP Request packet, broadcast on
            // the local link, with an all-zero 'sender IP address'." An answer from anybody but the owner would
            // tell the container that its own address is taken.
            return if asks && target_is_ours {
                Ok(Some(self.answer(sender_mac, sender, target)))
            } else {
                Err(DropReason::ArpTargetElsewhere)
            };
        }
        // RFC 826: "If the pair <protocol type, sender protocol address> is already in my translation table, update
        // the sender hardware address field"; a new pair is entered only when I am the target. Announcements
        // (RFC 5227 section 2.3) are for everybody.
        let noted = if target_is_ours || sender == target {
            neighbors.learn(now, sender.into(), sender_mac)
        } else {
            neighbors.update(now, sender.into(), sender_mac)
        };
        if asks && target_is_ours {
            return Ok(Some(self.answer(sender_mac, sender, target)));
        }
        match noted {
            Noted::New | Noted::Confirmed | Noted::Changed(_) => Ok(None),
            Noted::Refused | Noted::Conflict => Err(DropReason::ArpTargetElsewhere),
        }
    }

    /// The question who has `target`; to everybody, or to the MAC address it was last at.
    #[must_use]
    pub fn request(&self, from: Ipv4Addr, target: Ipv4Addr) -> ArpRepr {
        ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: self.mac,
            source_protocol_addr: from,
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: target,
        }
    }

    /// The statement that `address` is the gateway's, for a link that just came up.
    #[must_use]
    pub fn announcement(&self, address: Ipv4Addr) -> ArpRepr {
        self.request(address, address)
    }

    fn answer(&self, to_mac: EthernetAddress, to: Ipv4Addr, target: Ipv4Addr) -> ArpRepr {
        ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: self.mac,
            source_protocol_addr: target,
            target_hardware_addr: to_mac,
            target_protocol_addr: to,
        }
    }

    /// RFC 5227 section 2.4 (c): a host that shall not give up its address "can elect to attempt to defend its
    /// address ... by broadcasting one single ARP Announcement", but not if it did so within DEFEND_INTERVAL.
    fn defend(&mut self, now: Instant, address: Ipv4Addr) -> Result<Option<ArpRepr>, DropReason> {
        if self.defended.is_some_and(|last| now.since(last) < DEFEND_INTERVAL) {
            return Err(DropReason::ArpConflict);
        }
        self.defended = Some(now);
        Ok(Some(self.announcement(address)))
    }
}

/// Writes `repr` as a whole Ethernet frame: replies to whom they answer, requests to everybody or to `confirm`.
pub fn emit(frame: &mut Frame, repr: &ArpRepr, confirm: Option<EthernetAddress>) {
    let ArpRepr::EthernetIpv4 { operation, source_hardware_addr, target_hardware_addr, .. } = *repr else {
        return;
    };
    let to = match operation {
        ArpOperation::Reply => target_hardware_addr,
        _ => confirm.unwrap_or(EthernetAddress::BROADCAST),
    };
    frame.clear();
    frame.set_len(ETHERNET_HEADER_LEN + ARP_LEN);
    let mut ethernet = EthernetFrame::new_unchecked(frame.bytes_mut());
    ethernet.set_src_addr(source_hardware_addr);
    ethernet.set_dst_addr(to);
    ethernet.set_ethertype(EthernetProtocol::Arp);
    repr.emit(&mut ArpPacket::new_unchecked(ethernet.payload_mut()));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wharf_switch::Pool;

    use super::*;
    use crate::config::tests::config;

    const HOST: EthernetAddress = EthernetAddress([0x02, 0, 0, 0, 0, 0x64]);
    const GATEWAY: [u8; 4] = [10, 0, 2, 2];
    const DNS: [u8; 4] = [10, 0, 2, 3];
    const HOST_IP: [u8; 4] = [10, 0, 2, 100];

    fn packet(operation: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, operation];
        bytes.extend_from_slice(&HOST.0);
        bytes.extend_from_slice(&sender);
        bytes.extend_from_slice(&[0; 6]);
        bytes.extend_from_slice(&target);
        bytes
    }

    struct Bench {
        arp: Arp,
        neighbors: Neighbors,
    }

    impl Bench {
        fn new() -> Self {
            Self { arp: Arp::new(config().mac), neighbors: Neighbors::new(&config()) }
        }

        fn handle(&mut self, secs: u64, packet: &[u8]) -> Result<Option<ArpRepr>, DropReason> {
            self.arp.handle(Instant::from_secs(secs), &mut self.neighbors, packet)
        }
    }

    #[test]
    fn a_request_for_the_gateway_is_answered_byte_for_byte() {
        let mut bench = Bench::new();
        let reply = bench.handle(0, &packet(1, HOST_IP, GATEWAY)).unwrap().unwrap();
        let mut frame = Pool::new(0).small();
        emit(&mut frame, &reply, None);
        let expected = [
            0x02, 0, 0, 0, 0, 0x64, 0x02, 0x77, 0, 0, 0, 1, 0x08, 0x06, // Ethernet
            0, 1, 8, 0, 6, 4, 0, 2, // reply
            0x02, 0x77, 0, 0, 0, 1, 10, 0, 2, 2, // from the gateway
            0x02, 0, 0, 0, 0, 0x64, 10, 0, 2, 100, // to who asked
        ];
        assert_eq!(frame.bytes(), expected);
        assert_eq!(bench.neighbors.peek(HOST_IP.into()), Some(HOST));
    }

    #[test]
    fn the_dns_address_is_answered_for_too_and_no_other() {
        let mut bench = Bench::new();
        assert!(bench.handle(0, &packet(1, HOST_IP, DNS)).unwrap().is_some());
        let other = packet(1, [10, 0, 2, 101], [10, 0, 2, 50]);
        assert_eq!(bench.handle(0, &other), Err(DropReason::ArpTargetElsewhere));
        assert_eq!(
            bench.neighbors.peek([10, 0, 2, 101].into()),
            None,
            "RFC 826: not the target, not entered"
        );
    }

    #[test]
    fn a_probe_for_a_containers_own_address_stays_unanswered() {
        // RFC 5227 section 2.1.1: any answer means that the address is in use.
        let mut bench = Bench::new();
        bench.neighbors.learn(Instant::ZERO, HOST_IP.into(), HOST);
        assert_eq!(bench.handle(0, &packet(1, [0; 4], HOST_IP)), Err(DropReason::ArpTargetElsewhere));
    }

    #[test]
    fn a_probe_for_the_gateways_address_is_answered() {
        let mut bench = Bench::new();
        let reply = bench.handle(0, &packet(1, [0; 4], GATEWAY)).unwrap().unwrap();
        assert!(matches!(reply, ArpRepr::EthernetIpv4 { operation: ArpOperation::Reply, .. }));
        assert_eq!(bench.neighbors.known().count(), 0);
    }

    #[test]
    fn an_announcement_is_learned_and_not_answered() {
        let mut bench = Bench::new();
        for operation in [1, 2] {
            assert_eq!(bench.handle(0, &packet(operation, HOST_IP, HOST_IP)), Ok(None));
            assert_eq!(bench.neighbors.peek(HOST_IP.into()), Some(HOST));
        }
    }

    #[test]
    fn a_reply_answers_our_question() {
        let mut bench = Bench::new();
        bench.neighbors.resolve(Instant::ZERO, HOST_IP.into());
        assert_eq!(bench.handle(0, &packet(2, HOST_IP, GATEWAY)), Ok(None));
        assert_eq!(bench.neighbors.peek(HOST_IP.into()), Some(HOST));
    }

    #[test]
    fn the_gateways_address_is_defended_once_in_ten_seconds() {
        let mut bench = Bench::new();
        let claim = packet(1, GATEWAY, GATEWAY);
        let announcement = bench.arp.announcement(GATEWAY.into());
        assert_eq!(bench.handle(0, &claim), Ok(Some(announcement)));
        assert_eq!(bench.handle(9, &claim), Err(DropReason::ArpConflict));
        assert_eq!(bench.handle(10, &claim), Ok(Some(announcement)));
        assert_eq!(bench.neighbors.peek(GATEWAY.into()), None);
    }

    #[test]
    fn a_question_goes_to_everybody_and_a_confirmation_to_one() {
        let bench = Bench::new();
        let mut frame = Pool::new(0).small();
        let question = bench.arp.request(GATEWAY.into(), HOST_IP.into());
        emit(&mut frame, &question, None);
        assert_eq!(&frame.bytes()[..6], &[0xff; 6]);
        emit(&mut frame, &question, Some(HOST));
        assert_eq!(&frame.bytes()[..6], &HOST.0);
        assert_eq!(&frame.bytes()[32..38], &[0; 6]);
    }

    #[test]
    fn packets_that_are_no_ethernet_arp_are_malformed() {
        let mut bench = Bench::new();
        let mut token_ring = packet(1, HOST_IP, GATEWAY);
        token_ring[1] = 6;
        let mut reverse = packet(1, HOST_IP, GATEWAY);
        reverse[7] = 3;
        for bytes in [token_ring, reverse, packet(1, HOST_IP, GATEWAY)[..27].to_vec()] {
            assert_eq!(bench.handle(0, &bytes), Err(DropReason::ArpMalformed));
        }
        let mut group = packet(1, HOST_IP, GATEWAY);
        group[8] = 0x03;
        assert_eq!(bench.handle(0, &group), Err(DropReason::ArpSenderInvalid));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), head in any::<bool>()) {
            let mut bytes = bytes;
            if head && bytes.len() >= 8 {
                bytes[..7].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0]);
            }
            let mut bench = Bench::new();
            if let Ok(Some(reply)) = bench.handle(0, &bytes) {
                emit(&mut Pool::new(0).small(), &reply, None);
            }
        }
    }
}
