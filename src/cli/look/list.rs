// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the lists of each kind look like to people.

use serde::de::DeserializeOwned;

use super::human::{bytes, duration, or_nothing, yes};
use super::table::Table;
use crate::control::model::{Flow, Lease, Network, Port, Publication, Stats};

/// Something that there are lists of.
pub(super) trait Listed: DeserializeOwned {
    /// Where the API has them.
    const PATH: &str;
    /// Told of an empty list.
    const NONE: &str;

    /// The list.
    fn text(items: &[Self]) -> String;
}

impl Listed for Network {
    const PATH: &str = "/v1/networks";
    const NONE: &str = "there is no network; make one: `wharf network create NAME`";

    fn text(items: &[Self]) -> String {
        let headings =
            ["NAME", "IPV4", "IPV6", "NAT64", "DOMAIN", ">MTU", ">PORTS", "INTERNAL", "LINKS", "UP"];
        let mut table = Table::new(&headings);
        for network in items {
            table.row([
                network.name.clone(),
                or_nothing(network.ipv4.as_ref().map(|ipv4| &ipv4.subnet)),
                or_nothing(network.ipv6.as_ref().map(|ipv6| &ipv6.subnet)),
                or_nothing(network.nat64.as_ref()),
                or_nothing(network.domain.as_ref()),
                network.mtu.to_string(),
                network.ports.to_string(),
                yes(network.internal),
                or_nothing(links(network)),
                yes(network.up),
            ]);
        }
        table.to_string()
    }
}

/// With whom a network is linked, and is to be.
fn links(network: &Network) -> Option<String> {
    let waiting = network.waiting_links.iter().map(|link| format!("{link} (waiting)"));
    let all: Vec<_> = network.links.iter().cloned().chain(waiting).collect();
    (!all.is_empty()).then(|| all.join(","))
}

impl Listed for Port {
    const PATH: &str = "/v1/ports";
    const NONE: &str = "nobody is attached";

    fn text(items: &[Self]) -> String {
        let headings = [
            "NETWORK",
            "NAME",
            "IPV4",
            "IPV6",
            "MAC",
            "VLAN",
            "AT",
            "INTERFACE",
            ">AGE",
            ">SENT",
            ">RECEIVED",
        ];
        let mut table = Table::new(&headings);
        for port in items {
            table.row([
                port.network.clone(),
                port.name.clone(),
                or_nothing(port.ipv4),
                or_nothing(port.ipv6),
                port.mac.clone(),
                or_nothing(port.vlan),
                port.at.clone(),
                or_nothing(port.interface.as_ref()),
                duration(port.age_secs),
                bytes(port.rx_bytes),
                bytes(port.tx_bytes),
            ]);
        }
        table.to_string()
    }
}

impl Listed for Publication {
    const PATH: &str = "/v1/publications";
    const NONE: &str = "nothing is published";

    fn text(items: &[Self]) -> String {
        let mut table = Table::new(&[">ID", "NETWORK", "PROTOCOL", "HOST", "CONTAINER", "TARGET", "AUTO"]);
        for publication in items {
            table.row([
                publication.id.to_string(),
                publication.network.clone(),
                format!("{}{}", publication.transport, if publication.proxy { "+proxy" } else { "" }),
                publication.end().to_string(),
                or_nothing(publication.container.as_ref()),
                publication.target.to_string(),
                yes(publication.auto),
            ]);
        }
        table.to_string()
    }
}

impl Listed for Lease {
    const PATH: &str = "/v1/leases";
    const NONE: &str = "nobody has an address";

    fn text(items: &[Self]) -> String {
        let mut table = Table::new(&["NETWORK", "ADDRESS", "MAC", "NAME", "STATE", ">EXPIRES"]);
        for lease in items {
            table.row([
                lease.network.clone(),
                lease.address.to_string(),
                lease.mac.clone(),
                or_nothing(lease.name.as_ref()),
                lease.state.clone(),
                or_nothing(lease.expires_secs.map(duration)),
            ]);
        }
        table.to_string()
    }
}

impl Listed for Flow {
    const PATH: &str = "/v1/flows";
    const NONE: &str = "there is no flow";

    fn text(items: &[Self]) -> String {
        let headings = [
            "NETWORK",
            "PROTOCOL",
            "DIRECTION",
            "CONTAINER",
            "INTERNAL",
            "EXTERNAL",
            "DESTINATION",
            "TRANSLATED",
            "STATE",
            ">AGE",
            ">IDLE",
            ">SENT",
            ">RECEIVED",
        ];
        let mut table = Table::new(&headings);
        for flow in items {
            table.row([
                flow.network.clone(),
                flow.protocol.clone(),
                flow.direction.clone(),
                or_nothing(flow.container.as_ref()),
                flow.internal.to_string(),
                or_nothing(flow.external),
                or_nothing(flow.destination),
                or_nothing(flow.translated),
                flow.state.clone(),
                duration(flow.age_secs),
                or_nothing(flow.idle_secs.map(duration)),
                bytes(flow.bytes_sent),
                bytes(flow.bytes_received),
            ]);
        }
        table.to_string()
    }
}

impl Listed for Stats {
    const PATH: &str = "/v1/stats";
    const NONE: &str = Network::NONE;

    fn text(items: &[Self]) -> String {
        let tables = [frames(items), load(items), drops(items)].into_iter().filter(|table| !table.is_empty());
        tables.map(|table| table.to_string()).collect::<Vec<_>>().join("\n")
    }
}

fn frames(items: &[Stats]) -> Table {
    let headings = [
        "NETWORK",
        ">RECEIVED",
        ">ROUTED IN",
        ">REPLICATED",
        ">ORIGINATED",
        ">SENT",
        ">ROUTED OUT",
        ">ABSORBED",
        ">DROPPED",
        ">QUEUED",
    ];
    let mut table = Table::new(&headings);
    for Stats { network, frames, .. } in items {
        let counts = [
            frames.received,
            frames.routed_in,
            frames.replicated,
            frames.originated,
            frames.sent,
            frames.routed_out,
            frames.absorbed,
            frames.dropped,
            frames.queued,
        ];
        table.row([network.clone()].into_iter().chain(counts.map(|count| count.to_string())));
    }
    table
}

fn load(items: &[Stats]) -> Table {
    let mut table =
        Table::new(&["NETWORK", ">TCP", ">HELD", ">UDP", ">ECHO", ">EVICTED", ">DNS HITS", ">MISSES"]);
    for Stats { network, load, .. } in items {
        table.row([
            network.clone(),
            load.tcp_flows.to_string(),
            bytes(load.held_bytes),
            load.udp_mappings.to_string(),
            load.echo_mappings.to_string(),
            load.evicted_mappings.to_string(),
            load.dns_hits.to_string(),
            load.dns_misses.to_string(),
        ]);
    }
    table
}

fn drops(items: &[Stats]) -> Table {
    let mut table = Table::new(&["NETWORK", "AT", "REASON", "CLASS", ">DROPPED", "MEANING"]);
    for Stats { network, drops, .. } in items {
        for drop in drops {
            table.row([
                network.clone(),
                drop.at.clone(),
                drop.reason.clone(),
                drop.class.clone(),
                drop.count.to_string(),
                drop.text.clone(),
            ]);
        }
    }
    table
}
