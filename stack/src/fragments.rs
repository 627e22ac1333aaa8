// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fragments: [put together](reassembly) on the way out, [cut](cutting) on the way in, and cut further on the way to another
//! network.

pub(crate) mod cutting;
pub(crate) mod reassembly;

/// Offsets count in units of eight bytes.
const UNIT: usize = 8;
