// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the fuzz targets do with their input; the ordinary tests replay recorded inputs through the same functions.
//!
//! # How it works
//! | target | input | what must hold |
//! |---|---|---|
//! | [`frame`] | frames of any bytes, virtio-net header included | no panic; the books balance; every drop has a reason |
//! | [`session`] | a story of segments, datagrams, host events and time | the same; the memory budget; nothing is left in the end |
//! | [`codecs`] | bytes for one parser | no panic; what was cut adds up |

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a finding is a panic"
)]

mod codecs;
mod session;
#[path = "../../tests/stage/mod.rs"]
mod stage;

use smoltcp::wire::{EthernetFrame, EthernetProtocol, Ipv4Packet};
use stage::{CONTAINER_MAC, GATEWAY_MAC, Stage};
use wharf_switch::offload::VNET_HEADER_LEN;
use wharf_switch::{Duration, Offloads};

pub use codecs::codecs;
pub use session::session;

/// Frames of any bytes.
///
/// The first byte says which offloads and how many workers there are, and whether another network is linked; then come
/// frames, each with two bytes of length and one of flags: to the gateway from the container, with a right IPv4 header
/// checksum, at which worker, for a container of the other network.
pub fn frame(data: &[u8]) {
    let Some((&setup, mut rest)) = data.split_first() else { return };
    let offloads = if setup & 1 == 0 { Offloads::ALL } else { Offloads { tso: false, ..Offloads::ALL } };
    let workers = 1 + usize::from(setup >> 1 & 1);
    let mut stage = Stage::with(stage::config(), workers, offloads);
    if workers == 1 {
        stage.add_port(Offloads::NONE);
    }
    let mut linked = (setup & 4 != 0).then(|| link(&mut stage, offloads));
    while let [high, low, flags, after @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (bytes, after) = after.split_at(len);
        rest = after;
        let mut bytes = bytes.to_vec();
        if bytes.len() >= VNET_HEADER_LEN + 14 && flags & 1 != 0 {
            if flags & 32 != 0 {
                aim_at_linked(&mut bytes[VNET_HEADER_LEN + 14..]);
            }
            mend(&mut bytes[VNET_HEADER_LEN..], flags & 2 != 0);
        }
        stage.receive_raw(usize::from(flags >> 2 & 1) % workers, bytes);
        stage.settle();
        if let Some(linked) = &mut linked {
            linked.settle();
            stage.settle();
        }
        answer_connects(&mut stage, flags & 8 != 0);
        if flags & 16 != 0 {
            stage.advance(Duration::from_millis(300));
        }
    }
    stage.advance(Duration::from_secs(5));
    check_budget(&stage);
}

/// Another network, linked with that of `stage`, whose container is known.
fn link(stage: &mut Stage, offloads: Offloads) -> Stage {
    let mut linked = Stage::with(stage::linked_config(), 1, offloads);
    stage.route_to(&linked);
    linked.route_to(stage);
    linked.receive(&stage::frames::arp(1, CONTAINER_MAC, [10, 0, 3, 100], [10, 0, 3, 2]));
    linked
}

/// Makes an IP packet one of a container's for one of the other network.
fn aim_at_linked(packet: &mut [u8]) {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.len() >= 20 => {
            packet[12..20].copy_from_slice(&[10, 0, 2, 100, 10, 0, 3, 100]);
        }
        Some(6) if packet.len() >= 40 => {
            packet[8..12].copy_from_slice(&[0xfd, 0, 0x0d, 0xb8]);
            packet[24..28].copy_from_slice(&[0xfd, 0, 0x0d, 0xb9]);
            packet[12..16].fill(0);
            packet[28..32].fill(0);
        }
        _ => {}
    }
}

/// Addresses a frame to the gateway, and makes its IPv4 header checksum right.
fn mend(frame: &mut [u8], with_checksum: bool) {
    let mut view = EthernetFrame::new_unchecked(frame);
    view.set_dst_addr(GATEWAY_MAC);
    view.set_src_addr(CONTAINER_MAC);
    if with_checksum && view.ethertype() == EthernetProtocol::Ipv4 {
        let ip = view.payload_mut();
        if Ipv4Packet::new_checked(&*ip).is_ok_and(|packet| packet.header_len() >= 20) {
            Ipv4Packet::new_unchecked(ip).fill_checksum();
        }
    }
}

fn answer_connects(stage: &mut Stage, well: bool) {
    for worker in &mut stage.workers {
        for at in 0..worker.host.sockets.len() {
            let socket = &worker.host.sockets[at];
            if socket.remote.is_some() && socket.connected.is_none() && !socket.closed {
                let refused = Err(wharf_stack::host::HostError::Refused);
                worker.host.connect_ends(at, if well { Ok(()) } else { refused });
            }
        }
    }
    stage.settle();
}

/// The budget is not exceeded by more than every flow's guaranteed share and one frame on its way.
fn check_budget(stage: &Stage) {
    let limit = stage::config().memory_bytes / stage.workers.len();
    for worker in &stage.workers {
        let load = worker.gateway.load();
        assert!(load.held_bytes <= limit + load.tcp_flows * (128 + 66) * 1024, "over budget: {load:?}");
    }
}
