// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is to be attached: a process, or a network namespace with a name.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::inotify;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Error, Place};
use crate::control::attach::Life;

/// Where `ip netns` keeps its names.
const NAMED: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// Who is to be attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A process, whose network namespace is meant.
    Process(Pid),
    /// A network namespace as a file.
    Path(PathBuf),
    /// A name of `ip netns`.
    Named(String),
}

impl Target {
    /// Reads what a user typed: a number, something with a slash, or a name.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        const EXAMPLES: &str =
            "write a process id, a path such as /run/user/1000/netns/web, or a name of `ip netns`";
        if let Ok(number) = text.parse::<i64>() {
            let pid = i32::try_from(number).ok().filter(|number| *number > 0).and_then(Pid::from_raw);
            return pid.map(Self::Process).ok_or_else(|| format!("`{text}` is no process id; {EXAMPLES}"));
        }
        if text.contains('/') {
            return Ok(Self::Path(text.into()));
        }
        if text.is_empty() || text == "." || text == ".." {
            return Err(format!("`{text}` names nobody; {EXAMPLES}"));
        }
        Ok(Self::Named(text.to_owned()))
    }

    /// Opens the namespace, and what tells of its end.
    pub(super) fn open(&self) -> Result<Place, Error> {
        let missing = |source| Error::NoTarget { what: self.to_string(), source };
        match self {
            Self::Process(pid) => self.open_process(*pid),
            Self::Path(path) => open_file(path).map_err(missing),
            Self::Named(name) => {
                let path =
                    NAMED.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.exists());
                open_file(&path.unwrap_or_else(|| Path::new(NAMED[0]).join(name))).map_err(missing)
            }
        }
    }

    fn open_process(&self, pid: Pid) -> Result<Place, Error> {
        let missing = |source: io::Error| Error::NoTarget { what: self.to_string(), source };
        // Before the namespace: a process that took the number over is not mistaken for it.
        let life = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| missing(errno.into()))?;
        let path = PathBuf::from(format!("/proc/{pid}/ns/net", pid = pid.as_raw_pid()));
        match File::open(&path) {
            Ok(namespace) => {
                Ok(Place { namespace: namespace.into(), life: Life::Process, life_fd: Some(life) })
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let owner = std::fs::metadata(format!("/proc/{pid}", pid = pid.as_raw_pid()));
                let owner = owner.map_or_else(
                    |_| "it is another user's".to_owned(),
                    |metadata| format!("it is user {}'s", metadata.uid()),
                );
                Err(Error::NotOurs { what: self.to_string(), owner })
            }
            Err(error) => Err(missing(error)),
        }
    }
}

/// A namespace's file: its name's end is the namespace's.
fn open_file(path: &Path) -> io::Result<Place> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::other("it is no file"));
    };
    let directory = Path::new(".").join(directory).canonicalize()?;
    // Under /proc nothing tells of an end, but the process's own.
    if directory.starts_with("/proc") {
        return Err(io::Error::other("name the process by its number instead"));
    }
    let namespace = File::open(path)?.into();
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let flags = inotify::WatchFlags::DELETE
        | inotify::WatchFlags::MOVED_FROM
        | inotify::WatchFlags::DELETE_SELF
        | inotify::WatchFlags::ONLYDIR;
    inotify::add_watch(&watch, &directory, flags)?;
    let life = Life::Entry(name.to_string_lossy().into_owned());
    Ok(Place { namespace, life, life_fd: Some(watch) })
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "process {}", pid.as_raw_pid()),
            Self::Path(path) => write!(f, "namespace {}", path.display()),
            Self::Named(name) => write!(f, "namespace {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_processes_slashes_are_paths_and_the_rest_are_names() {
        assert_eq!(Target::parse("17"), Ok(Target::Process(Pid::from_raw(17).unwrap())));
        assert_eq!(Target::parse("./x"), Ok(Target::Path("./x".into())));
        assert_eq!(Target::parse("blue"), Ok(Target::Named("blue".to_owned())));
        for wrong in ["0", "-5", "", ".."] {
            assert!(Target::parse(wrong).unwrap_err().contains("process id"), "{wrong}");
        }
    }

    #[test]
    fn who_is_not_there_is_named() {
        let error = Target::parse("no-such-namespace").unwrap().open().unwrap_err().to_string();
        assert!(error.starts_with("there is no namespace no-such-namespace"), "{error}");
        let error = Target::parse("/proc/self/ns/net").unwrap().open().unwrap_err().to_string();
        assert!(error.contains("by its number"), "{error}");
    }
}
