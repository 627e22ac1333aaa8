// SPDX-License-Identifier: MIT OR Apache-2.0
//! The TCP relay: segments towards the container, a byte stream towards the host.
//!
//! # Path
//! Segments come in through [`Relay::handle_segment`], sockets speak through [`Relay::handle_host`], time through
//! [`Relay::handle_timer`]. None of them answers a segment at once: they mark the flow, and [`Relay::exhale`] lets
//! every marked flow say everything it has to say in one go, so that a burst of segments costs one ACK.
//!
//! # How it works
//! | file | what it decides |
//! |---|---|
//! | `handshake` | when a SYN is answered: not before the host connected |
//! | `places` | whether a container may have another flow |
//! | `inbound` | the way from a published port: our SYN to the container, and what it answers |
//! | `coalesce` | which segments of a burst are taken as one |
//! | `upload` | container to host: what a socket does not take is queued, never dropped |
//! | `download` | host to container: frames stay queued until acknowledged |
//! | `recovery` | what was lost, and when to send it again |
//! | `close` | half-closes, resets, and when a flow is over |
//! | `listing` | what somebody who looks sees of a connection |
//!
//! | phase | meaning | ends by |
//! |---|---|---|
//! | `Connecting` | the host connects, the container's SYN is held | the host's answer |
//! | `Answered` | our SYN-ACK is on its way | the container's ACK |
//! | `SynSent` | a client of the host's is connected, our SYN is on its way | the container's answer |
//! | `Open` | data flows, in one direction or both | both directions finished |
//! | `Linger` | both finished, ours first: a repeated FIN is still acknowledged | one second |
//!
//! # Bounds
//! At most [`MAX_FLOWS`] flows, and three quarters of the host's sockets. The network's memory budget bounds them and all
//! their stream data together: a flow takes [`FLOW_BYTES`] of it for as long as it lives, and is refused when they are not
//! there; what it has in flight or holds beyond that takes more, as far as it goes. No container gets all flows that there
//! may be ([`places`]): one that wants them leaves room for those of others, and is refused more.
//!
//! # Sources
//! RFC 9293, RFC 2018 (SACK), RFC 5961 (blind attacks), RFC 6298 (retransmission timer), RFC 6528 (ISN),
//! RFC 5382 (timeouts behind a NAT), RFC 8985 (loss by transmission order).

mod close;
mod coalesce;
mod download;
mod handshake;
mod inbound;
mod listing;
mod places;
mod recovery;
mod seq;
mod upload;

pub(crate) use self::close::refuse;
pub(crate) use self::coalesce::{Refused, Stretch};
pub use self::inbound::Inbound;
pub(crate) use self::seq::Seq;

use core::hash::BuildHasher;
use core::net::IpAddr;
use std::io::IoSlice;

use smoltcp::wire::{EthernetAddress, TcpControl, TcpPacket, TcpRepr};
use wharf_switch::{Duration, Frame, Instant};

use self::coalesce::Payload;
use self::download::Download;
use self::upload::Upload;
use crate::env::{Cx, Env, Outbox};
use crate::holders::Holders;
use crate::host::{FlowId, Host, HostEvent, Owner, SocketId, Token};
use crate::keyed::KeyedState;
use crate::timers::Alarm;
use crate::transit::flow::{FlowKey, FlowTable, Keyed};
use crate::wire::Packet;
use crate::wire::emit::{self, Path};
use crate::{Config, DropReason};

/// What every flow has of the memory budget: its own state, and one segment in flight, so that none ever stands still.
const FLOW_BYTES: usize = size_of::<Flow>() + download::GRANT;
/// Flows in one relay.
const MAX_FLOWS: usize = 1 << 18;
/// RFC 5382 REQ-5: an established connection's idle timeout MUST NOT be less than 2 hours 4 minutes.
const IDLE_OPEN: Duration = Duration::from_secs(2 * 3600 + 4 * 60);
/// RFC 5382 REQ-5: the transitory idle timeout MUST NOT be less than 4 minutes.
const IDLE_TRANSITORY: Duration = Duration::from_secs(4 * 60);
/// How long the side that closed first answers a repeated FIN.
const LINGER: Duration = Duration::from_secs(1);

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The host connects; the container waits for an answer to its SYN.
    Connecting,
    /// The SYN-ACK is sent and not yet acknowledged.
    Answered,
    /// Our SYN is sent and not yet answered; the host's client waits.
    SynSent,
    /// Data may flow.
    Open,
    /// Everything is said; the last ACK may have been lost.
    Linger,
}

impl Phase {
    /// Neither side has agreed to anything yet: there is nothing to say but the SYN.
    fn is_opening(self) -> bool {
        matches!(self, Self::Connecting | Self::SynSent)
    }
}

/// Whether a flow goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Lives,
    Ends,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Flow {
    key: FlowKey,
    /// The container, as it was when the flow began.
    holder: FlowId,
    container_mac: EthernetAddress,
    socket: Option<SocketId>,
    pub(crate) phase: Phase,
    /// Hop limit of the SYN: an ICMP error quotes it.
    syn_hop_limit: u8,
    upload: Upload,
    download: Download,
    /// In the list of flows that [`Relay::exhale`] will visit.
    marked: bool,
    alarm: Alarm,
    heard_at: Instant,
    opened_at: Instant,
    /// From when on it may send another challenge ACK.
    challenges_from: Instant,
    /// A client of a published port has begun it.
    is_inbound: bool,
}

impl Keyed for Flow {
    type Key = FlowKey;

    fn key(&self) -> &FlowKey {
        &self.key
    }
}

/// All connections of one worker.
#[derive(Debug)]
pub(crate) struct Relay {
    flows: FlowTable<Flow>,
    /// The containers that have flows.
    holders: Holders,
    /// Flows with something to say, each once.
    marked: Vec<FlowId>,
    /// The list being worked on, kept for its memory.
    exhaling: Vec<FlowId>,
    isn: KeyedState,
}

/// The flow that a container's segment would be of.
pub(crate) fn key_of(packet: &Packet, frame: &Frame) -> Option<FlowKey> {
    let segment = TcpPacket::new_checked(packet.payload(frame)).ok()?;
    Some(FlowKey::of(packet, (segment.src_port(), segment.dst_port())))
}

/// Reads a segment, whose checksum is looked at elsewhere.
fn parse<'f>(packet: &Packet, frame: &'f Frame) -> Option<TcpRepr<'f>> {
    let view = TcpPacket::new_checked(packet.payload(frame)).ok()?;
    let ignored = smoltcp::phy::ChecksumCapabilities::ignored();
    TcpRepr::parse(&view, &packet.src.into(), &packet.dst.into(), &ignored).ok()
}

impl Relay {
    pub(crate) fn new(config: &Config) -> Self {
        let hasher = KeyedState::new(&config.seed, b"tcp flows");
        let limit = MAX_FLOWS.min(config.max_sockets / 4 * 3);
        Self {
            flows: FlowTable::new(hasher, limit),
            holders: Holders::new(hasher, limit),
            marked: Vec::new(),
            exhaling: Vec::new(),
            isn: KeyedState::new(&config.seed, b"tcp isn"),
        }
    }

    /// A TCP segment from a container to the outside.
    pub(crate) fn handle_segment<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        packet: &Packet,
        frame: &Frame,
    ) -> Result<(), DropReason> {
        if !packet.transport_checksum_is_right(frame) {
            return Err(DropReason::TcpChecksumWrong);
        }
        let segment = parse(packet, frame).ok_or(DropReason::TcpMalformed)?;
        let key = FlowKey::of(packet, (segment.src_port, segment.dst_port));
        let is_syn = segment.control == TcpControl::Syn && segment.ack_number.is_none();
        match self.flows.find(&key) {
            Some(id) => {
                if is_syn && self.flows.get(id).is_some_and(|flow| flow.phase == Phase::Linger) {
                    // RFC 9293 section 3.6.1: a new incarnation may open from TIME-WAIT.
                    self.settle(cx, id, Fate::Ends);
                    return self.open(cx, packet, frame, &segment, key);
                }
                let Some(flow) = self.flows.get_mut(id) else { return Ok(()) };
                let (fate, result) = flow.handle_segment(cx, packet, &segment);
                self.settle(cx, id, fate);
                result
            }
            None if is_syn => self.open(cx, packet, frame, &segment, key),
            None => {
                refuse(cx, packet, &segment);
                Err(DropReason::TcpNoSuchFlow)
            }
        }
    }

    /// Whether the connection is there and open.
    pub(crate) fn is_open(&self, key: &FlowKey) -> bool {
        let flow = self.flows.find(key).and_then(|id| self.flows.get(id));
        flow.is_some_and(|flow| flow.phase == Phase::Open)
    }

    /// Segments of an open connection that continue each other.
    pub(crate) fn handle_stretch<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        stretch: &Stretch<'_>,
    ) -> Result<(), Refused> {
        let payload = stretch.payload();
        let no_such_flow = payload.refused(DropReason::TcpNoSuchFlow);
        let Some(id) = self.flows.find(&stretch.key) else { return Err(no_such_flow) };
        let Some(flow) = self.flows.get_mut(id) else { return Ok(()) };
        flow.container_mac = stretch.packet.src_mac;
        let (fate, result) = flow.handle_segment_in_sequence(cx, &stretch.last, &payload);
        self.settle(cx, id, fate);
        result
    }

    /// A socket of a connection became usable.
    pub(crate) fn handle_host<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>, event: HostEvent) {
        let id = event.token.flow;
        let Some(flow) = self.flows.get_mut(id) else { return };
        let fate = flow.handle_host(cx, event);
        self.settle(cx, id, fate);
    }

    /// A deadline of a connection came up.
    pub(crate) fn handle_timer<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        id: FlowId,
        at: Instant,
    ) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        if !flow.alarm.rings(at) {
            return;
        }
        let fate = flow.handle_timer(cx);
        self.settle(cx, id, fate);
    }

    /// A container has left: `is_its` knows its MAC address and its own addresses.
    pub(crate) fn end_those<H: Host, O>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        is_its: impl Fn(EthernetAddress, IpAddr) -> bool,
    ) {
        for id in self.flows.ids(|flow| is_its(flow.container_mac, flow.key.container.ip())) {
            let Some(flow) = self.flows.get_mut(id) else { continue };
            let fate = flow.leave(cx);
            self.settle(cx, id, fate);
        }
    }

    /// Lets every marked flow speak. Flows that had more to say than their share are marked again.
    pub(crate) fn exhale<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>) {
        core::mem::swap(&mut self.marked, &mut self.exhaling);
        let mut exhaling = core::mem::take(&mut self.exhaling);
        for id in exhaling.drain(..) {
            let Some(flow) = self.flows.get_mut(id) else { continue };
            flow.marked = false;
            let fate = flow.exhale(cx);
            self.settle(cx, id, fate);
        }
        self.exhaling = exhaling;
    }

    /// Whether a flow waits for [`Relay::exhale`].
    pub(crate) fn has_more(&self) -> bool {
        !self.marked.is_empty()
    }

    /// Whether the entry for `at` among the timers is of use still.
    pub(crate) fn awaits(&self, id: FlowId, at: Instant) -> bool {
        self.flows.get(id).is_some_and(|flow| flow.alarm.is_set_for(at))
    }

    /// Connections now.
    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Keeps a flow's mark and alarm up to date after a step, or ends the flow.
    fn settle<H: Host, O>(&mut self, cx: &mut Cx<'_, H, O>, id: FlowId, fate: Fate) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        match fate {
            Fate::Lives => {
                if flow.wants_to_speak() && !flow.marked {
                    flow.marked = true;
                    self.marked.push(id);
                }
                let deadline = flow.deadline();
                cx.env.timers.set(&mut flow.alarm, Token { owner: Owner::Tcp, flow: id }, deadline);
            }
            Fate::Ends => {
                if let Some(mut flow) = self.flows.remove(id) {
                    flow.release(cx.env);
                    self.leave_place(cx.env, flow.holder);
                    cx.env.timers.retire(flow.alarm);
                    if let Some(socket) = flow.socket.take() {
                        cx.host.close(socket);
                    }
                }
            }
        }
    }

    /// RFC 6528 section 3: ISN = M + F(localip, localport, remoteip, remoteport, secretkey).
    fn initial_seq(&self, now: Instant, key: &FlowKey) -> Seq {
        let hash = self.isn.hash_one(key);
        // M is a timer that ticks every 4 microseconds.
        let ticks = now.as_nanos() / 4000;
        #[expect(clippy::cast_possible_truncation, reason = "sequence numbers are the low 32 bits of both")]
        Seq((hash as u32).wrapping_add(ticks as u32))
    }
}

impl Flow {
    fn path(&self, env: &Env) -> Path {
        Path {
            src_mac: env.config.mac,
            dst_mac: self.container_mac,
            src: self.key.remote.ip(),
            dst: self.key.container.ip(),
        }
    }

    /// A TCP header of ours with the current acknowledgment and window.
    fn header(&mut self, env: &Env, control: TcpControl, seq: Seq) -> TcpRepr<'static> {
        TcpRepr {
            src_port: self.key.remote.port(),
            dst_port: self.key.container.port(),
            control,
            seq_number: seq.into(),
            ack_number: Some(self.upload.next().into()),
            window_len: self.upload.window_field(env),
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        }
    }

    /// Sends a segment without data.
    fn send_bare<H, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>, header: &TcpRepr<'_>) {
        let path = self.path(cx.env);
        let mut frame = cx.env.pool.small();
        emit::tcp(&mut frame, &path, header, 0, u16::MAX);
        cx.send(&mut frame);
    }

    /// Acknowledges what has come so far.
    fn send_ack<H, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>) {
        self.upload.acknowledged();
        let mut header = self.header(cx.env, TcpControl::None, self.download.next());
        if self.download.sack_permitted() {
            header.sack_ranges = self.upload.sack_ranges();
        }
        self.send_bare(cx, &header);
    }

    fn handle_segment<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        packet: &Packet,
        segment: &TcpRepr<'_>,
    ) -> (Fate, Result<(), DropReason>) {
        self.container_mac = packet.src_mac;
        match self.phase {
            Phase::Connecting => self.handle_segment_while_connecting(cx, segment),
            Phase::SynSent => self.handle_segment_after_syn(cx, packet, segment),
            Phase::Answered | Phase::Open => {
                let payload = Payload {
                    seq: segment.seq_number.into(),
                    len: u32::from(emit::len16(segment.payload.len())),
                    pieces: &[IoSlice::new(segment.payload)],
                };
                let (fate, result) = self.handle_segment_in_sequence(cx, segment, &payload);
                (fate, result.map_err(|refused| refused.reason))
            }
            Phase::Linger => {
                if segment.control == TcpControl::Fin {
                    self.upload.owe_ack();
                }
                (Fate::Lives, Err(DropReason::TcpAfterClose))
            }
        }
    }

    /// RFC 9293 section 3.10.7.4, "other states", in its order: sequence, RST, SYN, ACK, data, FIN. `payload` is the
    /// segment's own, behind that of those before it that it continues.
    fn handle_segment_in_sequence<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        segment: &TcpRepr<'_>,
        payload: &Payload<'_>,
    ) -> (Fate, Result<(), Refused>) {
        let &Payload { seq, len, .. } = payload;
        if segment.control == TcpControl::Rst {
            let (fate, result) = self.handle_reset(cx, seq);
            return (fate, result.map_err(|reason| payload.refused(reason)));
        }
        if segment.control == TcpControl::Syn {
            // RFC 5961 section 4.2: irrespective of the sequence number, send a challenge ACK.
            if self.phase == Phase::Answered && seq + 1 == self.upload.next() {
                self.send_syn_ack(cx);
                return (Fate::Lives, Err(payload.refused(DropReason::TcpSynRepeated)));
            }
            self.challenge(cx);
            return (Fate::Lives, Err(payload.refused(DropReason::TcpSynInWindow)));
        }
        let Some(ack) = segment.ack_number else {
            return (Fate::Lives, Err(payload.refused(DropReason::TcpWithoutAck)));
        };
        if !self.upload.is_acceptable(seq, len + u32::from(segment.control == TcpControl::Fin)) {
            // RFC 9293 section 3.8.4: a keep-alive, or a probe of our window, repeats the number before the next one.
            let is_probe = seq + 1 == self.upload.next();
            if is_probe && self.download.is_acceptable_ack(Seq::from(ack)) {
                self.heard_at = cx.now;
            }
            // RFC 9293 section 3.10.7.4: an acknowledgment should be sent in reply, and the segment dropped. But two that
            // find each other's bare acknowledgments out of the window would go on for ever.
            if len == 0 && !is_probe {
                self.challenge(cx);
            } else {
                self.upload.owe_ack();
            }
            return (Fate::Lives, Err(payload.refused(DropReason::TcpOutOfWindow)));
        }
        let ack = Seq::from(ack);
        if !self.download.is_acceptable_ack(ack) {
            // RFC 5961 section 5.2: blind data injection is answered with an ACK and dropped.
            self.challenge(cx);
            return (Fate::Lives, Err(payload.refused(DropReason::TcpAckUnacceptable)));
        }
        if self.phase == Phase::Answered {
            if ack != self.download.next() {
                self.challenge(cx);
                return (Fate::Lives, Err(payload.refused(DropReason::TcpAckUnacceptable)));
            }
            self.phase = Phase::Open;
        }
        self.heard_at = cx.now;
        self.download.handle_ack(cx.now, cx.env, segment.seq_number.into(), ack, segment);
        let mut result = Ok(());
        if len > 0 {
            result = self.upload.accept(cx, self.socket, payload);
        }
        if segment.control == TcpControl::Fin {
            self.upload.note_fin(seq + len);
        }
        (self.carry_on(cx), result)
    }

    fn handle_host<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>, event: HostEvent) -> Fate {
        // One event may tell of the connect and of the first data: it comes once only.
        if event.readable || event.error {
            self.download.readable(event.error);
        }
        if self.phase == Phase::Connecting {
            return self.handle_host_while_connecting(cx, event);
        }
        if self.phase == Phase::SynSent {
            return self.handle_host_after_syn(cx, event);
        }
        // While the container's window is closed, and after the end, the socket is not read: only this tells of a reset.
        let is_unread = self.download.is_starved() || self.download.is_ended();
        let socket = self.socket.filter(|_| event.error && is_unread);
        if socket.is_some_and(|socket| cx.host.tcp_error(socket).is_some()) {
            return self.refuse_container(cx);
        }
        if event.writable || event.error {
            self.upload.drain(cx, self.socket);
        }
        self.heard_at = cx.now;
        self.carry_on(cx)
    }

    fn exhale<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>) -> Fate {
        if self.phase.is_opening() {
            return Fate::Lives;
        }
        // Data segments acknowledge, but carry no SACK: a gap must be told of by itself.
        let gap_untold = self.upload.owes_ack() && self.upload.has_gap();
        self.retransmit_lost(cx);
        let fate = self.pump(cx);
        if fate == Fate::Lives && (self.upload.owes_ack() || gap_untold) {
            self.send_ack(cx);
        }
        fate
    }

    fn wants_to_speak(&self) -> bool {
        !self.phase.is_opening() && (self.upload.owes_ack() || self.download.wants_to_speak(self.phase))
    }

    fn handle_timer<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>) -> Fate {
        if self.idle_deadline() <= cx.now {
            return self.expire(cx);
        }
        match self.phase {
            Phase::Connecting | Phase::Linger => Fate::Lives,
            Phase::Answered | Phase::SynSent | Phase::Open => self.handle_retransmission_timer(cx),
        }
    }

    fn idle_deadline(&self) -> Instant {
        let timeout = match self.phase {
            Phase::Connecting | Phase::Answered | Phase::SynSent => IDLE_TRANSITORY,
            Phase::Open if self.upload.is_ended() && self.download.is_ended() => IDLE_TRANSITORY,
            Phase::Open => IDLE_OPEN,
            Phase::Linger => LINGER,
        };
        self.heard_at + timeout
    }

    fn deadline(&self) -> Instant {
        let idle = self.idle_deadline();
        match self.phase {
            Phase::Connecting | Phase::Linger => idle,
            Phase::Answered | Phase::SynSent | Phase::Open => self.download.deadline().min(idle),
        }
    }

    /// Gives back what the flow held of the network's budget beyond its place.
    fn release(&mut self, env: &mut Env) {
        self.upload.release(env);
        self.download.release(env);
    }
}
