// SPDX-License-Identifier: MIT OR Apache-2.0
//! Confinement of the gateway process, applied before its threads start.

/// Gives up what the gateway does not need for the rest of its life.
///
/// Nothing is given up yet: the filters are declared per module, and none has declared its table so far.
pub fn confine() {}
