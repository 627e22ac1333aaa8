// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hashing for tables whose keys a container chooses: SipHash with a secret key, so that nobody can make keys that
//! all land in one bucket.
//!
//! # Sources
//! Aumasson, Bernstein: "SipHash: a fast short-input PRF" (2012); the 1-3 variant.

use core::hash::{BuildHasher, Hasher};
use std::collections::HashMap;

use siphasher::sip::SipHasher13;

/// Builds keyed hashers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyedState([u8; 16]);

/// A hash map with a secret key.
pub(crate) type KeyedMap<K, V> = HashMap<K, V, KeyedState>;

impl KeyedState {
    /// A key made from the gateway's seed; each `purpose` gives another.
    #[must_use]
    pub(crate) fn new(seed: &[u8; 32], purpose: &[u8]) -> Self {
        let (first, second) = seed.split_at(16);
        let half = |key: &[u8]| {
            let mut hasher = SipHasher13::new_with_key(key.first_chunk().unwrap_or(&[0; 16]));
            hasher.write(purpose);
            hasher.finish().to_le_bytes()
        };
        let mut key = [0; 16];
        key[..8].copy_from_slice(&half(first));
        key[8..].copy_from_slice(&half(second));
        Self(key)
    }

    /// The keyed hash of `bytes`: unpredictable to who does not know the seed, the same for the same input.
    #[must_use]
    pub(crate) fn hash(&self, bytes: &[u8]) -> u64 {
        let mut hasher = self.build_hasher();
        hasher.write(bytes);
        hasher.finish()
    }
}

impl BuildHasher for KeyedState {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_key(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_and_purpose_change_the_hash() {
        let hash = |seed, purpose: &[u8]| KeyedState::new(&[seed; 32], purpose).hash(b"key");
        assert_eq!(hash(1, b"leases"), hash(1, b"leases"));
        assert_ne!(hash(1, b"leases"), hash(2, b"leases"));
        assert_ne!(hash(1, b"leases"), hash(1, b"flows"));
    }
}
