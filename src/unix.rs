// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unix sockets with a name in the file system.
//!
//! # Sources
//! `unix(7)`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen as listen_on, socket_with,
    sockopt,
};

/// How long a path may be, in bytes: `sun_path` less its end.
pub const MAX_PATH: usize = 107;

/// Reads the path of a socket.
///
/// # Errors
/// What would be right.
pub fn path(text: &str) -> Result<PathBuf, String> {
    if !text.starts_with('/') || text.ends_with('/') {
        return Err(format!(
            "`{text}` is no path from the root directory to a socket, such as /run/web.sock"
        ));
    }
    if text.len() > MAX_PATH {
        return Err(format!("the path of a unix socket has at most {MAX_PATH} bytes: {text}"));
    }
    if Path::new(text).components().any(|component| component == Component::ParentDir) {
        return Err(format!("`{text}` leads back by `..`: write where it leads"));
    }
    if text.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(format!("{text:?} has characters that no path should have"));
    }
    Ok(PathBuf::from(text))
}

/// A path that may begin in the current directory, from the root directory; its directory is found as it is now.
///
/// # Errors
/// It is empty, or there is no current directory.
pub fn absolute(text: &str) -> Result<String, String> {
    let mut absolute = std::path::absolute(text).map_err(|error| format!("`{text}`: {error}"))?;
    if let (Some(directory), Some(name)) = (absolute.parent(), absolute.file_name())
        && let Ok(directory) = fs::canonicalize(directory)
    {
        absolute = directory.join(name);
    }
    // Else it would end in a directory no more.
    let end = if text.ends_with('/') { "/" } else { "" };
    Ok(format!("{}{end}", absolute.display().to_string().trim_end_matches('/')))
}

/// A socket that is used where nobody may wait.
///
/// # Errors
/// What the system says.
pub(crate) fn socket(kind: SocketType) -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
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
/// `EADDRINUSE` when somebody listens there, `EACCES` when that is not to be known, `EEXIST` when it is no socket, or what
/// else the system says.
pub fn listen_anew(path: &Path, kind: SocketType, backlog: i32) -> io::Result<OwnedFd> {
    if is_socket(path) {
        match ask(path) {
            // Another may have taken it away.
            Some(Errno::CONNREFUSED) => drop(fs::remove_file(path)),
            Some(Errno::ACCESS) => return Err(Errno::ACCESS.into()),
            _ => {}
        }
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

/// What is wrong with a socket: `ECONNREFUSED` when nobody has it open any more. To one that listens this is of the wrong
/// type, and no client.
fn ask(path: &Path) -> Option<Errno> {
    connect(&socket(SocketType::DGRAM).ok()?, &SocketAddrUnix::new(path).ok()?).err()
}

/// Whether it is a unix stream socket.
#[must_use]
pub fn is_stream(socket: impl AsFd) -> bool {
    sockopt::socket_domain(&socket) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(&socket) == Ok(SocketType::STREAM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn listen_at(path: &Path) -> io::Result<OwnedFd> {
        listen_anew(path, SocketType::STREAM, 1)
    }

    #[test]
    fn a_socket_is_for_its_owner_and_takes_the_place_of_one_that_nobody_listens_at() {
        let scratch = Scratch::new();
        let path = scratch.join("stale");
        drop(UnixListener::bind(&path).unwrap());
        let _listener = listen_at(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn one_that_somebody_listens_at_stays() {
        let scratch = Scratch::new();
        let path = scratch.join("live");
        let somebody = UnixListener::bind(&path).unwrap();
        assert_eq!(listen_at(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        somebody.set_nonblocking(true).unwrap();
        assert_eq!(somebody.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "it sees no client");
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn what_is_no_socket_stays() {
        let scratch = Scratch::new();
        let path = scratch.join("file");
        fs::write(&path, "mine").unwrap();
        assert_eq!(listen_at(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
