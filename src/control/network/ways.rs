// SPDX-License-Identifier: MIT OR Apache-2.0
//! By what way the traffic of a network leaves the host, and that of those containers that have one of their own.

use super::{ContainerSpec, Error, Network, NetworkSpec};
use crate::host::{Sources, Way, Ways};

/// The network's way.
pub(super) fn of_network(spec: &NetworkSpec) -> Result<Way, Error> {
    checked(Way {
        sources: Sources { ipv4: spec.outbound_ipv4, ipv6: spec.outbound_ipv6 },
        interface: spec.outbound_interface.clone(),
    })
}

/// A container's, if it has its own. What it does not say is the network's.
pub(super) fn of_container(container: &ContainerSpec, spec: &NetworkSpec) -> Result<Option<Way>, Error> {
    let ContainerSpec { outbound_ipv4, outbound_ipv6, outbound_interface, .. } = container;
    if outbound_ipv4.is_none() && outbound_ipv6.is_none() && outbound_interface.is_none() {
        return Ok(None);
    }
    let sources =
        Sources { ipv4: outbound_ipv4.or(spec.outbound_ipv4), ipv6: outbound_ipv6.or(spec.outbound_ipv6) };
    let interface = outbound_interface.as_ref().or(spec.outbound_interface.as_ref()).cloned();
    checked(Way { sources, interface }).map(Some)
}

fn checked(way: Way) -> Result<Way, Error> {
    match way.check() {
        Ok(()) => Ok(way),
        Err(text) => Err(Error::invalid(text).hint("`ip addr` lists what it has")),
    }
}

impl Network {
    /// Lets traffic of whoever is attached now leave by the ways that are wished.
    pub(super) fn renew_ways(&mut self) {
        let warn = |error| tracing::warn!("network {}: {error}", self.name);
        let network = of_network(&self.spec).map_err(warn).unwrap_or_else(|()| self.ways.network.clone());
        let mut ways = Ways { network, ..Ways::default() };
        for attached in self.attached.values() {
            if let Some(way) = of_container(&attached.container, &self.spec).map_err(warn).unwrap_or_default()
            {
                let addresses = attached.member.list().into_iter();
                ways.containers.extend(addresses.map(|address| (address, way.clone())));
            }
        }
        if let Some(running) = &self.running
            && self.ways != ways
        {
            running.set_ways(&ways);
            self.ways = ways;
        }
    }
}
