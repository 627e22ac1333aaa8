// SPDX-License-Identifier: MIT OR Apache-2.0
//! The other end of the cable: a TAP in a namespace that somebody else made, or a program that connects.
//!
//! # Path
//! ```text
//! gateway (host's namespaces)         child
//! fork ----------------------------> join the user and the network namespace
//!                                    open the TAP, or attach to it; configure it
//!   <----------- Attached + fd ----- exit
//! wait for the child
//! ```

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use netlink_packet_route::link::{LinkAttribute, LinkFlags};
use rustix::process::{Pid, Signal, WaitOptions, set_parent_process_death_signal, waitpid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};
use wharf_switch::Offloads;

use super::args::{Options, Target};
use super::{Failed, Failure, bess, plan, say};
use crate::channel::Channel;
use crate::netns::Netlink;
use crate::port::{Device, Messages, Tap};
use crate::sys::offload_reset::OffloadReset;
use crate::sys::process::{Cloned, exit_now, fork};
use crate::sys::signal::default_child_signal;
use crate::sys::tun;

/// The child's only message: the TAP with this name comes as a descriptor.
#[derive(Serialize, Deserialize)]
struct Attached {
    name: String,
}

/// What is at the other end.
pub(super) struct Guest {
    pub(super) device: Device,
    /// Leaves a TAP as it was found.
    pub(super) reset: Option<OffloadReset>,
    /// Hangs up when the guest is gone; namespaces do not.
    pub(super) life: Option<OwnedFd>,
}

/// Attaches to what the options name. `None` when the caller is gone before anybody is there.
pub(super) fn attach(options: &Options) -> Result<Option<Guest>, Failure> {
    let queue = match &options.target {
        Target::Bess(path) => {
            let Some(socket) = bess::accept(path, options.exit.as_ref())? else { return Ok(None) };
            let life = Some(socket.try_clone().failed("dup")?);
            return Ok(Some(Guest { device: Messages::new(socket).into(), reset: None, life }));
        }
        Target::Tap(queue) => inherited(queue)?,
        Target::Pid(pid) => {
            let userns = options.userns.clone();
            let userns = userns.unwrap_or_else(|| format!("/proc/{pid}/ns/user").into());
            opened_inside(options, Path::new(&format!("/proc/{pid}/ns/net")), Some(userns))?
        }
        Target::Path(path) => opened_inside(options, path, options.userns.clone())?,
    };
    // Before anything is offered, so that no signal comes in between.
    let reset = OffloadReset::new(queue.try_clone().failed("dup")?).failed("sigaction")?;
    let device = Device::Tap(port(queue)?);
    Ok(Some(Guest { device, reset: Some(reset), life: None }))
}

/// Opens the TAP in a namespace, and configures it if that is asked for.
fn opened_inside(options: &Options, netns: &Path, userns: Option<PathBuf>) -> Result<OwnedFd, Failure> {
    let (ours, theirs) = Channel::pair().failed("socketpair")?;
    default_child_signal();
    let child = match fork().failed("fork")? {
        Cloned::Parent(child) => child,
        Cloned::Child => {
            drop(ours);
            exit_now(match in_child(options, netns, userns, &theirs) {
                Ok(()) => 0,
                Err(failure) => {
                    say(&failure);
                    1
                }
            })
        }
    };
    drop(theirs);
    let received = ours.receive::<Attached>();
    wait_for(child)?;
    let tap = received.failed("recvmsg")?.and_then(|(_, mut fds)| fds.pop());
    let tap = tap.ok_or_else(|| Failure::new("the child sent no TAP"))?;
    say(&format_args!("received tapfd={}", tap.as_raw_fd()));
    Ok(tap)
}

/// Waits for the child, whose failure is ours.
fn wait_for(child: Pid) -> Result<(), Failure> {
    let waited =
        rustix::io::retry_on_intr(|| waitpid(Some(child), WaitOptions::empty())).failed("waitpid")?;
    match waited.and_then(|(_, status)| status.exit_status()) {
        Some(0) => Ok(()),
        Some(status) => Err(Failure::new(&format!("child failed({status})")).with_status(status)),
        None => Err(Failure::new("the child was killed")),
    }
}

fn in_child(
    options: &Options,
    netns: &Path,
    userns: Option<PathBuf>,
    channel: &Channel,
) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).failed("prctl(PR_SET_PDEATHSIG)")?;
    join(netns, userns.as_deref())?;
    let device = tun::open_device().failed(tun::DEVICE_PATH)?;
    let tap = tun::attach(device, &options.tap_name, false).failed("ioctl(TUNSETIFF)")?;
    // What was asked for may be a pattern.
    let name = tun::interface(&tap).failed("ioctl(TUNGETIFF)")?.name;
    if options.configure {
        configure(options, &name)?;
    }
    say(&format_args!("sent tapfd={} for {name}", tap.as_raw_fd()));
    channel.send(&Attached { name }, &[tap.as_fd()]).failed("sendmsg")
}

/// Moves this process into the network namespace. One who may not do so by himself may as the user namespace's root that
/// he becomes when the namespace is his.
fn join(netns: &Path, userns: Option<&Path>) -> Result<(), Failure> {
    let enter = |namespace: &File, kind| move_into_link_name_space(namespace.as_fd(), Some(kind));
    let net = File::open(netns).failed(&netns.display().to_string())?;
    // A process of another user does not show its namespaces; nor does it let anybody in.
    let user = userns.and_then(|path| File::open(path).ok());
    let joined = match enter(&net, LinkNameSpaceType::Network) {
        Err(rustix::io::Errno::PERM) => {
            // Fails for who is in it already.
            let _ = user.map(|user| enter(&user, LinkNameSpaceType::User));
            enter(&net, LinkNameSpaceType::Network)
        }
        result => result,
    };
    joined.failed("setns(CLONE_NEWNET)")
}

/// Brings the loopback device and the TAP up and gives the TAP its address in the place of one that it has. IPv6 is the
/// kernel's own doing, on what the gateway advertises.
fn configure(options: &Options, name: &str) -> Result<(), Failure> {
    let mut netlink = Netlink::open().failed("netlink")?;
    let index = netlink.link_index(name).failed(name)?;
    // Both without MULTICAST: that is how callers know the interface.
    let mask = LinkFlags::Up | LinkFlags::Multicast;
    // The loopback device is the first of every namespace.
    netlink.set_flags(1, LinkFlags::Up, mask).failed("bringing lo up")?;
    netlink.set_flags(index, LinkFlags::Up, mask).failed("bringing the TAP up")?;
    let mtu = u32::try_from(options.mtu_bytes).unwrap_or(u32::MAX);
    netlink.set_link(index, false, vec![LinkAttribute::Mtu(mtu)]).failed("setting the MTU")?;
    if let Some(mac) = options.mac {
        let address = LinkAttribute::Address(mac.to_vec());
        netlink.set_link(index, false, vec![address]).failed("setting the MAC address")?;
    }
    let address = plan::interface_address(options.cidr);
    set_address(&mut netlink, index, address.into(), options.cidr.prefix_len())
        .failed("setting the IPv4 address")?;
    let gateway = plan::ipv4(options.cidr).gateway.into();
    netlink.prepend_default_route(index, gateway).failed("adding the default route")
}

/// Puts an IPv4 address in the place of a link's first one, as `SIOCSIFADDR` does (netdevice(7)).
fn set_address(netlink: &mut Netlink, index: u32, address: IpAddr, prefix_len: u8) -> io::Result<()> {
    let before = netlink.addresses(index)?;
    if !before.contains(&(address, prefix_len))
        && let Some(&(old, old_len)) = before.iter().find(|(old, _)| old.is_ipv4())
    {
        netlink.remove_address(index, old, old_len)?;
    }
    netlink.add_address(index, address, prefix_len)
}

/// A TAP that the caller has opened and configured.
fn inherited(tap: &OwnedFd) -> Result<OwnedFd, Failure> {
    let interface = tun::interface(tap).failed("ioctl(TUNGETIFF)")?;
    if !interface.is_tap || interface.has_packet_info {
        return Err(Failure::new("FD must be a TAP that was opened with IFF_NO_PI"));
    }
    let flags = rustix::fs::fcntl_getfl(tap).failed("fcntl(F_GETFL)")?;
    rustix::fs::fcntl_setfl(tap, flags | rustix::fs::OFlags::NONBLOCK).failed("fcntl(F_SETFL)")?;
    tap.try_clone().failed("dup")
}

/// The port on a TAP, with or without virtio-net headers.
fn port(tap: OwnedFd) -> Result<Tap, Failure> {
    let has_vnet_header = tun::interface(&tap).failed("ioctl(TUNGETIFF)")?.has_vnet_header;
    if !has_vnet_header {
        tun::clear_offloads(&tap).failed("ioctl(TUNSETOFFLOAD)")?;
        return Ok(Tap::new(tap, Offloads::NONE));
    }
    tun::set_vnet_header_len(&tap).failed("ioctl(TUNSETVNETHDRSZ)")?;
    let offloads = Tap::negotiate(&tap).failed("ioctl(TUNSETOFFLOAD)")?;
    Ok(Tap::new(tap, offloads))
}
