// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unix sockets with a name in the file system.
//!
//! # Sources
//! `unix(7)`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen as listen_on, socket_with,
    sockopt,
};

/// How long a path may be, in bytes: `sun_path` less its end.
pub const MAX_PATH: usize = 107;

fn socket(kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, kind, flags, None)?)
}

/// A listening socket at `path` that only its owner may connect to.
///
/// # Errors
/// `EADDRINUSE` when there is something at the path, or what else the system says.
pub fn listen(path: &Path, kind: SocketType, backlog: i32) -> io::Result<OwnedFd> {
    let socket = socket(kind)?;
    // Before it has a name, so that nobody comes in between.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen_on(&socket, backlog)?;
    Ok(socket)
}

/// The same in the place of a socket that nobody listens at any more.
///
/// # Errors
/// `EADDRINUSE` when somebody listens there, `EEXIST` when it is no socket, or what else the system says.
pub fn listen_anew(path: &Path, kind: SocketType, backlog: i32) -> io::Result<OwnedFd> {
    if is_left_over(path, kind) {
        // Another may have taken it away.
        let _ = fs::remove_file(path);
    }
    match listen(path, kind, backlog) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && !is_socket(path) => {
            Err(Errno::EXIST.into())
        }
        outcome => outcome,
    }
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// Whether there is a socket that nobody listens at. Whoever listens may see a client that is gone at once.
fn is_left_over(path: &Path, kind: SocketType) -> bool {
    let ask = || connect(&socket(kind).ok()?, &SocketAddrUnix::new(path).ok()?).err();
    is_socket(path) && ask() == Some(Errno::CONNREFUSED)
}

/// Whether it is a unix stream socket.
#[must_use]
pub fn is_stream(socket: impl AsFd) -> bool {
    sockopt::socket_domain(&socket) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(&socket) == Ok(SocketType::STREAM)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::PathBuf;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("wharf-unix-{}-{name}", std::process::id()));
        let _ = fs::remove_file(&path);
        path
    }

    fn listen_at(path: &Path) -> io::Result<OwnedFd> {
        listen_anew(path, SocketType::STREAM, 1)
    }

    #[test]
    fn a_socket_is_for_its_owner_and_takes_the_place_of_one_that_nobody_listens_at() {
        let path = scratch("stale");
        drop(UnixListener::bind(&path).unwrap());
        let _listener = listen_at(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn one_that_somebody_listens_at_stays() {
        let path = scratch("live");
        let _somebody = UnixListener::bind(&path).unwrap();
        assert_eq!(listen_at(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        UnixStream::connect(&path).unwrap();
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_is_no_socket_stays() {
        let path = scratch("file");
        fs::write(&path, "mine").unwrap();
        assert_eq!(listen_at(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        fs::remove_file(path).unwrap();
    }
}
