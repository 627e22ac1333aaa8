// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the networks count, as OpenMetrics text.
//!
//! Drops are told for every reason, also at zero: a rate can be asked for before the first one.
//!
//! # Sources
//! OpenMetrics 1.0.0, text format: a family has its samples in one place; a counter's end in `_total`; a name ends in its unit.

use std::fmt::{Display, Write as _};

use super::error::Error;
use super::model::{Info, Network, Port, Publication, Stats};
use super::registry::Registry;

/// The content type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is told: each list as the API has it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The process.
    pub info: Info,
    /// The networks.
    pub networks: Vec<Network>,
    /// What went through them.
    pub stats: Vec<Stats>,
    /// Their ports.
    pub ports: Vec<Port>,
    /// Their published ports.
    pub publications: Vec<Publication>,
}

impl Snapshot {
    /// What a registry has now.
    ///
    /// # Errors
    /// See [`Registry::stats`].
    pub fn of(registry: &Registry) -> Result<Self, Error> {
        Ok(Self {
            info: registry.info(),
            networks: registry.networks(),
            stats: registry.stats(None)?,
            ports: registry.ports(None)?,
            publications: registry.publications(None)?,
        })
    }
}

/// The text.
#[must_use]
pub fn expose(snapshot: &Snapshot) -> String {
    let mut text = Exposition::default();
    text.family("wharf_build", Kind::Info, None, "The process that answers.")
        .sample(&[("version", &snapshot.info.version)], 1);
    networks(&mut text, snapshot);
    frames(&mut text, &snapshot.stats);
    drops(&mut text, &snapshot.stats);
    traffic(&mut text, &snapshot.ports);
    load(&mut text, &snapshot.stats);
    text.finish()
}

fn networks(text: &mut Exposition, snapshot: &Snapshot) {
    let mut up =
        text.family("wharf_network_up", Kind::Gauge, None, "1 if the network works, 0 if it lost a worker.");
    for network in &snapshot.networks {
        up.sample(&[("network", &network.name)], network.up.into());
    }
    let mut ports = text.family("wharf_ports", Kind::Gauge, None, "Ports attached now.");
    for network in &snapshot.networks {
        ports.sample(&[("network", &network.name)], network.ports as u64);
    }
    let mut published =
        text.family("wharf_publications", Kind::Gauge, None, "Ports of the host that lead to containers.");
    for network in &snapshot.networks {
        let is_its = |publication: &&Publication| publication.network == network.name;
        published.sample(
            &[("network", &network.name)],
            snapshot.publications.iter().filter(is_its).count() as u64,
        );
    }
}

fn frames(text: &mut Exposition, stats: &[Stats]) {
    let help = "Frames: received + routed_in + replicated + originated = sent + routed_out + absorbed + dropped + queued.";
    let mut family = text.family("wharf_frames", Kind::Counter, None, help);
    for Stats { network, frames, .. } in stats {
        for (kind, count) in [
            ("received", frames.received),
            ("routed_in", frames.routed_in),
            ("replicated", frames.replicated),
            ("originated", frames.originated),
            ("sent", frames.sent),
            ("routed_out", frames.routed_out),
            ("absorbed", frames.absorbed),
            ("dropped", frames.dropped),
        ] {
            family.sample(&[("network", network), ("kind", kind)], count);
        }
    }
    let mut queued = text.family("wharf_queued_frames", Kind::Gauge, Some("frames"), "Frames that wait now.");
    for Stats { network, frames, .. } in stats {
        queued.sample(&[("network", network)], frames.queued);
    }
}

fn drops(text: &mut Exposition, stats: &[Stats]) {
    let help = "Frames that ended for a reason; class says whose problem it is.";
    let mut family = text.family("wharf_drops", Kind::Counter, None, help);
    for Stats { network, drops, .. } in stats {
        for drop in drops {
            let labels = [
                ("network", network.as_str()),
                ("at", &drop.at),
                ("reason", &drop.reason),
                ("class", &drop.class),
            ];
            family.sample(&labels, drop.count);
        }
    }
}

/// A family's name, its unit, its help, and its value of one `T`.
type Column<T> = (&'static str, Option<&'static str>, &'static str, fn(&T) -> u64);

fn traffic(text: &mut Exposition, ports: &[Port]) {
    const COLUMNS: [Column<Port>; 4] = [
        ("wharf_port_receive_frames", Some("frames"), "Frames from the port.", |port| port.rx_frames),
        ("wharf_port_receive_bytes", Some("bytes"), "Bytes from the port.", |port| port.rx_bytes),
        ("wharf_port_transmit_frames", Some("frames"), "Frames to the port.", |port| port.tx_frames),
        ("wharf_port_transmit_bytes", Some("bytes"), "Bytes to the port.", |port| port.tx_bytes),
    ];
    for (name, unit, help, value) in COLUMNS {
        let mut family = text.family(name, Kind::Counter, unit, help);
        for port in ports {
            family.sample(&[("network", &port.network), ("port", &port.name)], value(port));
        }
    }
}

fn load(text: &mut Exposition, stats: &[Stats]) {
    const COLUMNS: [Column<Stats>; 4] = [
        ("wharf_tcp_flows", None, "TCP connections.", |stats| stats.load.tcp_flows),
        ("wharf_held_bytes", Some("bytes"), "Stream data that the relay holds.", |stats| {
            stats.load.held_bytes
        }),
        ("wharf_udp_mappings", None, "UDP mappings.", |stats| stats.load.udp_mappings),
        ("wharf_echo_mappings", None, "Echo mappings.", |stats| stats.load.echo_mappings),
    ];
    for (name, unit, help, value) in COLUMNS {
        let mut family = text.family(name, Kind::Gauge, unit, help);
        for stats in stats {
            family.sample(&[("network", &stats.network)], value(stats));
        }
    }
    let help = "Mappings that had to make room for others.";
    let mut evicted = text.family("wharf_evicted_mappings", Kind::Counter, None, help);
    for stats in stats {
        evicted.sample(&[("network", &stats.network)], stats.load.evicted_mappings);
    }
    let help = "DNS queries that were looked for among the answers kept.";
    let mut lookups = text.family("wharf_dns_cache_lookups", Kind::Counter, None, help);
    for Stats { network, load, .. } in stats {
        for (result, count) in [("hit", load.dns_hits), ("miss", load.dns_misses)] {
            lookups.sample(&[("network", network), ("result", result)], count);
        }
    }
}

/// A type of metric.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Counter,
    Gauge,
    Info,
}

impl Kind {
    const fn text(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Info => "info",
        }
    }

    /// What a sample's name has beyond its family's.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Counter => "_total",
            Self::Gauge => "",
            Self::Info => "_info",
        }
    }
}

/// The text as it grows.
#[derive(Debug, Default)]
struct Exposition(String);

impl Exposition {
    fn family(&mut self, name: &'static str, kind: Kind, unit: Option<&str>, help: &str) -> Family<'_> {
        self.line(format_args!("# TYPE {name} {}", kind.text()));
        if let Some(unit) = unit {
            self.line(format_args!("# UNIT {name} {unit}"));
        }
        self.line(format_args!("# HELP {name} {}", escaped(help)));
        Family { text: self, name, kind }
    }

    fn line(&mut self, line: impl Display) {
        // A string takes everything.
        let _ = writeln!(self.0, "{line}");
    }

    fn finish(mut self) -> String {
        self.line("# EOF");
        self.0
    }
}

/// The samples of one family.
#[derive(Debug)]
struct Family<'a> {
    text: &'a mut Exposition,
    name: &'static str,
    kind: Kind,
}

impl Family<'_> {
    fn sample(&mut self, labels: &[(&str, &str)], value: u64) {
        let labels: Vec<_> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        self.text.line(format_args!("{}{}{{{}}} {value}", self.name, self.kind.suffix(), labels.join(",")));
    }
}

/// A text between quotes or behind `# HELP`.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests;
