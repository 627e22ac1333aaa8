// SPDX-License-Identifier: MIT OR Apache-2.0
//! IGMP and MLD snooping: multicast goes where somebody asked for it.
//!
//! # Path
//! [`forward`](crate::forward) lets [`Snoop::hear`] listen to each multicast frame, and learns how far it is to go;
//! [`Switch::deliver`](crate::Switch::deliver) asks [`Snoop::ports`] which ports that are.
//!
//! # How it works
//! | frame | goes to |
//! |---|---|
//! | not IP; 224.0.0.0/24; ff02::1; a query | every port |
//! | a report or a leave | shared ports |
//! | a solicited-node group | ports with members of it, shared ports, and those that have never sent an MLD report; without any member, every port |
//! | any other group | ports with members of the group, and shared ports |
//!
//! Groups are told apart by their MAC addresses, as they are forwarded. A port is *shared* when more than one host may be
//! behind it ([`policy`](crate::policy)): a multicast router, or another switch. Every other port leads to one host, which
//! says itself what it wants, so that nobody need hear anybody else's reports: n containers that come up cost n reports, not
//! n times n.
//!
//! **It needs no querier.** A host reports its groups when it joins them and when it leaves them, and a membership without
//! a querier lasts until then, or until the port goes. What a host had joined before its port was attached it is asked for
//! once, by the gateway. Where queries come from a port that may route, memberships age: who has left two general queries
//! unanswered is no member any more. There are no timers.
//!
//! Neighbours are found although somebody does not report, or the reports were lost: a solicited-node group reaches each
//! port of which nothing is known yet, and without a member it is flooded as an ARP request is.
//!
//! All workers share the table under a lock. A frame does not wait long for it, and is flooded then; a report does, as
//! nobody may ask for it again.
//!
//! # Bounds
//! [`members::MAX_PER_PORT`] groups for one port, as many records of a report, and [`members::MAX_MEMBERSHIPS`] groups in all.
//! Beyond them the oldest membership gives way: of the port itself, or in a full table of the port that has most. The
//! sources of a membership are kept to know when the last one is blocked, [`members::MAX_SOURCES`] of them. The table
//! allocates when a port joins a group, not for the group's frames.
//!
//! # Sources
//! RFC 4541 sections 2.1 and 3; RFC 3376 section 8 and RFC 3810 section 9 (intervals).

pub mod members;
mod message;

use core::hint::spin_loop;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use smoltcp::wire::EthernetAddress;

use self::members::{Key, Table};
use self::message::{Changes, Family, Message};
use crate::fdb::MAX_PORTS;
use crate::policy::is_shared;
use crate::{Frame, Instant, Policy, PortId, Vlan};

/// How often a frame tries the lock, which is held for as long as a report has records.
const ATTEMPTS: usize = 64;

/// How far a flooded frame goes within its VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Every port.
    Everyone,
    /// Members of the group it is for, and shared ports.
    Group,
    /// Shared ports.
    Shared,
}

/// Some of the ports, by their places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortSet([u64; MAX_PORTS / 64]);

impl PortSet {
    const EMPTY: Self = Self([0; MAX_PORTS / 64]);

    pub(crate) fn contains(&self, port: PortId) -> bool {
        let word = usize::try_from(port.index / 64).ok().and_then(|at| self.0.get(at));
        word.is_some_and(|word| word & 1 << (port.index % 64) != 0)
    }

    fn insert(&mut self, port: PortId) {
        self.change(port, |word, bit| *word |= bit);
    }

    fn insert_all(&mut self, ports: &Self) {
        self.0.iter_mut().zip(ports.0).for_each(|(word, more)| *word |= more);
    }

    fn remove(&mut self, port: PortId) {
        self.change(port, |word, bit| *word &= !bit);
    }

    fn change(&mut self, port: PortId, change: impl FnOnce(&mut u64, u64)) {
        if let Some(word) = usize::try_from(port.index / 64).ok().and_then(|at| self.0.get_mut(at)) {
            change(word, 1 << (port.index % 64));
        }
    }

    fn complement(&self) -> Self {
        Self(self.0.map(|word| !word))
    }
}

/// The memberships of all ports, shared by all workers.
#[derive(Debug, Default)]
pub(crate) struct Snoop {
    table: Mutex<Table>,
}

impl Snoop {
    /// Listens to a multicast frame from `ingress`, and says how far it is to go.
    pub(crate) fn hear(
        &self,
        ingress: PortId,
        policy: Option<&Policy>,
        frame: &mut Frame,
        now: Instant,
    ) -> Audience {
        let Some(destination) = destination_of(frame) else { return Audience::Everyone };
        let Some(family) = Family::of(destination) else { return Audience::Everyone };
        let vlan = frame.vlan;
        match message::read(frame, family) {
            Some(Message::Query { is_general }) => {
                if is_general && policy.is_some_and(|policy| policy.guard.may_route) {
                    self.table().note_query(vlan, family, now);
                }
                Audience::Everyone
            }
            Some(Message::Report(changes)) => {
                // A shared port gets every group.
                if !is_shared(policy) {
                    self.note_report(ingress, vlan, family, changes, now);
                }
                Audience::Shared
            }
            None if is_always_flooded(destination) => Audience::Everyone,
            None => Audience::Group,
        }
    }

    fn note_report(&self, port: PortId, vlan: Vlan, family: Family, changes: Changes<'_>, now: Instant) {
        let mut table = self.table();
        if family == Family::Ipv6 {
            table.note_mld_reporter(vlan, port);
        }
        for (group, change) in changes {
            table.change(Key { vlan, group, port }, change, now);
        }
    }

    /// The ports that a frame is to go to, besides shared ones; `None` is every port.
    pub(crate) fn ports(&self, audience: Audience, frame: &Frame, now: Instant) -> Option<PortSet> {
        let destination = match audience {
            Audience::Everyone => return None,
            Audience::Shared => return Some(PortSet::EMPTY),
            Audience::Group => destination_of(frame)?,
        };
        let table = self.try_table()?;
        let mut set = PortSet::EMPTY;
        table.ports(frame.vlan, destination, now).for_each(|port| set.insert(port));
        if is_solicited_node(destination) {
            // Without a querier nobody repeats a report that was lost.
            if set == PortSet::EMPTY {
                return None;
            }
            set.insert_all(&table.silent(frame.vlan));
        }
        Some(set)
    }

    /// Forgets what a port has said.
    pub(crate) fn forget_port(&self, port: PortId) {
        self.table().forget(port);
    }

    // The table is whole after every call that could panic.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_table(&self) -> Option<MutexGuard<'_, Table>> {
        for _ in 0..ATTEMPTS {
            match self.table.try_lock() {
                Ok(table) => return Some(table),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => spin_loop(),
            }
        }
        None
    }
}

fn destination_of(frame: &Frame) -> Option<EthernetAddress> {
    frame.bytes().first_chunk().map(|&bytes| EthernetAddress(bytes))
}

/// RFC 4541 section 2.1.2: "Packets with a destination IP (DIP) address in the 224.0.0.X range which are not IGMP must
/// be forwarded on all ports." Section 3 says so of ff02::1. Nobody reports these.
fn is_always_flooded(group: EthernetAddress) -> bool {
    matches!(group.0, [0x01, 0, 0x5e, 0, 0, _] | [0x33, 0x33, 0, 0, 0, 1])
}

/// RFC 4291 section 2.7.1: ff02::1:ff00:0/104, where neighbours are sought.
fn is_solicited_node(group: EthernetAddress) -> bool {
    matches!(group.0, [0x33, 0x33, 0xff, ..])
}

#[cfg(test)]
pub(crate) mod tests;
