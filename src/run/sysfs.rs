// SPDX-License-Identifier: MIT OR Apache-2.0
//! A /sys of the sandbox's own, whose `class/net` shows the sandbox's interfaces instead of the host's.
//!
//! # How it works
//! What is mounted below the host's /sys (control groups, first of all) is opened before the new one covers it, and bound
//! to the same places in the new one.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{MountFlags, mount, mount_bind_recursive};

const PATH: &str = "/sys";

/// Mounts it.
///
/// # Errors
/// `EPERM` where parts of the host's /sys are hidden from us, as in many containers.
pub(super) fn mount_own() -> io::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let below = mounts_below(&mounts).into_iter();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open: Vec<_> =
        below.filter_map(|path| Some((open(&path, flags, Mode::empty()).ok()?, path))).collect();
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // Where the host's cannot be written, neither may ours be.
    mount("sysfs", PATH, "sysfs", flags, None)
        .or_else(|_| mount("sysfs", PATH, "sysfs", flags | MountFlags::RDONLY, None))?;
    for (directory, path) in open {
        let source = format!("/proc/self/fd/{}", directory.as_raw_fd());
        // Missing in the new one, and then it stays so.
        let _ = mount_bind_recursive(source, path);
    }
    Ok(())
}

/// The mount points below /sys that are not below another of them.
fn mounts_below(mountinfo: &str) -> Vec<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    let mut below: Vec<PathBuf> = points
        .filter(|point| point.starts_with(PATH) && *point != Path::new(PATH))
        .map(PathBuf::from)
        .collect();
    below.sort();
    below.dedup_by(|point, earlier| point.starts_with(&*earlier));
    below
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uppermost_mounts_below_sys_are_found_once() {
        let text = "24 1 0:22 / /sys rw - sysfs sysfs rw\n\
                    25 24 0:23 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n\
                    26 25 0:24 / /sys/fs/cgroup/memory rw - cgroup cgroup rw\n\
                    27 24 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n\
                    28 1 0:26 / /system rw - tmpfs tmpfs rw\n\
                    29 24 0:27 / /sys/kernel/debug rw - debugfs debugfs rw\n";
        assert_eq!(mounts_below(text), [Path::new("/sys/fs/cgroup"), Path::new("/sys/kernel/debug")]);
    }
}
