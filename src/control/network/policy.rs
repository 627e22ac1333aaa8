// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a port of a network may do: its VLANs, its isolation, and what the guards hold it to.

use std::sync::Arc;

use smoltcp::wire::{Ipv4Cidr, Ipv6Cidr};
use wharf_switch::{Addresses, Bindings, Guard, Isolation, Macs, Membership, Policy, StormControl, Vlan};

use super::{Error, Member, Network, Wish};
use crate::control::model::Allow;
use crate::control::spec::{ContainerSpec, Text};

/// What a container's specification wishes.
pub(super) fn wish_of(container: &ContainerSpec) -> Wish {
    Wish { mac: container.mac.as_ref().map(|Text(mac)| *mac), ipv4: container.ipv4, ipv6: container.ipv6 }
}

/// Which VLANs a port is on.
pub(super) fn membership(container: &ContainerSpec) -> Result<Membership, Error> {
    let vlan = |number: u16| {
        let wrong = || Error::invalid(format!("VLAN {number} is out of range: 1 to 4094"));
        Vlan::new(number).ok_or_else(wrong)
    };
    let own = container.vlan.map(vlan).transpose()?.unwrap_or(Vlan::UNTAGGED);
    if container.trunk.is_empty() {
        return Ok(Membership::Access(own));
    }
    let tagged = container.trunk.iter().map(|&number| vlan(number)).collect::<Result<_, _>>()?;
    Ok(Membership::Trunk { tagged, native: Some(own) })
}

/// What a port may do.
pub(super) fn policy(
    container: &ContainerSpec,
    network: &Network,
    member: Member,
    storm: Arc<StormControl>,
) -> Result<Policy, Error> {
    let may = |what: Allow| container.allow.contains(&what);
    let ipv4: Vec<_> = member.ipv4.map(|address| Ipv4Cidr::new(address, 32)).into_iter().collect();
    let prefix = network.config.ipv6.map(|plan| plan.subnet);
    let ipv6: Vec<_> =
        member.ipv6_sources(prefix).into_iter().map(|address| Ipv6Cidr::new(address, 128)).collect();
    let bindings = Bindings::new(&ipv4, &ipv6).map_err(|error| Error::internal(&error))?;
    Ok(Policy {
        membership: membership(container)?,
        isolation: if container.isolated.unwrap_or(network.spec.isolated) {
            Isolation::Isolated
        } else {
            Isolation::Promiscuous
        },
        storm,
        guard: Guard {
            macs: if may(Allow::AnyMac) { Macs::Any } else { Macs::Only(member.mac) },
            addresses: if may(Allow::AnyAddress) { Addresses::Any } else { Addresses::Bound(bindings) },
            may_serve_dhcp: may(Allow::Dhcp),
            may_route: may(Allow::Router),
        },
    })
}
