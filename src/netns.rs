// SPDX-License-Identifier: MIT OR Apache-2.0
//! The container's side of the cable: its device, addresses and routes, made from inside its network namespace.
//!
//! # Path
//! [`plan`] chooses addresses while wharf is still in the host's namespace; [`Device::open`] and [`configure`] run in
//! the sandbox's init; the device's descriptors travel to the gateway process.

mod netlink;
pub mod plan;
mod veth;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use netlink_packet_route::link::LinkAttribute;

pub use netlink::{Netlink, link_local};
use plan::{CONTAINER_MAC, Plan};

use crate::sys::tun::{self, Offloads};

/// The name of the container's interface.
pub const INTERFACE: &str = "eth0";

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

/// The device behind [`INTERFACE`].
#[derive(Debug)]
pub struct Device {
    /// What it is.
    pub kind: DeviceKind,
    /// One descriptor per queue; each `read` and `write` is one frame behind a 10-byte virtio-net header.
    pub queues: Vec<OwnedFd>,
    /// Why it is not the kind hoped for.
    pub fell_back: Option<io::Error>,
}

impl Device {
    /// Creates the device in the calling thread's network namespace with `queues` queues.
    ///
    /// One queue makes a single-queue TAP, since a multi-queue one costs 256 packet schedulers and several
    /// milliseconds when it is brought up.
    ///
    /// # Errors
    /// No device can be made. With [`DeviceChoice::Best`] it is the TAP's error, as that is the one to mend.
    pub fn open(choice: DeviceChoice, queues: usize, mtu_bytes: usize) -> io::Result<Self> {
        if choice == DeviceChoice::Veth {
            return Self::veth(queues, mtu_bytes);
        }
        match Self::tap(queues) {
            Err(error) if choice == DeviceChoice::Best => match Self::veth(queues, mtu_bytes) {
                Ok(device) => Ok(Self { fell_back: Some(error), ..device }),
                Err(_) => Err(error),
            },
            result => result,
        }
    }

    fn tap(queues: usize) -> io::Result<Self> {
        let queues: Vec<OwnedFd> =
            (0..queues.max(1)).map(|_| tun::open_queue(INTERFACE, queues > 1)).collect::<io::Result<_>>()?;
        let mut offloads = Offloads::default();
        if let Some(queue) = queues.first() {
            offloads = tun::set_offloads(queue, false)?;
            // It is gone with its namespace in any case, which the kernel cleans up by itself after the last process.
            // Without persistence, closing the last queue would unregister it there and then, some 15 ms of every run.
            tun::make_persistent(queue)?;
        }
        Ok(Self { kind: DeviceKind::Tap(offloads), queues, fell_back: None })
    }

    fn veth(queues: usize, mtu_bytes: usize) -> io::Result<Self> {
        let queues = veth::open(queues, mtu_bytes)?;
        Ok(Self { kind: DeviceKind::Veth, queues, fell_back: None })
    }
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

/// Brings `lo` and [`INTERFACE`] up with the plan's addresses and default routes. Returns what did not work but need
/// not stop anybody.
///
/// IPv6 is wholly static: no address waits for duplicate address detection, and Router Advertisements are not
/// accepted, since they would only add a second address and a second default route beside the ones set here. A user
/// who wants them writes 1 to `net.ipv6.conf.eth0.accept_ra`.
///
/// # Errors
/// The first step that failed.
pub fn configure(plan: &Plan, mtu_bytes: usize, queues: usize) -> Result<Vec<String>, Failure> {
    let mut warnings = Vec::new();
    let mut netlink = step("opening a netlink socket", Netlink::open())?;
    // The loopback device is the first of every namespace.
    step("bringing lo up", netlink.set_link(1, true, Vec::new()))?;
    let index = step("finding eth0", netlink.link_index(INTERFACE))?;
    let mtu = u32::try_from(mtu_bytes).unwrap_or(u32::MAX);
    let attributes = vec![
        LinkAttribute::Mtu(mtu),
        LinkAttribute::Address(CONTAINER_MAC.0.to_vec()),
        LinkAttribute::TxQueueLen(if queues > 1 { QUEUE_FRAMES_MULTI } else { QUEUE_FRAMES }),
    ];
    step("setting eth0's MTU and MAC address", netlink.set_link(index, false, attributes))?;
    ipv6_settings(plan.ipv6.is_some());
    if let (Some(ipv4), Some(address)) = (plan.ipv4, plan.container4()) {
        let added = netlink.add_address(index, address.into(), ipv4.subnet.prefix_len());
        step("setting eth0's IPv4 address", added)?;
    }
    let mut ipv6 = plan.ipv6.zip(plan.container6);
    if let Some((ipv6_plan, address)) = ipv6 {
        let own = link_local(CONTAINER_MAC.0);
        let added = netlink
            .add_address(index, own.into(), 64)
            .and_then(|()| netlink.add_address(index, address.into(), ipv6_plan.subnet.prefix_len()));
        match added {
            Ok(()) => {}
            Err(error) if plan.ipv4.is_some() => {
                warnings.push(format!("no IPv6 in the sandbox, this kernel has it turned off ({error})"));
                ipv6 = None;
            }
            Err(error) => return step("setting eth0's IPv6 address", Err(error)),
        }
    }
    step("bringing eth0 up", netlink.set_link(index, true, Vec::new()))?;
    wait_for_carrier(&mut netlink);
    if let Some(ipv4) = plan.ipv4 {
        step("adding the IPv4 default route", netlink.add_default_route(index, ipv4.gateway.into()))?;
    }
    if let Some((ipv6_plan, _)) = ipv6 {
        let gateway = ipv6_plan.link_local;
        step("adding the IPv6 default route", netlink.add_default_route(index, gateway.into()))?;
    }
    Ok(warnings)
}

/// A TAP has its carrier at once. A veth pair gets it from a work queue of the kernel, and what is sent before, such as
/// a command's first SYN, is lost.
fn wait_for_carrier(netlink: &mut Netlink) {
    for _ in 0..500 {
        // A kernel that does not tell is not waited for.
        if netlink.has_carrier(INTERFACE).unwrap_or(true) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Failing is fine: inside some containers /proc/sys cannot be written, and then a Router Advertisement adds an
/// address, or a link-local address shows on a network without IPv6.
fn ipv6_settings(enabled: bool) {
    let set = |name: &str, value: &str| {
        drop(fs::write(format!("/proc/sys/net/ipv6/conf/{INTERFACE}/{name}"), value));
    };
    if enabled {
        set("accept_ra", "0");
        set("disable_ipv6", "0");
    } else {
        set("disable_ipv6", "1");
    }
}
