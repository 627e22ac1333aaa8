// SPDX-License-Identifier: MIT OR Apache-2.0
//! Simulation: the loop of production in virtual time, in any order and with any loss.
//!
//! Every failure names its seed; `WHARF_SIM_SEED=N cargo test --test sim one_seed` repeats it. `WHARF_SIM_SEEDS` is
//! how many fresh seeds a run tries.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "numbers of a simulation are small"
)]

mod container;
mod link;
mod linked;
mod outside;
mod peer;
mod random;
mod station;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use world::{Cast, Plan, World};

/// Seeds that once failed.
const RECORDED: &[u64] = &[
    1,
    2,
    3,
    1001,
    1014,
    1052,
    1054,
    2060,
    2882,
    4050,
    6868,
    1045,
    1108,
    2515,
    1001,
    2509,
    2632,
    1473,
    102_069,
    500_023_700,
    1_795_287_621_001_779,
    1_795_287_621_000_827,
    1_795_303_748_000_286,
];
const FRESH: u64 = 1500;

/// Runs a seed with every cast of containers.
fn run(seed: u64) {
    for cast in [Cast::Mild, Cast::Harsh, Cast::Both, Cast::Published] {
        run_with(seed, cast);
    }
}

fn run_with(seed: u64, cast: Cast) {
    let plan = Plan::new(seed, cast);
    let outcome = catch_unwind(AssertUnwindSafe(|| World::new(seed, &plan).run()));
    if let Err(panic) = outcome {
        eprintln!(
            "seed {seed} ({cast:?}) failed; repeat with: WHARF_SIM_SEED={seed} cargo test --test sim one_seed"
        );
        eprintln!("its plan: {plan:#?}");
        std::panic::resume_unwind(panic);
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} wants a number")))
}

/// Fresh seeds, one of two parts: test threads share the work.
fn fresh_seeds(part: u64) -> std::ops::Range<u64> {
    let first = from_environment("WHARF_SIM_FIRST").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_secs() * 1_000_000
    });
    let count = from_environment("WHARF_SIM_SEEDS").map_or(FRESH, |all| all.div_ceil(2));
    let first = first + part * count;
    println!("seeds {first} to {}", first + count - 1);
    first..first + count
}

#[test]
fn every_byte_arrives_with_recorded_seeds() {
    RECORDED.iter().copied().for_each(run);
}

#[test]
fn every_byte_arrives_with_fresh_seeds_first_half() {
    fresh_seeds(0).for_each(run);
}

#[test]
fn every_byte_arrives_with_fresh_seeds_second_half() {
    fresh_seeds(1).for_each(run);
}

#[test]
fn linked_networks_with_recorded_seeds() {
    RECORDED.iter().copied().for_each(linked::run);
}

#[test]
fn linked_networks_with_fresh_seeds() {
    fresh_seeds(0).for_each(linked::run);
}

#[test]
fn one_seed() {
    if let Some(seed) = from_environment("WHARF_SIM_SEED") {
        run(seed);
        linked::run(seed);
    }
}
