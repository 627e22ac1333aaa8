// SPDX-License-Identifier: MIT OR Apache-2.0
//! What clients of the API read and write, version 1.
//!
//! Fields are only ever added. Durations are whole seconds unless the name says otherwise, sizes are bytes; addresses and
//! ends are in their usual text (`192.0.2.1:80`, `[2001:db8::1]:80`).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::publish::{End, HostAddress};

/// The process that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Of wharf.
    pub version: String,
    /// Of the API: 1.
    pub api: u32,
    /// Its process id.
    pub pid: u32,
    /// `daemon` or `run`.
    pub mode: Mode,
}

/// What kind of process answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// `wharf up`: containers come and go.
    Daemon,
    /// `wharf run`: one network with one sandbox.
    Run,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// IPv4, where it has it.
    pub ipv4: Option<Subnet<Ipv4Addr>>,
    /// IPv6, where it has it.
    pub ipv6: Option<Subnet<Ipv6Addr>>,
    /// The prefix under which IPv4 destinations are reached from IPv6.
    pub nat64: Option<String>,
    /// Where its containers find each other by name.
    pub domain: Option<String>,
    /// Largest IP packet on its links.
    pub mtu: usize,
    /// Threads that carry its packets.
    pub workers: usize,
    /// It has no outside.
    pub internal: bool,
    /// Its containers reach the gateway only, not each other.
    pub isolated: bool,
    /// Networks that its containers reach, and are reached from.
    #[serde(default)]
    pub links: Vec<String>,
    /// Networks that it is to be linked with, once they are there and nothing else is in the way.
    #[serde(default)]
    pub waiting_links: Vec<String>,
    /// The gateway's address leads to the host's loopback.
    pub host_loopback: bool,
    /// Ports of the gateway that lead to unix sockets of the host: `PORT:PATH`.
    #[serde(default)]
    pub host_sockets: Vec<String>,
    /// Ports attached now.
    pub ports: usize,
    /// It works; if not, a worker is lost.
    pub up: bool,
}

/// A network's addresses of one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet<A> {
    /// The prefix, such as `10.0.2.0/24`.
    pub subnet: String,
    /// The gateway's address.
    pub gateway: A,
    /// The DNS forwarder's address.
    pub dns: A,
}

/// A port: one end of a cable, at a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its network's name.
    pub network: String,
    /// Its own name, which no other port of the network has.
    pub name: String,
    /// Further names that it is found by, which it may share with others.
    pub aliases: Vec<String>,
    /// Its place in the switch and how many ports had that place before, as `PLACE.GENERATION`.
    pub id: String,
    /// What device it is.
    pub kind: PortKind,
    /// What is at the other end, such as `pid 4711`.
    pub at: String,
    /// The interface's name there, where it is known.
    pub interface: Option<String>,
    /// Its MAC address.
    pub mac: String,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address in the network's prefix.
    pub ipv6: Option<Ipv6Addr>,
    /// The VLAN that it is on without tags; none is the network's own.
    pub vlan: Option<u16>,
    /// It reaches the gateway and ports that are not isolated only.
    pub isolated: bool,
    /// What the guards let it do beyond speaking for itself.
    pub allow: Vec<Allow>,
    /// How long it has been attached.
    pub age_secs: u64,
    /// Frames from it.
    pub rx_frames: u64,
    /// Bytes of these.
    pub rx_bytes: u64,
    /// Frames to it.
    pub tx_frames: u64,
    /// Bytes of these.
    pub tx_bytes: u64,
}

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortKind {
    /// A TAP.
    Tap,
    /// A veth pair, read through packet sockets.
    Veth,
    /// A stream socket of a virtual machine.
    Stream,
}

impl From<crate::netns::DeviceKind> for PortKind {
    fn from(kind: crate::netns::DeviceKind) -> Self {
        match kind {
            crate::netns::DeviceKind::Tap(_) => Self::Tap,
            crate::netns::DeviceKind::Veth => Self::Veth,
        }
    }
}

/// What a port may do that guards forbid the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Allow {
    /// Speak from every MAC address.
    AnyMac,
    /// Speak from every IP address.
    AnyAddress,
    /// Answer DHCP.
    Dhcp,
    /// Send Router Advertisements and redirects.
    Router,
}

/// An address that somebody has or will get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The network's name.
    pub network: String,
    /// The address.
    pub address: IpAddr,
    /// Whose it is.
    pub mac: String,
    /// The name of the port that has it, or what the client calls itself.
    pub name: Option<String>,
    /// `static` for a port's own; `offered` or `bound` by DHCP.
    pub state: String,
    /// Until it runs out; none for a port's own.
    pub expires_secs: Option<u64>,
}

/// A flow through the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The network's name.
    pub network: String,
    /// `tcp`, `udp`, `icmp` or `icmpv6`.
    pub protocol: String,
    /// `outbound`, or `inbound` through a published port.
    pub direction: String,
    /// The container's end.
    pub internal: SocketAddr,
    /// The container's name, where it has one.
    pub container: Option<String>,
    /// The host's end.
    pub external: Option<SocketAddr>,
    /// The other end as the container sees it.
    pub destination: Option<SocketAddr>,
    /// The other end as the host sees it, where that is another.
    pub translated: Option<SocketAddr>,
    /// How far it is, such as `established`.
    pub state: String,
    /// Since it began.
    pub age_secs: u64,
    /// Since something was heard of it, where that is known.
    pub idle_secs: Option<u64>,
    /// Payload bytes from the container.
    pub bytes_sent: u64,
    /// Payload bytes to the container.
    pub bytes_received: u64,
}

/// What is spoken at a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl From<wharf_stack::host::Transport> for Transport {
    fn from(transport: wharf_stack::host::Transport) -> Self {
        match transport {
            wharf_stack::host::Transport::Tcp => Self::Tcp,
            wharf_stack::host::Transport::Udp => Self::Udp,
        }
    }
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl From<Transport> for wharf_stack::host::Transport {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Tcp => Self::Tcp,
            Transport::Udp => Self::Udp,
        }
    }
}

/// A port or a unix socket of the host that leads to a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    /// Its number, which no other had.
    pub id: u64,
    /// The network's name.
    pub network: String,
    /// What is spoken there.
    pub transport: Transport,
    /// The host's end; of a unix socket `unix:` and its path.
    pub host: HostAddress,
    /// The only interface of the host whose clients come there.
    #[serde(default)]
    pub interface: Option<String>,
    /// The server is told who its clients are, by the PROXY protocol.
    #[serde(default)]
    pub proxy: bool,
    /// It is there as long as the container listens on that port.
    #[serde(default)]
    pub auto: bool,
    /// The container's name.
    pub container: Option<String>,
    /// The container's end.
    pub target: SocketAddr,
}

impl Publication {
    /// The host's end, with its interface.
    #[must_use]
    pub fn end(&self) -> End {
        End { at: self.host.clone(), interface: self.interface.clone() }
    }
}

/// A wish for published ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishRequest {
    /// The network; by default the only one there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// As on the command line: `[IP:|INTERFACE:]HOSTPORT[-END]:[NAME:]PORT[-END][/tcp|/udp|/tcp+proxy]`, or
    /// `unix:PATH:[NAME:]PORT[/tcp+proxy]` where the socket comes with the wish.
    pub ports: String,
}

/// A wish for a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateNetwork {
    /// Its name.
    pub name: String,
    /// What it is to be.
    #[serde(default)]
    pub spec: super::spec::NetworkSpec,
}

/// What a reload changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Networks that are new.
    pub created: Vec<String>,
    /// Networks that are gone, and their ports with them.
    pub removed: Vec<String>,
    /// Networks that changed while their flows went on.
    pub changed: Vec<String>,
    /// What could not be done, such as a port that somebody else has.
    pub warnings: Vec<String>,
}

/// What went through a network, and what did not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// The network's name.
    pub network: String,
    /// Every frame that came into being and where it ended.
    pub frames: Frames,
    /// Every reason for a drop, also at zero.
    pub drops: Vec<Drops>,
    /// How full the gateway is.
    pub load: Load,
    /// Bytes through each port, by its name.
    pub ports: BTreeMap<String, Traffic>,
}

/// The books of a network:
/// `received + routed_in + replicated + originated = sent + routed_out + absorbed + dropped + queued`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    /// Taken from a port.
    pub received: u64,
    /// Taken from a linked network.
    #[serde(default)]
    pub routed_in: u64,
    /// Additional copies and segments.
    pub replicated: u64,
    /// Made by the gateway.
    pub originated: u64,
    /// Taken by a port.
    pub sent: u64,
    /// Handed to a linked network.
    #[serde(default)]
    pub routed_out: u64,
    /// Consumed by the gateway.
    pub absorbed: u64,
    /// Ended with a reason.
    pub dropped: u64,
    /// Waiting now.
    pub queued: u64,
}

impl From<wharf_switch::Tally> for Frames {
    fn from(tally: wharf_switch::Tally) -> Self {
        let wharf_switch::Tally {
            received,
            routed_in,
            replicated,
            originated,
            sent,
            routed_out,
            absorbed,
            dropped,
            queued,
        } = tally;
        Self { received, routed_in, replicated, originated, sent, routed_out, absorbed, dropped, queued }
    }
}

/// Frames that ended for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// Where: `switch` or `gateway`.
    pub at: String,
    /// The reason's name.
    pub reason: String,
    /// Whose problem it is: `malformed`, `elsewhere`, `policy` or `exhausted`.
    pub class: String,
    /// The reason in words.
    pub text: String,
    /// How many.
    pub count: u64,
}

/// How full a gateway is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// TCP connections.
    pub tcp_flows: u64,
    /// Bytes of stream data held.
    pub held_bytes: u64,
    /// UDP mappings.
    pub udp_mappings: u64,
    /// Echo mappings.
    pub echo_mappings: u64,
    /// Mappings that had to make room for others.
    pub evicted_mappings: u64,
    /// DNS queries answered from what was kept.
    #[serde(default)]
    pub dns_hits: u64,
    /// DNS queries that were looked for there in vain.
    #[serde(default)]
    pub dns_misses: u64,
}

impl std::ops::AddAssign<wharf_stack::Load> for Load {
    fn add_assign(&mut self, other: wharf_stack::Load) {
        self.tcp_flows += other.tcp_flows as u64;
        self.held_bytes += other.held_bytes as u64;
        self.udp_mappings += other.udp_mappings as u64;
        self.echo_mappings += other.echo_mappings as u64;
        self.evicted_mappings += other.evicted_mappings;
        self.dns_hits += other.dns_hits;
        self.dns_misses += other.dns_misses;
    }
}

/// Frames and bytes through a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Frames from it.
    pub rx_frames: u64,
    /// Bytes of these.
    pub rx_bytes: u64,
    /// Frames to it.
    pub tx_frames: u64,
    /// Bytes of these.
    pub tx_bytes: u64,
}

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in milliseconds since 1970 (UTC).
    pub at_millis: u64,
    /// The network that it happened to.
    pub network: String,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// The network began.
    NetworkUp,
    /// The network ended.
    NetworkDown,
    /// A worker of the network is lost, and the network with it.
    NetworkLost,
    /// A port was attached.
    Attach {
        /// Its name.
        name: String,
        /// Its MAC address.
        mac: String,
        /// Its addresses.
        addresses: Vec<IpAddr>,
    },
    /// A port left.
    Detach {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// A DHCP client has an address.
    Lease {
        /// The address.
        address: IpAddr,
        /// The client's MAC address.
        mac: String,
    },
    /// A port of the host leads to a container.
    Publish(Publication),
    /// It does not any more.
    Unpublish(Publication),
    /// A container listens on a port that cannot be published. It is tried again, and told no more.
    PublishFailed {
        /// The container.
        name: String,
        /// What is spoken there.
        transport: Transport,
        /// The port.
        port: u16,
        /// Why, and who has it.
        reason: String,
    },
    /// Guards stopped frames.
    Guard {
        /// The port that they came from, if it is attached still.
        name: Option<String>,
        /// The drop reason.
        reason: String,
        /// How many since the last such event.
        count: u64,
    },
}

/// Told to a listener that was too slow: events are missing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Tells it from an [`Event`].
    pub event: LostTag,
    /// How many.
    pub count: u64,
}

/// The only value of [`Lost::event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LostTag {
    /// `lost`.
    Lost,
}
