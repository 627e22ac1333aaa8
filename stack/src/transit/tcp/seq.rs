// SPDX-License-Identifier: MIT OR Apache-2.0
//! TCP sequence numbers: 32 bits that wrap (RFC 9293 section 3.4).

use core::cmp::Ordering;
use core::ops::{Add, Sub};

use smoltcp::wire::TcpSeqNumber;

/// A sequence number. Comparisons hold for numbers less than 2^31 apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seq(pub(crate) u32);

impl Seq {
    /// How far `self` is ahead of `earlier`; zero when it is not.
    pub(crate) fn since(self, earlier: Self) -> u32 {
        if self > earlier { self - earlier } else { 0 }
    }

    /// The later of two.
    pub(crate) fn max(self, other: Self) -> Self {
        if other > self { other } else { self }
    }
}

impl PartialOrd for Seq {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.0.wrapping_sub(other.0).cast_signed().cmp(&0))
    }
}

impl Add<u32> for Seq {
    type Output = Self;
    fn add(self, rhs: u32) -> Self {
        Self(self.0.wrapping_add(rhs))
    }
}

impl Sub<u32> for Seq {
    type Output = Self;
    fn sub(self, rhs: u32) -> Self {
        Self(self.0.wrapping_sub(rhs))
    }
}

impl Sub for Seq {
    type Output = u32;
    fn sub(self, rhs: Self) -> u32 {
        self.0.wrapping_sub(rhs.0)
    }
}

impl From<TcpSeqNumber> for Seq {
    fn from(number: TcpSeqNumber) -> Self {
        Self(number.0.cast_unsigned())
    }
}

impl From<Seq> for TcpSeqNumber {
    fn from(seq: Seq) -> Self {
        Self(seq.0.cast_signed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_survives_the_wrap() {
        let before = Seq(u32::MAX - 1);
        let after = before + 3;
        assert!(after > before);
        assert_eq!(after - before, 3);
        assert_eq!(before.since(after), 0);
    }
}
