// SPDX-License-Identifier: MIT OR Apache-2.0
//! The conversation with the daemon about one container, or one unix socket.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use super::Error;
use crate::channel::Channel;
use crate::control::attach::{Answer, Handed, Request};
use crate::control::model::{Port, Publication, PublishRequest};
use crate::control::network::{AttachRequest, Offer};
use crate::control::spec::Text;
use crate::publish::{self, Opened, holder};

/// Somebody who has an offer. Dropping it gives the offer back.
#[derive(Debug)]
pub struct Client {
    daemon: Channel,
    /// The ports that are wished for.
    wishes: Vec<publish::Request>,
}

impl Client {
    /// Asks the daemon that listens at `socket` for a name and addresses.
    ///
    /// # Errors
    /// There is no daemon, or it refuses.
    pub fn ask(socket: &Path, request: AttachRequest) -> Result<(Self, Offer), Error> {
        let daemon = connect(socket)?;
        let wishes: Vec<_> =
            request.publish.iter().filter_map(|Text(wish)| wish.request().cloned()).collect();
        let opened = Opened::of(&wishes)?;
        let fds: Vec<_> = opened.descriptors().collect();
        match say(&daemon, &Request::Offer(Box::new(request)), &fds)? {
            Answer::Offer(offer) => Ok((Self { daemon, wishes }, *offer)),
            _ => Err(Error::Misunderstood),
        }
    }

    /// Has the daemon that listens at `socket` publish a unix socket, which is made here.
    ///
    /// # Errors
    /// It cannot be made, there is no daemon, or it refuses.
    pub fn publish(
        socket: &Path,
        request: PublishRequest,
        wish: &publish::Request,
    ) -> Result<Vec<Publication>, Error> {
        let daemon = connect(socket)?;
        let opened = Opened::of([wish])?;
        let fds: Vec<_> = opened.descriptors().collect();
        match say(&daemon, &Request::Publish(request), &fds)? {
            Answer::Published(published) => Ok(published),
            _ => Err(Error::Misunderstood),
        }
    }

    /// What hangs up when the daemon does.
    pub(super) fn connection(&self) -> BorrowedFd<'_> {
        self.daemon.as_fd()
    }

    /// Hands the device over that was opened for the offer.
    ///
    /// # Errors
    /// The daemon refuses, or is gone.
    pub fn hand_over(
        self,
        device: Handed,
        queues: &[OwnedFd],
        life: Option<&OwnedFd>,
    ) -> Result<Port, Error> {
        let fds: Vec<BorrowedFd<'_>> = queues.iter().chain(life).map(OwnedFd::as_fd).collect();
        match say(&self.daemon, &Request::Device(device), &fds) {
            Ok(Answer::Attached(port)) => Ok(*port),
            Ok(_) => Err(Error::Misunderstood),
            Err(Error::Refused(refusal)) => Err(Error::Refused(holder::named(refusal, &self.wishes))),
            Err(error) => Err(error),
        }
    }
}

fn connect(socket: &Path) -> Result<Channel, Error> {
    Channel::connect(socket).map_err(|source| Error::NoDaemon { socket: socket.to_owned(), source })
}

fn say(daemon: &Channel, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Answer, Error> {
    daemon.send(request, fds).map_err(Error::Daemon)?;
    match daemon.receive::<Answer>().map_err(Error::Daemon)? {
        Some((Answer::Error(error), _)) => Err(Error::Refused(error)),
        Some((answer, _)) => Ok(answer),
        None => Err(Error::Daemon(io::Error::other("it closed the connection"))),
    }
}
