// SPDX-License-Identifier: MIT OR Apache-2.0
//! The helper that joins a namespace, does something there, and is gone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{Signal, WaitOptions, set_parent_process_death_signal, waitpid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Error, Target};
use crate::channel::Channel;
use crate::netns;
use crate::sys::namespace;
use crate::sys::process::{Cloned, exit_now, fork};
use crate::sys::signal::default_child_signal;

/// What the helper says, once.
#[derive(Debug, Serialize, Deserialize)]
enum Said<T> {
    Done(T),
    NotOurs { owner: Option<u32> },
    Failed { step: String, text: String },
}

/// Does `work` in the network namespace of `target`. Returns what it told, with the descriptors that it opened.
pub(super) fn in_namespace<T: Serialize + DeserializeOwned>(
    target: &Target,
    netns: &OwnedFd,
    work: impl FnOnce() -> Result<(T, Vec<OwnedFd>), netns::Failure>,
) -> Result<(T, Vec<OwnedFd>), Error> {
    let broken =
        |step: &str, error: &io::Error| Error::Interface { step: step.to_owned(), text: error.to_string() };
    let (ours, theirs) = Channel::pair().map_err(|error| broken("making a socket pair", &error))?;
    default_child_signal();
    let child = match fork().map_err(|error| broken("starting a helper", &error))? {
        Cloned::Parent(child) => child,
        Cloned::Child => {
            drop(ours);
            let (said, opened) = joined(netns, work);
            let fds: Vec<BorrowedFd<'_>> = opened.iter().map(OwnedFd::as_fd).collect();
            exit_now(i32::from(theirs.send(&said, &fds).is_err()))
        }
    };
    drop(theirs);
    let received = ours.receive::<Said<T>>();
    // It has said all that it had to say.
    let _ = rustix::io::retry_on_intr(|| waitpid(Some(child), WaitOptions::empty()));
    match received.map_err(|error| broken("listening to the helper", &error))? {
        Some((Said::Done(told), opened)) => Ok((told, opened)),
        Some((Said::NotOurs { owner }, _)) => Err(Error::NotOurs {
            what: target.to_string(),
            owner: owner.map_or_else(
                || "its owner is not known here".to_owned(),
                |uid| format!("its owner is user {uid}"),
            ),
        }),
        Some((Said::Failed { step, text }, _)) => Err(Error::Interface { step, text }),
        None => Err(Error::Interface {
            step: "opening the interface".to_owned(),
            text: "the helper was killed".to_owned(),
        }),
    }
}

/// The helper's whole life. What it has opened goes with it.
fn joined<T>(
    netns: &OwnedFd,
    work: impl FnOnce() -> Result<(T, Vec<OwnedFd>), netns::Failure>,
) -> (Said<T>, Vec<OwnedFd>) {
    // If the parent is gone already, nobody is there to be told.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    if let Err(said) = join(netns) {
        return (said, Vec::new());
    }
    match work() {
        Ok((told, opened)) => (Said::Done(told), opened),
        Err(failure) => {
            let said = Said::Failed { step: failure.step.to_owned(), text: failure.source.to_string() };
            (said, Vec::new())
        }
    }
}

/// Joins the network namespace, with the rights of who owns it.
fn join<T>(netns: &OwnedFd) -> Result<(), Said<T>> {
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
