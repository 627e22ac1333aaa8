// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random numbers that a seed repeats (SplitMix64, Steele et al. 2014).

/// A generator of one stream of numbers.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The stream of a seed.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True `permille` times in a thousand.
    pub(crate) fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// One of several.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        let index = self.below(choices.len() as u64) as usize;
        choices[index]
    }
}

/// The byte at `offset` of a stream: both ends know what must come.
pub(crate) fn pattern(stream: u64, offset: u64) -> u8 {
    let mixed = offset.wrapping_mul(0x9e37_79b9).wrapping_add(stream.wrapping_mul(0x85eb_ca6b));
    (mixed >> 13) as u8 ^ offset as u8
}
