// SPDX-License-Identifier: MIT OR Apache-2.0
//! Endings: half-closes, resets, refusals and flows that nobody uses any more.
//!
//! # How it works
//! | what happened | the other side gets |
//! |---|---|
//! | the container's FIN | `shutdown(SHUT_WR)` on the socket, once everything before it is delivered |
//! | the end of the host's stream | a FIN, once everything before it is sent |
//! | the container's RST | a reset of the socket's connection |
//! | the container's RST after its FIN | what was acknowledged is delivered, then the socket is closed |
//! | a reset of the socket's connection | a RST |
//! | idle for too long | both |
//! | the container leaves | a reset of the socket's connection |
//! | the container leaves after its FIN | what was acknowledged is delivered, then the socket is closed |
//!
//! When both directions are finished the flow is over, unless our FIN went first: then the container's own FIN may be
//! repeated and is still acknowledged for a second.
//!
//! # Sources
//! RFC 9293 sections 3.5.2, 3.5.3, 3.6; RFC 5961 sections 3.2 and 7.

use smoltcp::wire::{TcpControl, TcpRepr};
use wharf_switch::Duration;

use super::seq::Seq;
use super::{Cx, Fate, Flow, Phase};
use crate::DropReason;
use crate::env::Outbox;
use crate::host::Host;
use crate::wire::Packet;
use crate::wire::emit::{self, Path};

/// A connection's challenge ACKs are at least so far apart (RFC 5961 section 7). Each has a limit of its own: one that all
/// shared would tell one container about the connections of another.
const CHALLENGE_INTERVAL: Duration = Duration::from_millis(500);

/// RFC 9293 section 3.5.2: a segment for a connection that does not exist is answered with a reset.
pub(crate) fn refuse<H, O: Outbox>(cx: &mut Cx<'_, H, O>, packet: &Packet, segment: &TcpRepr<'_>) {
    if segment.control == TcpControl::Rst {
        return;
    }
    let len = emit::len16(segment.payload.len() + segment.control.len());
    let after = Seq::from(segment.seq_number) + u32::from(len);
    let header = TcpRepr {
        src_port: segment.dst_port,
        dst_port: segment.src_port,
        control: TcpControl::Rst,
        seq_number: segment.ack_number.unwrap_or_default(),
        ack_number: segment.ack_number.is_none().then(|| after.into()),
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let path = Path { src_mac: cx.env.config.mac, dst_mac: packet.src_mac, src: packet.dst, dst: packet.src };
    let mut frame = cx.env.pool.small();
    emit::tcp(&mut frame, &path, &header, 0, u16::MAX);
    cx.send(&mut frame);
}

impl Flow {
    /// After every step: hands a FIN on, and sees whether the connection is over.
    pub(super) fn carry_on<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>) -> Fate {
        let Some(socket) = self.socket else { return Fate::Lives };
        // The host takes nothing any more, and nothing of what it sent before is still to be read or wanted.
        if self.upload.is_broken() && (self.download.is_ended() || self.download.is_starved()) {
            return self.refuse_container(cx);
        }
        let ours_went_first = self.download.is_finished() && !self.upload.is_finished();
        self.upload.finish(cx, socket);
        if !(self.upload.is_finished() && self.download.is_finished()) {
            return Fate::Lives;
        }
        if !ours_went_first {
            return Fate::Ends;
        }
        cx.host.close(socket);
        self.socket = None;
        self.phase = Phase::Linger;
        self.heard_at = cx.now;
        Fate::Lives
    }

    /// RFC 5961 section 3.2: only the exact next sequence number resets; elsewhere in the window it is challenged.
    pub(super) fn handle_reset<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        seq: Seq,
    ) -> (Fate, Result<(), DropReason>) {
        if seq == self.upload.next() && self.upload.outlives_container() {
            // The container finished its stream and is gone; what we acknowledged is the host's still.
            self.download.give_up(cx.env);
            return (Fate::Lives, Ok(()));
        }
        if seq == self.upload.next() {
            self.reset_host(cx);
            return (Fate::Ends, Ok(()));
        }
        if self.upload.is_acceptable(seq, 0) {
            self.challenge(cx);
        }
        (Fate::Lives, Err(DropReason::TcpResetOutOfSequence))
    }

    /// The container has left. What it has said to the end is the host's still.
    pub(super) fn leave<H: Host, O>(&mut self, cx: &mut Cx<'_, H, O>) -> Fate {
        if self.upload.outlives_container() {
            self.download.give_up(cx.env);
            return Fate::Lives;
        }
        if !self.upload.is_ended() {
            self.reset_host(cx);
        }
        Fate::Ends
    }

    /// An ACK that asks an unexpected sender whether it means it.
    pub(super) fn challenge<H, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>) {
        if cx.now >= self.challenges_from {
            self.challenges_from = cx.now + CHALLENGE_INTERVAL;
            self.send_ack(cx);
        }
    }

    /// Resets the host's connection.
    pub(super) fn reset_host<H: Host, O>(&mut self, cx: &mut Cx<'_, H, O>) {
        if let Some(socket) = self.socket.take() {
            cx.host.tcp_reset(socket);
        }
    }

    /// Resets the container's connection; the socket is closed with the flow.
    pub(super) fn refuse_container<H, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>) -> Fate {
        let seq = match self.phase {
            // The container has seen no sequence number of ours yet.
            Phase::Connecting => Seq(0),
            // RFC 9293 section 3.10.5: nothing is sent; should a SYN-ACK still come, it finds no flow.
            Phase::SynSent => return Fate::Ends,
            Phase::Answered | Phase::Open | Phase::Linger => self.download.next(),
        };
        let header = self.header(cx.env, TcpControl::Rst, seq);
        self.send_bare(cx, &header);
        Fate::Ends
    }

    /// Nobody answers in the container any more.
    pub(super) fn abandon<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>) -> Fate {
        self.reset_host(cx);
        self.refuse_container(cx)
    }

    /// The flow was idle for too long.
    pub(super) fn expire<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>) -> Fate {
        match self.phase {
            Phase::Linger => Fate::Ends,
            Phase::Connecting => {
                self.reset_host(cx);
                Fate::Ends
            }
            Phase::Answered | Phase::SynSent | Phase::Open => self.abandon(cx),
        }
    }
}
