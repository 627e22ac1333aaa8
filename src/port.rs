// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices that frames enter and leave by: the production side of [`wharf_switch::Port`].

mod tap;

pub use tap::Tap;
