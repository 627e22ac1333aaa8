// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `--enable-sandbox` and `--enable-seccomp` promise.
//!
//! # How it works
//! The sandbox: a root directory with the host's `/etc`, `/run` and what resolv.conf leads to, read-only; of those
//! Landlock leaves what resolv.conf is looked for in; of all capabilities the one for privileged ports, if there are any.
//! It needs nothing of the target, whatever kind that is. Seccomp: only the calls that a gateway makes.
//!
//! Unlike that of `run` the process stays open to the inspection of its own user: callers look at its root and its
//! capabilities.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use rustix::thread::CapabilitySet;

use super::api::server::Server;
use super::args::Options;
use super::{Failed as _, Failure};
use crate::resolv;
use crate::sandbox::{self, Files, root, syscalls};

/// Confines this process, which has one thread, as far as the options ask for.
pub(super) fn raise(options: &Options, server: Option<&Server>) -> Result<(), Failure> {
    if options.sandbox {
        let readable = resolv::directories();
        let host = [Path::new("/etc"), Path::new("/run")].map(PathBuf::from);
        root::keep_only(host.iter().chain(&readable)).failed("create_sandbox")?;
        let removable = server.map(|server| server.directory().as_fd());
        let files = Files { readable: &readable, removable, ..Files::default() };
        sandbox::confine_files(CapabilitySet::NET_BIND_SERVICE, files);
    }
    if options.seccomp {
        sandbox::confine_system_calls(syscalls::CONTROL_SOCKET).failed("enable_seccomp")?;
    }
    Ok(())
}
