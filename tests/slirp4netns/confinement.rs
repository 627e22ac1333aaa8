// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `--enable-sandbox` and `--enable-seccomp` leave to the process.

use std::fs;

use super::caller::{finish, is_root, user_command};
use super::gateway::{BOTH, Gateway, Program, Target};

fn status(pid: i32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t")).unwrap().to_owned()
}

/// The names in the root directory of a process, as its own user sees them.
fn root_of(pid: i32) -> Vec<String> {
    let listed = finish(user_command("ls").arg(format!("/proc/{pid}/root/")));
    listed.text().lines().map(str::to_owned).collect()
}

const NET_BIND_SERVICE: &str = "0000000000000400";

#[test]
fn the_sandbox_has_hardly_any_files_and_no_privileges() {
    for program in BOTH {
        let target = Target::new();
        let gateway = Gateway::start(program, &["-c", "--enable-sandbox"], &target);
        let pid = gateway.pid();
        assert_eq!(root_of(pid), ["etc", "run"], "{program:?}");
        for set in ["CapEff", "CapPrm", "CapInh", "CapBnd"] {
            assert_eq!(status(pid, set), NET_BIND_SERVICE, "{program:?} {set}");
        }
        assert_eq!(status(pid, "NoNewPrivs"), "1");
        target.inside("ping -c1 -W5 10.0.2.2").text();
        assert_eq!(gateway.end().0.code(), Some(0));
    }
}

#[test]
fn a_namespace_by_its_path_is_no_obstacle_to_the_sandbox() {
    let target = Target::new();
    let (net, user) = (target.namespace("net"), target.namespace("user"));
    let args = [
        "-c",
        "--enable-sandbox",
        "--enable-seccomp",
        "--netns-type=path",
        "--userns-path",
        &user,
        &net,
        "tap0",
    ];
    let gateway = Gateway::start_with(Program::Ours, &args);
    assert_eq!(root_of(gateway.pid()), ["etc", "run"]);
    target.inside("ping -c1 -W5 10.0.2.2").text();
}

#[test]
fn system_calls_are_filtered_if_that_is_asked_for() {
    for (args, expected) in [(&["-c", "--enable-seccomp"][..], "2"), (&["-c"], "0")] {
        let target = Target::new();
        let gateway = Gateway::start(Program::Ours, args, &target);
        assert_eq!(status(gateway.pid(), "Seccomp"), expected);
        target.inside("ping -c1 -W5 10.0.2.2").text();
        assert_eq!(gateway.end().0.code(), Some(0));
    }
}

#[test]
fn the_sandbox_of_root_leaves_the_hosts_mounts_alone() {
    if !is_root() {
        return;
    }
    let before = fs::read_to_string("/proc/self/mounts").unwrap();
    let target = Target::new();
    let mut command = std::process::Command::new("timeout");
    command.args(["--foreground", "60"]).arg(Program::Ours.path());
    command.args(["-e", "0", "-r", "1", "-c", "--enable-sandbox", "--enable-seccomp", &target.pid(), "tap0"]);
    let gateway = Gateway::start_command(&mut command);
    let names = fs::read_dir(format!("/proc/{}/root/", gateway.pid())).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["etc", "run"]);
    assert_eq!(status(gateway.pid(), "CapEff"), NET_BIND_SERVICE);
    assert_eq!(fs::read_to_string("/proc/self/mounts").unwrap(), before);
    target.inside("ping -c1 -W5 10.0.2.2").text();
}
