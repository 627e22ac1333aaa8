// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making processes: a clone into new namespaces, and a command with the caller's original limits and signal mask.
#![allow(unsafe_code, reason = "clone, fork and exec have no safe wrapper")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit};

use super::signal::Mask;

/// Which side of a [`clone_into_namespaces`] or [`fork`] this is.
#[derive(Debug)]
pub enum Cloned {
    /// The caller; the child has this process id.
    Parent(Pid),
    /// The new process.
    Child,
}

/// Clones this process into a new user namespace and new mount, network, PID, IPC and UTS namespaces owned by it, where
/// the child is PID 1.
///
/// Memory is copied as by `fork`. The C library does not learn of the new process: the child must not use its
/// `raise` and `abort`, which remember the parent's thread id.
///
/// # Errors
/// What `clone(2)` says; [`io::ErrorKind::Other`] when this process has more than one thread.
pub fn clone_into_namespaces() -> io::Result<Cloned> {
    clone(
        libc::CLONE_NEWUSER
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS,
    )
}

/// Clones this process into the namespaces it is in. What is said of [`clone_into_namespaces`] holds here too.
///
/// # Errors
/// What `clone(2)` says; [`io::ErrorKind::Other`] when this process has more than one thread.
pub fn fork() -> io::Result<Cloned> {
    clone(0)
}

fn clone(namespaces: libc::c_int) -> io::Result<Cloned> {
    if threads()? != 1 {
        return Err(io::Error::other("this process already has threads"));
    }
    let flags = namespaces | libc::SIGCHLD;
    // SAFETY: with no stack and no memory sharing this is a fork. The process has one thread (checked above), so no
    // lock can be held by somebody who does not exist in the child.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(flags), 0, 0, 0, 0) };
    match pid {
        0 => Ok(Cloned::Child),
        -1 => Err(io::Error::last_os_error()),
        pid => {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            pid.map(Cloned::Parent).ok_or_else(|| io::Error::other("clone gave no process id"))
        }
    }
}

/// Moves the calling thread into a new network namespace.
///
/// # Errors
/// What `unshare(2)` says.
pub fn new_network_namespace() -> io::Result<()> {
    // SAFETY: unlike CLONE_FILES, which makes the call unsafe in general, a network namespace changes nothing about
    // descriptors or memory.
    Ok(unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }?)
}

/// Moves this process, which has one thread, into a new mount namespace, and with `user` into a new user namespace too,
/// where it has all capabilities.
///
/// # Errors
/// What `unshare(2)` says.
pub fn new_mount_namespace(user: bool) -> io::Result<()> {
    use rustix::thread::UnshareFlags as F;
    let flags = if user { F::NEWNS | F::NEWUSER } else { F::NEWNS };
    // SAFETY: as in `new_network_namespace`; the file system attributes that NEWNS unshares have no other owner.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Takes over a descriptor that the caller of this program left open under a number it named; `None` when nothing is open
/// there. To be asked before this process opens anything: the number might become that of something of its own.
#[must_use]
pub fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_SETFD touches nothing but the descriptor's own flag, and fails harmlessly where there is none.
    let is_open = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == 0;
    // SAFETY: it is open, and nothing in this process has opened or owns it, as its number came with the arguments.
    is_open.then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

fn threads() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count))
}

/// Starts `command` with `mask` and `nofile` as they were when wharf started, SIGPIPE at its default, and no open
/// file beyond standard input, output and error.
///
/// # Errors
/// What `fork` or `execvp` said; `ENOENT` means that the program was not found.
pub fn spawn(command: &mut Command, mask: Mask, nofile: Rlimit) -> io::Result<Pid> {
    // SAFETY: between fork and exec only system calls are made; nothing allocates.
    unsafe {
        command.pre_exec(move || {
            rustix::process::setrlimit(Resource::Nofile, nofile)?;
            let rc = libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed());
            if rc != 0 {
                mark_close_on_exec();
            }
            mask.restore();
            Ok(())
        })
    };
    let child = command.spawn()?;
    // The handle is dropped, which neither waits for nor kills the child: init's loop reaps it.
    Ok(Pid::from_child(&child))
}

/// For kernels before 5.11, which know no CLOSE_RANGE_CLOEXEC.
fn mark_close_on_exec() {
    let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(65_536).min(65_536);
    for fd in 3..i32::try_from(limit).unwrap_or(65_536) {
        // SAFETY: F_SETFD touches nothing but the descriptor's own flag, and fails harmlessly where there is none.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// Closes every file descriptor above 2 except `keep`.
///
/// For a fresh child that never returns to its parent's code: owners of the closed descriptors must not be dropped.
pub fn close_all_except(keep: i32) {
    let keep = keep.cast_unsigned();
    let ranges = [(3, keep.saturating_sub(1)), (keep.saturating_add(1), libc::c_uint::MAX)];
    for (first, last) in ranges {
        if first > last {
            continue;
        }
        // SAFETY: the caller promises that nobody uses or closes these descriptors afterwards.
        let rc = unsafe { libc::close_range(first, last, 0) };
        if rc != 0 {
            for fd in first..last.min(65_536) {
                // SAFETY: as above.
                unsafe { libc::close(fd.cast_signed()) };
            }
        }
    }
}

/// Ends this process at once: no destructors, no exit handlers, no flushing of buffers copied from the parent.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(status) }
}

/// The process group of a process (`None`: of this one), if it has a number in our PID namespace.
#[must_use]
pub fn process_group(pid: Option<Pid>) -> Option<Pid> {
    // SAFETY: getpgid touches no memory of ours.
    let group = unsafe { libc::getpgid(Pid::as_raw(pid)) };
    // 0 is a group whose leader is outside; -1 is an error.
    if group > 0 { Pid::from_raw(group) } else { None }
}

/// The login name of a user, asked of the system's name service.
#[must_use]
pub fn user_name(uid: u32) -> Option<String> {
    let mut buffer = vec![0; 16 * 1024];
    // SAFETY: passwd is plain data, for which all zeroes is a value.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are to live, writable memory of the stated length.
    let rc =
        unsafe { libc::getpwuid_r(uid, &raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found) };
    if rc != 0 || found.is_null() {
        return None;
    }
    // SAFETY: on success pw_name points to a NUL-terminated string inside `buffer`, which lives.
    let name = unsafe { std::ffi::CStr::from_ptr(entry.pw_name) };
    name.to_str().ok().map(str::to_owned)
}
