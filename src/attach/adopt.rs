// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interfaces that somebody else has made: TAPs and ends of veth pairs, on which nothing is configured.
//!
//! # How it works
//! A TAP's MAC address is that of the container's side, so unless another is wished for it becomes the port's, beyond which
//! the guards let nothing pass. A veth pair's other end cannot be seen from ours: it is to take the MAC address that is
//! offered.
//!
//! The offloads of a TAP belong to the device and may be what a program left that is gone: they are cleared before ours
//! are set, and cleared again when the port is detached. The length of its virtio-net headers is set to 10, the kernel's
//! default.
//!
//! # Bounds
//! One queue of what is opened by name, whatever the number of workers; a caller who opens the queues may pass as many.
//! What segmentation the other end of a veth pair leaves undone is its owner's to say (`ethtool -K`): a packet socket
//! loses super-frames that are neither TCP nor UDP.

use std::io;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};
use smoltcp::wire::EthernetAddress;
use wharf_switch::Offloads;

use super::{
    Client, Done, Error, Handed, Life, Options, Place, PortKind, Target, has_no_view, helper, request,
};
use crate::control::spec::Text;
use crate::netns::{Failure, Netlink};
use crate::port::Tap;
use crate::sys::{packet, tun};

/// An interface of the target's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Existing {
    /// A TAP with this name, which nobody has open.
    Tap(String),
    /// Our end of a veth pair.
    Veth(String),
}

/// What there is to be known of an opened interface.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Found {
    interface: String,
    kind: PortKind,
    /// Of the container's side, where it can be seen.
    mac: Option<[u8; 6]>,
    vnet_header: bool,
    uso: bool,
}

/// Opens an interface by its name in the target's namespace.
pub(super) fn open(
    target: &Target,
    netns: &OwnedFd,
    existing: &Existing,
) -> Result<(Found, Vec<OwnedFd>), Error> {
    helper::in_namespace(target, netns, || match existing {
        Existing::Tap(name) => {
            let queues = vec![open_tap(name)?];
            Ok((tap(&queues)?, queues))
        }
        Existing::Veth(name) => veth(name),
    })
}

/// Looks at a TAP that the caller has opened.
pub(super) fn opened(queues: &[OwnedFd]) -> Result<(Found, Vec<OwnedFd>), Error> {
    let found = tap(queues).and_then(|found| {
        let queues = queues.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>();
        Ok((found, queues.map_err(|source| failure("duplicating a descriptor", source))?))
    });
    found.map_err(|failure| Error::Interface {
        step: failure.step.to_owned(),
        text: failure.source.to_string(),
    })
}

/// Hands over what was opened.
pub(super) fn attach(
    options: &Options,
    (found, queues): (Found, Vec<OwnedFd>),
    at: String,
    place: Option<Place>,
) -> Result<Done, Error> {
    let mut request = request(options, at);
    if request.container.mac.is_none() {
        request.container.mac = found.mac.map(EthernetAddress).map(Text);
    }
    let (client, offer) = Client::ask(&options.socket, request)?;
    has_no_view(&offer)?;
    let (life, life_fd) = place.map_or((Life::Device, None), |place| (place.life, place.life_fd));
    let handed = Handed {
        kind: found.kind,
        uso: found.uso,
        vnet_header: found.vnet_header,
        is_borrowed: found.kind == PortKind::Tap,
        interface: Some(found.interface),
        life,
        has_view: false,
    };
    let port = client.hand_over(handed, &queues, life_fd.as_ref())?;
    Ok(Done { port, offer, warnings: Vec::new() })
}

fn failure(step: &'static str, source: io::Error) -> Failure {
    Failure { step, source }
}

fn unfit(text: String) -> Failure {
    failure("adopting the interface", io::Error::other(text))
}

fn open_tap(name: &str) -> Result<OwnedFd, Failure> {
    // Opening one that does not exist would make it.
    find(name)?;
    let opened = match tun::open_queue(name, false) {
        // The device's queues must be asked for as they were when it was made.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => tun::open_queue(name, true),
        opened => opened,
    };
    opened.map_err(|error| {
        unfit(match error.raw_os_error() {
            Some(libc::EINVAL) => format!("{name} is no TAP"),
            Some(libc::EBUSY) => format!("another program has {name} open"),
            Some(libc::EPERM) => format!("{name} belongs to another user"),
            _ => format!("opening {name}: {error}"),
        })
    })
}

fn find(name: &str) -> Result<(Netlink, u32), Failure> {
    let mut netlink = Netlink::open().map_err(|source| failure("opening a netlink socket", source))?;
    match netlink.link_index(name) {
        Ok(index) => Ok((netlink, index)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
            Err(unfit(format!("there is no {name} in that namespace")))
        }
        Err(source) => Err(failure("looking for the interface", source)),
    }
}

/// Looks at a TAP, and has it give us unfinished frames where it can say that they are.
fn tap(queues: &[OwnedFd]) -> Result<Found, Failure> {
    let interfaces = queues.iter().map(tun::interface).collect::<io::Result<Vec<_>>>();
    let interfaces = interfaces.map_err(|error| unfit(format!("that is no queue of a TAP: {error}")))?;
    let (Some(queue), Some(interface)) = (queues.first(), interfaces.first()) else {
        return Err(unfit("there is no descriptor".to_owned()));
    };
    let name = &interface.name;
    if let Some(other) = interfaces.iter().find(|other| *other != interface) {
        return Err(unfit(format!("{name} and {} are not queues of the same device", other.name)));
    }
    if !interface.is_tap {
        return Err(unfit(format!("{name} is a TUN, which has no Ethernet; open it with IFF_TAP")));
    }
    if interface.has_packet_info {
        return Err(unfit(format!(
            "{name} has packet information in front of frames; open it with IFF_NO_PI"
        )));
    }
    let offloads = offloads(queue, interface.has_vnet_header)
        .map_err(|source| failure("setting the interface's offloads", source))?;
    Ok(Found {
        interface: name.clone(),
        kind: PortKind::Tap,
        mac: Some(tun::mac(queue).map_err(|source| failure("reading the interface's MAC address", source))?),
        vnet_header: offloads.vnet_header,
        uso: offloads.uso,
    })
}

fn offloads(queue: &OwnedFd, has_vnet_header: bool) -> io::Result<Offloads> {
    tun::clear_offloads(queue)?;
    if !has_vnet_header {
        return Ok(Offloads::NONE);
    }
    tun::set_vnet_header_len(queue)?;
    Tap::negotiate(queue)
}

fn veth(name: &str) -> Result<(Found, Vec<OwnedFd>), Failure> {
    let (mut netlink, index) = find(name)?;
    let looking = |source| failure("looking at the interface", source);
    if !netlink.is_veth(name).map_err(looking)? {
        return Err(unfit(format!("{name} is no end of a veth pair")));
    }
    if !netlink.is_up(name).map_err(looking)? {
        return Err(unfit(format!("{name} is down; `ip link set {name} up` brings it up")));
    }
    let socket = packet::open(index, None).map_err(|source| failure("opening a packet socket", source))?;
    let found =
        Found { interface: name.to_owned(), kind: PortKind::Veth, mac: None, vnet_header: true, uso: false };
    Ok((found, vec![socket]))
}
