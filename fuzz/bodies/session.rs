// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stories: a container that mostly follows the rules of TCP and UDP, and a host with a will of its own.

use std::net::SocketAddr;

use arbitrary::{Arbitrary, Unstructured};
use smoltcp::wire::{EthernetFrame, EthernetProtocol, Ipv4Packet, TcpPacket};
use wharf_stack::host::{Family, HostError, IcmpReport};
use wharf_switch::offload::VNET_HEADER_LEN;
use wharf_switch::{Duration, Offloads};

use super::stage::frames::{self, Tcp};
use super::stage::{self, Stage};
use super::{check_budget, mend};

const FLOWS: usize = 4;
const MAX_ACTS: usize = 200;

/// How far from the right one a number is.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Near {
    Right,
    Off(i8),
    Far(i32),
}

#[derive(Arbitrary, Clone, Debug)]
enum Act {
    /// A segment of one of a few connections.
    Segment {
        flow: u8,
        flags: u8,
        seq: Near,
        ack: Near,
        window: u16,
        len: u16,
        options: Vec<u8>,
        advance: bool,
    },
    /// A segment that is right in every way.
    Proper {
        flow: u8,
        kind: u8,
        len: u16,
    },
    Datagram {
        port: u8,
        to: u8,
        len: u16,
    },
    Echo {
        ident: u8,
    },
    Piece {
        ident: u8,
        offset: u8,
        more: bool,
        len: u8,
    },
    /// The last frame again, a byte changed.
    Damaged {
        at: u16,
        by: u8,
        mended: bool,
    },
    Host {
        socket: u8,
        event: HostAct,
    },
    Wait {
        milliseconds: u16,
    },
    WaitLong {
        seconds: u16,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum HostAct {
    Connects,
    Fails(u8),
    Sends(u16),
    Ends,
    Breaks,
    Takes(u16),
    Spurious(u8),
    Datagram(u16),
    Report { kind: u8, code: u8 },
}

#[derive(Clone, Copy, Debug, Default)]
struct Side {
    seq: u32,
    ack: u32,
}

#[derive(Debug)]
struct Story {
    stage: Stage,
    sides: [Side; FLOWS],
    last: Vec<u8>,
    turn_of: usize,
}

/// Plays a story.
pub fn session(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(setup) = u8::arbitrary(&mut input) else { return };
    let workers = 1 + usize::from(setup & 1);
    let offloads = if setup & 2 == 0 { Offloads::ALL } else { Offloads { tso: false, ..Offloads::ALL } };
    let mut stage = Stage::with(stage::config(), workers, offloads);
    if setup & 4 != 0 {
        let_a_client_in(&mut stage);
    }
    let published = (setup & 8 != 0).then(|| stage.publish_udp(Family::V4, UDP_PORT.parse().unwrap()));
    let sides = core::array::from_fn(|at| Side { seq: 0xffff_f000 + at as u32, ack: 0 });
    let mut story = Story { stage, sides, last: Vec::new(), turn_of: 0 };
    for _ in 0..MAX_ACTS {
        if input.is_empty() {
            break;
        }
        let Ok(act) = Act::arbitrary(&mut input) else { break };
        story.play(&act);
        story.listen();
        check_budget(&story.stage);
    }
    if let Some((worker, id)) = published {
        story.stage.workers[worker].withdraw(id);
    }
    story.end();
}

/// One of those that datagrams leave from.
const UDP_PORT: &str = "10.0.2.100:1";

/// The first connection comes from outside: a client of a published port.
fn let_a_client_in(stage: &mut Stage) {
    let (container, client) = ends(0);
    stage.publish(container);
    stage.receive(&frames::arp(1, stage::CONTAINER_MAC, [10, 0, 2, 100], [10, 0, 2, 2]));
    stage.host().connects(client);
    stage.settle();
}

fn ends(flow: u8) -> (SocketAddr, SocketAddr) {
    let flow = usize::from(flow) % FLOWS;
    let (src, dst) = match flow {
        0 | 1 => (format!("10.0.2.100:{}", 40_000 + flow), "198.51.100.7:80"),
        2 => ("[fd00:db8::64]:40002".into(), "[2001:db8::7]:80"),
        _ => ("[fd00:db8::64]:40003".into(), "[64:ff9b:1::c633:6407]:80"),
    };
    (src.parse().unwrap(), dst.parse().unwrap())
}

fn near(right: u32, how: Near) -> u32 {
    match how {
        Near::Right => right,
        Near::Off(by) => right.wrapping_add_signed(by.into()),
        Near::Far(by) => right.wrapping_add_signed(by),
    }
}

impl Story {
    fn send(&mut self, frame: Vec<u8>) {
        self.turn_of += 1;
        let worker = self.turn_of % self.stage.workers.len();
        self.stage.receive_raw(worker, [&[0; VNET_HEADER_LEN], &frame[..]].concat());
        self.stage.settle();
        self.last = frame;
    }

    fn play(&mut self, act: &Act) {
        match *act {
            Act::Segment { flow, flags, seq, ack, window, len, ref options, advance } => {
                let side = self.sides[usize::from(flow) % FLOWS];
                let letters = ['F', 'S', 'R', 'P', '.', 'U'];
                let flags = letters.iter().enumerate().filter(|(at, _)| flags >> at & 1 != 0);
                let header = Tcp {
                    flags: flags.map(|(_, letter)| letter).collect(),
                    seq: near(side.seq, seq),
                    ack: near(side.ack, ack),
                    window,
                    options: options[..options.len().min(40) & !3].to_vec(),
                };
                self.segment(flow, &header, len.into(), advance);
            }
            Act::Proper { flow, kind, len } => self.proper(flow, kind, len),
            Act::Datagram { port, to, len } => {
                let destinations =
                    ["198.51.100.7:9", "10.0.2.2:9", "10.0.2.3:53", "127.0.0.1:1", "10.0.2.2:67"];
                let to = destinations[usize::from(to) % destinations.len()].parse().unwrap();
                let from = SocketAddr::new([10, 0, 2, 100].into(), 1 + u16::from(port));
                self.send(frames::udp(from, to, 64, &vec![port; usize::from(len % 1400)]));
            }
            Act::Echo { ident } => {
                let (src, dst) = ([10, 0, 2, 100].into(), [198, 51, 100, 7].into());
                self.send(frames::icmp(src, dst, 64, 8, 0, &[0, ident, 0, 1, 5, 5]));
            }
            Act::Piece { ident, offset, more, len } => {
                let (src, dst) = ([10, 0, 2, 100].into(), [198, 51, 100, 7].into());
                let payload = vec![7; usize::from(len)];
                self.send(frames::fragment(src, dst, ident.into(), u16::from(offset) * 8, more, &payload));
            }
            Act::Damaged { at, by, mended } => {
                let mut frame = self.last.clone();
                let len = frame.len().max(1);
                if let Some(byte) = frame.get_mut(usize::from(at) % len) {
                    *byte ^= by;
                }
                if mended && frame.len() >= 14 {
                    mend(&mut frame, true);
                }
                self.send(frame);
            }
            Act::Host { socket, event } => self.host(socket.into(), event),
            Act::Wait { milliseconds } => self.stage.advance(Duration::from_millis(milliseconds.into())),
            Act::WaitLong { seconds } => self.stage.advance(Duration::from_secs(seconds.into())),
        }
    }

    fn proper(&mut self, flow: u8, kind: u8, len: u16) {
        let side = self.sides[usize::from(flow) % FLOWS];
        let (flags, len) = match kind % 6 {
            0 => ("S", 0),
            1 | 2 => ("P.", len),
            3 => (".", 0),
            4 => ("F.", len % 100),
            _ => ("R.", 0),
        };
        let options = if flags == "S" { vec![2, 4, 5, 0xb4, 4, 2, 3, 3, 7, 0, 0, 0] } else { Vec::new() };
        let header = Tcp { flags: flags.into(), seq: side.seq, ack: side.ack, window: 1000, options };
        self.segment(flow, &header, len.into(), true);
    }

    fn segment(&mut self, flow: u8, header: &Tcp, len: usize, advance: bool) {
        let (src, dst) = ends(flow);
        let len = len % 60_000;
        self.send(frames::tcp(src, dst, 64, header, &vec![flow; len]));
        if advance {
            let side = &mut self.sides[usize::from(flow) % FLOWS];
            let taken = len as u32 + u32::from(header.flags.contains(['S', 'F']));
            side.seq = header.seq.wrapping_add(taken);
        }
    }

    fn host(&mut self, socket: usize, event: HostAct) {
        let at_worker = socket % self.stage.workers.len();
        let host = &mut self.stage.workers[at_worker].host;
        let Some(at) = socket.checked_rem(host.sockets.len()) else { return };
        let socket = &mut host.sockets[at];
        if socket.closed {
            return;
        }
        let remote = socket.remote.unwrap_or_else(|| "198.51.100.7:9".parse().unwrap());
        match event {
            HostAct::Connects if socket.connected.is_none() => host.connect_ends(at, Ok(())),
            HostAct::Fails(how) if socket.connected.is_none() => {
                let errors = [
                    HostError::Refused,
                    HostError::TimedOut,
                    HostError::NetworkUnreachable,
                    HostError::HostUnreachable,
                    HostError::Exhausted,
                    HostError::NotPermitted,
                    HostError::SourceMissing,
                ];
                host.connect_ends(at, Err(errors[usize::from(how) % errors.len()]));
            }
            HostAct::Connects | HostAct::Fails(_) => {}
            HostAct::Sends(len) => {
                if len > 0 && !socket.ended {
                    socket.inbox.push_back(vec![9; len.into()]);
                }
                host.announce(at, true, false, false);
            }
            HostAct::Ends => {
                socket.ended = true;
                host.announce(at, true, false, true);
            }
            HostAct::Breaks => {
                socket.broken = true;
                host.announce(at, true, true, true);
            }
            HostAct::Takes(len) => {
                socket.room = len.into();
                host.announce(at, false, true, false);
            }
            HostAct::Spurious(flags) => host.announce(at, flags & 1 != 0, flags & 2 != 0, flags & 4 != 0),
            HostAct::Datagram(len) => {
                // Whom a published port cannot show as they are, too.
                let from = if len % 2 == 0 { remote } else { "127.0.0.1:9".parse().unwrap() };
                host.receives(at, from, &vec![3; len.into()]);
            }
            HostAct::Report { kind, code } => {
                socket.reports.push_back(IcmpReport {
                    destination: remote,
                    offender: Some([192, 0, 2, 1].into()),
                    family: Family::V4,
                    kind,
                    code,
                    mtu: 1400,
                    payload: [0, 0, 0, 0, 0, 1, 0, 1],
                });
                host.announce(at, false, false, true);
            }
        }
        self.stage.settle();
    }

    /// Takes note of the gateway's numbers.
    fn listen(&mut self) {
        while let Some(frame) = self.stage.sent() {
            let Ok(ethernet) = EthernetFrame::new_checked(&frame[..]) else { panic!("a frame is cut short") };
            let payload = ethernet.payload();
            let start = if ethernet.ethertype() == EthernetProtocol::Ipv4 { 20 } else { 40 };
            let is_right = |packet: Ipv4Packet<&[u8]>| packet.verify_checksum();
            let header = Ipv4Packet::new_checked(payload);
            if ethernet.ethertype() == EthernetProtocol::Ipv4 {
                assert!(header.is_ok_and(is_right), "a wrong IPv4 header");
            }
            let Some(Ok(segment)) = payload.get(start..).map(TcpPacket::new_checked) else { continue };
            let Some(flow) = usize::from(segment.dst_port()).checked_sub(40_000).filter(|&at| at < FLOWS)
            else {
                continue;
            };
            if segment.src_port() == 80 {
                let taken =
                    segment.payload().len() as u32 + u32::from(segment.syn()) + u32::from(segment.fin());
                self.sides[flow].ack = segment.seq_number().0.cast_unsigned().wrapping_add(taken);
            }
        }
    }

    /// After every timer has run out nothing is left.
    fn end(&mut self) {
        self.stage.advance(Duration::from_secs(3 * 3600));
        for worker in &self.stage.workers {
            let load = worker.gateway.load();
            assert_eq!((load.tcp_flows, load.held_bytes), (0, 0), "something is left");
            assert_eq!(worker.host.open_sockets(), 0, "a socket is left open");
        }
    }
}
