// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who may have another flow.
//!
//! # How it works
//! A container may have [`SHARE`] times as many flows as there is room for still (dynamic threshold). The more it has, the
//! less is left for it: alone it gets [`SHARE`] of `SHARE + 1` places, two that want all get the same each, and whoever comes
//! next finds room. No flow ends for another's sake.
//!
//! There is room for as many flows as fit the table and the memory budget, of which data in flight leaves a part alone. Who
//! is refused has used up its share of what there is least of, and that is the reason counted.
//!
//! # Bounds
//! What [`Holders`](crate::holders::Holders) has. A flow costs a look at it when it begins and another when it ends.
//!
//! # Sources
//! Choudhury and Hahne: "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches" (1998).

use smoltcp::wire::EthernetAddress;

use super::{FLOW_BYTES, MAX_FLOWS, Relay};
use crate::DropReason;
use crate::env::{Budget, Env};
use crate::host::FlowId;

/// Flows that a container may have for each that there is room for.
const SHARE: usize = 16;

/// Room for a flow that is about to begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The flow's id.
    pub(super) id: FlowId,
    /// Whose flow it is.
    pub(super) holder: FlowId,
}

impl Relay {
    /// Flows that a container may add now.
    pub(crate) fn room_for(&self, budget: &Budget, container: EthernetAddress) -> usize {
        let room = self.flows.room().min(budget.left() / FLOW_BYTES);
        let held = self.holders.find(container).map_or(0, |holder| self.holders.places(holder));
        // With each that is added there is room for one less.
        (SHARE * room).saturating_sub(held).div_ceil(SHARE + 1)
    }

    /// What keeps a container from another flow, if something does: whatever there is least of.
    fn scarcity(&self, budget: &Budget) -> DropReason {
        let room = self.flows.room();
        if budget.left() / FLOW_BYTES < room {
            DropReason::RelayMemoryExhausted
        } else if self.flows.len() + room >= MAX_FLOWS {
            DropReason::TcpTableFull
        } else {
            DropReason::HostExhausted
        }
    }

    /// Takes the place of the next flow for a container, or says what there is too little of.
    pub(super) fn take_place(
        &mut self,
        env: &mut Env,
        container: EthernetAddress,
    ) -> Result<Place, DropReason> {
        let scarcity = self.scarcity(&env.budget);
        if self.room_for(&env.budget, container) == 0 || !env.budget.reserve(FLOW_BYTES) {
            return Err(scarcity);
        }
        let place = self.flows.next_id().zip(self.holders.add(container));
        place.map(|(id, holder)| Place { id, holder }).ok_or(scarcity)
    }

    /// Gives a flow's place back.
    pub(super) fn leave_place(&mut self, env: &mut Env, holder: FlowId) {
        self.holders.remove(holder);
        env.budget.release(FLOW_BYTES);
    }
}
