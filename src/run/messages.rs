// SPDX-License-Identifier: MIT OR Apache-2.0
//! What wharf and the sandbox's init say to each other through their [channel](crate::channel).
//!
//! The command may be root in its namespace and so may take init over: nothing init says is trusted beyond what the
//! command could do by itself (end, stop, write to the terminal).

use serde::{Deserialize, Serialize};

use crate::netns::{DeviceChoice, DeviceKind};

/// From wharf to init.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToInit {
    /// The user and group maps are written; these group ids inside may open ping sockets.
    Mapped { ping_groups: (u32, u32) },
    /// The gateway runs: start the command.
    Go,
    /// Send the command this signal, unless it got it already together with init.
    Signal(i32),
    /// What the host's resolv.conf leads to may have changed: see to it that it is covered.
    ResolvConfChanged,
}

/// From init to wharf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromInit {
    /// The device is there and configured; its queues come as descriptors, and then a view of what listens, where one is
    /// needed.
    Device(DeviceKind),
    /// Something is not as usual.
    Note(String),
    /// Something does not work that nobody must have.
    Warning(String),
    /// No kind of device can be made; the error is the TAP's, or that of the kind asked for.
    NoDevice { errno: i32, choice: DeviceChoice },
    /// The sandbox cannot be made.
    Failed { step: String, errno: Option<i32> },
    /// The command could not be started.
    NotStarted { errno: i32 },
    /// The command was stopped; whether the terminal's foreground is a group of the sandbox.
    Stopped { in_foreground: bool },
    /// The command ended with this status.
    Exited(i32),
    /// This signal ended the command.
    Killed(i32),
}
