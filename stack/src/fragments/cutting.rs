// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets become fragments that fit the link.
//!
//! # Sources
//! RFC 791 sections 3.1 and 3.2, RFC 8200 section 4.5.

use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6FragmentHeader, Ipv6Packet,
};
use wharf_switch::Frame;
use wharf_switch::frame::ETHERNET_HEADER_LEN;

use super::UNIT;
use crate::DropReason;
use crate::env::{Cx, Outbox};
use crate::wire::emit::{self, Path, len16};
use crate::wire::{Fragment, Packet};

const IPV6_FRAGMENT_HEADER_LEN: usize = 8;

/// Sends a whole packet, in pieces if the link asks for it.
pub(crate) fn send<H, O: Outbox>(
    cx: &mut Cx<'_, H, O>,
    frame: &mut Frame,
    path: &Path,
    ident: u32,
) -> Result<(), DropReason> {
    if frame.len() > cx.env.config.mtu_bytes + ETHERNET_HEADER_LEN {
        return send_in_pieces(cx, frame, path, ident);
    }
    cx.send(frame);
    Ok(())
}

/// Cuts a whole packet into fragments that fit the link, and sends them.
fn send_in_pieces<H, O: Outbox>(
    cx: &mut Cx<'_, H, O>,
    frame: &mut Frame,
    path: &Path,
    ident: u32,
) -> Result<(), DropReason> {
    // The transport checksum spans all fragments, so it cannot stay owed.
    wharf_switch::offload::complete_checksum(frame).map_err(|_| DropReason::AnswerTooLarge)?;
    let ip_header_len = path.ip_header_len();
    let extra = if path.src.is_ipv6() { IPV6_FRAGMENT_HEADER_LEN } else { 0 };
    let payload = frame.bytes().get(ETHERNET_HEADER_LEN + ip_header_len..).unwrap_or_default();
    let (protocol, hop_limit) = protocol_and_hop_limit(frame);
    let room = cx.env.config.mtu_bytes.saturating_sub(ip_header_len + extra);
    let step = (room - room % UNIT).max(UNIT);
    let mut offset = 0;
    for piece in payload.chunks(step) {
        let more = offset + piece.len() < payload.len();
        let mut out = cx.env.pool.for_len(ETHERNET_HEADER_LEN + ip_header_len + extra + piece.len());
        let carried = if extra == 0 { protocol } else { IpProtocol::Ipv6Frag };
        let room = emit::ip(&mut out, path, carried, hop_limit, extra + piece.len());
        if let Some(body) = room.get_mut(extra..) {
            body.copy_from_slice(piece);
        }
        mark_as_fragment(&mut out, protocol, Fragment { ident, offset, more });
        cx.send(&mut out);
        offset += piece.len();
    }
    Ok(())
}

/// Cuts an IPv4 packet that comes from elsewhere, a fragment itself perhaps, into pieces that fit the link, and sends
/// them. The frame is no super-frame.
///
/// RFC 791 section 3.2: every piece has the packet's header but for length, offset, flag and checksum.
pub(crate) fn cut_further<H, O: Outbox>(
    cx: &mut Cx<'_, H, O>,
    packet: &Packet,
    frame: &mut Frame,
) -> Result<(), DropReason> {
    wharf_switch::offload::complete_checksum(frame).map_err(|_| DropReason::Ipv4Malformed)?;
    let whole = Fragment { ident: ident_v4(frame), offset: 0, more: false };
    let Fragment { ident, offset: base, more: more_behind } = packet.fragment.unwrap_or(whole);
    let payload = packet.payload(frame);
    let mut header = cx.env.pool.small();
    header.fill(frame.bytes().get(..packet.payload_start).unwrap_or_default());
    let room = (cx.env.config.mtu_bytes + ETHERNET_HEADER_LEN).saturating_sub(packet.payload_start);
    let mut offset = 0;
    for piece in payload.chunks((room - room % UNIT).max(UNIT)) {
        let more = more_behind || offset + piece.len() < payload.len();
        let mut out = cx.env.pool.for_len(header.len() + piece.len());
        out.set_len(header.len() + piece.len());
        if let Some((head, body)) = out.bytes_mut().split_at_mut_checked(header.len()) {
            head.copy_from_slice(header.bytes());
            body.copy_from_slice(piece);
        }
        if let Some(ip) = out.bytes_mut().get_mut(ETHERNET_HEADER_LEN..) {
            let len = len16(ip.len());
            Ipv4Packet::new_unchecked(ip).set_total_len(len);
        }
        mark_as_fragment(&mut out, packet.protocol, Fragment { ident, offset: base + offset, more });
        cx.send(&mut out);
        offset += piece.len();
        if offset == piece.len() {
            drop_uncopied_options(&mut header);
        }
    }
    Ok(())
}

fn ident_v4(frame: &Frame) -> u32 {
    let ip = frame.bytes().get(ETHERNET_HEADER_LEN..).unwrap_or_default();
    Ipv4Packet::new_checked(ip).map_or(0, |header| header.ident().into())
}

/// RFC 791 section 3.1: an option without its copied flag is in the first fragment only. No-operation takes its place.
fn drop_uncopied_options(header: &mut Frame) {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const COPIED: u8 = 0x80;
    let mut rest = header.bytes_mut().get_mut(ETHERNET_HEADER_LEN + 20..).unwrap_or_default();
    while let Some(&kind) = rest.first().filter(|kind| **kind != END) {
        let len =
            if kind == NO_OPERATION { 1 } else { rest.get(1).map_or(1, |&len| usize::from(len).max(1)) };
        let Some((option, behind)) = core::mem::take(&mut rest).split_at_mut_checked(len) else { return };
        if kind & COPIED == 0 {
            option.fill(NO_OPERATION);
        }
        rest = behind;
    }
}

fn protocol_and_hop_limit(frame: &Frame) -> (IpProtocol, u8) {
    let ip = frame.bytes().get(ETHERNET_HEADER_LEN..).unwrap_or_default();
    match EthernetFrame::new_checked(frame.bytes()).map(|ethernet| ethernet.ethertype()) {
        Ok(EthernetProtocol::Ipv6) => Ipv6Packet::new_checked(ip)
            .map_or((IpProtocol::Udp, emit::HOP_LIMIT), |h| (h.next_header(), h.hop_limit())),
        _ => Ipv4Packet::new_checked(ip)
            .map_or((IpProtocol::Udp, emit::HOP_LIMIT), |h| (h.next_header(), h.hop_limit())),
    }
}

/// Says in the headers of `frame` which piece of what it is.
pub(super) fn mark_as_fragment(frame: &mut Frame, protocol: IpProtocol, fragment: Fragment) {
    let Some(ip) = frame.bytes_mut().get_mut(ETHERNET_HEADER_LEN..) else { return };
    let is_ipv4 = ip.first().is_some_and(|byte| byte >> 4 == 4);
    if is_ipv4 {
        let mut header = Ipv4Packet::new_unchecked(ip);
        header.clear_flags();
        header.set_ident(fragment.ident.to_be_bytes().last_chunk().map_or(0, |low| u16::from_be_bytes(*low)));
        header.set_more_frags(fragment.more);
        header.set_frag_offset(len16(fragment.offset));
        header.fill_checksum();
        return;
    }
    let Some(header) = ip.get_mut(40..48) else { return };
    if let Some((first, rest)) = header.split_at_mut_checked(2) {
        first.copy_from_slice(&[protocol.into(), 0]);
        let mut view = Ipv6FragmentHeader::new_unchecked(rest);
        view.clear_reserved();
        view.set_frag_offset(len16(fragment.offset / UNIT));
        view.set_more_frags(fragment.more);
        view.set_ident(fragment.ident);
    }
}
