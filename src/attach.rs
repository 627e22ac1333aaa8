// SPDX-License-Identifier: MIT OR Apache-2.0
//! `wharf attach`: makes an interface in somebody's network namespace, and hands its device to the daemon.
//!
//! # Path
//! ```text
//! wharf attach                                        helper
//! find the namespace and what tells of its end
//! ask the daemon for a name and addresses
//! fork ---------------------------------------------> join the owner's user namespace, and the namespace
//!                                                     make the interface, configure it
//!   <------------------------ Made + queues --------- exit
//! hand the queues over
//! ```
//!
//! # How it works
//! A helper joins the user namespace that *owns* the network namespace (`ioctl_ns(2)`, NS_GET_USERNS), which is not
//! always the process's own. Who is there already stays.

mod error;
mod helper;
mod target;

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

pub use error::Error;
pub use target::Target;

use crate::channel::Channel;
use crate::control::attach::{Answer, Handed, Life, Request};
use crate::control::model::{Port, PortKind};
use crate::control::network::{AttachRequest, Offer};
use crate::netns::{DeviceChoice, DeviceKind, Interface, Side};

/// What `wharf attach` was asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The daemon's socket for devices.
    pub socket: PathBuf,
    /// Where the interface is to be.
    pub target: Target,
    /// The network, the name, the addresses.
    pub request: AttachRequest,
    /// The interface's name; by default the first free of eth0, eth1, ...
    pub interface: Option<String>,
    /// The kind of device.
    pub device: DeviceChoice,
    /// Traffic to elsewhere leaves by the interface.
    pub default_route: bool,
}

/// What was done.
#[derive(Clone, Debug)]
pub struct Done {
    /// The port.
    pub port: Port,
    /// What was offered: gateways, nameserver, domains.
    pub offer: Offer,
    /// What did not work but need not stop anybody.
    pub warnings: Vec<String>,
}

/// Attaches a container. The calling process must have no threads.
///
/// # Errors
/// See [`Error`]; nothing is attached then, and no interface stays.
pub fn attach(options: &Options) -> Result<Done, Error> {
    let place = options.target.open()?;
    let daemon = Channel::connect(&options.socket)
        .map_err(|source| Error::NoDaemon { socket: options.socket.clone(), source })?;
    let request = AttachRequest { at: options.target.to_string(), ..options.request.clone() };
    let Answer::Offer(offer) = ask(&daemon, &Request::Offer(Box::new(request)), &[])? else {
        return Err(Error::Misunderstood);
    };
    let made = helper::make(options, &place.namespace, interface(options, &offer), offer.workers)?;
    let handed = Handed {
        kind: match made.device {
            DeviceKind::Tap(_) => PortKind::Tap,
            DeviceKind::Veth => PortKind::Veth,
        },
        uso: made.takes_uso,
        vnet_header: true,
        interface: Some(made.interface),
        life: place.life,
    };
    let mut fds: Vec<BorrowedFd<'_>> = made.queues.iter().map(OwnedFd::as_fd).collect();
    fds.extend(place.life_fd.as_ref().map(OwnedFd::as_fd));
    let Answer::Attached(port) = ask(&daemon, &Request::Device(handed), &fds)? else {
        return Err(Error::Misunderstood);
    };
    Ok(Done { port: *port, offer: *offer, warnings: made.warnings })
}

fn interface(options: &Options, offer: &Offer) -> Interface {
    let member = &offer.member;
    Interface {
        mac: member.mac,
        mtu_bytes: offer.mtu,
        queues: offer.workers,
        ipv4: member.ipv4.zip(offer.ipv4_prefix_len).map(|(address, prefix_len)| Side {
            address,
            prefix_len,
            gateway: offer.ipv4_gateway.filter(|_| options.default_route),
        }),
        ipv6: member.ipv6.map(|address| Side {
            address,
            prefix_len: 64,
            gateway: offer.ipv6_gateway.filter(|_| options.default_route),
        }),
    }
}

fn ask(daemon: &Channel, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Answer, Error> {
    daemon.send(request, fds).map_err(Error::Daemon)?;
    let answer = daemon.receive::<Answer>().map_err(Error::Daemon)?;
    match answer {
        Some((Answer::Error(error), _)) => Err(Error::Refused(error)),
        Some((answer, _)) => Ok(answer),
        None => Err(Error::Daemon(io::Error::other("it closed the connection"))),
    }
}

/// What tells that the container is gone, with its descriptor.
#[derive(Debug)]
struct Place {
    namespace: OwnedFd,
    life: Life,
    life_fd: Option<OwnedFd>,
}
