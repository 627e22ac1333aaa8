// SPDX-License-Identifier: MIT OR Apache-2.0
//! A worker's whole turn over a port and a host in memory: what wharf itself costs per frame, both ways.
//!
//! Before anything is timed each case must show that a turn in the steady state allocates nothing, and idle connections
//! that they are small.

mod rig;

use allocation_counter::measure;
use criterion::{BenchmarkId, Criterion, Throughput};
use rig::stages::TURNS;
use rig::{Stand, assert_allocates_nothing};

fn upload(stand: &mut Stand, frames: usize) {
    stand.turn(frames, false);
}

/// The host has a chunk, and the container acknowledges the one before.
fn download(stand: &mut Stand) {
    stand.turn(1, true);
}

/// What the container sends goes to another network's.
fn route(stand: &mut Stand, other: &mut Stand, frames: usize) {
    stand.turn(frames, false);
    other.turn(0, false);
}

/// Connections on which nothing happens.
const IDLE_FLOWS: u16 = 50_000;
/// Bytes that each may cost.
const IDLE_FLOW_LIMIT: u64 = 512;

fn assert_idle_flows_are_small() {
    let mut stand = Stand::new(1000, true);
    let others = stand.connections();
    let counted = measure(|| (1000..1000 + IDLE_FLOWS).for_each(|port| stand.connect(port)));
    assert_eq!(stand.connections() - others, usize::from(IDLE_FLOWS), "not all were accepted");
    let each = u64::try_from(counted.bytes_current).unwrap_or(0) / u64::from(IDLE_FLOWS);
    println!("an idle connection holds {each} bytes, room to grow included");
    assert!(each <= IDLE_FLOW_LIMIT, "an idle connection holds {each} bytes, more than {IDLE_FLOW_LIMIT}");
}

fn main() {
    assert_idle_flows_are_small();
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("turn");
    for (bytes, frames) in TURNS {
        let mut stand = Stand::new(bytes, false);
        let before = stand.worker.host.taken;
        assert_allocates_nothing(&format!("upload of {bytes} B"), || upload(&mut stand, frames));
        let wanted = 3000 * (bytes * frames) as u64;
        assert_eq!(stand.worker.host.taken - before, wanted, "not everything went through");
        group.throughput(Throughput::Bytes((bytes * frames) as u64));
        group.bench_function(BenchmarkId::new("upload", bytes), |b| b.iter(|| upload(&mut stand, frames)));

        let mut stand = Stand::new(bytes, true);
        let before = stand.lane().sent_bytes;
        assert_allocates_nothing(&format!("download of {bytes} B"), || download(&mut stand));
        let went = stand.lane().sent_bytes - before;
        assert!(went >= 3000 * bytes as u64 * 9 / 10, "only {went} bytes went through");
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new("download", bytes), |b| b.iter(|| download(&mut stand)));

        let mut stand = Stand::new(bytes, false);
        let mut other = stand.link();
        let before = other.lane().sent_bytes;
        assert_allocates_nothing(&format!("routing of {bytes} B"), || route(&mut stand, &mut other, frames));
        let went = other.lane().sent_bytes - before;
        assert!(went >= 3000 * (bytes * frames) as u64, "only {went} bytes went through");
        group.throughput(Throughput::Bytes((bytes * frames) as u64));
        group.bench_function(BenchmarkId::new("route", bytes), |b| {
            b.iter(|| route(&mut stand, &mut other, frames));
        });
    }
    group.finish();
    criterion.final_summary();
}
