// SPDX-License-Identifier: MIT OR Apache-2.0
//! Puts a resolv.conf of our own over the host's, in the sandbox's mount namespace only.
//!
//! # How it works
//! The file lives in a tmpfs that is mounted for a moment on a directory nobody looks into (`STAGES`), is bound over
//! whatever `/etc/resolv.conf` leads to, and stays alive through that bind alone. When the host replaces its file by
//! rename, the kernel removes the bind with the old file: [`Cover::keep`] notices that and mounts again.
//!
//! Where the path leads to nothing there is no file to bind over. Then the directory that lacks it is covered by a
//! tmpfs with links to all that the directory had (itself bound at `.wharf` inside) and our file besides.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_move, unmount};

use super::PATH;
use super::watch::{MAX_LINKS, nearest};

/// Directories that may be covered for a moment; the first that exists is taken.
const STAGES: [&str; 4] = ["/proc/fs", "/proc/driver", "/sys/fs", "/mnt"];

/// Names that need no server.
const HOSTS: &str = "/etc/hosts";

/// Where a covered directory's own content is found below the cover.
const ORIGINAL: &str = ".wharf";

/// Our file over the host's.
#[derive(Debug)]
pub struct Cover {
    text: String,
    /// Device and inode of the file mounted last.
    identity: Option<(u64, u64)>,
}

impl Cover {
    /// A cover with this text; nothing is mounted yet.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self { text, identity: None }
    }

    /// Mounts the file unless it is in place. True when it had to.
    ///
    /// # Errors
    /// What the mount calls say; nothing of the attempt is left behind.
    pub fn keep(&mut self) -> io::Result<bool> {
        let there = identity();
        if there.is_some() && there == self.identity {
            return Ok(false);
        }
        let stage = stage()?;
        let result = self.place(stage);
        // Gone already where the tmpfs was moved into place.
        let _ = unmount(stage, UnmountFlags::DETACH);
        result?;
        self.identity = identity();
        Ok(true)
    }

    /// Whether there is a file to bind over.
    #[must_use]
    pub fn has_file(&self) -> bool {
        fs::metadata(PATH).is_ok()
    }

    fn place(&self, stage: &Path) -> io::Result<()> {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("wharf", stage, "tmpfs", flags, c"mode=0755")?;
        if self.has_file() {
            let file = stage.join("resolv.conf");
            write(&file, &self.text)?;
            mount_bind(file, PATH)?;
            return Ok(());
        }
        let (directory, rest) = lacking(Path::new(PATH)).ok_or(io::ErrorKind::NotFound)?;
        fs::set_permissions(stage, fs::metadata(&directory)?.permissions())?;
        let original = stage.join(ORIGINAL);
        make_directory(&original)?;
        mount_bind_recursive(&directory, &original)?;
        for entry in fs::read_dir(&directory)? {
            let name = entry?.file_name();
            // What is in the way is a link that leads nowhere.
            if rest.starts_with(&name) {
                continue;
            }
            symlink(Path::new(ORIGINAL).join(&name), stage.join(&name))?;
        }
        let file = stage.join(&rest);
        if let Some(parent) = file.parent() {
            make_directory(parent)?;
        }
        write(&file, &self.text)?;
        mount_move(stage, &directory)?;
        Ok(())
    }
}

/// Puts a copy of the host's `/etc/hosts` with one name more over it, which leads to the loopback device, so that the
/// sandbox's host name is an address's like the host's is.
///
/// What the host changes there later does not show, and a host that replaces its file uncovers it.
///
/// # Errors
/// What the mount calls say; `NotFound` where there is no such file.
pub fn name_in_hosts(name: &str) -> io::Result<()> {
    let text = fs::read_to_string(HOSTS)?;
    let stage = stage()?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("wharf", stage, "tmpfs", flags, c"mode=0755")?;
    let file = stage.join("hosts");
    let placed = write(&file, &format!("127.0.1.1\t{name}\n{text}"));
    let placed = placed.and_then(|()| mount_bind(file, HOSTS).map_err(io::Error::from));
    let _ = unmount(stage, UnmountFlags::DETACH);
    placed
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(file, text)?;
    // Whatever the caller's umask is.
    fs::set_permissions(file, fs::Permissions::from_mode(0o644))
}

fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

fn stage() -> io::Result<&'static Path> {
    let mut stages = STAGES.iter().map(Path::new);
    stages.find(|path| path.is_dir()).ok_or_else(|| io::Error::other("no directory to mount a tmpfs on"))
}

fn identity() -> Option<(u64, u64)> {
    fs::metadata(PATH).ok().map(|file| (file.dev(), file.ino()))
}

/// For a path that leads to nothing: the existing directory that lacks it, and the path of the missing file below.
fn lacking(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut path = path.to_owned();
    for _ in 0..=MAX_LINKS {
        let (directory, name, rest) = nearest(&path)?;
        match fs::read_link(directory.join(&name)) {
            Ok(target) => path = directory.join(target).join(rest),
            Err(_) if rest.as_os_str().is_empty() => return Some((directory, name.into())),
            Err(_) => return Some((directory, Path::new(&name).join(rest))),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_dangling_link_lacks_its_file_in_the_nearest_directory() {
        let scratch = Scratch::new();
        symlink("no/such/file", scratch.join("link")).unwrap();
        symlink("link", scratch.join("second")).unwrap();
        let lacks = |file: &str| Some((scratch.to_path_buf(), file.into()));
        assert_eq!(lacking(&scratch.join("second")), lacks("no/such/file"));
        assert_eq!(lacking(&scratch.join("nothing")), lacks("nothing"));
    }
}
