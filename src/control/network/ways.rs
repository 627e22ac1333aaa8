// SPDX-License-Identifier: MIT OR Apache-2.0
//! By what way the traffic of a network leaves the host, and that of those containers that have one of their own.

use std::net::IpAddr;

use super::{Code, ContainerSpec, Error, Member, Name, Network, NetworkSpec};
use crate::host::{Sources, Way, Ways};

/// The network's way.
pub(super) fn of_network(spec: &NetworkSpec) -> Result<Way, Error> {
    checked(Way {
        sources: Sources { ipv4: spec.outbound_ipv4, ipv6: spec.outbound_ipv6 },
        interface: spec.outbound_interface.clone(),
    })
}

/// The way that a container wishes, if it has its own. What it does not say is the network's.
fn wished(container: &ContainerSpec, spec: &NetworkSpec) -> Option<Way> {
    let ipv4 = container.external_ipv4.or(container.outbound_ipv4);
    let ipv6 = container.external_ipv6.or(container.outbound_ipv6);
    let interface = container.outbound_interface.as_ref();
    let is_own = ipv4.is_some() || ipv6.is_some() || interface.is_some();
    is_own.then(|| Way {
        sources: Sources { ipv4: ipv4.or(spec.outbound_ipv4), ipv6: ipv6.or(spec.outbound_ipv6) },
        interface: interface.or(spec.outbound_interface.as_ref()).cloned(),
    })
}

/// Whether a container can have the way that it wishes.
pub(super) fn check_container(container: &ContainerSpec, spec: &NetworkSpec) -> Result<(), Error> {
    check_sources(container.external_ipv4, container.outbound_ipv4)?;
    check_sources(container.external_ipv6, container.outbound_ipv6)?;
    wished(container, spec).map_or(Ok(()), |way| checked(way).map(drop))
}

/// Whether a container is to be seen by one address.
fn check_sources<A: Copy + Eq + std::fmt::Display>(
    external: Option<A>,
    outbound: Option<A>,
) -> Result<(), Error> {
    match (external, outbound) {
        (Some(external), Some(outbound)) if external != outbound => {
            let message =
                format!("its traffic cannot leave from {outbound}: its external address is {external}");
            Err(Error::invalid(message).hint("leave the outbound address out"))
        }
        _ => Ok(()),
    }
}

fn checked(way: Way) -> Result<Way, Error> {
    match way.check() {
        Ok(()) => Ok(way),
        Err(text) => Err(Error::invalid(text).hint("`ip addr` lists what it has")),
    }
}

impl Network {
    /// Whether nobody is attached with one of these external addresses, but for `own`.
    ///
    /// # Errors
    /// Somebody is.
    pub fn check_external(&self, addresses: &[IpAddr], own: Option<&Name>) -> Result<(), Error> {
        let others = self.attached.iter().filter(|(name, _)| Some(*name) != own);
        let mut taken = others.flat_map(|(name, of)| of.container.external().map(move |at| (name, at)));
        let Some((other, address)) = taken.find(|(_, address)| addresses.contains(address)) else {
            return Ok(());
        };
        let message = format!("{address} is the external address of {other} on network {}", self.name);
        Err(Error::new(Code::InUse, message).hint("every container needs one of its own"))
    }

    /// Lets traffic of whoever is attached now leave by the ways that are wished. Where the host has no such way, what was
    /// before holds; a container that has none from before has its wish, by which nothing leaves until the host has it.
    pub(super) fn renew_ways(&mut self) {
        self.renew_ways_with(None);
    }

    /// The same for a `newcomer` too: whose device waits with packets to be sent has its way before it is attached.
    pub(super) fn renew_ways_with(&mut self, newcomer: Option<(&ContainerSpec, Member)>) {
        let warn = |error| tracing::warn!("network {}: {error}", self.name);
        let network = of_network(&self.spec).map_err(warn).unwrap_or_else(|()| self.ways.network.clone());
        let mut ways = Ways { network, ..Ways::default() };
        let attached = self.attached.values().map(|attached| (&attached.container, attached.member));
        for (container, member) in attached.chain(newcomer) {
            let Some(wished) = wished(container, &self.spec) else { continue };
            let is_there = check_container(container, &self.spec).map_err(warn).is_ok();
            let prefix = self.config.ipv6.map(|plan| plan.subnet);
            for address in member.sources(prefix) {
                let former = self.ways.containers.get(&address).filter(|_| !is_there);
                ways.containers.insert(address, former.unwrap_or(&wished).clone());
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
