// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the owner of a switch lets a port do.
//!
//! # How it works
//! A [`Policy`] does not change: a new one takes its place ([`Switch::set_policy`](crate::Switch::set_policy)), with
//! every worker, each of which has the same `Arc`. What a port has used up of its rates lives on in the policy that
//! was made from a clone.
//!
//! A port without a policy is for a container that is alone on its switch: untagged, not isolated, and checked for the
//! gateway's MAC address only. Nothing in this file costs it more than the look for a policy.

use std::sync::Arc;

use crate::vlan::Membership;
use crate::{Guard, Macs, StormControl, Vlan};

/// Whether a port reaches its neighbours (RFC 5517 section 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// It reaches the gateway and every port of its VLANs.
    #[default]
    Promiscuous,
    /// It reaches the gateway and promiscuous ports.
    Isolated,
}

/// What a port may do. By default an access port on [`Vlan::UNTAGGED`] with storm control and every guard.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Which VLANs it is on.
    pub membership: Membership,
    /// Which ports it reaches there.
    pub isolation: Isolation,
    /// How many frames it may have flooded.
    pub storm: Arc<StormControl>,
    /// What it may say of itself.
    pub guard: Guard,
}

/// Whether a port with this policy, or without any, is on the VLAN.
pub(crate) fn is_on(policy: Option<&Policy>, vlan: Vlan) -> bool {
    policy.map_or(vlan == Vlan::UNTAGGED, |policy| policy.membership.includes(vlan))
}

/// Whether a port with this policy, or without any, is kept from other such ports.
pub(crate) fn is_isolated(policy: Option<&Policy>) -> bool {
    policy.is_some_and(|policy| policy.isolation == Isolation::Isolated)
}

/// Whether more than one host may be behind a port with this policy, or without any: a router, another switch, a VM
/// that bridges. Which groups are wanted there, [`snoop`](crate::snoop) does not follow.
pub(crate) fn is_shared(policy: Option<&Policy>) -> bool {
    policy.is_none_or(|Policy { membership, guard, .. }| {
        let has_one_host = matches!(guard.macs, Macs::Only(_)) && matches!(membership, Membership::Access(_));
        guard.may_route || !has_one_host
    })
}
