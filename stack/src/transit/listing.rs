// SPDX-License-Identifier: MIT OR Apache-2.0
//! The relays' flows as somebody who looks at them sees them: a table like that of a connection tracker.
//!
//! # How it works
//! | flow | rows |
//! |---|---|
//! | TCP connection | one |
//! | UDP mapping | one, with the remote that the container spoke to last: the mapping is the same for all (RFC 4787 REQ-1) |
//! | client of a published UDP port | one |
//! | echo mapping | one, as for UDP; identifiers stand for ports |
//!
//! What a row needs beyond the flow's own state (the host's ends, translated addresses) is found out when somebody looks.
//! Whom a published UDP port speaks to unasked has a row once it has answered.

use core::net::{IpAddr, SocketAddr};

use wharf_switch::{Duration, Instant};

use super::flow::FlowKey;
use super::outside;
use crate::Config;

/// What a flow speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP echo.
    Icmp,
    /// ICMPv6 echo.
    Icmpv6,
}

impl FlowProtocol {
    /// The echo of an address's family.
    pub(super) fn echo(container: IpAddr) -> Self {
        if container.is_ipv4() { Self::Icmp } else { Self::Icmpv6 }
    }

    /// The stable name, as used in listings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Icmpv6 => "icmpv6",
        }
    }
}

/// Who has begun a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The container.
    Outbound,
    /// A client of a published port.
    Inbound,
}

impl Direction {
    /// The stable name, as used in listings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// How far a flow is. Those of TCP are the states of RFC 9293 section 3.3.2 that the container is in, as far as the relay
/// can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowState {
    /// A SYN has not been answered yet, by the host outside or by the container.
    SynSent,
    /// The container has not acknowledged the SYN-ACK yet.
    SynReceived,
    /// Both may send.
    Established,
    /// The container has ended its stream, the other side has not.
    FinWait,
    /// The other side has ended its stream, the container has not.
    CloseWait,
    /// Both have ended their streams; not everything has arrived yet.
    LastAck,
    /// Everything has arrived; the container's FIN may be repeated.
    TimeWait,
    /// Datagrams have gone one way only.
    Unreplied,
    /// Datagrams have gone both ways.
    Replied,
}

impl FlowState {
    /// The stable name, as used in listings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SynSent => "syn_sent",
            Self::SynReceived => "syn_received",
            Self::Established => "established",
            Self::FinWait => "fin_wait",
            Self::CloseWait => "close_wait",
            Self::LastAck => "last_ack",
            Self::TimeWait => "time_wait",
            Self::Unreplied => "unreplied",
            Self::Replied => "replied",
        }
    }
}

/// One flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowView {
    /// What it speaks.
    pub protocol: FlowProtocol,
    /// Who has begun it.
    pub direction: Direction,
    /// The container's end.
    pub internal: SocketAddr,
    /// The host's end; `None` when there is none any more.
    pub external: Option<SocketAddr>,
    /// The other end, as the container knows it.
    pub destination: SocketAddr,
    /// The other end as the host knows it, if that is another: behind NAT64 or the host's loopback, or a client that the
    /// container sees as the gateway.
    pub translated: Option<SocketAddr>,
    /// How far it is.
    pub state: FlowState,
    /// For how long it has been there.
    pub age: Duration,
    /// How long ago something last went through.
    pub idle: Duration,
    /// Payload bytes taken from the container; of echo, whole ICMP messages.
    pub bytes_sent: u64,
    /// Payload bytes that the container has; of TCP, has acknowledged.
    pub bytes_received: u64,
}

/// What went through a flow of datagrams, from the container's point of view.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traffic {
    begun_at: Instant,
    sent_bytes: u64,
    received_bytes: u64,
    has_sent: bool,
    has_received: bool,
}

impl Traffic {
    pub(super) const fn new(begun_at: Instant) -> Self {
        Self { begun_at, sent_bytes: 0, received_bytes: 0, has_sent: false, has_received: false }
    }

    /// The container has sent a datagram of `bytes`.
    pub(super) fn note_sent(&mut self, bytes: usize) {
        self.has_sent = true;
        self.sent_bytes += bytes as u64;
    }

    /// The container was sent datagrams of `bytes` together.
    pub(super) fn note_received(&mut self, bytes: usize) {
        self.has_received = true;
        self.received_bytes += bytes as u64;
    }

    fn state(&self) -> FlowState {
        if self.has_sent && self.has_received { FlowState::Replied } else { FlowState::Unreplied }
    }

    /// The row of the flow between `ends`, last used at `used_at`.
    pub(super) fn view(
        &self,
        now: Instant,
        used_at: Instant,
        (protocol, direction): (FlowProtocol, Direction),
        ends: FlowKey,
        (external, outside): (Option<SocketAddr>, Option<SocketAddr>),
    ) -> FlowView {
        FlowView {
            protocol,
            direction,
            internal: ends.container,
            external,
            destination: ends.remote,
            translated: outside.filter(|&outside| outside != ends.remote),
            state: self.state(),
            age: now.since(self.begun_at),
            idle: now.since(used_at),
            bytes_sent: self.sent_bytes,
            bytes_received: self.received_bytes,
        }
    }
}

/// Whom the host is asked for when a container speaks to `destination`.
pub(super) fn outside_of(config: &Config, destination: SocketAddr) -> Option<SocketAddr> {
    let address = outside::resolve(config, destination.ip()).ok()?;
    Some(SocketAddr::new(address, destination.port()))
}
