// SPDX-License-Identifier: MIT OR Apache-2.0
//! Steps of a packet's path, each ready to be done again and again.

use std::hint::black_box;
use std::num::NonZeroU16;
use std::sync::Arc;

use smoltcp::wire::{Ipv4Address, Ipv4Cidr};
use wharf_stack::Ownership;
use wharf_switch::offload::{VNET_HEADER_LEN, complete_checksum, segment};
use wharf_switch::{
    Addresses, Bindings, Checksum, Fdb, Frame, Guard, Instant, Macs, MemoryPort, Offload, Policy, Pool,
    PortId, Segmentation, SegmentationKind, Switch,
};

use super::{CONTAINER_MAC, GATEWAY_MAC, Stand, config, tcp_frame};

/// Payload bytes per segment, and segments the container sends per turn.
pub const TURNS: [(usize, usize); 3] = [(64, 32), (1460, 32), (65_000, 1)];
/// Payload bytes of the frames that a stage works on.
const SIZES: [usize; 3] = [64, 1460, 65_000];
const NOW: Instant = Instant::from_secs(1);

/// A step, and how many bytes it works on.
pub struct Stage {
    pub name: &'static str,
    pub bytes: usize,
    pub step: Box<dyn FnMut()>,
}

impl Stage {
    fn new(name: &'static str, bytes: usize, step: impl FnMut() + 'static) -> Self {
        Self { name, bytes, step: Box::new(step) }
    }
}

/// Each stage of the path on its own.
pub fn path() -> Vec<Stage> {
    let of_every_size = [receive, decide, decide_guarded, owner, checksum];
    let stages = of_every_size.iter().flat_map(|stage| SIZES.map(stage));
    stages.chain([segmentation(), vnet_header()]).collect()
}

/// A worker's whole turn, both ways.
pub fn turns() -> Vec<Stage> {
    let stages = TURNS.map(|(bytes, frames)| {
        let (mut up, mut down) = (Stand::new(bytes, false), Stand::new(bytes, true));
        [
            Stage::new("turn, upload", bytes * frames, move || up.turn(frames, false)),
            Stage::new("turn, download", bytes, move || down.turn(1, true)),
        ]
    });
    stages.into_iter().flatten().collect()
}

fn frame(pool: &Pool, bytes: usize) -> Frame {
    let mut frame = pool.large();
    frame.fill(&tcp_frame(false, bytes));
    frame
}

fn super_frame(pool: &Pool) -> Frame {
    let mut frame = pool.large();
    frame.fill(&tcp_frame(false, 65_000));
    frame.offload.checksum = Checksum::Partial { start: 34, offset: 16 };
    frame.offload.segmentation = NonZeroU16::new(1460).map(|size| Segmentation {
        kind: SegmentationKind::Tcp4,
        size,
        header_len: 54,
        ecn: false,
    });
    frame
}

/// The container's own addresses and no others.
fn guarded() -> Policy {
    let address = Ipv4Cidr::new(Ipv4Address::new(10, 0, 2, 100), 32);
    let addresses = Bindings::new(&[address], &[]).map_or(Addresses::Unknown, Addresses::Bound);
    let guard = Guard { macs: Macs::Only(CONTAINER_MAC), addresses, ..Guard::default() };
    Policy { guard, ..Policy::default() }
}

fn receive(bytes: usize) -> Stage {
    let data = tcp_frame(false, bytes);
    let mut frame = Pool::new(1).large();
    Stage::new("receive", bytes, move || {
        frame.receive_buffer()[VNET_HEADER_LEN..][..data.len()].copy_from_slice(&data);
        black_box(frame.accept_received(VNET_HEADER_LEN + data.len()).is_ok());
    })
}

/// A switch with one port.
fn switch(pool: &Pool) -> (Switch<MemoryPort>, PortId) {
    let mut switch = Switch::new(GATEWAY_MAC, Arc::new(Fdb::new(1024, [3; 16])), pool.clone());
    let port = switch.attach(MemoryPort::default(), None).unwrap();
    (switch, port)
}

fn decide(bytes: usize) -> Stage {
    let pool = Pool::new(1);
    let (switch, port) = switch(&pool);
    let mut frame = frame(&pool, bytes);
    Stage::new("decide", bytes, move || {
        assert!(black_box(switch.decide(port, &mut frame, NOW)).is_ok());
    })
}

fn decide_guarded(bytes: usize) -> Stage {
    let pool = Pool::new(1);
    let (mut switch, port) = switch(&pool);
    assert!(switch.set_policy(port, Some(Arc::new(guarded()))));
    let mut frame = frame(&pool, bytes);
    Stage::new("decide, guarded", bytes, move || {
        assert!(black_box(switch.decide(port, &mut frame, NOW)).is_ok());
    })
}

fn owner(bytes: usize) -> Stage {
    let ownership = Ownership::new(config(), 4);
    let frame = frame(&Pool::new(1), bytes);
    Stage::new("owner", bytes, move || {
        black_box(ownership.addressee(&frame));
    })
}

fn checksum(bytes: usize) -> Stage {
    let mut frame = frame(&Pool::new(1), bytes);
    Stage::new("checksum", bytes, move || {
        frame.offload.checksum = Checksum::Partial { start: 34, offset: 16 };
        black_box(complete_checksum(&mut frame).is_ok());
    })
}

fn segmentation() -> Stage {
    let pool = Pool::new(64);
    let mut whole = super_frame(&pool);
    Stage::new("segment", 65_000, move || {
        let mut count = 0;
        let _ = segment(&mut whole, &pool, |piece| count += piece.len());
        assert!(black_box(count) > 65_000);
    })
}

fn vnet_header() -> Stage {
    let header = super_frame(&Pool::new(1)).offload.emit();
    Stage::new("vnet header", VNET_HEADER_LEN, move || {
        black_box(Offload::parse(black_box(header), 65_054).map(Offload::emit).is_ok());
    })
}
