// SPDX-License-Identifier: MIT OR Apache-2.0
//! Three containers and a machine on one network, each of which finds and reaches all others.

use std::process::Stdio;

use super::machines::machine;
use super::published::serve;
use super::reach::{fixed_network, with_resolver};
use super::{Container, Daemon};
use crate::lab::{Lab, Running, eventually, script};

const DOMAIN: &str = "default.internal";
/// The machine's addresses, as DHCP and Router Advertisements would set them.
const ADDRESSES: &str = "ip addr add 10.0.2.70/24 dev eth0; ip addr add 2001:db8:5::70/64 dev eth0 nodad";

/// The largest frame that comes to a container, in bytes.
struct Largest(Running);

impl Largest {
    fn watch(container: &Container) -> Self {
        let line = format!("exec python3 {} largest eth0", script("frames.py"));
        let mut capture = Running::start(container.command(&line).stderr(Stdio::inherit()));
        assert_eq!(capture.line(), "ready");
        Self(capture)
    }

    fn until_now(mut self) -> usize {
        self.0.say("end");
        self.0.line().parse().unwrap()
    }
}

/// Segments and datagrams that a container's kernel found to have a wrong checksum.
fn wrong_checksums(container: &Container) -> u64 {
    let sum = "awk '/^(Tcp|Udp|Icmp):/ { if ($1 != last) { n = split($0, names); last = $1 } else { split($0, counts)
        for (i = 2; i <= n; i++) if (names[i] == \"InCsumErrors\") sum += counts[i] } } END { print sum + 0 }' /proc/net/snmp";
    container.says(sum).parse().unwrap()
}

#[test]
fn three_containers_and_a_machine_reach_each_other_by_address_and_name() {
    let daemon = Daemon::up(Lab::new(), &(fixed_network(1) + "mtu = 1500\n"));
    let names = ["one", "two", "three"];
    let containers = names.map(|name| daemon.attached(&format!("--name {name}")));
    let (vm, _card) = machine(&daemon, "vm", "--ip 10.0.2.70 --ip6 2001:db8:5::70");
    vm.says(ADDRESSES);
    let all: Vec<_> = containers.iter().chain([&vm]).zip(names.into_iter().chain(["vm"])).collect();
    let numbers = ["10", "11", "12", "70"];
    for (container, _) in &all {
        with_resolver(container, DOMAIN);
    }
    let _servers: Vec<_> = all.iter().map(|(container, _)| serve_both(container)).collect();
    for (from, client) in &all {
        for ((_, server), number) in all.iter().zip(numbers) {
            let ends = [format!("10.0.2.{number}"), format!("[2001:db8:5::{number}]"), (*server).to_owned()];
            for to in ends {
                let fetched = from.says(&format!("curl -gsS -m 20 http://{to}/1000 | wc -c"));
                assert_eq!(fetched, "1000", "{client} from {to}");
            }
            let by_name = from.says(&format!(
                "curl -sS6 -m 20 http://{server}.{DOMAIN}/1000 | wc -c; ping -n -c1 -W9 {server} | grep -c '1 received'"
            ));
            assert_eq!(by_name, "1000\n1", "{client} from {server}");
        }
    }
}

#[test]
fn super_frames_cross_between_containers_and_become_frames_for_a_machine() {
    const SIZE: usize = 20_000_000;
    // An MTU of 1500 behind an Ethernet header.
    const FULL_FRAME: usize = 1514;
    let daemon = Daemon::up(Lab::new(), &(fixed_network(1) + "mtu = 1500\n"));
    let (one, two) = (daemon.attached("--name one"), daemon.attached("--name two"));
    let (vm, _card) = machine(&daemon, "vm", "--ip 10.0.2.70 --ip6 2001:db8:5::70");
    vm.says(ADDRESSES);
    let _server = serve_both(&one);
    let expected = one.says(&format!("curl -sS http://127.0.0.1/{SIZE} | sha256sum"));
    for from in ["10.0.2.10", "[2001:db8:5::10]"] {
        for (to, is_super) in [(&two, true), (&vm, false)] {
            let frames = Largest::watch(to);
            assert_eq!(to.says(&format!("curl -gsS -m 60 http://{from}/{SIZE} | sha256sum")), expected);
            let largest = frames.until_now();
            assert!(if is_super { largest > 10_000 } else { largest == FULL_FRAME }, "{largest} from {from}");
        }
    }
    for container in [&one, &two, &vm] {
        assert_eq!(wrong_checksums(container), 0);
    }
}

/// The test server, once it listens.
fn serve_both(container: &Container) -> Running {
    let server = serve(container);
    eventually("it answers", || {
        container.exec("curl -sS -m 9 http://127.0.0.1/1 -o /dev/null").status == Some(0)
    });
    server
}
