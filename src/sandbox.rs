// SPDX-License-Identifier: MIT OR Apache-2.0
//! Confinement: what the gateway process gives up before it looks at the first packet.
//!
//! # How it works
//! The gateway runs as the user who started it and reads bytes that the sandbox and the outside choose. Should one of
//! them ever find a way to make it do something else than it should, little is to be had. In this order:
//!
//! 1. no core dumps, and no other process of the user may read its memory;
//! 2. no new privileges, no capabilities (it has some only if root started it);
//! 3. Landlock: of all files it may open those beneath `/etc` and beside what resolv.conf leads to, for reading;
//! 4. seccomp: the system calls in [`syscalls`], and the kernel kills the process at any other.
//!
//! What it needs otherwise it has open already: the device's queues, the terminal, the channel to init.
//!
//! # Bounds
//! Landlock and seccomp bind the calling thread and those it starts, so this is done while there is only one. A kernel
//! without one of them leaves that one out.
//!
//! # Sources
//! `prctl(2)`, `capabilities(7)`, `landlock(7)`, `seccomp(2)`.

mod files;
pub mod root;
pub mod syscalls;

use std::io;

use rustix::process::{DumpableBehavior, Pid, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

pub use files::Files;

use crate::sys::seccomp;

/// Gives up what the gateway does not need for the rest of its life. `init` is the one process it may still signal, and
/// `files` are what it may still do with files.
pub fn confine(init: Pid, files: Files<'_>) {
    told("core dumps", set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(io::Error::from));
    drop_capabilities(CapabilitySet::empty());
    no_new_privileges();
    told("files", files::allow(files));
    told("system calls", filter_system_calls(init, &[syscalls::RUN, calls_for(files)].concat()));
}

/// The same for a daemon, which has nobody to signal, but sockets that others talk to and a directory of its own.
pub fn confine_daemon(files: Files<'_>) {
    told("core dumps", set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(io::Error::from));
    drop_capabilities(CapabilitySet::NET_BIND_SERVICE);
    no_new_privileges();
    told("files", files::allow(files));
    let calls = [syscalls::DAEMON, calls_for(files)].concat();
    told("system calls", filter_system_calls(rustix::process::getpid(), &calls));
}

/// What connecting to the host's sockets takes, where there are any.
fn calls_for(files: Files<'_>) -> &'static [syscalls::Group] {
    if files.connectable.is_empty() { &[] } else { syscalls::HOST_SOCKETS }
}

/// Gives up all privileges but those of `keep`, and all files but those of `files`.
pub fn confine_files(keep: CapabilitySet, files: Files<'_>) {
    drop_capabilities(keep);
    no_new_privileges();
    told("files", files::allow(files));
}

/// Gives up all system calls but those of the table and those of `beyond`.
///
/// # Errors
/// The processor is not one that filters are made for, or the kernel has none.
pub fn confine_system_calls(beyond: &[syscalls::Group]) -> io::Result<()> {
    no_new_privileges();
    // There is no other process to be signalled.
    filter_system_calls(rustix::process::getpid(), beyond)
}

/// Landlock and seccomp want it of everybody without privileges.
fn no_new_privileges() {
    told("new privileges", set_no_new_privs(true).map_err(io::Error::from));
}

/// A machine that lacks one kind of fence still has the others.
fn told(what: &str, result: io::Result<()>) {
    match result {
        Ok(()) => tracing::debug!("confined: {what}"),
        Err(error) => tracing::debug!(%error, "not confined: {what}"),
    }
}

fn drop_capabilities(keep: CapabilitySet) {
    // Fails for everybody but root, whose bounding set is the only one that could give something back.
    for capability in CapabilitySet::all() - keep {
        let _ = remove_capability_from_bounding_set(capability);
    }
    let _ = clear_ambient_capability_set();
    // What is not there cannot be kept.
    let keep = capabilities(None).map_or(CapabilitySet::empty(), |now| now.permitted & keep);
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: keep };
    told("capabilities", set_capabilities(None, sets).map_err(io::Error::from));
}

/// Lets the kernel kill this process when it makes a call that is neither in [`syscalls::GROUPS`] nor in `beyond`.
fn filter_system_calls(init: Pid, beyond: &[syscalls::Group]) -> io::Result<()> {
    // The last one installed is asked first; all are asked, and the severest answer counts.
    for filter in syscalls::filters(rustix::process::getpid(), init, beyond).map_err(io::Error::other)? {
        seccomp::install(&filter)?;
    }
    Ok(())
}
