// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine for one test: namespaces in which one helper is what is called slirp4netns.
//!
//! ```text
//! containers -- helper -- the machine ------------ 203.0.113.0/24 ------------ server
//!                         203.0.113.1, 2001:db8:1::1, loopback                 203.0.113.2, 2001:db8:1::2
//! ```

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};

use super::caller::{Finished, finish, is_root};

/// What is called slirp4netns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Helper {
    /// Debian's.
    Slirp4netns,
    Wharf,
}

impl Helper {
    fn path(self) -> &'static str {
        match self {
            Self::Slirp4netns => "/usr/bin/slirp4netns",
            Self::Wharf => env!("CARGO_BIN_EXE_wharf"),
        }
    }
}

/// Does the same with either helper, each on a new machine.
pub(crate) fn with_each_helper(body: impl Fn(&Host)) {
    for helper in [Helper::Slirp4netns, Helper::Wharf] {
        // Shown where the test fails.
        println!("with {helper:?}:");
        body(&Host::new(helper));
    }
}

/// The machine. All of it is gone when this is dropped, or when the test's process is no more.
#[derive(Debug)]
pub(crate) struct Host {
    namespaces: Child,
    /// Its first process.
    init: String,
    pub(crate) helper: Helper,
}

/// The user's id, and how long one command may take.
const USER: &str = "4711";
const SECONDS: &str = "60";

impl Host {
    pub(crate) fn new(helper: Helper) -> Self {
        assert!(is_root(), "these tests make namespaces: run them as root");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]);
        command.arg(include_str!("host.sh"));
        command.env("HELPER", helper.path()).env("SERVER", include_str!("../e2e/server.py"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut namespaces = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(namespaces.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line != "ready\n" {
            let mut text = String::new();
            namespaces.stderr.take().unwrap().read_to_string(&mut text).unwrap();
            panic!("no machine: {text}");
        }
        let pid = namespaces.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        Self { namespaces, init: children.trim().to_owned(), helper }
    }

    /// Gives the user the image `localhost/image`.
    pub(crate) fn with_image(&self) -> &Self {
        self.by_user("podman import -q /mnt/image.tar localhost/image").text();
        self
    }

    /// A shell script, by the user.
    pub(crate) fn by_user(&self, script: &str) -> Finished {
        let become_user = ["setpriv", "--reuid", USER, "--regid", USER, "--init-groups", "--"];
        self.run(&become_user, script)
    }

    /// A shell script on the machine, by root.
    pub(crate) fn as_root(&self, script: &str) -> Finished {
        self.run(&[], script)
    }

    /// A shell script on the server, by root.
    pub(crate) fn on_server(&self, script: &str) -> Finished {
        self.run(&["nsenter", "--net=/run/netns/server"], script)
    }

    fn run(&self, become_what: &[&str], script: &str) -> Finished {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init, "-m", "-n", "-p", "timeout", "-k", "5", SECONDS]);
        command.args(become_what).args(["sh", "-c", &format!("cd /mnt/home\n{script}")]);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", "/mnt/home").env("XDG_RUNTIME_DIR", "/mnt/run").env("TMPDIR", "/mnt/tmp");
        finish(&mut command)
    }

    /// How many helpers there are.
    pub(crate) fn helpers(&self) -> usize {
        self.by_user("pgrep -cx slirp4netns").stdout.trim().parse().unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.namespaces.stdin.take());
        drop(self.namespaces.wait());
    }
}
