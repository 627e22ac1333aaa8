// SPDX-License-Identifier: MIT OR Apache-2.0
//! A container played by a TCP endpoint of our own, which behaves as Linux does where smoltcp is mild.
//!
//! # How it works
//! | what smoltcp does not | here |
//! |---|---|
//! | several SACK blocks, D-SACK | [`receiver`], up to four |
//! | delayed ACK, quick ACKs at the start | [`receiver`] |
//! | windows that shrink, pieces forgotten after they were reported | [`receiver`], by [`Habits`] |
//! | fast retransmission with SACK, a timer of 200 ms | [`sender`] |
//! | super-frames out and in, owed checksums | [`wire`] |
//! | challenge ACKs, a reset for data after close, TIME-WAIT | [`connection`] |
//!
//! Where clients outside open the connections, each of its ports waits for one, and it says where it is ([`neighbor`]).
//! It shares no arithmetic with the relay: positions are 64-bit offsets that never wrap.

mod connection;
mod neighbor;
mod receiver;
mod sender;
mod wire;

use std::collections::VecDeque;
use std::net::IpAddr;

use smoltcp::wire::EthernetAddress;
use wharf_switch::{Duration, Instant, Offloads};

use self::connection::Connection;
use self::wire::{Device, Ends, Segment};
use crate::container::{Opener, Part};
use crate::random::Random;
use crate::station::{Outcome, Station};

pub(crate) const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 0x65]);

/// What a seed decides about a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    /// SACK blocks in an ACK; zero turns SACK off.
    sack_blocks: usize,
    scale: Option<u8>,
    timestamps: bool,
    fin_with_data: bool,
    /// The window's edge of the relay is watched: only where nothing is reordered.
    checks_edge: bool,
    /// `close()` instead of a reset when an application leaves early.
    leaves_quietly: bool,
    /// Nobody reads any more.
    is_deaf: bool,
    /// A program stops reading for so long, once, and the window closes over what is in flight.
    nap: Option<Duration>,
    /// All in thousandths.
    shrinks: u64,
    forgets: u64,
    urgent: u64,
    reincarnates: u64,
    /// How often a segment of a received super-frame is lost on its own.
    shreds: u64,
}

impl Habits {
    /// The habits of a seed.
    pub(crate) fn new(random: &mut Random, keeps_order: bool) -> Self {
        Self {
            sack_blocks: random.pick(&[0, 1, 3, 4, 4, 4]),
            scale: random.pick(&[None, Some(0), Some(2), Some(7), Some(7), Some(14)]),
            timestamps: random.chance(700),
            fin_with_data: random.chance(500),
            checks_edge: keeps_order,
            leaves_quietly: random.chance(500),
            is_deaf: false,
            nap: random.chance(100).then(|| Duration::from_secs(1 + random.below(200))),
            shrinks: random.pick(&[0, 0, 0, 20, 200]),
            forgets: random.pick(&[0, 0, 0, 20]),
            urgent: random.pick(&[0, 0, 10]),
            reincarnates: random.pick(&[0, 0, 500]),
            shreds: random.pick(&[0, 0, 0, 5, 100]),
        }
    }
}

/// The addresses by which a peer speaks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Family {
    V4,
    V6,
    Nat64,
}

impl Family {
    pub(crate) fn addresses(self) -> (IpAddr, IpAddr) {
        let (local, remote) = match self {
            Self::V4 => ("10.0.2.101", "198.51.100.7"),
            Self::V6 => ("fd00:db8::65", "2001:db8::7"),
            Self::Nat64 => ("fd00:db8::65", "64:ff9b:1::198.51.100.7"),
        };
        (local.parse().unwrap(), remote.parse().unwrap())
    }
}

/// The peer with its connections.
pub(crate) struct Peer {
    local: IpAddr,
    device: Device,
    habits: Habits,
    random: Random,
    connections: Vec<Connection>,
    opener: Opener,
    outbound: VecDeque<Vec<u8>>,
}

impl Peer {
    #[expect(clippy::too_many_arguments, reason = "a seed decides much about a peer")]
    pub(crate) fn new(
        mtu: usize,
        offloads: Offloads,
        family: Family,
        gateway_mac: EthernetAddress,
        habits: Habits,
        parts: &[Part],
        opener: Opener,
        random: &mut Random,
    ) -> Self {
        let (local, remote) = family.addresses();
        let device = Device { vnet_header: offloads.vnet_header, tso: offloads.vnet_header && offloads.tso };
        let headers = if local.is_ipv4() { 40 } else { 60 };
        let connections = parts
            .iter()
            .zip(50_000..)
            .map(|(&part, port)| {
                // A server's own port is the published one; its client comes with the first SYN.
                let port = if opener == Opener::Clients { part.port } else { port };
                let ends = Ends { mac: MAC, gateway_mac, local: (local, port), remote: (remote, part.port) };
                let own = Random::new(random.next());
                Connection::new(part, ends, device, habits, (mtu - headers) as u16, own, opener)
            })
            .collect();
        let random = Random::new(random.next());
        Self { local, device, habits, random, connections, opener, outbound: VecDeque::new() }
    }

    fn collect(&mut self) {
        for connection in &mut self.connections {
            self.outbound.extend(connection.drain());
        }
    }
}

impl Station for Peer {
    fn receive(&mut self, now: Instant, frame: Vec<u8>) {
        let Some((from, remote_port, port, segment)) = Segment::parse(&frame, self.device, self.local) else {
            self.outbound.extend(neighbor::answer(&frame, self.device, self.local));
            return;
        };
        let remote = (from, remote_port);
        let serves = self.opener == Opener::Clients;
        let is_its = |c: &&mut Connection| c.ends.local.1 == port && (serves || c.ends.remote == remote);
        let connection = self.connections.iter_mut().find(is_its).expect("a segment for nobody");
        if serves {
            connection.meet_client(remote);
        }
        if self.habits.shreds > 0 && segment.pieces_of > 0 {
            for piece in segment.cut() {
                if !self.random.chance(self.habits.shreds) {
                    connection.handle(now, &piece);
                }
            }
        } else {
            connection.handle(now, &segment);
        }
    }

    fn advance(&mut self, now: Instant) {
        for connection in &mut self.connections {
            connection.advance(now);
        }
        self.collect();
    }

    fn transmit(&mut self) -> Option<Vec<u8>> {
        self.outbound.pop_front()
    }

    fn next(&mut self, _: Instant) -> Option<Instant> {
        self.connections.iter().filter_map(Connection::next).min()
    }

    fn outcomes(&self) -> Vec<Outcome> {
        self.connections.iter().map(|connection| connection.outcome).collect()
    }

    fn hang_up(&mut self) {
        for connection in &mut self.connections {
            connection.hang_up();
        }
        self.collect();
    }

    fn describe(&self) -> String {
        format!("{:#?}", self.connections)
    }
}
