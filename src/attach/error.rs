// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a container could not be attached.

use std::io;
use std::path::PathBuf;

use crate::control::error::{Code, Error as Refusal};
use crate::control::network::refusal;
use crate::publish;

/// Why a container could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no daemon.
    #[error("no daemon listens at {socket} ({source}); start one: wharf up")]
    NoDaemon {
        /// Where it would be.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon refused.
    #[error("{0}")]
    Refused(Refusal),
    /// A unix socket cannot be made.
    #[error("{0}")]
    Publish(#[from] publish::Error),
    /// The daemon is gone.
    #[error("the daemon does not answer: {0}")]
    Daemon(io::Error),
    /// The daemon's answer makes no sense: it may be of another version.
    #[error("the daemon's answer makes no sense; is it of the same version as this wharf?")]
    Misunderstood,
    /// There is no such container.
    #[error("there is no {what}: {source}")]
    NoTarget {
        /// What was looked for.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is somebody else's.
    #[error("{what} cannot be entered: {owner}; run this as its owner or as root")]
    NotOurs {
        /// The target.
        what: String,
        /// Who owns its namespace.
        owner: String,
    },
    /// A virtual machine cannot be waited for.
    #[error("listening at {path}: {source}")]
    Listening {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is to be published cannot be seen.
    #[error(
        "what listens there cannot be seen, so it cannot be published by itself; publish its ports by number, or attach \
         it by an interface that is made in its namespace"
    )]
    NoView,
    /// Waiting was ended by a signal.
    #[error("ended by signal {0} before a virtual machine came")]
    Interrupted(i32),
    /// The interface cannot be opened.
    #[error("{step}: {text}")]
    Interface {
        /// What was to be done.
        step: String,
        /// What went wrong, and what mends it.
        text: String,
    },
}

impl Error {
    /// The status to exit with.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        let code = match self {
            Self::Interrupted(signal) => return u8::try_from(128 + signal).unwrap_or(u8::MAX),
            Self::Refused(refusal) => refusal.code,
            Self::Publish(error) => refusal(error).code,
            Self::NoTarget { .. } | Self::NoDaemon { .. } => Code::NotFound,
            Self::NotOurs { .. } => Code::Forbidden,
            Self::NoView => Code::Unsupported,
            Self::Daemon(_) | Self::Misunderstood | Self::Listening { .. } | Self::Interface { .. } => {
                Code::Internal
            }
        };
        code.exit_status()
    }
}
