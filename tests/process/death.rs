// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whoever is killed, however roughly: no process, no namespace, no device stays behind.

use std::fs;

use super::caller::{Running, binary, eventually, finish, is_alive, kill, tree, user_command, wharf_run};

const KILL: i32 = 9;

/// The namespaces of a process, as far as they may be read.
fn namespaces(pid: i32) -> Vec<String> {
    let kinds = ["net", "mnt", "pid", "user"];
    kinds
        .iter()
        .filter_map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .collect()
}

/// Whether any process lives in one of the namespaces.
fn inhabited(namespaces_of_sandbox: &[String]) -> bool {
    let pids =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.into_iter()
        .any(|pid: i32| is_alive(pid) && namespaces(pid).iter().any(|ns| namespaces_of_sandbox.contains(ns)))
}

/// Starts a sandbox with a small family in it, kills what `choose` chooses of (wharf, init, command), and waits for
/// everything to be gone.
fn kill_one(device: &str, choose: impl Fn([i32; 3]) -> i32) -> Option<i32> {
    let script =
        "sleep 1000 & setsid sleep 1001 & (trap '' TERM HUP INT; sleep 1002) & echo up; sleep 1003; exit 5";
    let mut running = Running::start(&mut wharf_run(&["--device", device, "--", "sh", "-c", script]));
    assert_eq!(running.line(), "up");
    let wharf = running.pid();
    eventually("the family is complete", || tree(wharf).len() >= 7);
    let family = tree(wharf);
    let (init, command) = (family[1], family[2]);
    let its_namespaces = namespaces(command);
    kill(choose([wharf, init, command]), KILL);
    eventually("every process is gone", || family.iter().all(|&pid| pid == wharf || !is_alive(pid)));
    let (status, _) = running.finish();
    eventually("the namespaces are empty", || !inhabited(&its_namespaces));
    status
}

#[test]
fn killing_wharf_ends_everything() {
    for device in ["tap", "veth"] {
        assert_eq!(kill_one(device, |[wharf, _, _]| wharf), None);
    }
}

#[test]
fn killing_init_ends_everything_and_is_reported_as_a_failure() {
    assert_eq!(kill_one("tap", |[_, init, _]| init), Some(125));
}

#[test]
fn killing_the_command_ends_everything_with_its_signal() {
    assert_eq!(kill_one("tap", |[_, _, command]| command), Some(128 + KILL));
}

/// A worker that cannot wait for events any more cannot go on; a command without a network would wait for ever.
#[test]
fn a_lost_worker_ends_the_sandbox() {
    let mut command = user_command("strace");
    // The first waits are those of a start that works. Under seccomp an injected error is a system call of no number.
    let inject = "inject=epoll_wait,epoll_pwait,epoll_pwait2:error=EBADF:when=3+";
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", inject]).arg(binary());
    let script = "ping -q -i 0.1 -c 600 $(ip route | awk '/default/ { print $3 }') & sleep 1004";
    let ended = finish(command.args(["run", "--no-sandbox", "--", "sh", "-c", script]));
    assert_eq!(ended.status, Some(125), "{ended:?}");
    assert!(ended.stderr.contains("a worker ended unexpectedly"), "{ended:?}");
    assert!(!runs("1004"));
}

#[test]
fn wharf_killed_at_any_moment_of_its_start_leaves_nothing() {
    // The moments are spread over the whole start, which takes some ten milliseconds.
    for step in 0..24_u32 {
        let marker = format!("{}", 70_000 + step);
        let mut child = wharf_run(&["--", "sleep", &marker]).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_micros(700) * step);
        let family = tree(i32::try_from(child.id()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        let family = family.get(1..).unwrap_or_default();
        eventually("init is gone", || family.iter().all(|&pid| !is_alive(pid)));
        eventually("the command is gone", || !runs(&marker));
    }
}

/// Whether some process has this argument.
fn runs(argument: &str) -> bool {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.into_iter().any(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == argument.as_bytes())
    })
}
