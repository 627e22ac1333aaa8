// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is killed in the middle of a transfer leaves nothing; and the other kind of device does all that a TAP does.

use std::fs;
use std::process::Command;

use crate::lab::{Lab, Running, eventually};
use crate::streams::move_both_ways;

const KILL: &str = "-9";

/// A process and all below it.
fn family(pid: u32) -> Vec<u32> {
    let mut pids = vec![pid];
    let mut at = 0;
    while let Some(&pid) = pids.get(at) {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        pids.extend(children.split_whitespace().map(|child| child.parse::<u32>().unwrap()));
        at += 1;
    }
    pids
}

/// Whether a process exists and is more than a zombie.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// The network namespaces that somebody lives in.
fn inhabited() -> Vec<std::path::PathBuf> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes.filter_map(|process| fs::read_link(process.path().join("ns/net")).ok()).collect()
}

/// Kills one of wharf, init and command (by number) while streams run both ways and a UDP mapping lives.
fn kill_while_busy(device: &str, victim: usize) -> Option<i32> {
    let mut lab = Lab::new();
    lab.serve_everything();
    let script = "curl -sS -o /dev/null http://198.51.100.1/100000000000 &
                  cat /dev/zero | socat -u - TCP4:198.51.100.1:9 &
                  echo hello | socat -t 100 - UDP4:198.51.100.1:7 &
                  (trap '' TERM HUP INT; exec sleep 1000) &
                  echo up; wait";
    let mut running = Running::start(&mut lab.inside_command(&["--device", device], script));
    let mut first = [running.line(), running.line()];
    first.sort();
    assert_eq!(first, ["hello", "up"]);
    let sockets =
        || lab.on_host("ss -Htun state established | wc -l").text().trim().parse::<usize>().unwrap();
    eventually("two streams and a mapping are open", || sockets() >= 2);
    let wharf = running.child.id();
    let family = family(wharf);
    let namespace = fs::read_link(format!("/proc/{}/ns/net", family[2])).unwrap();
    assert!(inhabited().contains(&namespace));
    assert!(Command::new("kill").args([KILL, &family[victim].to_string()]).status().unwrap().success());
    let status = running.child.wait().unwrap();
    eventually("every process is gone", || !family.iter().any(|&pid| is_alive(pid)));
    eventually("the namespace is empty", || !inhabited().contains(&namespace));
    eventually("the sockets are closed", || sockets() == 0);
    status.code()
}

#[test]
fn wharf_killed_in_the_middle_of_transfers_leaves_nothing() {
    assert_eq!(kill_while_busy("tap", 0), None);
    assert_eq!(kill_while_busy("veth", 0), None);
}

#[test]
fn init_killed_in_the_middle_of_transfers_leaves_nothing() {
    assert_eq!(kill_while_busy("tap", 1), Some(125));
}

#[test]
fn the_command_killed_in_the_middle_of_transfers_leaves_nothing() {
    assert_eq!(kill_while_busy("tap", 2), Some(137));
    assert_eq!(kill_while_busy("veth", 2), Some(137));
}

#[test]
fn the_network_goes_on_when_a_process_of_the_sandbox_is_killed() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let script = "curl -sS -o /dev/null http://198.51.100.1/100000000000 & sleep 0.5; kill -9 $!
                  curl -sS http://198.51.100.1/1000000 | wc -c";
    assert_eq!(lab.inside(&[], script).text(), "1000000\n");
}

#[test]
fn a_veth_pair_moves_streams_unchanged() {
    move_both_ways(&["--device", "veth"], "http://198.51.100.1", 100_000_000);
    move_both_ways(&["--device", "veth", "--mtu", "1500"], "http://[2001:db8:2::1]", 100_000_000);
}

/// Echo, datagrams with and without fragments, names, paths, refusals. A first request may only tell a kernel that the
/// path is narrower than its link.
const BASICS: &str = r#"ping -n -c1 -W5 198.51.100.1 | grep -o "1 received"
    ping -n -c2 -i0.2 -W5 -s 20000 2001:db8:2::1 | grep -o -m1 "20008 bytes"
    traceroute -n -q1 -w5 -U 198.51.100.1 | tail -n +2 | wc -l
    curl -s http://198.51.100.1:4444; echo status $?
    curl -sS http://198.51.100.1/5 | wc -c
    dig +short www.example; dig +short +tcp www.example
    python3 -c '
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
IP_MTU_DISCOVER, IP_PMTUDISC_DONT = 10, 0
s.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
for size in [0, 1472, 1473, 65000]:
    data = bytes(i * 7 & 255 for i in range(size))
    s.sendto(data, ("198.51.100.1", 7))
    assert s.recv(65535) == data, size
print("unchanged")'"#;

fn basics_work(changes: &str, options: &[&str]) {
    let mut lab = Lab::new();
    lab.serve_everything();
    lab.serve_names_at("203.0.113.2", "--host-record=www.example,192.0.2.1");
    let result = lab.inside_after(changes, options, BASICS);
    let expected = "1 received\n20008 bytes\n2\nstatus 7\n5\n192.0.2.1\n192.0.2.1\nunchanged\n";
    assert_eq!(result.text(), expected, "{result:?}");
}

#[test]
fn a_veth_pair_carries_everything_that_a_tap_does() {
    for options in [&["--device", "tap"][..], &["--device", "veth"], &["--device", "veth", "--mtu", "1500"]] {
        basics_work(":", options);
    }
}

#[test]
fn without_dev_net_tun_everything_works_just_the_same() {
    basics_work("mount -t tmpfs none /dev/net", &[]);
}
