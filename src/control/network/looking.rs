// SPDX-License-Identifier: MIT OR Apache-2.0
//! A network as clients of the API see it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use wharf_stack::FlowView;
use wharf_switch::{DropCounters, PortCounters, PortId, Reason, Tally};

use super::{Attached, Member, Name, Network, id_text};
use crate::control::model;
use crate::control::spec::Text;

impl Network {
    /// The port of this name.
    #[must_use]
    pub fn port(&self, name: &Name) -> Option<model::Port> {
        let attached = self.attached.get(name)?;
        let counters = self.counters().remove(&attached.id).unwrap_or_default();
        Some(self.describe(name, attached, counters))
    }

    /// Every port.
    #[must_use]
    pub fn ports(&self) -> Vec<model::Port> {
        let mut counters = self.counters();
        let describe = |(name, attached): (&Name, &Attached)| {
            self.describe(name, attached, counters.remove(&attached.id).unwrap_or_default())
        };
        self.attached.iter().map(describe).collect()
    }

    fn counters(&self) -> BTreeMap<PortId, PortCounters> {
        let mut sums = BTreeMap::<PortId, PortCounters>::new();
        let of_workers = self.running.as_ref().and_then(|running| {
            running
                .ask_all(|worker, _| {
                    let counters = |id| Some((id, worker.switch.counters(id)?));
                    worker.switch.ids().filter_map(counters).collect::<Vec<_>>()
                })
                .ok()
        });
        for (id, counters) in of_workers.into_iter().flatten().flatten() {
            *sums.entry(id).or_default() += counters;
        }
        sums
    }

    fn describe(&self, name: &Name, attached: &Attached, counters: PortCounters) -> model::Port {
        let Attached { id, kind, request, container, member, since, .. } = attached;
        model::Port {
            network: self.name.to_string(),
            name: name.to_string(),
            aliases: container.aliases.iter().map(Name::to_string).collect(),
            id: id_text(*id),
            kind: *kind,
            at: request.at.clone(),
            interface: request.interface.clone(),
            mac: Text(member.mac).to_string(),
            ipv4: member.ipv4,
            ipv6: member.ipv6,
            vlan: container.vlan,
            isolated: container.isolated.unwrap_or(self.spec.isolated),
            allow: container.allow.clone(),
            age_secs: since.elapsed().as_secs(),
            rx_frames: counters.rx_frames,
            rx_bytes: counters.rx_bytes,
            tx_frames: counters.tx_frames,
            tx_bytes: counters.tx_bytes,
        }
    }

    /// Every flow.
    #[must_use]
    pub fn flows(&self) -> Vec<model::Flow> {
        let of_workers = self.running.as_ref().and_then(|running| {
            running.ask_all(|worker, now| worker.gateway.flows(now, &worker.host).collect::<Vec<_>>()).ok()
        });
        let owners: BTreeMap<IpAddr, &Name> = self.members.by_name().iter().flat_map(owned).collect();
        let describe = |flow: FlowView| self.describe_flow(&flow, owners.get(&flow.internal.ip()).copied());
        of_workers.into_iter().flatten().flatten().map(describe).collect()
    }

    fn describe_flow(&self, flow: &FlowView, container: Option<&Name>) -> model::Flow {
        model::Flow {
            network: self.name.to_string(),
            protocol: flow.protocol.as_str().to_owned(),
            direction: flow.direction.as_str().to_owned(),
            internal: flow.internal,
            container: container.map(Name::to_string),
            external: flow.external,
            destination: Some(flow.destination),
            translated: flow.translated,
            state: flow.state.as_str().to_owned(),
            age_secs: flow.age.as_secs(),
            idle_secs: Some(flow.idle.as_secs()),
            bytes_sent: flow.bytes_sent,
            bytes_received: flow.bytes_received,
        }
    }

    /// What went through, and what did not.
    #[must_use]
    pub fn stats(&self) -> model::Stats {
        let books = self.running.as_ref().and_then(|running| {
            running
                .ask_all(|worker, _| {
                    let switch = worker.switch.drops.clone();
                    (worker.switch.tally, switch, worker.gateway.drops().clone(), worker.gateway.load())
                })
                .ok()
        });
        let mut tally = Tally::default();
        let mut load = model::Load::default();
        let (mut switch, mut gateway) = (DropCounters::default(), DropCounters::default());
        for (books, switch_drops, gateway_drops, of_worker) in books.into_iter().flatten() {
            tally += books;
            add(&mut switch, &switch_drops);
            add(&mut gateway, &gateway_drops);
            load += of_worker;
        }
        let traffic = |port: model::Port| {
            (
                port.name,
                model::Traffic {
                    rx_frames: port.rx_frames,
                    rx_bytes: port.rx_bytes,
                    tx_frames: port.tx_frames,
                    tx_bytes: port.tx_bytes,
                },
            )
        };
        model::Stats {
            network: self.name.to_string(),
            frames: tally.into(),
            drops: drops("switch", &switch).chain(drops("gateway", &gateway)).collect(),
            load,
            ports: self.ports().into_iter().map(traffic).collect(),
        }
    }

    /// What it is.
    #[must_use]
    pub fn describe_network(&self) -> model::Network {
        model::Network {
            name: self.name.to_string(),
            ipv4: self.config.ipv4.map(|plan| model::Subnet {
                subnet: plan.subnet.to_string(),
                gateway: plan.gateway,
                dns: plan.dns,
            }),
            ipv6: self.config.ipv6.map(|plan| model::Subnet {
                subnet: plan.subnet.to_string(),
                gateway: plan.gateway,
                dns: plan.dns,
            }),
            nat64: self.config.nat64.map(|prefix| prefix.to_string()),
            domain: self.domain.clone(),
            mtu: self.config.mtu_bytes,
            workers: self.spec.workers,
            internal: self.spec.internal,
            isolated: self.spec.isolated,
            links: self.links().map(Name::to_string).collect(),
            waiting_links: self.waiting_links().map(Name::to_string).collect(),
            host_loopback: self.spec.host_loopback,
            host_sockets: self.spec.host_sockets.iter().map(Text::to_string).collect(),
            ports: self.attached.len(),
            up: self.running.is_some(),
        }
    }
}

/// Each address of a member with its name.
fn owned<'a>((name, member): (&'a Name, &Member)) -> impl Iterator<Item = (IpAddr, &'a Name)> + use<'a> {
    member.list().into_iter().map(move |address| (address, name))
}

fn add<R: Reason>(sum: &mut DropCounters<R>, other: &DropCounters<R>) {
    other.iter().for_each(|(reason, count)| sum.count_many(reason, count));
}

fn drops<R: Reason>(at: &str, counters: &DropCounters<R>) -> impl Iterator<Item = model::Drops> {
    counters.iter().map(move |(reason, count)| model::Drops {
        at: at.to_owned(),
        reason: reason.name().to_owned(),
        class: reason.class().name().to_owned(),
        text: reason.text().to_owned(),
        count,
    })
}
