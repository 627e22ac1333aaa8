// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a frame still owes, and how it is paid in software where a device cannot.
//!
//! # Path
//! [`header`]: the 10 bytes in which devices say it. [`checksum`]: finish or verify one. [`segment()`]: cut a
//! super-frame. [`transport`]: where in a frame the transport header is, behind the [`extensions`] of IPv6.

pub mod checksum;
pub mod extensions;
pub mod header;
pub mod segment;
pub mod transport;

pub use checksum::{complete_checksum, verify_checksum};
pub use header::{Checksum, InvalidVnetHeader, Offload, Segmentation, SegmentationKind, VNET_HEADER_LEN};
pub use segment::segment;
