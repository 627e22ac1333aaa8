// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who calls wharf in these tests: an ordinary user, with a copy of the binary that it may execute.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::scratch::Scratch;

/// The ordinary user of tests that root starts.
pub(crate) const NOBODY: u32 = 65534;

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The user id that wharf is run with.
pub(crate) fn uid() -> u32 {
    if is_root() { NOBODY } else { rustix::process::geteuid().as_raw() }
}

/// A directory for this run of the tests, which the ordinary user may use.
pub(crate) fn scratch(name: &str) -> PathBuf {
    let path = base().join(name);
    fs::create_dir_all(&path).unwrap();
    open_to_all(&path);
    path
}

fn base() -> &'static Path {
    static BASE: OnceLock<Scratch> = OnceLock::new();
    BASE.get_or_init(|| Scratch::open_to_all().until_exit())
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
}

/// The binary under test, where every user can reach it.
pub(crate) fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let path = base().join("wharf");
        fs::copy(env!("CARGO_BIN_EXE_wharf"), &path).unwrap();
        path
    })
}

/// A program run by the ordinary user; `$WHARF` is the binary under test.
pub(crate) fn user_command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        let id = NOBODY.to_string();
        command.args([&format!("--reuid={id}"), &format!("--regid={id}"), "--clear-groups", "--"]);
        command.arg(program);
        command
    } else {
        Command::new(program)
    };
    command.env("WHARF", binary()).env("HOME", base()).env("SHELL", "/bin/sh").current_dir("/");
    command
}

/// `wharf run` with these arguments, by the ordinary user.
pub(crate) fn wharf_run(args: &[&str]) -> Command {
    let mut command = user_command(binary());
    command.arg("run").args(args);
    command
}

/// Runs a shell script in a sandbox.
pub(crate) fn inside(options: &[&str], script: &str) -> Finished {
    let mut command = wharf_run(options);
    command.args(["--", "sh", "-c", script]);
    finish(&mut command)
}

/// Runs a shell script outside, by the ordinary user.
pub(crate) fn outside(script: &str) -> Finished {
    finish(user_command("sh").args(["-c", script]))
}

/// What is left of a process.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// Standard output of a success.
    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        assert_eq!(self.status, Some(0), "{self:?}");
        &self.stdout
    }
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

pub(crate) fn finish(command: &mut Command) -> Finished {
    command.stdin(Stdio::null()).output().unwrap().into()
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "still not: {what}");
        sleep(Duration::from_millis(10));
    }
}

/// A running `wharf run`, killed with the test.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Starts it with pipes for standard input and output.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        self.lines.next().expect("the command ended early").unwrap()
    }

    pub(crate) fn signal(&self, signal: i32) {
        kill(self.pid(), signal);
    }

    pub(crate) fn finish(mut self) -> (Option<i32>, Vec<String>) {
        drop(self.child.stdin.take());
        let rest = self.lines.by_ref().map_while(Result::ok).collect();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already, in the good case.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Sends a signal by number; a negative target is a process group.
pub(crate) fn kill(target: i32, signal: i32) {
    let status = Command::new("kill").args([&format!("-{signal}"), "--", &target.to_string()]).status();
    assert!(status.unwrap().success(), "kill -{signal} {target}");
}

/// The processes below `pid`, itself first.
pub(crate) fn tree(pid: i32) -> Vec<i32> {
    let mut pids = vec![pid];
    let mut at = 0;
    while let Some(&pid) = pids.get(at) {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        pids.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        at += 1;
    }
    pids
}

/// Whether a process exists and is more than a zombie.
pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
