// SPDX-License-Identifier: MIT OR Apache-2.0
//! *Is it going through?* Packets for the outside become traffic of host sockets.

pub mod nat64;
pub mod outside;

pub(crate) mod flow;
pub(crate) mod icmp_error;
pub(crate) mod tcp;
