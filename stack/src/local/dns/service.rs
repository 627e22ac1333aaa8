// SPDX-License-Identifier: MIT OR Apache-2.0
//! The DNS service as the gateway sees it: packets in, frames out.
//!
//! # Path
//! ```text
//! UDP port 53 --> handle_datagram --\                        /--> host sockets
//!                                    >--> Forwarder::handle_query
//! TCP port 53 --> handle_packet  --/                         \<-- handle_event
//! poll_frame  <-- replies over UDP, segments over TCP
//! ```
//! After any of these, and when [`Service::poll_at`] has come, [`Service::poll`] moves everything on.

use core::net::{IpAddr, SocketAddr};
use std::collections::VecDeque;

use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol};
use wharf_switch::frame::ETHERNET_HEADER_LEN;
use wharf_switch::{Checksum, Frame, Instant, Pool};

use super::tcp_host::TcpHost;
use super::{Client, Forwarder, PORT};
use crate::host::{Host, HostEvent};
use crate::wire::emit::{self, Path};
use crate::{Config, DropReason};

/// DNS over UDP and TCP at the gateway's addresses.
#[derive(Debug)]
pub struct Service {
    mac: EthernetAddress,
    forwarder: Forwarder,
    streams: TcpHost,
    /// When [`Service::poll`] has something to do; [`Instant::ZERO`] when something came in since the last time.
    due: Instant,
    /// The same of the streams alone, which most clients need not.
    streams_due: Instant,
    /// Replies over UDP, to be taken.
    datagrams: VecDeque<((EthernetAddress, SocketAddr, IpAddr), Vec<u8>)>,
}

impl Service {
    /// The service of the network `config` describes.
    #[must_use]
    pub fn new(config: &Config, now: Instant) -> Self {
        let mut forwarder = Forwarder::new(config);
        forwarder.exclude_from_dns64(&config.dns64_exclusions);
        Self {
            mac: config.mac,
            forwarder,
            streams: TcpHost::new(config, now),
            due: Instant::FAR,
            streams_due: Instant::FAR,
            datagrams: VecDeque::new(),
        }
    }

    /// The forwarder, for its figures.
    #[must_use]
    pub fn forwarder(&self) -> &Forwarder {
        &self.forwarder
    }

    /// The forwarder, for its settings.
    pub fn forwarder_mut(&mut self) -> &mut Forwarder {
        &mut self.forwarder
    }

    /// Takes the payload of a datagram that the host at `mac` sent to port 53 of our address `to`.
    ///
    /// # Errors
    /// Why it is not answered.
    pub fn handle_datagram<H: Host>(
        &mut self,
        now: Instant,
        host: &mut H,
        (mac, from, to): (EthernetAddress, SocketAddr, IpAddr),
        payload: &[u8],
    ) -> Result<(), DropReason> {
        self.due = Instant::ZERO;
        self.forwarder.handle_query(now, host, Client::Udp { mac, from, to }, payload)
    }

    /// Takes a whole IP packet with a TCP segment for port 53 of one of our unicast addresses, its checksum verified
    /// or owed, from the host at `mac`.
    pub fn handle_packet(&mut self, mac: EthernetAddress, packet: &[u8]) {
        self.due = Instant::ZERO;
        self.streams_due = Instant::ZERO;
        self.streams.handle_packet(mac, packet);
    }

    /// A socket of ours became usable.
    pub fn handle_event<H: Host>(&mut self, now: Instant, host: &mut H, event: HostEvent) {
        self.due = Instant::ZERO;
        self.forwarder.handle_event(now, host, event);
    }

    /// Moves everything on that came in or is due. Costs nothing when there is nothing.
    pub fn poll<H: Host>(&mut self, now: Instant, host: &mut H) {
        if self.due > now {
            return;
        }
        self.forwarder.poll(now, host);
        // Replies to streams may let the streams be read again, and some queries are answered on the spot: once more
        // as long as that goes on, which each connection's limits bound.
        let mut streams_are_due = self.streams_due <= now;
        while self.sort_replies() || streams_are_due {
            self.streams.poll(now, host, &mut self.forwarder);
            self.streams_due = self.streams.poll_at(now);
            streams_are_due = false;
        }
        self.due = self.forwarder.poll_at().min(self.streams_due);
    }

    /// When [`Service::poll`] has something to do.
    #[must_use]
    pub fn poll_at(&self) -> Instant {
        self.due
    }

    /// The next frame to be sent.
    pub fn poll_frame(&mut self, pool: &Pool) -> Option<Frame> {
        if let Some((way, reply)) = self.datagrams.pop_front() {
            return Some(self.datagram_frame(pool, way, &reply));
        }
        let segment = self.streams.poll_segment()?;
        let len = ETHERNET_HEADER_LEN + segment.packet.len();
        let mut frame = pool.for_len(len);
        frame.set_len(len);
        let mut ethernet = EthernetFrame::new_unchecked(frame.bytes_mut());
        ethernet.set_src_addr(self.mac);
        ethernet.set_dst_addr(segment.mac);
        ethernet.set_ethertype(match segment.to {
            IpAddr::V4(_) => EthernetProtocol::Ipv4,
            IpAddr::V6(_) => EthernetProtocol::Ipv6,
        });
        ethernet.payload_mut().copy_from_slice(&segment.packet);
        frame.offload.checksum = Checksum::Valid;
        Some(frame)
    }

    /// Hands out the forwarder's replies. Returns whether a stream got one.
    fn sort_replies(&mut self) -> bool {
        let mut any = false;
        while let Some((client, reply)) = self.forwarder.poll_reply() {
            match client {
                Client::Tcp { connection, .. } => {
                    self.streams.handle_reply(connection, &reply);
                    any = true;
                }
                Client::Udp { mac, from, to } => self.datagrams.push_back(((mac, from, to), reply)),
            }
        }
        any
    }

    fn datagram_frame(
        &self,
        pool: &Pool,
        (mac, from, to): (EthernetAddress, SocketAddr, IpAddr),
        reply: &[u8],
    ) -> Frame {
        let path = Path { src_mac: self.mac, dst_mac: mac, src: to, dst: from.ip() };
        emit::datagram(pool, &path, (PORT, from.port()), reply)
    }
}

#[cfg(test)]
mod tests {
    use smoltcp::wire::{
        IpAddress, Ipv4Packet, Ipv6Packet, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket,
    };

    use super::super::message::tests::query;
    use super::super::message::{Message, kind};
    use super::super::script::ScriptedHost;
    use super::*;
    use crate::config::tests::config;

    const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 0x64]);
    const NOW: Instant = Instant::from_secs(1);

    fn service() -> (Service, ScriptedHost) {
        let mut config = config();
        config.nameservers = Vec::new();
        (Service::new(&config, NOW), ScriptedHost::default())
    }

    #[test]
    fn a_reply_over_udp_comes_from_the_address_and_port_that_were_asked() {
        for (from, to) in [("10.0.2.100", "10.0.2.3"), ("fd00:db8::64", "fd00:db8::3")] {
            let (mut service, mut host) = service();
            let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let way = (MAC, SocketAddr::new(from, 4000), to);
            service.handle_datagram(NOW, &mut host, way, &query("a.example", kind::A, None)).unwrap();
            assert!(service.poll_at() <= NOW);
            service.poll(NOW, &mut host);
            let mut frame = service.poll_frame(&Pool::new(0)).expect("the refusal");
            wharf_switch::offload::complete_checksum(&mut frame).unwrap();
            let ethernet = EthernetFrame::new_checked(frame.bytes()).unwrap();
            assert_eq!((ethernet.dst_addr(), ethernet.src_addr()), (MAC, config().mac));
            let payload = match to {
                IpAddr::V4(_) => Ipv4Packet::new_checked(ethernet.payload()).unwrap().payload(),
                IpAddr::V6(_) => Ipv6Packet::new_checked(ethernet.payload()).unwrap().payload(),
            };
            let udp = UdpPacket::new_checked(payload).unwrap();
            assert!(udp.verify_checksum(&IpAddress::from(to), &IpAddress::from(from)));
            assert_eq!((udp.src_port(), udp.dst_port()), (53, 4000));
            assert!(Message::parse(udp.payload()).is_some());
            assert!(service.poll_frame(&Pool::new(0)).is_none());
            assert_eq!(service.poll_at(), Instant::FAR);
        }
    }

    #[test]
    fn a_segment_is_answered_in_a_finished_frame_to_who_sent_it() {
        let (mut service, mut host) = service();
        let (from, to) = (IpAddress::v4(10, 0, 2, 100), IpAddress::v4(10, 0, 2, 3));
        let syn = TcpRepr {
            src_port: 4000,
            dst_port: 53,
            control: TcpControl::Syn,
            seq_number: TcpSeqNumber(7),
            ack_number: None,
            window_len: 1000,
            window_scale: None,
            max_seg_size: Some(1460),
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        let mut packet = vec![0; 20 + syn.buffer_len()];
        let len = u16::try_from(packet.len()).unwrap();
        let mut ip = Ipv4Packet::new_unchecked(&mut packet[..]);
        ip.set_version(4);
        ip.set_header_len(20);
        ip.set_total_len(len);
        ip.set_hop_limit(64);
        ip.set_next_header(smoltcp::wire::IpProtocol::Tcp);
        ip.set_src_addr([10, 0, 2, 100].into());
        ip.set_dst_addr([10, 0, 2, 3].into());
        ip.fill_checksum();
        let ignored = smoltcp::phy::ChecksumCapabilities::ignored();
        syn.emit(&mut TcpPacket::new_unchecked(ip.payload_mut()), &from, &to, &ignored);
        service.handle_packet(MAC, &packet);
        service.poll(NOW, &mut host);
        let frame = service.poll_frame(&Pool::new(0)).expect("a SYN-ACK");
        let ethernet = EthernetFrame::new_checked(frame.bytes()).unwrap();
        assert_eq!(ethernet.dst_addr(), MAC);
        let ip = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
        let tcp = TcpPacket::new_checked(ip.payload()).unwrap();
        assert!(ip.verify_checksum() && tcp.verify_checksum(&to, &from));
        assert!(tcp.syn() && tcp.ack() && tcp.ack_number() == TcpSeqNumber(8));
    }
}
