// SPDX-License-Identifier: MIT OR Apache-2.0
//! When it is ready, and when it ends.

use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;

use super::caller::{eventually, is_alive, kill, user_command};
use super::gateway::{BOTH, Gateway, Program, Target};

#[test]
fn it_is_ready_when_the_interface_is_and_ends_when_the_exit_descriptor_does() {
    for program in BOTH {
        let target = Target::new();
        let mut gateway = Gateway::start(program, &["-c"], &target);
        assert!(target.inside("ip addr show tap0").text().contains("10.0.2.100/24"));
        // Data is no end.
        gateway.child.stdin.as_mut().unwrap().write_all(b"data").unwrap();
        target.inside("ping -c1 -W5 10.0.2.2").text();
        let (status, log) = gateway.end();
        assert_eq!(status.code(), Some(0), "{program:?} {log}");
        assert!(log.contains("sent tapfd=") && log.contains("received tapfd="), "{program:?} {log}");
    }
}

#[test]
fn an_exit_descriptor_that_nobody_opened_is_an_end() {
    let target = Target::new();
    let args = ["-c", "-e", "1010", "-r", "1011", &target.pid(), "tap0", "10/dev/fd/63"];
    let finished = Program::Ours.run(&args);
    assert_eq!(finished.status, Some(0), "{finished:?}");
    assert!(finished.stdout.contains("too many arguments"), "{finished:?}");
}

#[test]
fn a_ready_descriptor_that_nobody_opened_is_no_matter() {
    let target = Target::new();
    let finished = Program::Ours.run(&["-c", "-r", "77", "-e", "77", &target.pid(), "tap0"]);
    assert_eq!(finished.status, Some(0), "{finished:?}");
}

#[test]
fn the_process_that_was_started_is_the_one_that_a_signal_ends() {
    let target = Target::new();
    let mut child = {
        let mut command = user_command(Program::Ours.path());
        command.args(["-c", &target.pid(), "tap0"]).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    eventually("the interface is up", || target.inside("ping -c1 -W1 10.0.2.2").status == Some(0));
    let pid = i32::try_from(child.id()).unwrap();
    assert!(is_alive(pid));
    kill(pid, 15);
    assert_eq!(child.wait().unwrap().signal(), Some(15));
}

#[test]
fn it_outlives_its_target() {
    let target = Target::new();
    let gateway = Gateway::start(Program::Ours, &["-c"], &target);
    let pid = gateway.pid();
    drop(target);
    assert!(is_alive(pid));
    assert_eq!(gateway.end().0.code(), Some(0));
}

#[test]
fn it_works_on_when_nobody_hears_what_it_says() {
    let target = Target::new();
    let mut command = user_command("sh");
    command.args(["-c", "exec \"$@\" 2>/dev/full", "sh"]).arg(Program::Ours.path());
    command.args(["-e", "0", "-r", "1", "-c", &target.pid(), "tap0"]);
    let gateway = Gateway::start_command(&mut command);
    target.inside("ping -c1 -W5 10.0.2.2").text();
    assert_eq!(gateway.end().0.code(), Some(0));
}

#[test]
fn nothing_but_the_word_comes_to_the_ready_descriptor() {
    let target = Target::new();
    let mut command = user_command(Program::Ours.path());
    command.args(["--enable-ipv6", "-e", "0", "-r", "1", "-c", &target.pid(), "tap0", "too", "many"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "1");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}
