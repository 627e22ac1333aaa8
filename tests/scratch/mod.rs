// SPDX-License-Identifier: MIT OR Apache-2.0
//! Directories of tests and benches, which go with who made them, also when that fails.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a test may fail, and not every test has both kinds of directories"
)]

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("wharf-test-{}-{number}", std::process::id()));
        // Of a killed process that had the same number.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(fs::canonicalize(path).unwrap())
    }

    /// The same for every user.
    pub(crate) fn open_to_all() -> Self {
        let scratch = Self::new();
        fs::set_permissions(&scratch, fs::Permissions::from_mode(0o777)).unwrap();
        scratch
    }

    /// For a static, which is never dropped: it goes when this process has ended, however that was.
    pub(crate) fn until_exit(self) -> Self {
        // The shell sees the end of its standard input then. Signals of the terminal are not for its process group.
        let mut remover = Command::new("sh");
        remover.args(["-c", "cat; rm -rf -- \"$1\"", "sh"]).arg(&self.0).process_group(0);
        let remover = remover.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        std::mem::forget(remover.unwrap());
        self
    }
}

impl Deref for Scratch {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for Scratch {
    fn as_ref(&self) -> &Path {
        self
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
