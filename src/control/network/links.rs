// SPDX-License-Identifier: MIT OR Apache-2.0
//! A network's links with others: where its workers send packets for them, and what its forwarder knows of their names.

use std::sync::Arc;

use smoltcp::wire::IpCidr;
use wharf_stack::{Config, LinkedZone, Route};

use super::attached::LinkedRoute;
use super::names::FIRST;
use super::{Name, Network, Text};
use crate::dataplane::Running;
use crate::dataplane::link::Inlet;

/// A network as those see it that it is linked with.
#[derive(Clone, Debug)]
pub(in crate::control) struct LinkEnd {
    name: Name,
    config: Config,
    names: LinkedZone,
    inlets: Vec<Arc<Inlet>>,
}

impl LinkEnd {
    fn routes(&self, number: usize) -> Vec<Route> {
        self.config.routes_here(number)
    }
}

impl Network {
    /// Its addresses.
    pub(in crate::control) fn prefixes(&self) -> Vec<IpCidr> {
        self.config.routes_here(0).into_iter().map(|route| route.prefix).collect()
    }

    /// Where its containers find each other.
    pub(in crate::control) fn domain(&self) -> Option<&str> {
        self.domain.as_deref()
    }

    /// What others need to be linked with it. When it has lost a worker, packets for it end where they would leave: they
    /// are not for the outside.
    pub(in crate::control) fn link_end(&self) -> LinkEnd {
        let names = LinkedZone { zone: Arc::clone(&self.zone), prefixes: self.prefixes() };
        let inlets = self.running.as_ref().map(Running::inlets).unwrap_or_default();
        LinkEnd { name: self.name.clone(), config: self.config.clone(), names, inlets }
    }

    /// The networks that it is linked with.
    pub(in crate::control) fn links(&self) -> impl Iterator<Item = &Name> {
        self.links.iter().map(|link| &link.name)
    }

    /// The networks that it names and is not linked with.
    pub(super) fn waiting_links(&self) -> impl Iterator<Item = &Name> {
        self.spec.links.iter().filter(|wished| self.links().all(|linked| linked != *wished))
    }

    /// Links it with these networks, and no others, from now on.
    pub(in crate::control) fn set_links(&mut self, links: Vec<LinkEnd>) {
        self.links = links;
        let Some(running) = &self.running else { return };
        let routes: Vec<_> =
            self.links.iter().enumerate().flat_map(|(number, link)| link.routes(number)).collect();
        let inlets: Vec<_> = self.links.iter().map(|link| link.inlets.clone()).collect();
        running.set_routes(&routes, &inlets);
        let zones = self.links.iter().map(|link| link.names.clone()).collect();
        // A worker that is gone is told of elsewhere.
        let _ = running.ask(FIRST, move |worker, _| worker.gateway.set_linked_zones(zones));
    }

    /// The ways that its containers have to the linked networks, as far as it has the family.
    pub(super) fn linked_routes(&self) -> Vec<LinkedRoute> {
        let gateway = |prefix: &IpCidr| match prefix {
            IpCidr::Ipv4(_) => self.config.ipv4.map(|plan| plan.gateway.into()),
            IpCidr::Ipv6(_) => self.config.ipv6.map(|plan| plan.link_local.into()),
        };
        let prefixes = self.links.iter().flat_map(|link| &link.names.prefixes);
        prefixes
            .filter_map(|prefix| Some(LinkedRoute { prefix: Text(*prefix), gateway: gateway(prefix)? }))
            .collect()
    }
}
