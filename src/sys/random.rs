// SPDX-License-Identifier: MIT OR Apache-2.0
//! Randomness from the kernel.

use rustix::io;
use rustix::rand::{GetRandomFlags, getrandom};

/// A seed for everything random in one gateway.
///
/// # Errors
/// What `getrandom(2)` says.
pub fn seed() -> io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom(&mut seed, GetRandomFlags::empty())?;
    Ok(seed)
}
