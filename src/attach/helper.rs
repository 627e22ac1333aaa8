// SPDX-License-Identifier: MIT OR Apache-2.0
//! The helper that joins the namespace, makes the interface there, and is gone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{Signal, WaitOptions, set_parent_process_death_signal, waitpid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use super::{Error, Options};
use crate::channel::Channel;
use crate::doctor::advice;
use crate::netns::{self, Device, DeviceKind, INTERFACE, Interface, Netlink, Wanted};
use crate::port::Tap;
use crate::sys::namespace;
use crate::sys::process::{Cloned, exit_now, fork};
use crate::sys::signal::default_child_signal;

/// Interfaces that a name is looked for among.
const MAX_INTERFACES: u32 = 1000;

/// What the helper says, once.
#[derive(Debug, Serialize, Deserialize)]
enum Said {
    Made { interface: String, device: DeviceKind, takes_uso: bool, warnings: Vec<String> },
    NotOurs { owner: Option<u32> },
    Failed { step: String, text: String },
}

/// An interface that was made.
pub(super) struct Made {
    pub(super) interface: String,
    pub(super) device: DeviceKind,
    pub(super) takes_uso: bool,
    pub(super) queues: Vec<OwnedFd>,
    pub(super) warnings: Vec<String>,
}

/// Makes the interface.
pub(super) fn make(
    options: &Options,
    netns: &OwnedFd,
    interface: Interface,
    queues: usize,
) -> Result<Made, Error> {
    let broken =
        |step: &str, error: &io::Error| Error::Interface { step: step.to_owned(), text: error.to_string() };
    let (ours, theirs) = Channel::pair().map_err(|error| broken("making a socket pair", &error))?;
    default_child_signal();
    let child = match fork().map_err(|error| broken("starting a helper", &error))? {
        Cloned::Parent(child) => child,
        Cloned::Child => {
            drop(ours);
            let (said, queues) = in_namespace(options, netns, &interface, queues);
            let fds: Vec<BorrowedFd<'_>> = queues.iter().map(OwnedFd::as_fd).collect();
            exit_now(i32::from(theirs.send(&said, &fds).is_err()))
        }
    };
    drop(theirs);
    let received = ours.receive::<Said>();
    // It has said all that it had to say.
    let _ = rustix::io::retry_on_intr(|| waitpid(Some(child), WaitOptions::empty()));
    match received.map_err(|error| broken("listening to the helper", &error))? {
        Some((Said::Made { interface, device, takes_uso, warnings }, queues)) => {
            Ok(Made { interface, device, takes_uso, queues, warnings })
        }
        Some((Said::NotOurs { owner }, _)) => Err(Error::NotOurs {
            what: options.target.to_string(),
            owner: owner.map_or_else(
                || "its owner is not known here".to_owned(),
                |uid| format!("its owner is user {uid}"),
            ),
        }),
        Some((Said::Failed { step, text }, _)) => Err(Error::Interface { step, text }),
        None => Err(Error::Interface {
            step: "making the interface".to_owned(),
            text: "the helper was killed".to_owned(),
        }),
    }
}

/// The helper's whole life. What it has opened goes with it.
fn in_namespace(
    options: &Options,
    netns: &OwnedFd,
    interface: &Interface,
    queues: usize,
) -> (Said, Vec<OwnedFd>) {
    // If the parent is gone already, nobody is there to be told.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    if let Err(said) = join(netns) {
        return (said, Vec::new());
    }
    match build(options, interface, queues) {
        Ok(made) => made,
        Err(failure) => {
            let said = Said::Failed { step: failure.step.to_owned(), text: failure.source.to_string() };
            (said, Vec::new())
        }
    }
}

/// Joins the network namespace, with the rights of who owns it.
fn join(netns: &OwnedFd) -> Result<(), Said> {
    let enter = |fd: BorrowedFd<'_>, kind| move_into_link_name_space(fd, Some(kind));
    // The kernel knows whose it is. Who is root of that already cannot enter once more, and need not.
    let owner = namespace::owner(netns.as_fd());
    let uid = owner.as_ref().ok().and_then(|owner| namespace::owner_uid(owner.as_fd()).ok());
    if let Ok(owner) = &owner {
        let _ = enter(owner.as_fd(), LinkNameSpaceType::User);
    }
    match enter(netns.as_fd(), LinkNameSpaceType::Network) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::PERM) => Err(Said::NotOurs { owner: uid }),
        Err(errno) => Err(Said::Failed {
            step: "joining the network namespace".to_owned(),
            text: match errno {
                rustix::io::Errno::INVAL => "that is none".to_owned(),
                errno => io::Error::from(errno).to_string(),
            },
        }),
    }
}

fn build(
    options: &Options,
    interface: &Interface,
    queues: usize,
) -> Result<(Said, Vec<OwnedFd>), netns::Failure> {
    let failed = |step| move |source| netns::Failure { step, source };
    let name = match &options.interface {
        Some(name) => name.clone(),
        None => free_name().map_err(failed("looking for a free name"))?,
    };
    let wanted = Wanted {
        choice: options.device,
        name: &name,
        queues,
        mtu_bytes: interface.mtu_bytes,
        lasting: false,
    };
    let device = Device::open(wanted).map_err(|error| {
        let text = match error.raw_os_error() {
            Some(libc::EBUSY | libc::EINVAL | libc::EEXIST) => format!("there is a {name} already"),
            _ => advice::device(&error, options.device).to_string(),
        };
        netns::Failure { step: "making the interface", source: io::Error::other(text) }
    })?;
    let takes_uso = match device.kind {
        DeviceKind::Tap(_) => device.queues.first().and_then(|queue| Tap::negotiate(queue).ok()),
        DeviceKind::Veth => None,
    };
    let mut warnings = netns::configure(&name, interface)?;
    if let Some(error) = &device.fell_back {
        warnings.push(format!("a veth pair takes the place of a TAP: {}", advice::tap(error)));
    }
    let said = Said::Made {
        interface: name,
        device: device.kind,
        takes_uso: takes_uso.is_some_and(|offloads| offloads.uso),
        warnings,
    };
    Ok((said, device.queues))
}

/// The first of eth0, eth1, ... that nobody has.
fn free_name() -> io::Result<String> {
    let mut netlink = Netlink::open()?;
    let prefix = INTERFACE.trim_end_matches('0');
    let mut names = (0..MAX_INTERFACES).map(|number| format!("{prefix}{number}"));
    names.find(|name| netlink.link_index(name).is_err()).ok_or_else(|| io::Error::other("all are taken"))
}
