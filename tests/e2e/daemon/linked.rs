// SPDX-License-Identifier: MIT OR Apache-2.0
//! Linked networks: routed to each other by the kernel's own measure, and to nobody else.

use std::process::Command;

use serde_json::Value;

use super::flow::StandingFlow;
use super::{Container, Daemon};
use crate::lab::{Lab, Running, eventually, script};

const FRONT: &str = "[networks.front]\nipv4 = \"10.0.2.0/24\"\nipv6 = \"2001:db8:5::/64\"\n";
const BACK: &str = "[networks.back]\nipv4 = \"10.0.3.0/24\"\nipv6 = \"2001:db8:6::/64\"\nmtu = 1500\n";
const OTHER: &str = "[networks.other]\nipv4 = \"10.0.4.0/24\"\nipv6 = \"2001:db8:7::/64\"\n";
const LINK: &str = "links = [\"front\"]\n";

/// Three networks, of which `front` and `back` are linked, the second with these more lines.
fn linked(more: &str) -> String {
    format!("{FRONT}{more}{BACK}{more}{LINK}{OTHER}")
}

/// The server of the tests in a container, which serves over UDP at this address.
fn serve(container: &Container, address: &str) -> Running {
    container.serve(&format!("python3 {} {address}", script("server.py")), 80)
}

fn pings(from: &Container, to: &str) -> bool {
    from.exec(&format!("ping -n -c1 -W2 {to}")).status == Some(0)
}

/// What a network counts.
fn frames(daemon: &Daemon, network: &str) -> Value {
    let stats = daemon.command(&format!("stats --network {network} --json"));
    serde_json::from_str::<Value>(stats.text()).unwrap()[0]["frames"].clone()
}

fn balances(frames: &Value) -> bool {
    let sum = |names: &[&str]| names.iter().map(|name| frames[name].as_u64().unwrap()).sum::<u64>();
    sum(&["received", "routed_in", "replicated", "originated"])
        == sum(&["sent", "routed_out", "absorbed", "dropped", "queued"])
}

#[test]
fn linked_networks_reach_each_other_with_their_own_addresses_and_nobody_else_does() {
    let daemon = Daemon::up(Lab::new(), &linked(""));
    let web = daemon.attached("--network front --name web");
    let db = daemon.attached("--network back --name db");
    let other = daemon.attached("--network other --name other");
    let _servers = [serve(&web, "10.0.2.10"), serve(&db, "10.0.3.10")];
    for (from, to, seen) in [
        (&web, "10.0.3.10", "::ffff:10.0.2.10"),
        (&web, "[2001:db8:6::10]", "2001:db8:5::10"),
        (&db, "10.0.2.10", "::ffff:10.0.3.10"),
        (&db, "[2001:db8:5::10]", "2001:db8:6::10"),
    ] {
        assert_eq!(from.says(&format!("curl -gsS -m 20 http://{to}/ip")), seen);
    }
    for (from, to) in
        [(&web, "10.0.3.10"), (&web, "2001:db8:6::10"), (&db, "10.0.2.10"), (&db, "2001:db8:5::10")]
    {
        assert!(from.says(&format!("ping -n -c3 -i0.2 -W9 {to}")).contains("3 received"), "{to}");
    }
    // What arrives at the third network is seen there.
    let filter = "tcp or icmp or (icmp6 and ip6[40] == 128)";
    let watch = format!("exec nsenter -t {} -n tcpdump -lni eth0 -c1 '{filter}' 2>&1", other.pid());
    let mut watcher = Running::start(Command::new("sh").args(["-c", &watch]));
    while !watcher.line().contains("listening on") {}
    for to in ["10.0.4.10", "2001:db8:7::10"] {
        assert!(!pings(&web, to) && !pings(&db, to), "{to}");
    }
    for to in ["10.0.2.10", "10.0.3.10", "2001:db8:5::10", "2001:db8:6::10"] {
        assert!(!pings(&other, to), "{to}");
    }
    let first = watcher.line();
    assert!(first.contains("10.0.4.10 > 10.0.2.10"), "before its own question came {first}");
}

#[test]
fn a_router_is_what_traceroute_sees() {
    let daemon = Daemon::up(Lab::new(), &linked(""));
    let web = daemon.attached("--network front --name web");
    let db = daemon.attached("--network back --name db");
    for (from, options, hops) in [
        (&web, "10.0.3.10", ["10.0.2.2", "10.0.3.10"]),
        (&web, "-I 10.0.3.10", ["10.0.2.2", "10.0.3.10"]),
        (&web, "-T -p 9 10.0.3.10", ["10.0.2.2", "10.0.3.10"]),
        (&web, "-6 2001:db8:6::10", ["2001:db8:5::2", "2001:db8:6::10"]),
        (&db, "10.0.2.10", ["10.0.3.2", "10.0.2.10"]),
    ] {
        let trace = from.says(&format!("traceroute -n -q1 -w9 -m5 {options} | awk 'NR > 1 {{print $2}}'"));
        assert_eq!(trace.lines().collect::<Vec<_>>(), hops, "{options}");
    }
    let nobody = web.exec("ping -n -c1 -W9 10.0.3.99");
    assert!(nobody.stdout.contains("From 10.0.3.2 icmp_seq=1 Destination Host Unreachable"), "{nobody:?}");
}

#[test]
fn containers_of_linked_networks_find_each_other_by_name() {
    let daemon = Daemon::up(Lab::new(), &linked(""));
    let web = daemon.attached("--network front --name web");
    let db = daemon.attached("--network back --name db --alias sql");
    let other = daemon.attached("--network other --name other");
    let _servers = [serve(&web, "10.0.2.10"), serve(&db, "10.0.3.10")];
    for (network, to, seen) in
        [("front", "sql.back.internal", "2.11"), ("back", "web.front.internal", "3.11")]
    {
        let fetch = format!("curl -4 -sS -m 20 http://{to}/ip; echo");
        let mut run = Running::start(&mut daemon.run(&format!("--network {network}"), &fetch));
        assert_eq!(run.line(), format!("::ffff:10.0.{seen}"));
        run.succeed();
    }
    let asked = |from: &Container, question: &str| from.says(&format!("dig +short +tries=1 {question}"));
    assert_eq!(asked(&web, "@10.0.2.3 db.back.internal AAAA"), "2001:db8:6::10");
    assert_eq!(asked(&web, "@10.0.2.3 -x 10.0.3.10"), "db.back.internal.");
    assert_eq!(asked(&db, "@10.0.3.3 -x 2001:db8:5::10"), "web.front.internal.");
    assert_eq!(asked(&other, "@10.0.4.3 web.front.internal"), "");
    assert_eq!(asked(&web, "@10.0.2.3 other.other.internal"), "");
    drop(db);
    eventually("the name of who is gone is gone", || asked(&web, "@10.0.2.3 db.back.internal").is_empty());
}

/// Sends datagrams of 8 KB to an echo server, and prints how many came back whole.
const LARGE_DATAGRAMS: &str = r#"
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.settimeout(5)
answered = 0
for number in range(50):
    data = bytes([number]) * 8192
    s.sendto(data, (sys.argv[1], 7))
    try:
        answered += s.recv(65535) == data
    except OSError:
        pass
print(answered)
"#;

#[test]
fn links_of_different_mtu_carry_streams_and_large_datagrams_both_ways_on_two_workers() {
    let daemon = Daemon::up(Lab::new(), &linked("workers = 2\n"));
    let web = daemon.attached("--network front --name web");
    let db = daemon.attached("--network back --name db");
    let addresses = "10.0.2.10 2001:db8:5::10 10.0.3.10 2001:db8:6::10";
    let _servers = [&web, &db].map(|container| {
        // Each is asked at its own addresses only.
        container.exec("sysctl -w net.ipv4.ip_nonlocal_bind=1 net.ipv6.ip_nonlocal_bind=1").text();
        container.serve(&format!("python3 {} {addresses}", script("server.py")), 80)
    });
    let size = 30_000_000;
    for (from, to) in
        [(&web, "10.0.3.10"), (&web, "[2001:db8:6::10]"), (&db, "10.0.2.10"), (&db, "[2001:db8:5::10]")]
    {
        let fetch = |from: &Container, to: &str| {
            from.says(&format!("curl -gsS -m 60 http://{to}/{size} | sha256sum"))
        };
        assert_eq!(fetch(from, to), fetch(from, "127.0.0.1"), "{to}");
        let to = to.trim_matches(['[', ']']);
        let answered: u32 = from.says(&format!("python3 -c '{LARGE_DATAGRAMS}' {to}")).parse().unwrap();
        // The first of them may be lost to what it teaches: the MTU.
        assert!(answered >= 48, "{answered} of 50 from {to}");
    }
    let ping = |options: &str| web.exec(&format!("ping -n -c1 -W9 {options}"));
    assert!(ping("-M dont -s 8000 10.0.3.10").text().contains("1 received"));
    let _iperf = db.serve("iperf3 -s -p 5201", 5201);
    for options in ["", "-R", "-6", "-6 -R", "-u -b 200M -l 8192", "-u -b 200M -l 8192 -R", "-P 4"] {
        let to = if options.contains("-6") { "2001:db8:6::10" } else { "10.0.3.10" };
        let said = web.exec(&format!("iperf3 -c {to} -p 5201 -t 2 {options} --json"));
        let report: Value = serde_json::from_str(said.text()).unwrap();
        let received =
            report["end"]["sum_received"]["bytes"].as_u64().or(report["end"]["sum"]["bytes"].as_u64());
        assert!(received.unwrap() > 1_000_000, "{options}: {report}");
    }
    for network in ["front", "back"] {
        eventually("the books balance", || balances(&frames(&daemon, network)));
        let frames = frames(&daemon, network);
        assert!(
            frames["routed_in"].as_u64().unwrap() > 1000 && frames["routed_out"].as_u64().unwrap() > 1000
        );
    }
}

#[test]
fn who_may_not_be_cut_is_told_the_mtu_of_the_other_link() {
    let daemon = Daemon::up(Lab::new(), &linked(""));
    let web = daemon.attached("--network front --name web");
    let _db = daemon.attached("--network back --name db");
    let v4 = web.exec("ping -n -c1 -W9 -M do -s 8000 10.0.3.10");
    assert!(v4.stdout.contains("From 10.0.2.2 icmp_seq=1 Frag needed and DF set (mtu = 1500)"), "{v4:?}");
    let v6 = web.exec("ping -n -c1 -W9 -M do -s 8000 2001:db8:6::10");
    assert!(v6.stdout.contains("From 2001:db8:5::2 icmp_seq=1 Packet too big: mtu=1500"), "{v6:?}");
}

#[test]
fn an_internal_network_reaches_the_linked_one_and_still_not_the_outside() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let daemon = Daemon::up(lab, &format!("{FRONT}{BACK}internal = true\n{LINK}"));
    let web = daemon.attached("--network front --name web");
    let db = daemon.attached("--network back --name db");
    let _servers = [serve(&web, "10.0.2.10"), serve(&db, "10.0.3.10")];
    assert_eq!(web.says("curl -sS -m 20 http://10.0.3.10/ip"), "::ffff:10.0.2.10");
    assert_eq!(db.says("curl -gsS -m 20 http://[2001:db8:5::10]/ip"), "2001:db8:6::10");
    assert!(pings(&web, "198.51.100.1") && !pings(&db, "198.51.100.1"));
    db.exec("ip route add default via 10.0.3.2").text();
    assert!(!pings(&db, "198.51.100.1"), "a route of its own does not help");
}

#[test]
fn who_asks_on_an_internal_network_is_told_of_the_linked_one() {
    // What udhcpc runs; RFC 3442 has it configure the routes.
    const BOUND: &str = r#"#!/bin/sh
        [ "$1" = bound ] || exit 0
        ip addr replace "$ip/24" dev eth0; set -- $staticroutes
        while [ $# -ge 2 ]; do ip route replace "$1" via "$2"; shift 2; done"#;
    let daemon = Daemon::up(Lab::new(), &format!("{FRONT}{BACK}internal = true\n{LINK}"));
    let _web = daemon.attached("--network front --name web");
    let db = daemon.attached("--network back --name db");
    db.says("ip -4 addr flush dev eth0; ip -6 route del 2001:db8:5::/64");
    assert!(!pings(&db, "10.0.2.10") && !pings(&db, "2001:db8:5::10"));
    db.says(&format!(
        "mount -t tmpfs none /mnt; cat >/mnt/bound <<'END'\n{BOUND}\nEND
         chmod +x /mnt/bound; udhcpc -n -q -i eth0 -O staticroutes -s /mnt/bound >/dev/null 2>&1"
    ));
    assert_eq!(db.says("ip -4 route show default"), "");
    assert!(pings(&db, "10.0.2.10"));
    db.says(
        "cd /proc/sys/net/ipv6/conf/eth0; echo 64 >accept_ra_rt_info_max_plen; echo 1 >accept_ra; rdisc6 -1 eth0 >/dev/null",
    );
    eventually("a route by an advertisement", || pings(&db, "2001:db8:5::10"));
    assert_eq!(db.says("ip -6 route show default"), "");
}

#[test]
fn links_come_and_go_with_a_reload_while_flows_go_on() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let apart = format!("{FRONT}{BACK}");
    let daemon = Daemon::up(lab, &apart);
    let web = daemon.attached("--network front --name web");
    let db = daemon.attached("--network back --name db");
    let _server = serve(&db, "10.0.3.10");
    let outside = StandingFlow::start(&web, "198.51.100.1 8");
    let reaches = || pings(&web, "10.0.3.10") && pings(&db, "2001:db8:5::10");
    assert!(!pings(&web, "10.0.3.10") && !pings(&db, "2001:db8:5::10"));
    let said = daemon.reload(&format!("{FRONT}{BACK}{LINK}"));
    assert!(!said.contains("not reloaded"), "{said}");
    assert!(reaches());
    let across = StandingFlow::start(&web, "10.0.3.10 8");
    let listed = daemon.command("networks --json");
    let listed: Value = serde_json::from_str(listed.text()).unwrap();
    assert_eq!((&listed[0]["links"][0], &listed[1]["links"][0]), (&"front".into(), &"back".into()));
    daemon.command("network create more --ipv4 10.0.9.0/24 --ipv6 none --link front").text();
    let more = daemon.attached("--network more --name more");
    assert!(pings(&more, "10.0.2.10") && !pings(&more, "10.0.3.10"), "a link is between two");
    across.end();
    daemon.command("network rm more").text();
    daemon.reload(&apart);
    assert!(!pings(&web, "10.0.3.10") && !pings(&db, "2001:db8:5::10"));
    outside.end();
    for network in ["front", "back"] {
        eventually("the books balance", || balances(&frames(&daemon, network)));
    }
}

#[test]
fn networks_that_overlap_are_not_linked() {
    let twin = FRONT.replace("front", "twin").replace("2001:db8:5", "2001:db8:8");
    let daemon = Daemon::up(Lab::new(), &format!("{FRONT}{twin}"));
    let said = daemon.reload(&format!("{FRONT}{twin}{LINK}"));
    let reason = "networks twin and front cannot be linked: 10.0.2.0/24 and 10.0.2.0/24 overlap";
    assert!(said.contains("not reloaded") && said.contains(reason), "{said}");
    let refused = daemon.command("network create new --ipv4 10.0.0.0/16 --link twin");
    assert_eq!(refused.status, Some(4), "{refused:?}");
    assert!(refused.stderr.contains("networks new and twin cannot be linked"), "{refused:?}");
    assert!(!daemon.command("networks").text().contains("new"));
}

#[test]
fn a_link_waits_for_a_network_that_comes_and_goes_and_the_daemon_starts_without_it() {
    let file = format!("{FRONT}links = [\"back\"]\n");
    let mut daemon = Daemon::up(Lab::new(), &file);
    let waits = "network front is to be linked with back, and there is no network back yet";
    assert!(daemon.log().contains(waits), "{}", daemon.log());
    let create = |daemon: &Daemon, more: &str| {
        daemon.command(&format!("network create {more} --ipv4 10.0.3.0/24 --ipv6 none"))
    };
    create(&daemon, "back").text();
    let web = daemon.attached("--network front --name web");
    let db = daemon.attached("--network back --name db");
    assert!(pings(&web, "10.0.3.10") && pings(&db, "10.0.2.10"));
    let refused = create(&daemon, "aaa --link front");
    assert!(refused.stderr.contains("front cannot be linked with both back and aaa"), "{refused:?}");
    assert!(pings(&web, "10.0.3.10") && pings(&db, "10.0.2.10"));
    drop(db);
    daemon.command("network rm back").text();
    assert!(daemon.command("networks").text().contains("back (waiting)"));
    let said = daemon.command("reload");
    assert!(said.status == Some(0) && said.stderr.contains(waits), "{said:?}");
    drop(web);
    daemon.kill();
    daemon.start();
    create(&daemon, "back").text();
    assert!(!daemon.command("networks").text().contains("waiting"));
}
