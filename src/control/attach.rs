// SPDX-License-Identifier: MIT OR Apache-2.0
//! The socket through which devices come to the daemon, as it enters no namespace and opens no device itself.
//!
//! # Path
//! ```text
//! wharf attach                               daemon
//! offer: a name, wishes ------------------->  sets a name and addresses aside
//!   <--------------------- offer: addresses
//! makes the device in the namespace
//! device: queues, life (descriptors) ------>  attaches it
//!   <--------------------- attached: the port
//! ```
//! One connection attaches one container. One that ends in between has set nothing aside. Unix sockets that are to be
//! published come with the offer, or with a request of their own.
//!
//! # How it works
//! SOCK_SEQPACKET: a message is a packet of JSON, with descriptors beside it. An open TAP pins its namespace and never hangs
//! up by itself, so a *life* descriptor comes with it, that becomes readable when the container is gone: a pidfd, or
//! an inotify on the directory of its namespace.
//!
//! # Bounds
//! Messages of the size that [`Channel`] takes. [`MAX_CONNECTIONS`] that ask at once; the next one waits. [`MAX_OFFERS`] whose
//! device is waited for, for [`OFFER_TIME`] at most. A client that says nothing is not waited for.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl, inotify};
use rustix::net::{SocketFlags, accept_with, sockopt};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::error::{Code, Error};
use super::model::{Port, PortKind, Publication, PublishRequest};
use super::network::{AttachRequest, Attachment, Offer};
use super::registry::Registry;
use super::spec::Name;
use crate::channel::Channel;
use crate::netns::SockDiag;
use crate::port::{Device, Stream, Tap};
use crate::publish::Opened;
use crate::sys::readiness::watch;
use crate::unix::is_stream;

/// Clients at once that may ask for something.
pub const MAX_CONNECTIONS: usize = 64;
/// Clients at once whose device is waited for: virtual machines, mostly.
pub const MAX_OFFERS: usize = 1024;
/// How long a client may take over its first request, or over reading an answer.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// How long an offer waits for its device: a virtual machine may be slow to start.
const OFFER_TIME: Duration = Duration::from_secs(3600);

/// What a client wants.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// To be attached; the unix sockets that it publishes come as descriptors ([`Opened`]).
    Offer(Box<AttachRequest>),
    /// This device, on what was offered; its queues come as descriptors, then a view, then its life.
    Device(Handed),
    /// To have a unix socket published, which comes as descriptors.
    Publish(PublishRequest),
}

/// A device that is handed over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Handed {
    /// What it is.
    pub kind: PortKind,
    /// It takes UDP super-frames.
    pub uso: bool,
    /// Frames have a virtio-net header in front.
    pub vnet_header: bool,
    /// It may outlive its port, and is to be left without offloads.
    pub is_borrowed: bool,
    /// The interface's name at the other end.
    pub interface: Option<String>,
    /// What its last descriptor is.
    pub life: Life,
    /// Before that comes a view of what listens there.
    #[serde(default)]
    pub has_view: bool,
}

/// What tells that the container is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Life {
    /// The device itself; there is no descriptor.
    Device,
    /// A pidfd.
    Process,
    /// An inotify on a directory, from which this name goes.
    Entry(String),
}

/// What the daemon says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// What there will be.
    Offer(Box<Offer>),
    /// It is attached.
    Attached(Box<Port>),
    /// It is published.
    Published(Vec<Publication>),
    /// It cannot be done.
    Error(Error),
}

/// Serves clients for ever.
///
/// # Errors
/// The socket cannot be watched any more.
pub async fn serve(listener: OwnedFd, registry: Arc<Registry>) -> io::Result<()> {
    let listener = watch(listener, Interest::READABLE)?;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let offers = Arc::new(Semaphore::new(MAX_OFFERS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        let accept =
            |listener: &OwnedFd| Ok(accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?);
        let socket = match listener.async_io(Interest::READABLE, accept).await {
            Ok(socket) => socket,
            Err(error) => {
                // Out of descriptors, mostly: others may be closed by then.
                tracing::debug!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let connection =
            Connection { registry: Arc::clone(&registry), place, offers: Arc::clone(&offers), offered: None };
        tokio::spawn(async move {
            if let Err(error) = connection.serve(socket).await {
                tracing::debug!(%error, "a client of the attach socket went wrong");
            }
        });
    }
}

/// What is set aside for a client.
struct Offered {
    request: AttachRequest,
    offer: Offer,
    /// What it publishes.
    opened: Opened,
    until: Instant,
}

/// A client.
struct Connection {
    registry: Arc<Registry>,
    /// Its place among those that ask, or that wait.
    place: OwnedSemaphorePermit,
    /// Places for those that wait.
    offers: Arc<Semaphore>,
    offered: Option<Offered>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(Offered { offer, .. }) = self.offered.take() {
            self.registry.withdraw_offer(&offer);
        }
    }
}

impl Connection {
    async fn serve(mut self, socket: OwnedFd) -> io::Result<()> {
        let caller = sockopt::socket_peercred(&socket)?.uid;
        if !caller.is_root() && caller != rustix::process::geteuid() {
            return Err(io::Error::other(format!("user {} is not the daemon's", caller.as_raw())));
        }
        let ready = watch(socket.try_clone()?, Interest::READABLE | Interest::WRITABLE)?;
        let channel = Channel::from(socket);
        loop {
            let until = self.offered.as_ref().map_or(Instant::now() + REQUEST_TIME, |offered| offered.until);
            let receive = ready.async_io(Interest::READABLE, |_| channel.receive::<Request>());
            let Ok(received) = timeout_at(until, receive).await else {
                return Err(io::Error::other("it has said nothing for too long"));
            };
            let answer = match received {
                Ok(None) => return Ok(()),
                Ok(Some((request, fds))) => self.answer(request, fds).await,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    Answer::Error(Error::invalid(format!("not a request: {error}")))
                }
                Err(error) => return Err(error),
            };
            let send = ready.async_io(Interest::WRITABLE, |_| channel.send(&answer, &[]));
            timeout(REQUEST_TIME, send).await??;
        }
    }

    async fn answer(&mut self, request: Request, fds: Vec<OwnedFd>) -> Answer {
        let answer = match request {
            Request::Offer(request) => {
                self.offer(*request, fds).await.map(|offer| Answer::Offer(Box::new(offer)))
            }
            Request::Device(handed) => {
                self.attach(handed, fds).await.map(|port| Answer::Attached(Box::new(port)))
            }
            Request::Publish(request) => self.publish(request, fds).await.map(Answer::Published),
        };
        answer.unwrap_or_else(Answer::Error)
    }

    async fn offer(&mut self, mut request: AttachRequest, fds: Vec<OwnedFd>) -> Result<Offer, Error> {
        let opened = received(fds)?;
        if self.offered.is_some() {
            return Err(Error::invalid("one connection attaches one container"));
        }
        let Ok(place) = Arc::clone(&self.offers).try_acquire_owned() else {
            let message = format!("{MAX_OFFERS} devices are waited for already");
            return Err(Error::new(Code::Exhausted, message));
        };
        let (request, offer) = self
            .in_registry(move |registry| {
                let offer = registry.offer(&mut request)?;
                Ok((request, offer))
            })
            .await?;
        self.offered =
            Some(Offered { request, offer: offer.clone(), opened, until: Instant::now() + OFFER_TIME });
        // It may wait for long, and others have something to ask meanwhile.
        self.place = place;
        Ok(offer)
    }

    async fn publish(&self, request: PublishRequest, fds: Vec<OwnedFd>) -> Result<Vec<Publication>, Error> {
        let opened = received(fds)?;
        self.in_registry(move |registry| registry.publish(&request, opened)).await
    }

    async fn attach(&mut self, handed: Handed, mut fds: Vec<OwnedFd>) -> Result<Port, Error> {
        let Some(Offered { mut request, offer, opened, .. }) = self.offered.take() else {
            return Err(Error::invalid("a device without an offer to it"));
        };
        request.interface.clone_from(&handed.interface);
        let life = if handed.life == Life::Device { None } else { fds.pop() };
        let attachment = attachment(&handed, fds, offer.mtu);
        let (leash, off_the_leash) = oneshot::channel();
        let attached = match attachment {
            Ok(attachment) => {
                let attach = move |registry: &Registry| registry.attach(request, attachment, leash, opened);
                self.in_registry(attach).await
            }
            Err(error) => Err(error),
        };
        let port = match attached {
            Ok(port) => port,
            Err(error) => {
                self.registry.withdraw_offer(&offer);
                return Err(error);
            }
        };
        if let Some(life) = life {
            let registry = Arc::clone(&self.registry);
            let watched = Watched { network: offer.network, id: port.id.clone(), life, kind: handed.life };
            tokio::spawn(watched.follow(registry, off_the_leash));
        }
        Ok(port)
    }

    /// Asks the registry, which may have to wait for a worker.
    async fn in_registry<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Registry) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let registry = Arc::clone(&self.registry);
        let asked = tokio::task::spawn_blocking(move || ask(&registry)).await;
        asked.unwrap_or_else(|error| Err(Error::internal(&error)))
    }
}

/// The unix sockets behind these descriptors.
fn received(fds: Vec<OwnedFd>) -> Result<Opened, Error> {
    Opened::received(fds).map_err(|error| Error::invalid(error.to_string()))
}

/// What is attached by these descriptors, on a link whose packets have at most `mtu_bytes`.
fn attachment(handed: &Handed, mut fds: Vec<OwnedFd>, mtu_bytes: usize) -> Result<Attachment, Error> {
    let view = if handed.has_view { fds.pop() } else { None };
    let view = view.map(SockDiag::try_from).transpose().map_err(|error| Error::invalid(error.to_string()))?;
    Ok(Attachment { kind: handed.kind, queues: devices(handed, fds, mtu_bytes)?, view })
}

/// The device behind these descriptors, for a link whose packets have at most `mtu_bytes`.
fn devices(handed: &Handed, mut queues: Vec<OwnedFd>, mtu_bytes: usize) -> Result<Vec<Device>, Error> {
    if queues.is_empty() {
        return Err(Error::invalid("a device without a descriptor"));
    }
    for queue in &queues {
        // A worker must never wait for one.
        fcntl_getfl(queue)
            .and_then(|flags| fcntl_setfl(queue, flags | OFlags::NONBLOCK))
            .map_err(|error| Error::internal(&error))?;
    }
    match handed.kind {
        PortKind::Tap | PortKind::Veth => {
            let offloads = match handed.vnet_header {
                true => wharf_switch::Offloads { uso: handed.uso, ..Tap::OFFLOADS },
                false => wharf_switch::Offloads::NONE,
            };
            let tap = if handed.is_borrowed { Tap::borrowed } else { Tap::new };
            Ok(queues.into_iter().map(|queue| Device::Tap(tap(queue, offloads))).collect())
        }
        PortKind::Stream => match (queues.pop(), queues.is_empty()) {
            (Some(socket), true) if is_stream(&socket) => Ok(vec![Stream::new(socket, mtu_bytes).into()]),
            _ => Err(Error::invalid("a stream is one connected unix socket of that type")),
        },
    }
}

/// A container whose end is waited for.
struct Watched {
    network: Name,
    id: String,
    life: OwnedFd,
    kind: Life,
}

impl Watched {
    /// Detaches the port when its container is gone; or ends when it is detached otherwise, and its leash dropped.
    async fn follow(self, registry: Arc<Registry>, mut leash: oneshot::Receiver<Infallible>) {
        let Self { network, id, life, kind } = self;
        let Ok(life) = watch(life, Interest::READABLE) else { return };
        let reason = loop {
            let ready = tokio::select! {
                ready = life.readable() => ready,
                _ = &mut leash => return,
            };
            let Ok(mut ready) = ready else { return };
            match &kind {
                Life::Entry(name) if !has_gone(ready.get_inner().as_fd(), name) => ready.clear_ready(),
                Life::Entry(_) => break "its namespace is gone",
                Life::Process | Life::Device => break "its process ended",
            }
        };
        // It waits for workers.
        let _ = tokio::task::spawn_blocking(move || registry.detach_id(&network, &id, reason)).await;
    }
}

/// Whether an inotify tells that `name` has gone from its directory, or the directory itself.
fn has_gone(inotify: impl AsFd, name: &str) -> bool {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(inotify, &mut buffer);
    loop {
        match events.next() {
            Ok(event) => {
                let is_its = event.file_name().is_none_or(|file| file.to_bytes() == name.as_bytes());
                let goes = inotify::ReadFlags::DELETE
                    | inotify::ReadFlags::MOVED_FROM
                    | inotify::ReadFlags::DELETE_SELF
                    | inotify::ReadFlags::UNMOUNT
                    | inotify::ReadFlags::IGNORED;
                if is_its && event.events().intersects(goes) {
                    return true;
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}
