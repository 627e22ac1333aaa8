// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tells when a file that is reached through symbolic links may have changed, without ever opening it.
//!
//! # How it works
//! NetworkManager, systemd-resolved and dhclient replace resolv.conf by renaming a new file over it, which a watch
//! on the file would not survive. So every *directory* on the way is watched: that of the name itself, that of each
//! link's target, and, where a directory does not exist yet, its nearest existing ancestor. After an event on one of
//! the names the way is walked again. The file at its end is watched too: container engines mount one over the name and
//! write to it from elsewhere, of which the name's directory is told nothing.
//!
//! # Bounds
//! At most [`MAX_LINKS`] links are followed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify;

/// How many symbolic links are followed, as in the kernel.
pub const MAX_LINKS: usize = 40;

/// A watch on everything that decides what a path leads to.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    inotify: OwnedFd,
    /// Watch descriptor to the names of interest in its directory.
    names: BTreeMap<i32, Vec<OsString>>,
}

impl Watch {
    /// Watches `path`, which is absolute and need not exist.
    ///
    /// # Errors
    /// `EMFILE` or `ENOSPC` when the user has too many inotify instances or watches.
    pub fn new(path: &Path) -> io::Result<Self> {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let mut watch = Self { path: path.to_owned(), inotify, names: BTreeMap::new() };
        watch.renew()?;
        Ok(watch)
    }

    /// Takes all waiting events; true when one of them may have changed what the path leads to.
    ///
    /// # Errors
    /// What inotify says.
    pub fn changed(&mut self) -> io::Result<bool> {
        let mut changed = false;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(self.inotify.as_fd(), &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let names = self.names.get(&event.wd());
                    changed |= match event.file_name() {
                        Some(name) => names.is_some_and(|names| {
                            names.iter().any(|watched| watched.as_bytes() == name.to_bytes())
                        }),
                        // The directory itself went, or events were lost.
                        None => !event.events().contains(inotify::ReadFlags::IGNORED),
                    };
                }
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if changed {
            self.renew()?;
        }
        Ok(changed)
    }

    fn renew(&mut self) -> io::Result<()> {
        let mut names = BTreeMap::<i32, Vec<OsString>>::new();
        for (directory, name) in steps(&self.path) {
            use inotify::WatchFlags as F;
            let flags = F::CLOSE_WRITE
                | F::CREATE
                | F::DELETE
                | F::MOVED_FROM
                | F::MOVED_TO
                | F::DELETE_SELF
                | F::MOVE_SELF
                | F::ONLYDIR;
            match inotify::add_watch(&self.inotify, &directory, flags) {
                Ok(wd) => names.entry(wd).or_default().push(name),
                Err(error) => missing(error)?,
            }
        }
        match inotify::add_watch(&self.inotify, &self.path, inotify::WatchFlags::CLOSE_WRITE) {
            // What it tells has no name.
            Ok(wd) => _ = names.entry(wd).or_default(),
            Err(error) => missing(error)?,
        }
        for wd in self.names.keys().filter(|wd| !names.contains_key(wd)) {
            // Fails when the directory is gone, and then nothing is left to remove.
            let _ = inotify::remove_watch(&self.inotify, *wd);
        }
        self.names = names;
        Ok(())
    }
}

/// What cannot be watched, as it went between the walk and now or is not ours to read: the other steps still tell.
fn missing(error: rustix::io::Errno) -> io::Result<()> {
    use rustix::io::Errno;
    match error {
        Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::LOOP => Ok(()),
        error => Err(error.into()),
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// The directories that decide what `path` leads to; for a missing one its nearest existing ancestor.
pub(crate) fn directories(path: &Path) -> Vec<PathBuf> {
    steps(path).into_iter().map(|(directory, _)| directory).collect()
}

/// The (directory, name) pairs that decide what `path` leads to, following links.
pub(crate) fn steps(path: &Path) -> Vec<(PathBuf, OsString)> {
    let mut steps = Vec::new();
    let mut path = path.to_owned();
    for _ in 0..=MAX_LINKS {
        let Some((directory, name, rest)) = nearest(&path) else { break };
        let here = directory.join(&name);
        steps.push((directory.clone(), name));
        match (rest.as_os_str().is_empty(), fs::read_link(&here)) {
            (true, Ok(target)) => path = directory.join(target),
            _ => break,
        }
    }
    steps
}

/// Where a path ends if every link but those of its existing directories is left alone: the real directory and the
/// name in it; for a missing directory its nearest existing ancestor, the first missing name, and what follows it.
pub(crate) fn nearest(path: &Path) -> Option<(PathBuf, OsString, PathBuf)> {
    let mut name = path.file_name()?.to_owned();
    let mut directory = path.parent()?.to_owned();
    let mut rest = PathBuf::new();
    loop {
        if let Ok(real) = fs::canonicalize(&directory)
            && real.is_dir()
        {
            return Some((real, name, rest));
        }
        rest = if rest.as_os_str().is_empty() { PathBuf::from(&name) } else { Path::new(&name).join(rest) };
        // A dangling link in the middle of the path: `rest` is relative to what will be at its name.
        name = directory.file_name()?.to_owned();
        directory = directory.parent()?.to_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::os::unix::fs::symlink;

    /// A scratch directory with an etc and a run.
    fn root() -> (Scratch, PathBuf, PathBuf) {
        let scratch = Scratch::new();
        let (etc, run) = (scratch.join("etc"), scratch.join("run"));
        for directory in [&etc, &run] {
            fs::create_dir(directory).unwrap();
        }
        (scratch, etc, run)
    }

    #[test]
    fn a_rename_over_the_file_is_seen_and_other_names_are_not() {
        let (_scratch, etc, _) = root();
        fs::write(etc.join("resolv.conf"), "one").unwrap();
        let mut watch = Watch::new(&etc.join("resolv.conf")).unwrap();
        fs::write(etc.join("other"), "x").unwrap();
        assert!(!watch.changed().unwrap());
        for text in ["two", "three"] {
            fs::write(etc.join("new"), text).unwrap();
            fs::rename(etc.join("new"), etc.join("resolv.conf")).unwrap();
            assert!(watch.changed().unwrap());
        }
        assert!(!watch.changed().unwrap());
    }

    #[test]
    fn a_change_that_the_directory_does_not_hear_of_is_seen() {
        let (_scratch, etc, run) = root();
        fs::write(etc.join("resolv.conf"), "one").unwrap();
        fs::hard_link(etc.join("resolv.conf"), run.join("resolv.conf")).unwrap();
        let mut watch = Watch::new(&etc.join("resolv.conf")).unwrap();
        for text in ["two", "three"] {
            fs::write(run.join("resolv.conf"), text).unwrap();
            assert!(watch.changed().unwrap());
        }
        assert!(!watch.changed().unwrap());
    }

    #[test]
    fn a_change_behind_the_link_is_seen_and_a_new_link_is_followed() {
        let (_scratch, etc, run) = root();
        fs::write(run.join("a"), "a").unwrap();
        symlink("../run/a", etc.join("resolv.conf")).unwrap();
        let mut watch = Watch::new(&etc.join("resolv.conf")).unwrap();
        fs::write(run.join("a"), "changed").unwrap();
        assert!(watch.changed().unwrap());
        symlink("../run/b", etc.join("new")).unwrap();
        fs::rename(etc.join("new"), etc.join("resolv.conf")).unwrap();
        assert!(watch.changed().unwrap());
        fs::write(run.join("a"), "no matter").unwrap();
        assert!(!watch.changed().unwrap());
        fs::write(run.join("b"), "matters").unwrap();
        assert!(watch.changed().unwrap());
    }

    #[test]
    fn the_appearance_of_a_missing_directory_and_its_file_is_seen() {
        let (_scratch, etc, run) = root();
        symlink(run.join("systemd/resolve/stub"), etc.join("resolv.conf")).unwrap();
        let mut watch = Watch::new(&etc.join("resolv.conf")).unwrap();
        fs::create_dir(run.join("systemd")).unwrap();
        assert!(watch.changed().unwrap());
        fs::create_dir(run.join("systemd/resolve")).unwrap();
        assert!(watch.changed().unwrap());
        fs::write(run.join("systemd/resolve/stub"), "x").unwrap();
        assert!(watch.changed().unwrap());
    }
}
