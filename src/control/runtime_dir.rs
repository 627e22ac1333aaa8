// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the sockets of a process are: a directory of its user's alone.

use std::io;
use std::path::{Path, PathBuf};

/// The API's socket in it.
pub const API_SOCKET: &str = "api.sock";
/// The socket that descriptors are passed through.
pub const ATTACH_SOCKET: &str = "attach.sock";
const RUN_PREFIX: &str = "run-";

/// The directory of the daemon: `$XDG_RUNTIME_DIR/wharf`, else `/run/user/UID/wharf`, for root `/run/wharf`.
#[must_use]
pub fn runtime_dir() -> PathBuf {
    let uid = rustix::process::geteuid();
    let base = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let base = base.unwrap_or_else(|| {
        if uid.is_root() { PathBuf::from("/run") } else { format!("/run/user/{}", uid.as_raw()).into() }
    });
    base.join("wharf")
}

/// The directory of the `wharf run` with this process id.
#[must_use]
pub fn of_run(pid: u32) -> PathBuf {
    of_run_in(&runtime_dir(), pid)
}

/// The same beside a daemon with its sockets in `directory`.
#[must_use]
pub fn of_run_in(directory: &Path, pid: u32) -> PathBuf {
    directory.join(format!("{RUN_PREFIX}{pid}"))
}

/// Each `wharf run` that has a directory beside a daemon with its sockets in `directory`, or had one when it was killed.
#[must_use]
pub fn runs_in(directory: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let pid = |name: &str| name.strip_prefix(RUN_PREFIX)?.parse().ok();
    let mut pids: Vec<u32> = entries.filter_map(|entry| pid(entry.file_name().to_str()?)).collect();
    pids.sort_unstable();
    pids
}

/// Makes the directory, for its owner alone.
///
/// # Errors
/// It cannot be made, or is somebody else's.
pub fn make(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let found = std::fs::metadata(directory)?;
    if found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err(io::Error::other("it belongs to somebody else, or others may write to it"));
    }
    Ok(())
}
