// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each stage of a packet's path on its own. None of them may allocate.

mod rig;

use criterion::{BenchmarkId, Criterion, Throughput};
use rig::assert_allocates_nothing;
use rig::stages::{self, Stage};

/// Asserts that a stage allocates nothing, then times it.
fn time(criterion: &mut Criterion, Stage { name, bytes, mut step }: Stage) {
    assert_allocates_nothing(&format!("{name} {bytes} B"), &mut step);
    let mut group = criterion.benchmark_group("path");
    group.throughput(Throughput::Bytes(bytes as u64));
    group.bench_function(BenchmarkId::new(name, bytes), |b| b.iter(&mut step));
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for stage in stages::path() {
        time(&mut criterion, stage);
    }
    criterion.final_summary();
}
