// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opening a connection: the container's SYN is held until the host has connected.
//!
//! # How it works
//! A SYN starts a connect with the SYN's own hop limit, less one, so that `traceroute -T` works. What the container
//! then sees is what the host saw:
//!
//! | the host says | the container gets |
//! |---|---|
//! | connected | SYN-ACK |
//! | an ICMP error arrived | that ICMP error, from whoever sent it |
//! | refused | RST |
//! | timed out | silence |
//! | network or host unreachable | that ICMP error, from the gateway |
//! | out of sockets | RST |
//!
//! Where there is no [place](super::places) for another flow, the host is not asked, and the container gets an RST.

use core::net::IpAddr;

use smoltcp::wire::{TCP_HEADER_LEN, TcpControl, TcpRepr};
use wharf_switch::Frame;

use super::download::{Download, Peer};
use super::places::Place;
use super::seq::Seq;
use super::upload::{Upload, WINDOW_SHIFT};
use super::{Fate, Flow, FlowKey, Phase, Relay, close};
use crate::DropReason;
use crate::env::{Cx, Env, Outbox};
use crate::host::{Host, HostError, HostEvent, Owner, Sender, SocketId, Token};
use crate::icmp_error::{self, Cause};
use crate::timers::Alarm;
use crate::transit::outside::{self, Remote};
use crate::wire::{Packet, emit};

/// RFC 9293 section 3.7.1: without an MSS option, assume 536 (IPv4) or 1220 (IPv6).
const DEFAULT_MSS_V4: u16 = 536;
const DEFAULT_MSS_V6: u16 = 1220;
/// No real network has a smaller one; it bounds the number of segments per byte.
const SMALLEST_MSS: u16 = 48;
const MAX_WINDOW_SHIFT: u8 = 14;

/// The largest segment payload on the link to the container with this address.
fn link_mss(env: &Env, container: IpAddr) -> u16 {
    let headers = emit::ip_header_len(container) + TCP_HEADER_LEN;
    u16::try_from(env.config.mtu_bytes.saturating_sub(headers)).unwrap_or(u16::MAX)
}

/// The segment size to ask the container for: the link's, rounded down to whole segments of the host's where several fit
/// and that costs little. What leaves the container in one piece then leaves the host in one piece too, without a short last segment.
fn fitting_mss(link: u16, host: Option<u16>) -> u16 {
    match host.filter(|host| (1..=link / 2).contains(host)).map(|host| link % host) {
        Some(rest) if rest < link / 16 => link - rest,
        _ => link,
    }
}

/// What a container's SYN or SYN-ACK says about itself.
pub(super) fn peer(env: &Env, syn: &TcpRepr<'_>, container: IpAddr) -> Peer {
    let default_mss = if container.is_ipv4() { DEFAULT_MSS_V4 } else { DEFAULT_MSS_V6 };
    Peer {
        window: u32::from(syn.window_len),
        window_shift: syn.window_scale.unwrap_or(0).min(MAX_WINDOW_SHIFT),
        mss: syn.max_seg_size.unwrap_or(default_mss).max(SMALLEST_MSS).min(link_mss(env, container)),
        sack_permitted: syn.sack_permitted,
    }
}

/// The scale of our windows towards who sent this SYN: RFC 7323 section 2.2 wants the option in both.
pub(super) fn window_shift(syn: &TcpRepr<'_>) -> u8 {
    if syn.window_scale.is_some() { WINDOW_SHIFT } else { 0 }
}

/// Both halves of the connection that a SYN asks for; ours starts at `iss`.
fn halves(env: &Env, syn: &TcpRepr<'_>, container: IpAddr, iss: Seq) -> (Upload, Download) {
    let irs = Seq::from(syn.seq_number);
    (Upload::new(irs + 1, window_shift(syn)), Download::new(iss, irs, peer(env, syn, container)))
}

impl Relay {
    /// A container's first SYN.
    pub(super) fn open<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        packet: &Packet,
        frame: &Frame,
        segment: &TcpRepr<'_>,
        key: FlowKey,
    ) -> Result<(), DropReason> {
        let remote = match outside::remote(&cx.env.config, key.remote) {
            Ok(remote) => remote,
            Err(reason) => {
                icmp_error::answer(cx, packet, frame, Cause::Prohibited);
                return Err(reason);
            }
        };
        let Place { id, holder } = match self.take_place(cx.env, packet.src_mac) {
            Ok(place) => place,
            Err(reason) => {
                close::refuse(cx, packet, segment);
                return Err(reason);
            }
        };
        let token = Token { owner: Owner::Tcp, flow: id };
        let hop_limit = packet.hop_limit.saturating_sub(1).max(1);
        let connecting = match remote {
            Remote::Inet(to) => cx.host.tcp_connect(token, Sender::Container(packet.src), to, hop_limit),
            Remote::Socket(port) => cx.host.socket_connect(token, port),
        };
        let socket = match connecting {
            Ok(socket) => socket,
            Err(error) => {
                self.leave_place(cx.env, holder);
                return fail(cx, packet, frame, segment, error);
            }
        };
        let (upload, download) = halves(cx.env, segment, packet.src, self.initial_seq(cx.now, &key));
        let flow = Flow {
            key,
            holder,
            container_mac: packet.src_mac,
            socket: Some(socket),
            phase: Phase::Connecting,
            syn_hop_limit: packet.hop_limit,
            upload,
            download,
            marked: false,
            alarm: Alarm::default(),
            heard_at: cx.now,
            opened_at: cx.now,
            challenges_from: cx.now,
            is_inbound: false,
        };
        if self.flows.insert(flow).is_some() {
            self.settle(cx, id, Fate::Lives);
        }
        Ok(())
    }
}

/// The host could not even start to connect.
fn fail<H: Host, O: Outbox>(
    cx: &mut Cx<'_, H, O>,
    packet: &Packet,
    frame: &Frame,
    segment: &TcpRepr<'_>,
    error: HostError,
) -> Result<(), DropReason> {
    match error {
        HostError::NetworkUnreachable => icmp_error::answer(cx, packet, frame, Cause::NetworkUnreachable),
        HostError::HostUnreachable => icmp_error::answer(cx, packet, frame, Cause::HostUnreachable),
        HostError::NotPermitted => icmp_error::answer(cx, packet, frame, Cause::Prohibited),
        HostError::TimedOut => {}
        HostError::Refused => close::refuse(cx, packet, segment),
        HostError::SourceMissing => {
            icmp_error::answer(cx, packet, frame, Cause::NetworkUnreachable);
            return Err(DropReason::OutboundAddressMissing);
        }
        HostError::Exhausted => {
            close::refuse(cx, packet, segment);
            return Err(DropReason::HostExhausted);
        }
    }
    Ok(())
}

impl Flow {
    pub(super) fn handle_segment_while_connecting<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        segment: &TcpRepr<'_>,
    ) -> (Fate, Result<(), DropReason>) {
        let seq = Seq::from(segment.seq_number);
        match segment.control {
            TcpControl::Syn if segment.ack_number.is_none() => {
                if seq + 1 != self.upload.next() {
                    // The container gave up and tries again from the same port; the connect serves both. Window,
                    // options and the numbers that order window updates are the new SYN's.
                    let iss = self.download.unacknowledged();
                    (self.upload, self.download) = halves(cx.env, segment, self.key.container.ip(), iss);
                }
                (Fate::Lives, Err(DropReason::TcpSynRepeated))
            }
            TcpControl::Rst if seq == self.upload.next() || seq + 1 == self.upload.next() => {
                self.reset_host(cx);
                (Fate::Ends, Ok(()))
            }
            TcpControl::Syn | TcpControl::Rst | TcpControl::Fin | TcpControl::None | TcpControl::Psh => {
                (Fate::Lives, Err(DropReason::TcpOutOfWindow))
            }
        }
    }

    /// The host had something to say while it connected.
    pub(super) fn handle_host_while_connecting<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        event: HostEvent,
    ) -> Fate {
        let Some(socket) = self.socket else { return Fate::Ends };
        if let Some(error) = cx.host.tcp_error(socket) {
            return self.handle_failed_connect(cx, socket, error);
        }
        // Something may wait in the error queue although the connect goes on.
        if event.writable {
            cx.host.tcp_established(socket);
            self.phase = Phase::Answered;
            self.heard_at = cx.now;
            self.upload.open(cx.env);
            self.send_syn_ack(cx);
        }
        Fate::Lives
    }

    fn handle_failed_connect<H: Host, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        socket: SocketId,
        error: HostError,
    ) -> Fate {
        if let Some(report) = cx.host.icmp_report(socket) {
            self.report_to_container(cx, Cause::Report(report));
            return Fate::Ends;
        }
        match error {
            HostError::Refused | HostError::Exhausted => return self.refuse_container(cx),
            HostError::TimedOut => {}
            HostError::NetworkUnreachable | HostError::SourceMissing => {
                self.report_to_container(cx, Cause::NetworkUnreachable);
            }
            HostError::HostUnreachable => self.report_to_container(cx, Cause::HostUnreachable),
            HostError::NotPermitted => self.report_to_container(cx, Cause::Prohibited),
        }
        Fate::Ends
    }

    /// The segment size that our SYN or SYN-ACK asks for.
    pub(super) fn offered_mss<H: Host, O>(&self, cx: &mut Cx<'_, H, O>) -> u16 {
        let host_mss = self.socket.and_then(|socket| cx.host.tcp_segment_size(socket));
        fitting_mss(link_mss(cx.env, self.key.container.ip()), host_mss)
    }

    pub(super) fn send_syn_ack<H: Host, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>) {
        let mut header = self.header(cx.env, TcpControl::Syn, self.download.unacknowledged());
        header.window_len = self.upload.unscaled_window();
        header.max_seg_size = Some(self.offered_mss(cx));
        header.window_scale = self.upload.window_shift();
        header.sack_permitted = self.download.sack_permitted();
        self.download.syn_sent(cx.now);
        self.send_bare(cx, &header);
    }

    fn report_to_container<H, O: Outbox>(&self, cx: &mut Cx<'_, H, O>, cause: Cause) {
        let mut ports_and_seq = [0; 8];
        let [s0, s1] = self.key.container.port().to_be_bytes();
        let [d0, d1] = self.key.remote.port().to_be_bytes();
        let [q0, q1, q2, q3] = (self.upload.next() - 1).0.to_be_bytes();
        ports_and_seq.copy_from_slice(&[s0, s1, d0, d1, q0, q1, q2, q3]);
        let quoted = icmp_error::Quoted {
            container: self.key.container.ip(),
            container_mac: self.container_mac,
            remote: self.key.remote.ip(),
            protocol: smoltcp::wire::IpProtocol::Tcp,
            hop_limit: self.syn_hop_limit,
            transport: &ports_and_seq,
        };
        icmp_error::report(cx, &quoted, cause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_segment_size_is_a_multiple_of_the_hosts_where_that_costs_little() {
        assert_eq!(fitting_mss(65480, Some(1448)), 45 * 1448);
        assert_eq!(fitting_mss(65480, Some(8948)), 7 * 8948);
        for host in [None, Some(0), Some(40_000), Some(65_483), Some(u16::MAX)] {
            assert_eq!(fitting_mss(65480, host), 65480, "{host:?}");
        }
        assert_eq!(fitting_mss(1460, Some(1448)), 1460);
    }
}
