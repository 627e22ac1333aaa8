// SPDX-License-Identifier: MIT OR Apache-2.0
//! A namespace that wants a network, and a gateway for it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use super::caller::{Finished, binary, finish, kill, user_command};

/// Whose behaviour is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Ours,
    /// slirp4netns of this machine.
    Theirs,
}

pub(crate) const BOTH: [Program; 2] = [Program::Theirs, Program::Ours];

impl Program {
    pub(crate) fn path(self) -> PathBuf {
        static OURS: OnceLock<PathBuf> = OnceLock::new();
        match self {
            Self::Theirs => PathBuf::from("/usr/bin/slirp4netns"),
            Self::Ours => {
                let link = || {
                    let path = binary().with_file_name("slirp4netns");
                    fs::hard_link(binary(), &path).unwrap();
                    path
                };
                OURS.get_or_init(link).clone()
            }
        }
    }

    /// Runs it to its end.
    pub(crate) fn run(self, args: &[&str]) -> Finished {
        finish(user_command("timeout").arg("20").arg(self.path()).args(args))
    }
}

/// A process in a user and a network namespace of its own.
pub(crate) struct Target(Child);

impl Target {
    pub(crate) fn new() -> Self {
        let mut command = user_command("unshare");
        let script = "echo up; exec sleep 1000";
        let mut child = command.args(["-rn", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        Self(child)
    }

    pub(crate) fn pid(&self) -> String {
        self.0.id().to_string()
    }

    /// The path of one of its namespaces.
    pub(crate) fn namespace(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.pid())
    }

    /// Runs a shell script in the namespaces.
    pub(crate) fn inside(&self, script: &str) -> Finished {
        finish(&mut self.command(&["timeout", "30", "sh", "-c", script]))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = user_command("nsenter");
        command.args(["-U", "--preserve-credentials", "-n", "-t", &self.pid()]).args(args);
        command
    }

    /// Starts the test server of the end-to-end tests in the namespaces and waits until it listens.
    pub(crate) fn serve_everything(&self) -> Served {
        static SERVER: OnceLock<PathBuf> = OnceLock::new();
        let server = SERVER.get_or_init(|| {
            let path = super::caller::scratch("server").join("server.py");
            fs::write(&path, include_str!("../e2e/server.py")).unwrap();
            path
        });
        let mut command = self.command(&["python3", server.to_str().unwrap(), "10.0.2.100"]);
        let served = Served(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
        self.inside("until ss -Htln 'sport = :80' | grep -q .; do sleep 0.02; done").text();
        served
    }

    /// The address that the interface has given itself.
    pub(crate) fn global_ipv6(&self) -> String {
        let script = "until ip -6 addr show dev tap0 scope global -tentative | grep -o 'fd00:[^/]*'; do sleep 0.02; done";
        self.inside(script).text().trim().to_owned()
    }
}

/// A server in the namespaces of a [`Target`].
pub(crate) struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A gateway that is ready. Its standard input is the exit descriptor, and its standard output was the ready descriptor.
pub(crate) struct Gateway {
    pub(crate) child: Child,
    log: BufReader<ChildStderr>,
}

impl Gateway {
    /// `PROGRAM ARGS TARGET tap0`, by process id.
    pub(crate) fn start(program: Program, args: &[&str], target: &Target) -> Self {
        Self::start_with(program, &[args, &[&target.pid(), "tap0"]].concat())
    }

    /// With all arguments given.
    pub(crate) fn start_with(program: Program, args: &[&str]) -> Self {
        let mut command = user_command("timeout");
        command.args(["--foreground", "120"]).arg(program.path()).args(["-e", "0", "-r", "1"]).args(args);
        Self::start_command(&mut command)
    }

    pub(crate) fn start_command(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let mut byte = [0];
        let mut stdout = child.stdout.take().unwrap();
        // `timeout` has the other end open too: there is no end of file to wait for.
        while !said.ends_with("\n1") && said != "1" {
            if stdout.read(&mut byte).unwrap() == 0 {
                let mut text = String::new();
                let mut log = log;
                log.read_to_string(&mut text).unwrap();
                panic!("never ready: {said}{text}");
            }
            said.push(char::from(byte[0]));
        }
        Self { child, log }
    }

    /// The process of the gateway itself.
    pub(crate) fn pid(&self) -> i32 {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().next().expect("the gateway").parse().unwrap()
    }

    /// Sends it a signal and waits for the end that this is.
    pub(crate) fn end_by(mut self, signal: i32) -> ExitStatus {
        kill(self.pid(), signal);
        self.child.wait().unwrap()
    }

    /// Closes the other end of the exit descriptor and waits for the end; what was said on standard error comes with it.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap();
        let mut text = String::new();
        self.log.read_to_string(&mut text).unwrap();
        (status, text)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Its exit descriptor ends it; `timeout` would not take it along.
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

/// The socket file of a test, in a directory of its own.
pub(crate) fn socket(name: &str) -> PathBuf {
    let path = super::caller::scratch(name).join("api.sock");
    assert!(!Path::new(&path).exists());
    path
}
