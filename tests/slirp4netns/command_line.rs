// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is asked of it before there is a network.

use std::process::Stdio;

use super::caller::{binary, finish, user_command};
use super::gateway::Program::{self, Ours};

#[test]
fn help_names_every_option_that_callers_probe_for() {
    let finished = Ours.run(&["--help"]);
    let text = finished.text();
    for option in [
        "--disable-host-loopback",
        "--mtu",
        "--enable-sandbox",
        "--enable-seccomp",
        "--cidr",
        "--outbound-addr",
        "--enable-ipv6",
        "--netns-type",
        "--api-socket",
        "--disable-dns",
        "--userns-path",
        "--macaddress",
    ] {
        assert!(text.contains(option), "{option}");
    }
    assert_eq!(finished.stderr, "");
}

#[test]
fn help_may_be_read_in_part() {
    for option in ["--help", "--version"] {
        let mut command = user_command(Ours.path());
        let mut child = command.arg(option).stdout(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{option}");
    }
}

#[test]
fn the_version_has_the_lines_that_callers_look_for() {
    let finished = Ours.run(&["-v"]);
    let lines: Vec<&str> = finished.text().lines().collect();
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert!(lines[0].starts_with("slirp4netns version 1.3."));
    assert_eq!(lines[3], "SLIRP_CONFIG_VERSION_MAX: 4");
}

#[test]
fn it_is_a_subcommand_too() {
    let finished = finish(user_command(binary()).args(["slirp4netns", "--version"]));
    assert_eq!(finished.text(), Ours.run(&["--version"]).text());
}

#[test]
fn what_cannot_be_done_is_said_and_the_status_is_one() {
    for (args, expected) in [
        (&["-m", "65522", "1", "tap0"][..], "MTU must be a positive integer (< 65522)"),
        (&["--cidr", "foo", "1", "tap0"], "invalid CIDR"),
        (
            &["--cidr", "10.0.2.100/24", "1", "tap0"],
            "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24",
        ),
        (&["--cidr", "10.0.2.100/26", "1", "tap0"], "prefix length needs to be 1-25"),
        (&["--outbound-addr", "nodevice", "1", "tap0"], "No such device"),
        (&["--netns-type=path", "/nonexistent", "tap0"], "/nonexistent: No such file or directory"),
        (&["--bogus"], "unrecognized option '--bogus'"),
        (&["1"], "TAPNAME is missing"),
    ] {
        let finished = Ours.run(args);
        assert_eq!(finished.status, Some(1), "{args:?} {finished:?}");
        assert!(finished.stderr.contains(expected), "{args:?} {finished:?}");
    }
    assert!(Ours.run(&["--bogus"]).stdout.starts_with("Usage: slirp4netns"));
}

#[test]
fn a_namespace_of_somebody_else_is_refused_as_by_slirp4netns() {
    for program in [Program::Theirs, Ours] {
        let finished = program.run(&["-c", "1", "tap0"]);
        assert_eq!(finished.status, Some(1), "{finished:?}");
        assert!(finished.stderr.contains("/proc/1/ns/net: Permission denied"), "{finished:?}");
        assert!(finished.stderr.contains("child failed(1)"), "{finished:?}");
    }
}
