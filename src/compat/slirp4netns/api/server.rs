// SPDX-License-Identifier: MIT OR Apache-2.0
//! The API socket: one request per connection.
//!
//! # How it works
//! Nothing here blocks: the caller polls the descriptors of [`Server::interests`] and tells what became of them. A request
//! may come in as many pieces as its client likes.
//!
//! # Bounds
//! [`MAX_CLIENTS`] clients at a time, further ones wait to be accepted; each has [`PATIENCE`] to ask and be answered.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::net::{SocketFlags, accept_with};

use super::{Api, MAX_REQUEST};
use crate::compat::slirp4netns::forward::Publisher;
use crate::compat::slirp4netns::say;

const MAX_CLIENTS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(10);

/// The socket, its clients, and where it lies.
#[derive(Debug)]
pub(in crate::compat::slirp4netns) struct Server {
    listener: UnixListener,
    clients: Vec<Client>,
    /// Held open, as its path may lead nowhere later.
    directory: OwnedFd,
    name: std::ffi::OsString,
    /// Device and number of the file.
    file: Option<(u64, u64)>,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    until: Instant,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// This much of the request is here.
    Asking(Vec<u8>),
    /// This is left to be said.
    Answering(Vec<u8>),
    /// Everything is said. What the client says still is taken, for closing over it would be a reset.
    Leaving,
}

impl Server {
    /// Listens at `path`, in place of whatever is there.
    pub(in crate::compat::slirp4netns) fn listen(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent, flags, Mode::empty())?;
        // It says itself if it cannot be bound.
        let _ = rustix::fs::unlinkat(&directory, &name, AtFlags::empty());
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        let file = identity(&directory, &name);
        Ok(Self { listener, clients: Vec::new(), directory, name, file })
    }

    /// Where the socket lies.
    pub(in crate::compat::slirp4netns) fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// What to poll for: the listener, then each client.
    pub(in crate::compat::slirp4netns) fn interests(&self) -> impl Iterator<Item = PollFd<'_>> {
        let room = if self.clients.len() < MAX_CLIENTS { PollFlags::IN } else { PollFlags::empty() };
        let clients = self.clients.iter().map(|client| {
            let is_answering = matches!(client.phase, Phase::Answering(_));
            let flags = if is_answering { PollFlags::OUT } else { PollFlags::IN };
            PollFd::new(&client.stream, flags)
        });
        std::iter::once(PollFd::new(&self.listener, room)).chain(clients)
    }

    /// How long the next client may still take.
    pub(in crate::compat::slirp4netns) fn timeout(&self, now: Instant) -> Option<Duration> {
        self.clients.iter().map(|client| client.until.saturating_duration_since(now)).min()
    }

    /// Goes on where something may have happened. Calls on a client that is not ready do nothing.
    pub(in crate::compat::slirp4netns) fn serve<P: Publisher>(&mut self, now: Instant, api: &mut Api<P>) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        while self.clients.len() < MAX_CLIENTS
            && let Ok(stream) = accept_with(&self.listener, flags)
        {
            say(&"apifd event");
            let phase = Phase::Asking(Vec::new());
            self.clients.push(Client { stream: stream.into(), until: now + PATIENCE, phase });
        }
        self.clients.retain_mut(|client| client.go_on(api) && now < client.until);
    }

    /// Removes the socket's file.
    pub(in crate::compat::slirp4netns) fn remove(self) {
        // Somebody else may have removed it, and a successor put its own there.
        if identity(&self.directory, &self.name) != self.file {
            return;
        }
        let _ = rustix::fs::unlinkat(self.directory.as_fd(), &self.name, AtFlags::empty());
    }
}

/// What tells a file from another of the same name.
fn identity(directory: &OwnedFd, name: &std::ffi::OsStr) -> Option<(u64, u64)> {
    let status = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some((status.st_dev, status.st_ino))
}

impl Client {
    /// Reads, answers and writes what can be. Returns whether there is something left to do.
    fn go_on<P: Publisher>(&mut self, api: &mut Api<P>) -> bool {
        loop {
            let result = match &mut self.phase {
                Phase::Asking(request) => {
                    let received = read(&mut self.stream, request);
                    received.map(|received| {
                        let answer = api.answer(request, received == 0);
                        answer.map(|answer| {
                            let request = String::from_utf8_lossy(request);
                            say(&format_args!("api_handler: got request: {}", request.trim_end()));
                            Phase::Answering(answer.into_bytes())
                        })
                    })
                }
                Phase::Answering(answer) => self.stream.write(answer).map(|written| {
                    answer.drain(..written);
                    answer.is_empty().then(|| {
                        // An error says that the client is gone, which reading says too.
                        drop(self.stream.shutdown(Shutdown::Write));
                        Phase::Leaving
                    })
                }),
                Phase::Leaving => match read(&mut self.stream, &mut Vec::new()) {
                    Ok(0) => return false,
                    other => other.map(|_| None),
                },
            };
            match result {
                Ok(Some(phase)) => self.phase = phase,
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }
}

/// Adds what can be read now to `bytes`.
fn read(stream: &mut UnixStream, bytes: &mut Vec<u8>) -> io::Result<usize> {
    let mut buffer = [0; MAX_REQUEST];
    let received = stream.read(&mut buffer)?;
    bytes.extend_from_slice(buffer.get(..received).unwrap_or_default());
    Ok(received)
}
