// SPDX-License-Identifier: MIT OR Apache-2.0
//! A root directory with hardly anything in it.
//!
//! # How it works
//! In a mount namespace of its own, and for an ordinary user in a user namespace of its own, the process makes an empty
//! tmpfs its root, with a few directories of the host bound read-only at their places. What was open before stays open.
//!
//! # Sources
//! `mount_namespaces(7)`, `user_namespaces(7)`, `pivot_root(2)` ("pivot_root(".", ".")").

use std::fs;
use std::io;
use std::path::Path;

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change,
    mount_remount, unmount,
};
use rustix::process::{chdir, pivot_root};

use crate::sys::process::new_mount_namespace;

/// What every machine has, and nobody looks for while this is done.
const PLACE: &str = "/tmp";

/// Makes `directories` all that this process finds beneath its root. One that does not exist, or that is beneath /tmp, is
/// left out. The process must have one thread.
///
/// # Errors
/// What the kernel says, `EPERM` above all where ordinary users get no user namespaces.
pub fn keep_only<P: AsRef<Path>>(directories: impl IntoIterator<Item = P>) -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    new_mount_namespace(!uid.is_root())?;
    if !uid.is_root() {
        // Nobody may make a file whose owner has no number here.
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {} 1", uid.as_raw()))?;
        fs::write("/proc/self/gid_map", format!("0 {} 1", gid.as_raw()))?;
    }
    // Nothing of this reaches the host.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    let bare = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tmpfs", PLACE, "tmpfs", bare, c"size=64k,mode=755")?;
    for directory in directories {
        let directory = directory.as_ref();
        let Ok(relative) = directory.strip_prefix("/") else { continue };
        if !directory.is_dir() || directory.starts_with(PLACE) {
            continue;
        }
        let place = Path::new(PLACE).join(relative);
        // Beneath one that is bound already it is there.
        if !place.exists() {
            fs::create_dir_all(&place)?;
            mount_bind_recursive(directory, &place)?;
            mount_remount(&place, MountFlags::BIND | MountFlags::RDONLY | bare, "")?;
        }
    }
    chdir(PLACE)?;
    // Both at one place: the old root lies over the new one, and is taken off it.
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")?;
    Ok(mount_remount("/", MountFlags::RDONLY | bare, "size=64k,mode=755")?)
}
