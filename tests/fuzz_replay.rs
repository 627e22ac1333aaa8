// SPDX-License-Identifier: MIT OR Apache-2.0
//! Recorded inputs of the fuzz targets, played by the ordinary tests.
//!
//! `cargo fuzz` lets smoltcp take every checksum for right (`cfg(fuzzing)`), so that mutations get anywhere. Here wrong
//! ones are wrong: what a fuzzer found may need `cargo fuzz run TARGET FILE` to show.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "../fuzz/bodies/mod.rs"]
mod bodies;

/// Plays every input in `fuzz/seeds/NAME`.
fn replay(name: &str, play: fn(&[u8])) {
    let here = format!("{}/fuzz/seeds/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for entry in std::fs::read_dir(here).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        play(&std::fs::read(path).unwrap());
        count += 1;
    }
    assert!(count > 0, "no inputs are recorded for {name}");
}

#[test]
fn recorded_frames_do_no_harm() {
    replay("frame", bodies::frame);
}

#[test]
fn recorded_sessions_end_with_nothing_left() {
    replay("session", bodies::session);
}

#[test]
fn recorded_messages_are_parsed_or_refused() {
    replay("codecs", bodies::codecs);
}
