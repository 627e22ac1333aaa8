// SPDX-License-Identifier: MIT OR Apache-2.0
//! Containers that come and go, many of them, and some that end without a word.

use std::collections::BTreeSet;
use std::fs;
use std::time::Instant;

use super::flow::StandingFlow;
use super::published::serve;
use super::reach::{NamedNamespace, fixed_network};
use super::{Container, Daemon};
use crate::lab::{Lab, Running, eventually};

#[test]
fn a_container_that_ends_is_detached_and_its_name_is_free() {
    let daemon = Daemon::up(Lab::new(), &fixed_network(1));
    let other = daemon.attached("--name other");
    for _ in 0..3 {
        let web = daemon.attached_again("--name web -p 203.0.113.1:8080:80");
        let _server = serve(&web);
        assert_eq!(daemon.lab.on_server("curl -sS -m 20 http://203.0.113.1:8080/5 | wc -c").text(), "5\n");
        assert!(other.says("ping -n -c1 -W9 10.0.2.11").contains("1 received"));
    }
}

#[test]
fn a_named_namespace_that_is_deleted_is_detached() {
    let daemon = Daemon::up(Lab::new(), &fixed_network(1));
    let attach =
        |name: &str| daemon.lab.on_host(&format!("$WHARF attach {name} {} --name web", daemon.sockets()));
    let first = NamedNamespace::new(&daemon, "first");
    attach(&first.0).text();
    assert_eq!(attach(&first.0).status, Some(4), "the name is taken");
    drop(first);
    let second = NamedNamespace::new(&daemon, "second");
    eventually("the name is free again", || attach(&second.0).status == Some(0));
    assert!(second.says(&daemon, "ping -n -c1 -W9 10.0.2.2").contains("1 received"));
}

/// Has a flow and a load stand between two containers while others come and go.
fn come_and_go(workers: usize, times: u32) {
    let daemon = Daemon::up(Lab::new(), &fixed_network(workers));
    let (web, other) = (daemon.attached("--name web"), daemon.attached("--name other"));
    let _server = serve(&web);
    let _load = other.serve("iperf3 -s", 5201);
    let load = Running::start(&mut web.command("exec iperf3 -c 10.0.2.11 -t 1000 -b 1G >/dev/null 2>&1"));
    let flow = StandingFlow::start(&other, "10.0.2.10 8");
    let script = format!(
        "for i in $(seq {times}); do
             unshare -Urn sleep 1000 & pid=$!
             until [ \"$(readlink /proc/$pid/ns/net)\" != \"$(readlink /proc/self/ns/net)\" ]; do :; done
             $WHARF attach $pid {} >/dev/null || exit 1
             kill -9 $pid
         done",
        daemon.sockets()
    );
    let start = Instant::now();
    daemon.lab.by_user(&script).text();
    println!("{workers} workers: {times} containers attached and gone in {:?}", start.elapsed());
    flow.end();
    drop(load);
    assert!(web.says("ping -n -c1 -W9 10.0.2.11").contains("1 received"));
}

#[test]
fn containers_come_and_go_while_a_flow_stands() {
    come_and_go(1, 150);
}

#[test]
fn containers_come_and_go_on_two_workers_while_a_flow_stands() {
    come_and_go(2, 150);
}

#[test]
fn containers_that_come_all_at_once_get_names_and_addresses_of_their_own() {
    const MANY: usize = 40;
    let daemon = Daemon::up(Lab::new(), &fixed_network(2));
    let containers: Vec<_> = (0..MANY).map(|_| Container::new(&daemon.lab)).collect();
    let pids: Vec<_> = containers.iter().map(|container| container.pid().to_string()).collect();
    let script = format!(
        "for pid in {}; do $WHARF attach $pid {} >/dev/null & done; wait",
        pids.join(" "),
        daemon.sockets()
    );
    daemon.lab.by_user(&script).text();
    let ports: serde_json::Value = serde_json::from_str(daemon.command("ls --json").text()).unwrap();
    let ports = ports.as_array().unwrap();
    assert_eq!(ports.len(), MANY);
    for what in ["name", "mac", "ipv4", "ipv6"] {
        let all: BTreeSet<_> = ports.iter().map(|port| port[what].as_str().unwrap()).collect();
        assert_eq!(all.len(), MANY, "{what}: {all:?}");
    }
    for container in &containers {
        assert!(container.says("ping -n -c1 -W9 10.0.2.2").contains("1 received"));
    }
}

#[test]
fn a_client_that_is_killed_halfway_leaves_nothing() {
    let daemon = Daemon::up(Lab::new(), &fixed_network(1));
    let web = Container::new(&daemon.lab);
    let attach = format!("$WHARF attach {} {} --name web", web.pid(), daemon.sockets());
    let script =
        format!("for ms in $(seq -w 1 40); do timeout -s KILL 0.0$ms {attach} >/dev/null; done 2>/dev/null");
    daemon.lab.by_user(&script);
    // One may have come to its end.
    daemon.command("detach web");
    eventually("the name is free", || daemon.attach(web.pid(), "--name web").status == Some(0));
    assert_eq!(web.says("ip -o link | grep -c eth0; ip -o link | wc -l"), "1\n2");
    assert!(web.says("ping -n -c1 -W9 10.0.2.2").contains("1 received"));
}

#[test]
fn two_hundred_containers_live_side_by_side_and_cost_little() {
    const MANY: usize = 200;
    let networks = "[networks.default]\nipv4 = \"10.8.0.0/16\"\n";
    let daemon = Daemon::up(Lab::new(), networks);
    let first = daemon.attached("--name first");
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
    };
    let before = resident();
    let start = Instant::now();
    let containers: Vec<_> = (0..MANY).map(|_| daemon.attached("")).collect();
    println!(
        "{MANY} containers attached in {:?}; {} KiB a port",
        start.elapsed(),
        (resident() - before) / MANY
    );
    assert!((resident() - before) / MANY < 64, "KiB a port");
    let last = containers.last().unwrap();
    assert!(last.says("ping -n -c1 -W9 10.8.0.10").contains("1 received"));
    assert_eq!(first.says("dig +short +tries=1 @10.8.0.3 c200.default.internal"), "10.8.0.210");
}
