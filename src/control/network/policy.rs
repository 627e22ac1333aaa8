// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a port of a network may do: its VLANs, its isolation, and what the guards hold it to.

use std::sync::Arc;

use smoltcp::wire::{Ipv4Cidr, Ipv6Cidr};
use wharf_switch::{Addresses, Bindings, Guard, Isolation, Macs, Policy, StormControl};

use super::{Error, Member, Network, Wish};
use crate::control::model::Allow;
use crate::control::spec::{ContainerSpec, Text};

/// What a container's specification wishes.
pub(super) fn wish_of(container: &ContainerSpec) -> Wish {
    Wish { mac: container.mac.as_ref().map(|Text(mac)| *mac), ipv4: container.ipv4, ipv6: container.ipv6 }
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
        membership: container.membership().map_err(Error::invalid)?,
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
