// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fuzz target `frame`; what it does is in `bodies`.
#![no_main]

#[path = "../bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::frame(data));
