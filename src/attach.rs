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

mod client;
mod error;
mod helper;
mod target;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

pub use client::Client;
pub use error::Error;
pub use target::Target;

use crate::control::attach::{Handed, Life};
use crate::control::model::Port;
use crate::control::network::{AttachRequest, Offer};
use crate::netns::{DeviceChoice, Interface, Side};

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
    let request = AttachRequest { at: options.target.to_string(), ..options.request.clone() };
    let (client, offer) = Client::ask(&options.socket, request)?;
    let made = helper::make(options, &place.namespace, interface(options, &offer), offer.workers)?;
    let handed = Handed {
        kind: made.device.into(),
        uso: made.takes_uso,
        vnet_header: true,
        interface: Some(made.interface),
        life: place.life,
    };
    let port = client.hand_over(handed, &made.queues, place.life_fd.as_ref())?;
    Ok(Done { port, offer, warnings: made.warnings })
}

/// The interface that was offered.
fn interface(options: &Options, offer: &Offer) -> Interface {
    let mut interface = offer.interface();
    if !options.default_route {
        interface.ipv4 = interface.ipv4.map(|side| Side { gateway: None, ..side });
        interface.ipv6 = interface.ipv6.map(|side| Side { gateway: None, ..side });
    }
    interface
}

/// What tells that the container is gone, with its descriptor.
#[derive(Debug)]
struct Place {
    namespace: OwnedFd,
    life: Life,
    life_fd: Option<OwnedFd>,
}
