// SPDX-License-Identifier: MIT OR Apache-2.0
//! Containers that come and go, many of them, and some that end without a word.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::time::Instant;

use super::flow::StandingFlow;
use super::published::serve;
use super::reach::{NamedNamespace, fixed_network};
use super::{Container, Daemon};
use crate::lab::{Lab, Running, eventually, script};

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

/// `ports.py` in a namespace of its own, by the daemon's user.
fn ports(daemon: &Daemon, before: &str, role: &str) -> Running {
    let script = format!(
        "exec unshare -Urn sh -c '{before}; exec python3 {} {}/wharf/attach.sock {role}'",
        script("ports.py"),
        daemon.home.display()
    );
    Running::start(daemon.lab.lasting_user_command(&script).stderr(Stdio::inherit()))
}

/// What a daemon has in memory.
fn resident_kib(daemon: &Daemon) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn descriptors(daemon: &Daemon) -> usize {
    fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count()
}

/// An `iperf3` that sends 100 Mbit/s for 24 seconds.
struct Transfer(Running);

impl Transfer {
    fn start(from: &Container, to: &str) -> Self {
        let line = format!("exec iperf3 -J -c {to} -b 100M -n 300M");
        Self(Running::start(&mut from.command(&line)))
    }

    /// Waits for its end, which is when all has been sent and nobody has broken it off.
    #[track_caller]
    fn end(mut self) {
        let text: String = std::iter::from_fn(|| self.0.next_line()).collect();
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(report["error"], serde_json::Value::Null);
        // What has arrived is counted by the other end when it is told of the end, on another connection.
        let sent = report["end"]["sum_sent"]["bytes"].as_u64();
        assert!(sent >= Some(300 << 20), "{sent:?}");
        self.0.succeed();
    }
}

/// Segments that came to a container before one in front of them, and frames of its own that it lost.
fn gaps(container: &Container) -> (String, serde_json::Value) {
    const OUT_OF_ORDER: &str =
        "awk '/^TcpExt/ && !n { n = split($0, names); next } /^TcpExt/ { split($0, counts) }
        END { for (i in names) if (names[i] == \"TCPOFOQueue\") print counts[i] }' /proc/net/netstat";
    let link: serde_json::Value = serde_json::from_str(&container.says("ip -s -j link show eth0")).unwrap();
    (container.says(OUT_OF_ORDER), link[0]["stats64"]["tx"]["dropped"].clone())
}

/// That the switch and the gateway have lost nothing.
#[track_caller]
fn assert_nothing_exhausted(daemon: &Daemon) {
    let stats: serde_json::Value = serde_json::from_str(daemon.command("stats --json").text()).unwrap();
    let drops = stats[0]["drops"].as_array().unwrap();
    assert!(drops.iter().any(|drop| drop["class"] == "exhausted"));
    let lost = |drop: &&serde_json::Value| drop["class"] == "exhausted" && drop["count"] != 0;
    let lost: Vec<_> = drops.iter().filter(lost).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn two_thousand_ports_come_and_go_and_nothing_that_stands_is_lost() {
    let mut lab = Lab::new();
    lab.serve_everything();
    lab.serve("iperf3 -s", 5201);
    let daemon = Daemon::up(lab, &fixed_network(1));
    let (web, other) = (daemon.attached("--name web"), daemon.attached("--name other"));
    let _servers = (serve(&web), other.serve("iperf3 -s", 5201));
    let flows = ["10.0.2.10 8", "198.51.100.1 8"].map(|to| StandingFlow::start(&other, to));
    // What is made once is made before anything is counted.
    ports(&daemon, ":", "come_and_go 200 100").succeed();
    eventually("those are gone", || daemon.command("ls").text().lines().count() == 3);
    let (resident, open) = (resident_kib(&daemon), descriptors(&daemon));
    let before = [&web, &other].map(gaps);
    let transfers = ["10.0.2.11", "203.0.113.2"].map(|to| Transfer::start(&web, to));
    let mut coming = ports(&daemon, ":", "come_and_go 2000 100");
    println!("{}", coming.line());
    coming.succeed();
    transfers.into_iter().for_each(Transfer::end);
    flows.into_iter().for_each(StandingFlow::end);
    // What was sent twice, the acknowledgement of the first was late for: there is a gap if anything is lost.
    assert_eq!([&web, &other].map(gaps), before);
    assert_nothing_exhausted(&daemon);
    eventually("the ports are gone", || daemon.command("ls").text().lines().count() == 3);
    eventually("and their descriptors", || descriptors(&daemon) <= open);
    let now = resident_kib(&daemon);
    assert!(now < resident + 4096, "{resident} KiB have become {now}");
}

#[test]
fn a_thousand_idle_ports_cost_little() {
    const MANY: usize = 1000;
    let daemon = Daemon::up(Lab::new(), "[networks.default]\nipv4 = \"10.8.0.0/16\"\n");
    let first = daemon.attached("--name first");
    let before = resident_kib(&daemon);
    // Without IPv6 an interface that comes up has nothing to tell the others.
    let silent = "sysctl -qw net.ipv6.conf.default.disable_ipv6=1";
    let mut all = ports(&daemon, silent, &format!("stay {MANY}"));
    assert_eq!(all.line(), "up");
    assert_eq!(daemon.command("ls").text().lines().count(), MANY + 2);
    let each = (resident_kib(&daemon) - before) / MANY;
    println!("{each} KiB a port");
    assert!(each < 64, "{each} KiB a port");
    let last = daemon.attached("--name last");
    assert!(last.says("ping -n -c1 -W9 10.8.0.10").contains("1 received"));
    assert!(first.says("ping -n -c1 -W9 10.8.0.2").contains("1 received"));
    drop(all);
    eventually("all are gone", || daemon.command("ls").text().lines().count() == 3);
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
    let before = resident_kib(&daemon);
    let start = Instant::now();
    let containers: Vec<_> = (0..MANY).map(|_| daemon.attached("")).collect();
    println!(
        "{MANY} containers attached in {:?}; {} KiB a port",
        start.elapsed(),
        (resident_kib(&daemon) - before) / MANY
    );
    assert!((resident_kib(&daemon) - before) / MANY < 64, "KiB a port");
    let last = containers.last().unwrap();
    assert!(last.says("ping -n -c1 -W9 10.8.0.10").contains("1 received"));
    assert_eq!(first.says("dig +short +tries=1 @10.8.0.3 c200.default.internal"), "10.8.0.210");
}
