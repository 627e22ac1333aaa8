// SPDX-License-Identifier: MIT OR Apache-2.0
//! A VLAN: one of the 4,096 broadcast domains a switch can keep apart.
//!
//! Frames on ports carry no tag yet, so every port is on [`Vlan::UNTAGGED`]; the forwarding database and the
//! forwarding decision take the VLAN as an argument already.

/// A VLAN's number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vlan(u16);

impl Vlan {
    /// Frames without a tag.
    pub const UNTAGGED: Self = Self(0);

    /// VLAN `number`, 1 to 4,094 (IEEE 802.1Q table 9-2: 0 is no VLAN, 4,095 is reserved).
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number == 0 || number > 4094 { None } else { Some(Self(number)) }
    }

    /// The number; 0 for [`Vlan::UNTAGGED`].
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}
