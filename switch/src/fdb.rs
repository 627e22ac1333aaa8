// SPDX-License-Identifier: MIT OR Apache-2.0
//! The forwarding database: which MAC address was last seen on which port.
//!
//! # How it works
//! One fixed array of atomics is shared by all workers; nobody ever waits. A key (VLAN and MAC) hashes to a place,
//! and the entry is there or in one of the next places up to [`PROBE`].
//!
//! * **Readers** ([`Fdb::lookup`]) trust an entry only if it did not change while they looked. Each entry has a
//!   version, odd while somebody writes: a reader takes the version, the key and the value, and then the version
//!   again. Two equal even versions prove that key and value belong together, so a torn read cannot send a frame
//!   to the wrong port. Anything else reads as "not known", which floods the frame: slower, never wrong.
//! * **Writers** (a new or a moved address) hold a claim on the whole table, a flag taken by one compare-and-swap.
//!   Who does not get it does not wait: the address is learned from its next frame ([`Learned::Contended`]). One
//!   writer at a time is what keeps an address from being in the table twice.
//! * **The common case**, an address seen again on its port, takes no claim. It writes the last-seen tick, and only
//!   when the second has changed. Should the entry be reused in between, then by somebody seen this very second,
//!   so the late write says nothing wrong.
//! * **A port that goes away** is forgotten by raising the lowest generation that counts at its place. Its entries
//!   are invisible from that moment and their places are reused; nothing has to be searched.
//!
//! # Bounds
//! A power of two of entries ([`DEFAULT_CAPACITY`]), [`MAX_ENTRIES_PER_PORT`] of them for one port, so that a port
//! which makes up addresses cannot crowd out the others. A living entry is never evicted.
//!
//! # Sources
//! IEEE 802.1D-2004 section 7.9 and table 7-5 (ageing time).

use core::hash::Hasher;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

use siphasher::sip::SipHasher13;
use smoltcp::wire::EthernetAddress;

use crate::snoop::Snoop;
use crate::{Instant, PortId, Vlan};

/// Entries of a table for many ports.
pub const DEFAULT_CAPACITY: usize = 16_384;
/// Entries one port may have.
pub const MAX_ENTRIES_PER_PORT: u32 = 1_024;
/// Ports a switch may have.
pub const MAX_PORTS: usize = 4_096;
/// Places in which a key may be, from the one it hashes to.
pub const PROBE: usize = 8;
/// IEEE 802.1D table 7-5: "Ageing Time ... Recommended default value 300.0" seconds.
pub const AGEING_SECS: u32 = 300;

/// Places a writer looks at for dead entries when it found no room.
const SWEEP: usize = 64;
/// How often a reader looks again at an entry that changed under its eyes.
const READ_ATTEMPTS: usize = 3;
/// Set in the key of every entry in use.
const USED: u64 = 1 << 60;

/// What came of learning an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// The address was not known.
    New,
    /// The address was known on this port.
    Refreshed,
    /// The address was known on another port.
    Moved,
    /// The port has as many entries as it may (a forgotten port: none), or there is no room where the address
    /// hashes to.
    TableFull,
    /// Another worker is writing; the next frame will do.
    Contended,
}

/// One place in the table.
#[derive(Debug, Default)]
struct Entry {
    /// Odd while somebody writes.
    version: AtomicU32,
    /// Second of the last frame; may change without the version.
    seen: AtomicU32,
    /// [`USED`], VLAN (12 bits), MAC (48 bits); 0 when never used.
    key: AtomicU64,
    /// Port index and generation.
    port: AtomicU64,
}

/// A consistent copy of an entry.
#[derive(Clone, Copy)]
struct Snapshot {
    key: u64,
    port: PortId,
    seen: u32,
}

impl Entry {
    fn read(&self) -> Option<Snapshot> {
        for _ in 0..READ_ATTEMPTS {
            let before = self.version.load(Ordering::Acquire);
            let key = self.key.load(Ordering::Relaxed);
            let port = unpack(self.port.load(Ordering::Relaxed));
            let seen = self.seen.load(Ordering::Relaxed);
            // The loads above may not sink below the second look at the version.
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && before == self.version.load(Ordering::Relaxed) {
                return Some(Snapshot { key, port, seen });
            }
        }
        None
    }

    /// Replaces the entry. Only the holder of the claim may.
    fn write(&self, key: u64, port: PortId, seen: u32) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        // No store below may be seen by somebody who does not see the odd version.
        fence(Ordering::Release);
        self.key.store(key, Ordering::Relaxed);
        self.port.store(pack(port), Ordering::Relaxed);
        self.seen.store(seen, Ordering::Relaxed);
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// A frame came in this second.
    fn touch(&self, tick: u32) {
        if self.seen.load(Ordering::Relaxed) < tick {
            self.seen.store(tick, Ordering::Relaxed);
        }
    }
}

/// The forwarding database.
#[derive(Debug)]
pub struct Fdb {
    entries: Box<[Entry]>,
    /// For each port index: the lowest generation that counts, and how many entries the port has.
    ports: Box<[AtomicU64]>,
    /// Somebody is writing.
    claim: AtomicBool,
    /// Where the next sweep for dead entries goes on.
    cursor: AtomicUsize,
    per_port: u32,
    hash_key: [u8; 16],
    /// Who listens to which group.
    snoop: Snoop,
}

impl Fdb {
    /// A table of `capacity` entries (rounded up to a power of two, at least [`PROBE`]).
    #[must_use]
    pub fn new(capacity: usize, seed: [u8; 16]) -> Self {
        Self::with_port_limit(capacity, MAX_ENTRIES_PER_PORT, seed)
    }

    /// A table in which one port may have `per_port` entries.
    #[must_use]
    pub fn with_port_limit(capacity: usize, per_port: u32, seed: [u8; 16]) -> Self {
        let capacity = capacity.clamp(PROBE, 1 << 24).next_power_of_two();
        Self {
            entries: (0..capacity).map(|_| Entry::default()).collect(),
            ports: (0..MAX_PORTS).map(|_| AtomicU64::new(0)).collect(),
            claim: AtomicBool::new(false),
            cursor: AtomicUsize::new(0),
            per_port,
            hash_key: seed,
            snoop: Snoop::default(),
        }
    }

    /// The memberships of group addresses, shared like everything here.
    pub(crate) fn snoop(&self) -> &Snoop {
        &self.snoop
    }

    /// Takes note that `mac` sends from `port`.
    pub fn learn(&self, vlan: Vlan, mac: EthernetAddress, port: PortId, now: Instant) -> Learned {
        let key = key_of(vlan, mac);
        let tick = tick_of(now);
        if let Some((entry, found)) = self.find(key)
            && found.port == port
            && self.is_alive(&found, tick)
        {
            entry.touch(tick);
            return Learned::Refreshed;
        }
        if self.claim.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return Learned::Contended;
        }
        let learned = self.learn_claimed(key, port, tick);
        self.claim.store(false, Ordering::Release);
        learned
    }

    /// The port on which `mac` was seen in the last 300 seconds.
    #[must_use]
    pub fn lookup(&self, vlan: Vlan, mac: EthernetAddress, now: Instant) -> Option<PortId> {
        let (_, found) = self.find(key_of(vlan, mac))?;
        self.is_alive(&found, tick_of(now)).then_some(found.port)
    }

    /// Forgets everything learned on `port`, and the addresses of ports that had its place before.
    pub fn forget_port(&self, port: PortId) {
        self.snoop.forget_port(port);
        let Some(state) = self.port_state(port) else { return };
        let lowest = u64::from(port.generation.saturating_add(1)) << 32;
        // Already forgotten is as good.
        state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| (state < lowest).then_some(lowest))
            .ok();
    }

    /// How many entries `port` has; aged ones count until their places are reused.
    #[cfg(test)]
    fn entries_of(&self, port: PortId) -> u32 {
        match self.port_state(port).map(|state| split(state.load(Ordering::Acquire))) {
            Some((lowest, count)) if port.generation >= lowest => count,
            _ => 0,
        }
    }

    /// How many entries there are room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// Every living entry, for listings: VLAN, MAC, port and seconds since the last frame.
    pub fn entries(&self, now: Instant) -> impl Iterator<Item = (Vlan, EthernetAddress, PortId, u32)> + '_ {
        let tick = tick_of(now);
        self.entries.iter().filter_map(move |entry| {
            let found = entry.read().filter(|found| self.is_alive(found, tick))?;
            let (vlan, mac) = parts_of(found.key);
            Some((vlan, mac, found.port, tick.saturating_sub(found.seen)))
        })
    }

    /// The second half of [`Fdb::learn`], with the claim held.
    fn learn_claimed(&self, key: u64, port: PortId, tick: u32) -> Learned {
        if !self.is_current(port) {
            return Learned::TableFull;
        }
        // With the claim held nobody else writes, so every read succeeds.
        if let Some((entry, found)) = self.find(key) {
            let alive = self.is_alive(&found, tick);
            if found.port == port && alive {
                entry.touch(tick);
                return Learned::Refreshed;
            }
            if found.port != port && !self.count_up(port, tick) {
                return Learned::TableFull;
            }
            entry.write(key, port, tick);
            if found.port == port {
                return Learned::New;
            }
            self.count_down(found.port);
            return if alive { Learned::Moved } else { Learned::New };
        }
        let Some((entry, former)) = self.reusable(key, tick) else {
            self.sweep(tick);
            return Learned::TableFull;
        };
        if !self.count_up(port, tick) {
            return Learned::TableFull;
        }
        entry.write(key, port, tick);
        if former.key != 0 {
            self.count_down(former.port);
        }
        Learned::New
    }

    /// The entry of `key`, alive or not.
    fn find(&self, key: u64) -> Option<(&Entry, Snapshot)> {
        self.places(key)
            .find_map(|entry| entry.read().filter(|found| found.key == key).map(|found| (entry, found)))
    }

    /// The first place for `key` that is free or whose entry is dead.
    fn reusable(&self, key: u64, tick: u32) -> Option<(&Entry, Snapshot)> {
        self.places(key).find_map(|entry| {
            let found = entry.read()?;
            (found.key == 0 || !self.is_alive(&found, tick)).then_some((entry, found))
        })
    }

    fn places(&self, key: u64) -> impl Iterator<Item = &Entry> {
        let mut hasher = SipHasher13::new_with_key(&self.hash_key);
        hasher.write_u64(key);
        let mask = self.entries.len() - 1;
        // Only the low bits are used, so cutting the hash on 32-bit machines is harmless.
        #[expect(clippy::cast_possible_truncation, reason = "the mask takes the low bits only")]
        let first = hasher.finish() as usize & mask;
        (0..PROBE).filter_map(move |step| self.entries.get(first.wrapping_add(step) & mask))
    }

    fn is_alive(&self, found: &Snapshot, tick: u32) -> bool {
        found.key != 0 && self.is_current(found.port) && !is_old(found.seen, tick)
    }

    /// Whether the port was not forgotten.
    fn is_current(&self, port: PortId) -> bool {
        self.port_state(port).is_some_and(|state| port.generation >= split(state.load(Ordering::Acquire)).0)
    }

    /// Clears dead entries in the next [`SWEEP`] places. A port at its limit would otherwise stay there, because
    /// its new addresses hash to other places than its aged ones.
    fn sweep(&self, tick: u32) {
        let mask = self.entries.len() - 1;
        let from = self.cursor.fetch_add(SWEEP, Ordering::Relaxed);
        for step in 0..SWEEP.min(self.entries.len()) {
            let Some(entry) = self.entries.get(from.wrapping_add(step) & mask) else { continue };
            if let Some(found) = entry.read()
                && found.key != 0
                && !self.is_alive(&found, tick)
            {
                entry.write(0, PortId { index: 0, generation: 0 }, 0);
                self.count_down(found.port);
            }
        }
    }

    /// One more entry for `port`, unless it is forgotten or has enough.
    fn count_up(&self, port: PortId, tick: u32) -> bool {
        let Some(state) = self.port_state(port) else { return false };
        let counted = state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
            let (lowest, count) = split(state);
            (port.generation >= lowest && count < self.per_port).then(|| state + 1)
        });
        if counted.is_err() {
            self.sweep(tick);
        }
        counted.is_ok()
    }

    /// One entry less for `port`; entries of a forgotten port are no longer counted.
    fn count_down(&self, port: PortId) {
        let Some(state) = self.port_state(port) else { return };
        // A forgotten port had its count set to zero already.
        state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                let (lowest, count) = split(state);
                (port.generation >= lowest && count > 0).then(|| state - 1)
            })
            .ok();
    }

    fn port_state(&self, port: PortId) -> Option<&AtomicU64> {
        self.ports.get(usize::try_from(port.index).ok()?)
    }
}

/// Seconds since the epoch of the clock; 136 years fit.
fn tick_of(now: Instant) -> u32 {
    u32::try_from(now.as_secs()).unwrap_or(u32::MAX)
}

/// Workers' clocks may differ by a moment: an entry from the future is young.
fn is_old(seen: u32, tick: u32) -> bool {
    tick.saturating_sub(seen) >= AGEING_SECS
}

fn key_of(vlan: Vlan, mac: EthernetAddress) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    USED | u64::from(vlan.number()) << 48 | u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

fn parts_of(key: u64) -> (Vlan, EthernetAddress) {
    let [_, _, a, b, c, d, e, f] = key.to_be_bytes();
    let number = u16::try_from((key & !USED) >> 48).unwrap_or(0);
    (Vlan::new(number).unwrap_or(Vlan::UNTAGGED), EthernetAddress([a, b, c, d, e, f]))
}

fn pack(port: PortId) -> u64 {
    u64::from(port.index) << 32 | u64::from(port.generation)
}

/// The high and the low half.
fn split(number: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = number.to_be_bytes();
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}

fn unpack(number: u64) -> PortId {
    let (index, generation) = split(number);
    PortId { index, generation }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::thread;

    use super::*;

    const SEED: [u8; 16] = *b"forwarding seed!";

    fn port(index: u32) -> PortId {
        PortId { index, generation: 0 }
    }

    fn mac(number: u32) -> EthernetAddress {
        let [a, b, c, d] = number.to_be_bytes();
        EthernetAddress([0x02, 0, a, b, c, d])
    }

    fn at(secs: u64) -> Instant {
        Instant::from_secs(secs)
    }

    #[test]
    fn a_learned_address_is_found_on_its_port_and_in_its_vlan_only() {
        let fdb = Fdb::new(64, SEED);
        assert_eq!(fdb.learn(Vlan::UNTAGGED, mac(1), port(3), at(0)), Learned::New);
        assert_eq!(fdb.lookup(Vlan::UNTAGGED, mac(1), at(1)), Some(port(3)));
        assert_eq!(fdb.lookup(Vlan::new(7).unwrap(), mac(1), at(1)), None);
        assert_eq!(fdb.lookup(Vlan::UNTAGGED, mac(2), at(1)), None);
    }

    #[test]
    fn a_moved_address_is_found_on_its_new_port() {
        let fdb = Fdb::new(64, SEED);
        fdb.learn(Vlan::UNTAGGED, mac(1), port(1), at(0));
        assert_eq!(fdb.learn(Vlan::UNTAGGED, mac(1), port(2), at(0)), Learned::Moved);
        assert_eq!(fdb.lookup(Vlan::UNTAGGED, mac(1), at(0)), Some(port(2)));
        assert_eq!((fdb.entries_of(port(1)), fdb.entries_of(port(2))), (0, 1));
    }

    #[test]
    fn an_address_ages_after_300_seconds_of_silence() {
        let fdb = Fdb::new(64, SEED);
        fdb.learn(Vlan::UNTAGGED, mac(1), port(1), at(0));
        assert_eq!(fdb.learn(Vlan::UNTAGGED, mac(1), port(1), at(200)), Learned::Refreshed);
        assert_eq!(fdb.lookup(Vlan::UNTAGGED, mac(1), at(499)), Some(port(1)));
        assert_eq!(fdb.lookup(Vlan::UNTAGGED, mac(1), at(500)), None);
        assert_eq!(fdb.learn(Vlan::UNTAGGED, mac(1), port(1), at(500)), Learned::New);
        assert_eq!(fdb.entries_of(port(1)), 1);
    }

    #[test]
    fn a_forgotten_ports_addresses_are_gone_and_its_successors_are_not() {
        let fdb = Fdb::new(64, SEED);
        let successor = PortId { index: 1, generation: 1 };
        fdb.learn(Vlan::UNTAGGED, mac(1), port(1), at(0));
        fdb.forget_port(port(1));
        assert_eq!(fdb.lookup(Vlan::UNTAGGED, mac(1), at(0)), None);
        assert_eq!(fdb.learn(Vlan::UNTAGGED, mac(1), port(1), at(0)), Learned::TableFull, "stale id");
        assert_eq!(fdb.learn(Vlan::UNTAGGED, mac(1), successor, at(0)), Learned::New);
        fdb.forget_port(port(1));
        assert_eq!(fdb.lookup(Vlan::UNTAGGED, mac(1), at(0)), Some(successor));
        assert_eq!(fdb.entries_of(successor), 1);
    }

    #[test]
    fn a_full_table_keeps_what_it_knows() {
        let fdb = Fdb::with_port_limit(PROBE, 1000, SEED);
        for number in 0..8 {
            assert_eq!(fdb.learn(Vlan::UNTAGGED, mac(number), port(1), at(0)), Learned::New);
        }
        assert_eq!(fdb.learn(Vlan::UNTAGGED, mac(8), port(2), at(0)), Learned::TableFull);
        for number in 0..8 {
            assert_eq!(fdb.lookup(Vlan::UNTAGGED, mac(number), at(0)), Some(port(1)));
        }
    }

    #[test]
    fn aged_entries_make_room_in_a_full_table() {
        let fdb = Fdb::with_port_limit(PROBE, 1000, SEED);
        for number in 0..8 {
            fdb.learn(Vlan::UNTAGGED, mac(number), port(1), at(0));
        }
        assert_eq!(fdb.learn(Vlan::UNTAGGED, mac(8), port(2), at(300)), Learned::New);
        assert_eq!((fdb.entries_of(port(1)), fdb.entries_of(port(2))), (7, 1));
    }

    #[test]
    fn one_port_that_makes_up_addresses_leaves_room_for_the_others() {
        let fdb = Fdb::new(DEFAULT_CAPACITY, SEED);
        for number in 0..20_000 {
            fdb.learn(Vlan::UNTAGGED, mac(number), port(1), at(0));
        }
        assert_eq!(fdb.entries_of(port(1)), MAX_ENTRIES_PER_PORT);
        for number in 0..100 {
            assert_eq!(fdb.learn(Vlan::UNTAGGED, mac(1_000_000 + number), port(2), at(0)), Learned::New);
        }
    }

    #[test]
    fn a_port_at_its_limit_learns_again_once_its_addresses_aged() {
        let limited = Fdb::with_port_limit(1024, 16, SEED);
        for number in 0..17 {
            limited.learn(Vlan::UNTAGGED, mac(number), port(1), at(0));
        }
        assert_eq!(limited.learn(Vlan::UNTAGGED, mac(99), port(1), at(1)), Learned::TableFull);
        let learned = (0..1024 / SWEEP + 1)
            .any(|_| limited.learn(Vlan::UNTAGGED, mac(99), port(1), at(400)) == Learned::New);
        assert!(learned, "the sweep never came round");
    }

    #[test]
    fn entries_lists_what_lives() {
        let fdb = Fdb::new(64, SEED);
        let vlan = Vlan::new(42).unwrap();
        fdb.learn(vlan, mac(1), port(1), at(0));
        fdb.learn(Vlan::UNTAGGED, mac(2), port(2), at(250));
        let young: Vec<_> = fdb.entries(at(310)).collect();
        assert_eq!(young, vec![(Vlan::UNTAGGED, mac(2), port(2), 60)]);
        let both: HashSet<_> = fdb.entries(at(299)).map(|(vlan, mac, ..)| (vlan, mac)).collect();
        assert_eq!(both, HashSet::from([(vlan, mac(1)), (Vlan::UNTAGGED, mac(2))]));
    }

    /// Every address may only ever be on two ports, told by its number. A torn read would show a third.
    #[test]
    fn no_reader_ever_sees_an_address_on_a_port_it_was_never_on() {
        let fdb = Fdb::with_port_limit(16, 1000, SEED);
        let addresses = 64u32;
        thread::scope(|scope| {
            for writer in 0..2u32 {
                let fdb = &fdb;
                scope.spawn(move || {
                    for round in 0..60_000u32 {
                        let number = round.wrapping_mul(7 + writer) % addresses;
                        // Time runs so fast that entries die and are reused by others all along.
                        let now = at(u64::from(round));
                        fdb.learn(Vlan::UNTAGGED, mac(number), port(number + addresses * (round % 2)), now);
                        if round % 97 == 0 {
                            fdb.forget_port(PortId { index: 4000, generation: round });
                        }
                    }
                });
            }
            for _ in 0..2 {
                let fdb = &fdb;
                scope.spawn(move || {
                    let mut seen = 0u32;
                    for round in 0..120_000u32 {
                        let number = round % addresses;
                        if let Some(found) = fdb.lookup(Vlan::UNTAGGED, mac(number), at(u64::from(round / 2)))
                        {
                            assert_eq!(found.index % addresses, number);
                            assert_eq!(found.generation, 0);
                            seen += 1;
                        }
                    }
                    seen
                });
            }
        });
        // The counts survived the races: what is in the table is what the ports were charged for.
        let charged: u32 = (0..2 * addresses).map(|index| fdb.entries_of(port(index))).sum();
        let held =
            fdb.entries.iter().filter(|entry| entry.read().is_some_and(|found| found.key != 0)).count();
        assert_eq!(usize::try_from(charged).unwrap(), held);
    }
}
