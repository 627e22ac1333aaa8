// SPDX-License-Identifier: MIT OR Apache-2.0
//! A worker's whole turn over a port and a host in memory: what wharf itself costs per frame, both ways.
//!
//! Before anything is timed each case must show that a turn in the steady state allocates nothing.

mod rig;

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

fn main() {
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
