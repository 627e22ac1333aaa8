// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opening a connection towards the container: a client of a published port is connected already and waits.
//!
//! # How it works
//! Our SYN goes to the container from the client's own address, or from one that stands for it
//! ([`publish`](crate::transit::publish)), and is repeated with back-off. What the client then sees is what the container
//! did:
//!
//! | the container says | the client gets |
//! |---|---|
//! | SYN-ACK | its connection: whatever it sent meanwhile goes on |
//! | RST for our SYN | a reset |
//! | an ICMP error about our SYN: destination unreachable | a reset |
//! | nothing for two minutes | a reset |
//! | something about an older connection of the same ends | nothing yet: the container is reset, the SYN repeated |
//! | a SYN of its own for the same ends | nothing yet: that SYN is refused, ours repeated |
//!
//! # Sources
//! RFC 9293 sections 3.5, 3.10.7.3; RFC 6298 (repetition); RFC 1122 section 4.2.3.9 (ICMP errors).

use core::hash::BuildHasher;
use core::net::SocketAddr;

use smoltcp::wire::{EthernetAddress, TcpControl, TcpRepr};

use super::download::{Download, Peer};
use super::handshake::{peer, window_shift};
use super::places::Place;
use super::seq::Seq;
use super::upload::{Upload, WINDOW_SHIFT};
use super::{Fate, Flow, FlowKey, Phase, Relay, close};
use crate::DropReason;
use crate::env::{Cx, Outbox};
use crate::host::{Host, HostEvent, Owner, Token};
use crate::local::dns;
use crate::timers::Alarm;
use crate::transit::flow::dynamic_ports;
use crate::transit::quoted::QuotedSegment;
use crate::wire::Packet;
use crate::wire::emit::HOP_LIMIT;

/// Ports tried in place of one that is taken. With many workers most of them are another's.
const PORTS_TRIED: usize = 1024;

/// A client of a published port, on its way to the worker that will own its flow.
#[derive(Debug)]
pub struct Inbound<S> {
    pub(crate) key: FlowKey,
    pub(crate) container_mac: EthernetAddress,
    pub(crate) stream: S,
}

impl<S> Inbound<S> {
    /// The container's end and the client's, as the container is to see it.
    #[must_use]
    pub fn ends(&self) -> (SocketAddr, SocketAddr) {
        (self.key.container, self.key.remote)
    }

    /// The connection, for whoever can do no more than refuse it.
    #[must_use]
    pub fn into_stream(self) -> S {
        self.stream
    }
}

impl Relay {
    /// Opens a flow for a client of a published port, or resets the client. `is_ours` says whether a flow between the
    /// container's end and another would be this worker's.
    pub(crate) fn open_inbound<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        inbound: Inbound<H::Stream>,
        is_ours: impl Fn(SocketAddr, SocketAddr) -> bool,
    ) {
        let Some(key) = self.free_key(cx, inbound.key, is_ours) else {
            return cx.host.tcp_refuse(inbound.stream);
        };
        let Ok(Place { id, holder }) = self.take_place(cx.env, inbound.container_mac) else {
            return cx.host.tcp_refuse(inbound.stream);
        };
        let Ok(socket) = cx.host.tcp_adopt(Token { owner: Owner::Tcp, flow: id }, inbound.stream) else {
            return self.leave_place(cx.env, holder);
        };
        // The container's numbers come with its SYN-ACK.
        let mut upload = Upload::new(Seq::default(), WINDOW_SHIFT);
        upload.open(cx.env);
        let mut flow = Flow {
            key,
            holder,
            container_mac: inbound.container_mac,
            socket: Some(socket),
            phase: Phase::SynSent,
            syn_hop_limit: HOP_LIMIT,
            upload,
            download: Download::new(self.initial_seq(cx.now, &key), Seq::default(), Peer::default()),
            marked: false,
            alarm: Alarm::default(),
            heard_at: cx.now,
            opened_at: cx.now,
            challenges_from: cx.now,
            is_inbound: true,
        };
        // No event tells of what the host says ahead of its client.
        flow.download.readable(false);
        flow.send_syn(cx);
        if self.flows.insert(flow).is_some() {
            self.settle(cx, id, Fate::Lives);
        }
    }

    /// `key` if no flow has it, else one with another remote port. A flow that only lingers gives way: RFC 9293 section
    /// 3.6.1 lets a new incarnation open from TIME-WAIT.
    fn free_key<H: Host, O>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        key: FlowKey,
        is_ours: impl Fn(SocketAddr, SocketAddr) -> bool,
    ) -> Option<FlowKey> {
        if let Some(id) = self.flows.find(&key)
            && self.flows.get(id).is_some_and(|flow| flow.phase == Phase::Linger)
        {
            self.settle(cx, id, Fate::Ends);
        }
        // The gateway's own TCP service speaks from this port.
        let is_taken = |key: &FlowKey| self.flows.find(key).is_some() || key.remote.port() == dns::PORT;
        if !is_taken(&key) {
            return Some(key);
        }
        let first = self.isn.hash_one((key, cx.now.as_nanos()));
        dynamic_ports(first).take(PORTS_TRIED).find_map(|port| {
            let other = FlowKey { remote: SocketAddr::new(key.remote.ip(), port), ..key };
            (!is_taken(&other) && is_ours(other.container, other.remote)).then_some(other)
        })
    }

    /// Whether a flow has these ends.
    pub(crate) fn has(&self, key: &FlowKey) -> bool {
        self.flows.find(key).is_some()
    }

    /// A container's ICMP error about a segment of ours. Returns whether it is of use: RFC 1122 section 4.2.3.9 lets
    /// "destination unreachable" end a connection that opens, and no other.
    pub(crate) fn handle_unreachable<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        quoted: &QuotedSegment,
    ) -> bool {
        let Some(id) = self.flows.find(&quoted.key) else { return false };
        let Some(flow) = self.flows.get_mut(id) else { return false };
        // The number of our SYN proves that the container has seen it.
        if flow.phase != Phase::SynSent || quoted.seq != flow.download.unacknowledged() {
            return false;
        }
        flow.reset_host(cx);
        self.settle(cx, id, Fate::Ends);
        true
    }
}

impl Flow {
    pub(super) fn send_syn<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>) {
        let mut header = self.header(cx.env, TcpControl::Syn, self.download.unacknowledged());
        header.ack_number = None;
        header.window_len = self.upload.unscaled_window();
        header.max_seg_size = Some(self.offered_mss(cx));
        header.window_scale = self.upload.window_shift();
        header.sack_permitted = true;
        self.download.syn_sent(cx.now);
        self.send_bare(cx, &header);
    }

    /// RFC 9293 section 3.10.7.3, in its order: ACK, RST, SYN.
    pub(super) fn handle_segment_after_syn<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        packet: &Packet,
        segment: &TcpRepr<'_>,
    ) -> (Fate, Result<(), DropReason>) {
        let is_of_syn = segment.ack_number.map(|ack| Seq::from(ack) == self.download.next());
        match (segment.control, is_of_syn) {
            (TcpControl::Rst, Some(true)) => {
                self.reset_host(cx);
                (Fate::Ends, Ok(()))
            }
            (TcpControl::Rst, _) => (Fate::Lives, Err(DropReason::TcpResetOutOfSequence)),
            (_, Some(false)) => {
                close::refuse(cx, packet, segment);
                (Fate::Lives, Err(DropReason::TcpAckUnacceptable))
            }
            (TcpControl::Syn, Some(true)) => {
                self.open_towards_container(cx, segment);
                (Fate::Lives, Ok(()))
            }
            (TcpControl::Syn, None) => {
                close::refuse(cx, packet, segment);
                (Fate::Lives, Err(DropReason::TcpSimultaneousOpen))
            }
            (TcpControl::None | TcpControl::Psh | TcpControl::Fin, _) => {
                (Fate::Lives, Err(DropReason::TcpOutOfWindow))
            }
        }
    }

    /// The container has answered our SYN: from here on both directions are as in any flow.
    fn open_towards_container<H, O>(&mut self, cx: &mut Cx<'_, H, O>, syn_ack: &TcpRepr<'_>) {
        let irs = Seq::from(syn_ack.seq_number);
        let peer = peer(cx.env, syn_ack, self.key.container.ip());
        self.upload.begin(irs + 1, window_shift(syn_ack));
        self.upload.owe_ack();
        self.download.begin(cx.now, irs, peer);
        self.phase = Phase::Open;
        self.heard_at = cx.now;
    }

    /// The host's client did something while the container has not answered. What it sent is read later.
    pub(super) fn handle_host_after_syn<H: Host, O>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        event: HostEvent,
    ) -> Fate {
        let Some(socket) = self.socket else { return Fate::Ends };
        let is_gone = event.error && cx.host.tcp_error(socket).is_some();
        if is_gone { Fate::Ends } else { Fate::Lives }
    }
}
