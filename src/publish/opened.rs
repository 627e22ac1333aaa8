// SPDX-License-Identifier: MIT OR Apache-2.0
//! Published unix sockets that are open already: a confined process makes no files.
//!
//! # How it works
//! `wharf run` and `wharf up` open those that they start with before they are confined. For a daemon that runs it is the
//! client that does: each socket goes to it with the leash of its [`keeper`](super::keeper).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::{SocketAddrUnix, getsockname, sockopt};
use wharf_stack::host::Transport;

use super::keeper::SocketFile;
use super::{Bound, End, Error, Request};
use crate::unix::is_stream;

/// Sockets by their paths, each until it is published.
#[derive(Debug, Default)]
pub struct Opened {
    sockets: BTreeMap<PathBuf, Result<Bound, Error>>,
    taken: BTreeSet<PathBuf>,
}

impl From<BTreeMap<PathBuf, Result<Bound, Error>>> for Opened {
    fn from(sockets: BTreeMap<PathBuf, Result<Bound, Error>>) -> Self {
        Self { sockets, taken: BTreeSet::new() }
    }
}

impl Opened {
    /// Opens what the wishes name.
    ///
    /// # Errors
    /// The first socket that cannot be made; then none is.
    pub fn of<'a>(requests: impl IntoIterator<Item = &'a Request>) -> Result<Self, Error> {
        let mut opened = BTreeMap::new();
        for path in requests.into_iter().filter_map(|request| request.place.path()) {
            opened.insert(path.to_owned(), Ok(Bound::new(Transport::Tcp, path.to_owned())?));
        }
        Ok(opened.into())
    }

    /// Opens sockets at these paths. What cannot be is told when it is taken.
    #[must_use]
    pub fn at(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let open = |path: PathBuf| (path.clone(), Bound::new(Transport::Tcp, path));
        paths.into_iter().map(open).collect::<BTreeMap<_, _>>().into()
    }

    /// Takes the socket at a path.
    pub(super) fn take(&mut self, path: &Path) -> Result<Bound, Error> {
        let Some(opened) = self.sockets.remove(path) else {
            let source = if self.taken.contains(path) {
                io::ErrorKind::AddrInUse.into()
            } else {
                io::Error::new(io::ErrorKind::Unsupported, "this process may not make a socket")
            };
            let end = End::from(path.to_owned());
            return Err(Error { transport: Transport::Tcp, end, source, holder: None });
        };
        self.taken.insert(path.to_owned());
        opened
    }

    /// What is to be sent to another process for all of them: each socket and its leash.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let bound = self.sockets.values().filter_map(|bound| bound.as_ref().ok());
        bound.flat_map(|bound| {
            [bound.socket.as_fd()].into_iter().chain(bound.file.as_ref().map(SocketFile::leash))
        })
    }

    /// What another process has sent.
    ///
    /// # Errors
    /// It is no listening unix socket with its leash.
    pub fn received(descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let mut opened = BTreeMap::new();
        let mut descriptors = descriptors.into_iter();
        while let Some(socket) = descriptors.next() {
            let wrong =
                || io::Error::other("not a listening unix stream socket at a path, with what removes it");
            let leash = descriptors.next().ok_or_else(wrong)?;
            let path = listens_at(&socket).filter(|_| is_stream(&leash)).ok_or_else(wrong)?;
            // A worker must never wait for a client.
            fcntl_setfl(&socket, fcntl_getfl(&socket)? | OFlags::NONBLOCK)?;
            let file = SocketFile::held_by(leash, &socket)?;
            opened.insert(path.clone(), Ok(Bound::at_path(socket, path, file)));
        }
        Ok(opened.into())
    }
}

/// The path of a listening unix stream socket.
fn listens_at(socket: &OwnedFd) -> Option<PathBuf> {
    let listens = sockopt::socket_acceptconn(socket).ok()?;
    let address = SocketAddrUnix::try_from(getsockname(socket).ok()?).ok()?;
    let path = address.path()?;
    (listens && is_stream(socket)).then(|| PathBuf::from(OsStr::from_bytes(path.to_bytes())))
}
