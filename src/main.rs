// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `wharf` binary.

fn main() {}
