// SPDX-License-Identifier: MIT OR Apache-2.0
//! The port table of one worker: which ports there are, and which of them a flooded frame reaches.
//!
//! # Bounds
//! [`MAX_PORTS`] ports. Places are reused; a [`PortId`] of a port that left finds nobody.

use core::fmt;
use std::sync::Arc;

use smoltcp::wire::EthernetAddress;

use crate::fdb::MAX_PORTS;
use crate::policy::{is_isolated, is_on, is_shared};
use crate::{DropReason, Macs, Policy, PortId, Vlan};

/// Frames and bytes through one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Frames the port gave us.
    pub rx_frames: u64,
    /// Bytes of these, without virtio-net header.
    pub rx_bytes: u64,
    /// Frames the port took.
    pub tx_frames: u64,
    /// Bytes of these, without virtio-net header.
    pub tx_bytes: u64,
}

impl core::ops::AddAssign for PortCounters {
    fn add_assign(&mut self, other: Self) {
        let Self { rx_frames, rx_bytes, tx_frames, tx_bytes } = other;
        self.rx_frames += rx_frames;
        self.rx_bytes += rx_bytes;
        self.tx_frames += tx_frames;
        self.tx_bytes += tx_bytes;
    }
}

/// The table holds [`MAX_PORTS`] ports already, or the place is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyPorts;

impl fmt::Display for TooManyPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the switch has no place left for a port (it has {MAX_PORTS})")
    }
}

impl std::error::Error for TooManyPorts {}

/// One place in the port table.
#[derive(Debug)]
struct Slot<P> {
    generation: u32,
    attached: Option<Attached<P>>,
}

/// A port in its place.
#[derive(Debug)]
pub(crate) struct Attached<P> {
    pub(crate) port: P,
    pub(crate) policy: Option<Arc<Policy>>,
    pub(crate) counters: PortCounters,
}

/// What bounds the flooding of a frame: its VLAN, where it came from, and whether that port is isolated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope {
    from: PortId,
    vlan: Vlan,
    isolated: bool,
}

impl Scope {
    fn admits(self, id: PortId, policy: Option<&Policy>) -> bool {
        id != self.from && is_on(policy, self.vlan) && !(self.isolated && is_isolated(policy))
    }
}

/// The ports of one worker.
#[derive(Debug)]
pub(crate) struct Table<P> {
    slots: Vec<Slot<P>>,
}

impl<P> Default for Table<P> {
    fn default() -> Self {
        Self { slots: Vec::new() }
    }
}

impl<P> Table<P> {
    /// Puts `port` in the first free place.
    ///
    /// # Errors
    /// [`TooManyPorts`].
    pub(crate) fn attach(&mut self, port: P, policy: Option<Arc<Policy>>) -> Result<PortId, TooManyPorts> {
        let free = self.slots.iter().position(|slot| slot.attached.is_none());
        let index = free.unwrap_or(self.slots.len());
        let generation = self.slots.get(index).map_or(0, |slot| slot.generation);
        let id = PortId { index: u32::try_from(index).map_err(|_| TooManyPorts)?, generation };
        self.attach_as(id, port, policy)?;
        Ok(id)
    }

    /// Puts `port` at the place that another worker's table gave it.
    ///
    /// # Errors
    /// [`TooManyPorts`] when the place is taken, or was used by a later port.
    pub(crate) fn attach_as(
        &mut self,
        id: PortId,
        port: P,
        policy: Option<Arc<Policy>>,
    ) -> Result<(), TooManyPorts> {
        let index = usize::try_from(id.index).map_err(|_| TooManyPorts)?;
        if index >= MAX_PORTS {
            return Err(TooManyPorts);
        }
        while self.slots.len() <= index {
            self.slots.push(Slot { generation: 0, attached: None });
        }
        let slot = self.slots.get_mut(index).ok_or(TooManyPorts)?;
        if slot.attached.is_some() || id.generation < slot.generation {
            return Err(TooManyPorts);
        }
        let attached = Attached { port, policy, counters: PortCounters::default() };
        *slot = Slot { generation: id.generation, attached: Some(attached) };
        Ok(())
    }

    /// Takes a port out; its id is void from now on.
    pub(crate) fn detach(&mut self, id: PortId) -> Option<P> {
        let slot = self.slots.get_mut(usize::try_from(id.index).ok()?)?;
        if slot.generation != id.generation {
            return None;
        }
        let attached = slot.attached.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        Some(attached.port)
    }

    /// How many places there are, free ones included.
    pub(crate) fn places(&self) -> usize {
        self.slots.len()
    }

    /// The port at a place.
    pub(crate) fn id_at(&self, index: usize) -> Option<PortId> {
        let slot = self.slots.get(index)?;
        slot.attached.as_ref()?;
        Some(PortId { index: u32::try_from(index).ok()?, generation: slot.generation })
    }

    /// Every attached port's id.
    pub(crate) fn ids(&self) -> impl Iterator<Item = PortId> + '_ {
        (0..self.slots.len()).filter_map(|index| self.id_at(index))
    }

    pub(crate) fn get(&self, id: PortId) -> Option<&Attached<P>> {
        let slot = self.slots.get(usize::try_from(id.index).ok()?)?;
        slot.attached.as_ref().filter(|_| slot.generation == id.generation)
    }

    pub(crate) fn get_mut(&mut self, id: PortId) -> Option<&mut Attached<P>> {
        let slot = self.slots.get_mut(usize::try_from(id.index).ok()?)?;
        let current = slot.generation == id.generation;
        slot.attached.as_mut().filter(|_| current)
    }

    /// The policy of a port, if it has one.
    ///
    /// # Errors
    /// [`DropReason::PortClosed`].
    pub(crate) fn policy(&self, id: PortId) -> Result<Option<&Policy>, DropReason> {
        self.get(id).map(|attached| attached.policy.as_deref()).ok_or(DropReason::PortClosed)
    }

    /// Whether the two ports are isolated from each other. The gateway is isolated from nobody.
    pub(crate) fn are_isolated(&self, one: PortId, other: PortId) -> bool {
        self.is_isolated(one) && self.is_isolated(other)
    }

    fn is_isolated(&self, id: PortId) -> bool {
        self.policy(id).is_ok_and(is_isolated)
    }

    /// How far a frame from `from`, a port or the gateway, may be flooded.
    pub(crate) fn scope(&self, from: PortId, vlan: Vlan) -> Scope {
        Scope { from, vlan, isolated: self.is_isolated(from) }
    }

    /// Whether a flooded frame may go out of this port.
    pub(crate) fn is_within(&self, scope: Scope, id: PortId) -> bool {
        self.policy(id).is_ok_and(|policy| scope.admits(id, policy))
    }

    /// Whether more than one host may be behind the port.
    pub(crate) fn is_shared(&self, id: PortId) -> bool {
        self.policy(id).is_ok_and(is_shared)
    }

    /// Whether a flooded frame may go out of any port.
    pub(crate) fn reaches_any(&self, scope: Scope) -> bool {
        self.ids().any(|id| self.is_within(scope, id))
    }

    /// Whether the port is attached and on the VLAN.
    pub(crate) fn is_member(&self, id: PortId, vlan: Vlan) -> bool {
        self.policy(id).is_ok_and(|policy| is_on(policy, vlan))
    }

    /// Whether the MAC address is bound to a port other than `except`.
    pub(crate) fn is_bound_elsewhere(&self, mac: EthernetAddress, except: PortId) -> bool {
        self.ids().filter(|&id| id != except).any(|id| {
            let policy = self.policy(id).ok().flatten();
            policy.is_some_and(|policy| policy.guard.macs == Macs::Only(mac))
        })
    }
}
