// SPDX-License-Identifier: MIT OR Apache-2.0
//! The container's side of the cable: its device, addresses and routes, made from inside its network namespace.
//!
//! # Path
//! [`plan`] chooses addresses while wharf is still in the host's namespace; [`Device::open`] and [`configure`] run in
//! the sandbox's init; the device's descriptors travel to the gateway process.

mod netlink;
pub mod plan;
mod sock_diag;
mod veth;

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use netlink_packet_route::link::LinkAttribute;

pub use netlink::{Netlink, link_local};
use smoltcp::wire::{EthernetAddress, IpCidr};
pub use sock_diag::{Listening, SockDiag};

use crate::sys::tun::{self, Offloads};

/// The name of a container's interface, unless it is to have another.
pub const INTERFACE: &str = "eth0";

/// Largest IP packet of a link that is to have no other, in bytes.
pub const DEFAULT_MTU: usize = 65_520;
/// The least MTU of a link without IPv6: RFC 791 section 3.1 has every host accept datagrams of 576 octets.
pub const MIN_MTU: usize = 576;
/// RFC 8200 section 5: "IPv6 requires that every link in the Internet have an MTU of 1280 octets or greater."
pub const MIN_MTU_IPV6: usize = 1280;

/// Frames a single-queue device may hold for us; beyond that the container's kernel drops them, silently for it.
/// Eight flows' windows at an MTU of 1500 without segmentation offload fit.
const QUEUE_FRAMES: u32 = 4096;
/// The same for each queue of a multi-queue device. The kernel makes 256 of them, whatever we use, and sizes each
/// one's packet scheduler by this: 6 MB at 1,000, and bringing the link up takes the longer the more it is.
const QUEUE_FRAMES_MULTI: u32 = 1000;

/// Which kind of device to make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum DeviceChoice {
    /// A TAP, or a veth pair where there is no usable `/dev/net/tun`.
    #[default]
    Best,
    /// A TAP or nothing.
    Tap,
    /// A veth pair or nothing.
    Veth,
}

/// What the device is, beside its descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum DeviceKind {
    /// A TAP that accepted these offloads.
    Tap(Offloads),
    /// A veth pair read through packet sockets.
    Veth,
}

/// A device, with our ends of its queues.
#[derive(Debug)]
pub struct Device {
    /// What it is.
    pub kind: DeviceKind,
    /// One descriptor per queue; each `read` and `write` is one frame behind a 10-byte virtio-net header.
    pub queues: Vec<OwnedFd>,
    /// Why it is not the kind hoped for.
    pub fell_back: Option<io::Error>,
}

/// A device to be made.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Its kind.
    pub choice: DeviceChoice,
    /// Its name.
    pub name: &'a str,
    /// How many threads read from it.
    pub queues: usize,
    /// Largest IP packet, in bytes.
    pub mtu_bytes: usize,
    /// It goes with its namespace, not with its last descriptor.
    pub lasting: bool,
}

impl Device {
    /// Creates the device in the calling thread's network namespace.
    ///
    /// One queue makes a single-queue TAP, since a multi-queue one costs 256 packet schedulers and several
    /// milliseconds when it is brought up.
    ///
    /// # Errors
    /// No device can be made. With [`DeviceChoice::Best`] it is the TAP's error, as that is the one to mend.
    pub fn open(wanted: Wanted<'_>) -> io::Result<Self> {
        if wanted.choice == DeviceChoice::Veth {
            return Self::veth(wanted);
        }
        match Self::tap(wanted) {
            Err(error) if wanted.choice == DeviceChoice::Best => match Self::veth(wanted) {
                Ok(device) => Ok(Self { fell_back: Some(error), ..device }),
                Err(_) => Err(error),
            },
            result => result,
        }
    }

    fn tap(Wanted { name, queues, lasting, .. }: Wanted<'_>) -> io::Result<Self> {
        let queues: Vec<OwnedFd> =
            (0..queues.max(1)).map(|_| tun::open_queue(name, queues > 1)).collect::<io::Result<_>>()?;
        let mut offloads = Offloads::default();
        if let Some(queue) = queues.first() {
            offloads = tun::set_offloads(queue, false)?;
            if lasting {
                // It is gone with its namespace in any case, which the kernel cleans up by itself after the last
                // process. Without persistence, closing the last queue would unregister it there and then, some 15 ms
                // of every run.
                tun::make_persistent(queue)?;
            }
        }
        Ok(Self { kind: DeviceKind::Tap(offloads), queues, fell_back: None })
    }

    fn veth(Wanted { name, queues, mtu_bytes, .. }: Wanted<'_>) -> io::Result<Self> {
        let queues = veth::open(name, queues, mtu_bytes)?;
        Ok(Self { kind: DeviceKind::Veth, queues, fell_back: None })
    }
}

/// A container's addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Where IPv4 leads to it.
    pub ipv4: Option<Ipv4Addr>,
    /// Where IPv6 leads to it.
    pub ipv6: Option<Ipv6Addr>,
}

/// An interface as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its MAC address.
    pub mac: EthernetAddress,
    /// Largest IP packet, in bytes.
    pub mtu_bytes: usize,
    /// Threads that read from it.
    pub queues: usize,
    /// IPv4, if it has any.
    pub ipv4: Option<Side<Ipv4Addr>>,
    /// IPv6, if it has any.
    pub ipv6: Option<Side<Ipv6Addr>>,
    /// What it leads to beside its own network, also where another interface has the default route.
    pub routes: Vec<Route>,
}

/// A destination that an interface leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its addresses.
    pub prefix: IpCidr,
    /// Who on the interface's link sends on what goes there.
    pub gateway: IpAddr,
}

/// An interface's addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side<A> {
    /// Its own.
    pub address: A,
    /// How much of it is the network's.
    pub prefix_len: u8,
    /// Where the default route leads, if there is to be one.
    pub gateway: Option<A>,
}

/// One step of [`configure`] that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct Failure {
    /// What was to be done.
    pub step: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

fn step<T>(step: &'static str, result: io::Result<T>) -> Result<T, Failure> {
    result.map_err(|source| Failure { step, source })
}

/// Brings `lo` and the interface `name` up with its addresses and default routes. Returns what did not work but need not
/// stop anybody.
///
/// IPv6 is wholly static: no address waits for duplicate address detection, and Router Advertisements are not
/// accepted, since they would only add a second address and a second default route beside the ones set here. A user
/// who wants them writes 1 to `net.ipv6.conf.eth0.accept_ra`.
///
/// # Errors
/// The first step that failed.
pub fn configure(name: &str, interface: &Interface) -> Result<Vec<String>, Failure> {
    let mut warnings = Vec::new();
    let mut netlink = step("opening a netlink socket", Netlink::open())?;
    // The loopback device is the first of every namespace.
    step("bringing lo up", netlink.set_link(1, true, Vec::new()))?;
    let index = step("finding the interface", netlink.link_index(name))?;
    let mtu = u32::try_from(interface.mtu_bytes).unwrap_or(u32::MAX);
    let attributes = vec![
        LinkAttribute::Mtu(mtu),
        LinkAttribute::Address(interface.mac.0.to_vec()),
        LinkAttribute::TxQueueLen(if interface.queues > 1 { QUEUE_FRAMES_MULTI } else { QUEUE_FRAMES }),
    ];
    step("setting the interface's MTU and MAC address", netlink.set_link(index, false, attributes))?;
    ipv6_settings(name, interface.ipv6.is_some());
    if let Some(ipv4) = interface.ipv4 {
        let added = netlink.add_address(index, ipv4.address.into(), ipv4.prefix_len);
        step("setting the interface's IPv4 address", added)?;
    }
    let mut ipv6 = interface.ipv6;
    if let Some(Side { address, prefix_len, .. }) = ipv6 {
        let own = link_local(interface.mac.0);
        let added = netlink
            .add_address(index, own.into(), 64)
            .and_then(|()| netlink.add_address(index, address.into(), prefix_len));
        match added {
            Ok(()) => {}
            Err(error) if interface.ipv4.is_some() => {
                warnings.push(format!("no IPv6 on {name}, this kernel has it turned off ({error})"));
                ipv6 = None;
            }
            Err(error) => return step("setting the interface's IPv6 address", Err(error)),
        }
    }
    step("bringing the interface up", netlink.set_link(index, true, Vec::new()))?;
    wait_for_carrier(&mut netlink, name);
    let gateways = [
        interface.ipv4.and_then(|ipv4| ipv4.gateway).map(IpAddr::from),
        ipv6.and_then(|ipv6| ipv6.gateway).map(IpAddr::from),
    ];
    for gateway in gateways.into_iter().flatten() {
        match netlink.add_default_route(index, gateway) {
            // Of several interfaces the first one leads outside.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                warnings.push(format!("there is a default route already, so {gateway} is not one"));
            }
            added => step("adding a default route", added)?,
        }
    }
    for route in interface.routes.iter().filter(|route| route.gateway.is_ipv4() || ipv6.is_some()) {
        step("adding a route to a linked network", netlink.add_route(index, *route))?;
    }
    Ok(warnings)
}

/// A TAP has its carrier at once. A veth pair gets it from a work queue of the kernel, and what is sent before, such as
/// a command's first SYN, is lost.
fn wait_for_carrier(netlink: &mut Netlink, name: &str) {
    for _ in 0..500 {
        // A kernel that does not tell is not waited for.
        if netlink.has_carrier(name).unwrap_or(true) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Failing is fine: inside some containers /proc/sys cannot be written, and then a Router Advertisement adds an
/// address, or a link-local address shows on a network without IPv6.
fn ipv6_settings(interface: &str, enabled: bool) {
    let set = |name: &str, value: &str| {
        drop(fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/{name}"), value));
    };
    if enabled {
        set("accept_ra", "0");
        set("disable_ipv6", "0");
    } else {
        set("disable_ipv6", "1");
    }
}
