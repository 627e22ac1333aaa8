// SPDX-License-Identifier: MIT OR Apache-2.0
//! `wharf attach`: opens a device, mostly in somebody's network namespace, and hands it to the daemon.
//!
//! # Path
//! ```text
//! wharf attach                                        helper
//! find the namespace and what tells of its end
//! ask the daemon for a name and addresses
//! fork ---------------------------------------------> join the owner's user namespace, and the namespace
//!                                                     make the interface, configure it
//!   <------------------------ made + queues --------- exit
//! hand the queues over
//! ```
//! An interface that is there already is opened first, as the daemon is told its MAC address, and is not configured; a
//! virtual machine is waited for when its addresses are known, as it is told them.
//!
//! # How it works
//! A helper joins the user namespace that *owns* the network namespace (`ioctl_ns(2)`, NS_GET_USERNS), which is not
//! always the process's own. Who is there already stays.

mod adopt;
mod client;
mod error;
mod helper;
mod machine;
mod make;
mod target;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

pub use adopt::Existing;
pub use client::Client;
pub use error::Error;
pub use make::New;
pub use target::Target;

use crate::control::attach::{Handed, Life};
use crate::control::model::{Port, PortKind};
use crate::control::network::{AttachRequest, Offer};

/// What `wharf attach` was asked to do.
#[derive(Debug)]
pub struct Options {
    /// The daemon's socket for devices.
    pub socket: PathBuf,
    /// What is attached.
    pub device: Device,
    /// The network, the name, the addresses.
    pub request: AttachRequest,
}

/// What is attached.
#[derive(Debug)]
pub enum Device {
    /// An interface that is made and configured.
    New(New),
    /// An interface in a namespace that somebody has made.
    Existing(Target, Existing),
    /// The queues of a TAP that the caller has opened, and whose end is the TAP's if it is not that of a target.
    Opened(Vec<OwnedFd>, Option<Target>),
    /// A virtual machine, which connects to a socket at this path.
    Machine(PathBuf),
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

/// Attaches a container or a machine. `waiting` is told what a machine will have before it is waited for. The calling
/// process must have no threads.
///
/// # Errors
/// See [`Error`]; nothing is attached then, and no interface stays that was made.
pub fn attach(options: &Options, waiting: impl FnOnce(&Offer)) -> Result<Done, Error> {
    match &options.device {
        Device::New(new) => make::attach(options, new),
        Device::Existing(target, existing) => {
            let place = target.open()?;
            let found = adopt::open(target, &place.namespace, existing)?;
            adopt::attach(options, found, target.to_string(), Some(place))
        }
        Device::Opened(queues, target) => {
            let place = target.as_ref().map(Target::open).transpose()?;
            let found = adopt::opened(queues)?;
            let at = target.as_ref().map_or_else(|| "an open TAP".to_owned(), Target::to_string);
            adopt::attach(options, found, at, place)
        }
        Device::Machine(path) => machine::attach(options, path, waiting),
    }
}

/// What is asked for in the name of whoever is `at` a place.
fn request(options: &Options, at: String) -> AttachRequest {
    AttachRequest { at, ..options.request.clone() }
}

/// Refuses what takes a view of what listens there: nobody is inside to open one.
fn has_no_view(offer: &Offer) -> Result<(), Error> {
    if offer.watched.is_empty() { Ok(()) } else { Err(Error::NoView) }
}

/// What tells that the container is gone, with its descriptor.
#[derive(Debug)]
struct Place {
    namespace: OwnedFd,
    life: Life,
    life_fd: Option<OwnedFd>,
}
