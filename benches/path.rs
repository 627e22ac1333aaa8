// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each stage of a packet's path on its own. None of them may allocate.

mod rig;

use std::hint::black_box;
use std::num::NonZeroU16;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput};
use rig::{CONTAINER_MAC, GATEWAY_MAC, assert_allocates_nothing, tcp_frame};
use smoltcp::wire::{Ipv4Address, Ipv4Cidr};
use wharf_stack::Ownership;
use wharf_switch::offload::{VNET_HEADER_LEN, complete_checksum, segment};
use wharf_switch::{
    Addresses, Bindings, Checksum, Fdb, Frame, Guard, Instant, Macs, MemoryPort, Offload, Policy, Pool,
    PortId, Segmentation, SegmentationKind, Switch, Vlan,
};

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

/// Asserts that a stage allocates nothing, then times it.
fn stage(criterion: &mut Criterion, name: &str, bytes: usize, mut step: impl FnMut()) {
    assert_allocates_nothing(&format!("{name} {bytes} B"), &mut step);
    let mut group = criterion.benchmark_group("path");
    group.throughput(Throughput::Bytes(bytes as u64));
    group.bench_function(BenchmarkId::new(name, bytes), |b| b.iter(&mut step));
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let pool = Pool::new(64);
    let now = Instant::from_secs(1);
    for bytes in [64, 1460, 65_000] {
        let data = tcp_frame(false, bytes);
        let mut frame = pool.large();
        stage(&mut criterion, "receive", bytes, || {
            frame.receive_buffer()[VNET_HEADER_LEN..][..data.len()].copy_from_slice(&data);
            black_box(frame.accept_received(VNET_HEADER_LEN + data.len()).is_ok());
        });

        let fdb = Arc::new(Fdb::new(1024, [3; 16]));
        let mut switch = Switch::new(GATEWAY_MAC, fdb, pool.clone());
        let port = switch.attach(MemoryPort::default(), None).unwrap_or(PortId::GATEWAY);
        stage(&mut criterion, "decide", bytes, || {
            black_box(switch.decide(port, &mut frame, now).is_ok());
        });
        assert_eq!(switch.fdb().lookup(Vlan::UNTAGGED, CONTAINER_MAC, now), Some(port));

        assert!(switch.set_policy(port, Some(Arc::new(guarded()))));
        stage(&mut criterion, "decide, guarded", bytes, || {
            assert!(black_box(switch.decide(port, &mut frame, now)).is_ok());
        });

        let ownership = Ownership::new(rig::config(), 4);
        stage(&mut criterion, "owner", bytes, || {
            black_box(ownership.addressee(&frame));
        });

        stage(&mut criterion, "checksum", bytes, || {
            frame.offload.checksum = Checksum::Partial { start: 34, offset: 16 };
            black_box(complete_checksum(&mut frame).is_ok());
        });
    }

    let mut whole = super_frame(&pool);
    stage(&mut criterion, "segment", 65_000, || {
        let mut count = 0;
        let _ = segment(&mut whole, &pool, |piece| count += piece.len());
        assert!(black_box(count) > 65_000);
    });
    let header = whole.offload.emit();
    stage(&mut criterion, "vnet header", VNET_HEADER_LEN, || {
        black_box(Offload::parse(black_box(header), 65_054).map(Offload::emit).is_ok());
    });
}
