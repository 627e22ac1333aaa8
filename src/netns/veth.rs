// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device without `/dev/net/tun`: a veth pair whose other end is read through packet sockets.
//!
//! # How it works
//! ```text
//! the sandbox's namespace          a namespace nobody lives in
//!      eth0  <------- veth ------->  wharf0 -- packet sockets --> gateway
//! ```
//! The other end gets a network namespace of its own, where no process of the sandbox finds it, and which lives through
//! the sockets alone: with the last of them the pair is gone. It has no addresses, and its MAC address is not the
//! gateway's, so that the kernel there takes every frame for somebody else's and answers nothing.
//!
//! Super-frames pass whole, as on a TAP. A kind of segmentation that a virtio-net header cannot express would be lost
//! at the socket, so [`SANDBOX_LEAVES`] is all that `eth0` may leave undone.
//!
//! # Bounds
//! A socket holds what `net.core.rmem_max` grants (about three super-frames by default); beyond that frames are lost,
//! which the kernel counts in the socket's statistics.

use std::fs;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo,
    LinkMessage,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::Netlink;
use crate::sys::{ethtool, packet, process};

/// Our end's name.
const OUR_END: &str = "wharf0";

/// The work `eth0` may leave to us, by ethtool's names: checksums and TCP segmentation, as on a TAP.
const SANDBOX_LEAVES: [&str; 5] = [
    "tx-checksum-ip-generic",
    "tx-tcp-segmentation",
    "tx-tcp6-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
];

/// Creates the pair with `name` in the calling thread's network namespace, and `queues` sockets on the other end.
///
/// # Errors
/// What the kernel says; the calling thread is back in its namespace then too, or ends the process.
pub(super) fn open(name: &str, queues: usize, mtu_bytes: usize) -> io::Result<Vec<OwnedFd>> {
    let home = File::open("/proc/self/ns/net")?;
    process::new_network_namespace()?;
    let made = make(&home, name, queues, mtu_bytes);
    move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network))?;
    let sockets = made?;
    ethtool::turn_off(name, |name| {
        let segmentation = name.starts_with("tx-") && name.ends_with("-segmentation");
        (segmentation
            || name == "tx-vlan-hw-insert"
            || name == "tx-vlan-stag-hw-insert"
            || name == "tx-gso-list")
            && !SANDBOX_LEAVES.contains(&name)
    })?;
    Ok(sockets)
}

fn make(home: &File, name: &str, queues: usize, mtu_bytes: usize) -> io::Result<Vec<OwnedFd>> {
    let mut netlink = Netlink::open()?;
    let mut peer = LinkMessage::default();
    peer.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::NetNsFd(home.as_raw_fd())];
    netlink.add_link(vec![
        LinkAttribute::IfName(OUR_END.to_owned()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ])?;
    let index = netlink.link_index(OUR_END)?;
    // Without a link-local address our end has nothing to say. Each of the two is missing somewhere: the attribute
    // where IPv6 is not built in, the file where /proc/sys is read-only.
    drop(fs::write(format!("/proc/sys/net/ipv6/conf/{OUR_END}/disable_ipv6"), "1"));
    let silent = vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)];
    drop(netlink.set_link(
        index,
        false,
        vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(silent)])],
    ));
    let mtu = u32::try_from(mtu_bytes).unwrap_or(u32::MAX);
    netlink.set_link(index, true, vec![LinkAttribute::Mtu(mtu)])?;
    let fanout = (queues > 1).then_some(1);
    (0..queues.max(1)).map(|_| packet::open(index, fanout)).collect()
}
