// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why `wharf run` could not do its work, and what to do about it.

use std::io;

use super::idmap;
use crate::doctor::advice::Advice;
use crate::publish;

/// A failure of wharf itself: exit status 125.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No user namespace.
    #[error("{0}")]
    Namespaces(Advice),
    /// Neither a TAP nor a veth pair.
    #[error("{0}")]
    Device(Advice),
    /// No id maps.
    #[error("{}", .0.advice())]
    Ids(#[from] idmap::Error),
    /// A port that is not to be had.
    #[error(transparent)]
    Publish(#[from] publish::Error),
    /// The daemon's network cannot be joined.
    #[error(transparent)]
    Join(#[from] crate::attach::Error),
    /// A port cannot be watched.
    #[error("{0}")]
    Refused(#[from] crate::control::error::Error),
    /// Init could not make the sandbox.
    #[error("setting up the sandbox failed at {step}{}", said(*.errno))]
    Sandbox {
        /// What was being done.
        step: String,
        /// What the kernel said.
        errno: Option<i32>,
    },
    /// Init vanished.
    #[error("the sandbox's init process was killed from outside")]
    InitKilled,
    /// Anything else of the operating system.
    #[error("{doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

fn said(errno: Option<i32>) -> String {
    errno.map_or_else(String::new, |errno| format!(": {}", io::Error::from_raw_os_error(errno)))
}

/// Names what was being done when the operating system failed.
pub(super) trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, doing: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::System { doing, source: source.into() })
    }
}
