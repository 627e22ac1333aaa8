// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is to be apart: isolated ports, VLANs, and networks. Proven by frames that do not arrive where others do.

use super::reach::fixed_network;
use super::{Container, Daemon};
use crate::lab::{Lab, Running, script};

/// A role of `frames.py` on a container's interface.
fn frames(role: &str, rest: &str) -> String {
    format!("/usr/bin/python3 {} {role} eth0 {rest}", script("frames.py"))
}

/// Listens for tagged frames.
pub(super) struct Capture(Running);

impl Capture {
    #[track_caller]
    pub(super) fn start(container: &Container) -> Self {
        let mut running = Running::start(&mut container.command(&format!("exec {}", frames("capture", ""))));
        assert_eq!(running.line(), "ready");
        Self(running)
    }

    /// What came before the frame that ends it.
    #[track_caller]
    pub(super) fn tags(mut self) -> Vec<String> {
        std::iter::from_fn(|| self.0.next_line()).filter(|line| !line.is_empty()).collect()
    }
}

/// Has a container send a broadcast, without a VLAN tag or with each of some.
fn broadcast(container: &Container, tag: &str, vlans: &str) {
    container.exec(&frames("broadcast", &format!("{tag} {vlans}"))).text();
}

/// Sends frames by a role of `frames.py`.
pub(super) fn send(container: &Container, role: &str, rest: &str) {
    container.exec(&frames(role, rest)).text();
}

#[test]
fn isolated_containers_reach_the_gateway_and_others_but_not_each_other() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let networks = fixed_network(1)
        + "isolated = true
           containers.open.isolated = false\n";
    let daemon = Daemon::up(lab, &networks);
    let (a, b) = (daemon.attached("--name a"), daemon.attached("--name b"));
    let open = daemon.attached("--name open");
    assert_eq!(a.says("curl -sS -m 20 http://198.51.100.1/7 | wc -c"), "7");
    assert!(
        a.says("ping -n -c1 -W9 10.0.2.10").contains("1 received"),
        "open is number 10, being in the file"
    );
    let (at_b, at_open) = (Capture::start(&b), Capture::start(&open));
    broadcast(&a, "hello", "");
    broadcast(&a, "end", "");
    // Once this has it all, the switch has looked at it all.
    assert_eq!(at_open.tags(), ["- hello"]);
    broadcast(&open, "end", "");
    assert_eq!(at_b.tags(), Vec::<String>::new());
    for (from, to) in [(&a, "10.0.2.12"), (&b, "2001:db8:5::11")] {
        assert_ne!(from.exec(&format!("ping -n -c1 -W1 {to}")).status, Some(0), "{to}");
    }
}

#[test]
fn frames_stay_in_their_vlan_and_a_trunk_has_them_with_tags() {
    let daemon = Daemon::up(Lab::new(), &(fixed_network(1) + "containers.five.vlan = 5\n"));
    let five = daemon.attached("--name five");
    let also_five = daemon.attached("--name also-five --vlan 5");
    let none = daemon.attached("--name none");
    let trunk = daemon.attached("--name trunk --trunk 5 --trunk 6");
    // None of the gateway's: its network has no tag.
    assert_ne!(five.exec("ping -n -c1 -W1 10.0.2.2").status, Some(0));
    assert!(five.says("ping -n -c1 -W9 10.0.2.11").contains("1 received"), "the other of the VLAN");
    assert!(none.says("ping -n -c1 -W9 10.0.2.2").contains("1 received"));

    let (at_also_five, at_none) = (Capture::start(&also_five), Capture::start(&none));
    let at_trunk = Capture::start(&trunk);
    broadcast(&five, "from-five", "");
    broadcast(&five, "end", "");
    assert_eq!(at_also_five.tags(), ["- from-five"]);
    assert_eq!(at_trunk.tags(), ["5 from-five"]);

    let (at_also_five, at_five) = (Capture::start(&also_five), Capture::start(&five));
    broadcast(&trunk, "from-trunk", "5 6 7");
    broadcast(&trunk, "untagged", "");
    broadcast(&trunk, "end", "5");
    assert_eq!(at_also_five.tags(), ["- from-trunk"]);
    assert_eq!(at_five.tags(), ["- from-trunk"]);
    broadcast(&trunk, "end", "");
    assert_eq!(at_none.tags(), ["- untagged"]);
}

#[test]
fn an_access_port_may_not_choose_its_vlan() {
    let daemon = Daemon::up(Lab::new(), &fixed_network(1));
    let (none, other) = (daemon.attached("--name none"), daemon.attached("--name other"));
    let five = daemon.attached("--name five --vlan 5");
    let (at_other, at_five) = (Capture::start(&other), Capture::start(&five));
    broadcast(&none, "hopped", "5 4094");
    broadcast(&none, "plain", "");
    broadcast(&none, "end", "");
    assert_eq!(at_other.tags(), ["- plain"]);
    let also_five = daemon.attached("--name also-five --vlan 5");
    broadcast(&also_five, "end", "");
    assert_eq!(at_five.tags(), Vec::<String>::new());
}

#[test]
fn networks_with_the_same_prefix_do_not_see_each_other() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let red = fixed_network(1);
    let blue = red.replace("networks.default", "networks.blue");
    let daemon = Daemon::up(lab, &(red + &blue));
    let red = [daemon.attached("--network default --name a"), daemon.attached("--network default --name b")];
    let blue = [daemon.attached("--network blue --name a"), daemon.attached("--network blue --name b")];
    for (color, [_, b]) in [("red", &red), ("blue", &blue)] {
        b.exec(&format!("mount -t tmpfs none /mnt; echo {color} > /mnt/color")).text();
    }
    let servers: Vec<_> = [&red[1], &blue[1]]
        .map(|b| b.serve("socat TCP4-LISTEN:80,reuseaddr,fork OPEN:/mnt/color,rdonly", 80))
        .into();
    for (color, [a, _]) in [("red", &red), ("blue", &blue)] {
        assert_eq!(a.says("socat -t 9 -u TCP4:10.0.2.11:80,connect-timeout=9 -"), color);
        assert_eq!(a.says("curl -sS -m 20 http://198.51.100.1/7 | wc -c"), "7");
        assert_eq!(a.says("dig +short +tries=1 @10.0.2.3 b.default.internal").is_empty(), color == "blue");
    }
    let at_blue = Capture::start(&blue[1]);
    broadcast(&red[0], "red", "");
    assert!(
        red[0].says("ping -n -c1 -W9 10.0.2.2").contains("1 received"),
        "what is before it was looked at"
    );
    broadcast(&blue[0], "end", "");
    assert_eq!(at_blue.tags(), Vec::<String>::new());
    drop(servers);
}

#[test]
fn an_internal_network_has_no_outside() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let daemon = Daemon::up(lab, &(fixed_network(1) + "internal = true\n"));
    let (a, _b) = (daemon.attached("--name a"), daemon.attached("--name b"));
    assert!(a.says("ping -n -c1 -W9 10.0.2.11").contains("1 received"));
    assert_eq!(a.says("dig +short +tries=1 @10.0.2.3 b.default.internal"), "10.0.2.11");
    assert_eq!(a.says("ip route show default; ip -6 route show default"), "");
    let route = "ip route add default via 10.0.2.2; ip -6 route add default via fe80::2 dev eth0";
    a.exec(route).text();
    for to in ["198.51.100.1", "203.0.113.1", "[2001:db8:2::1]"] {
        assert_ne!(a.exec(&format!("curl -gsS -m 3 http://{to}/")).status, Some(0), "{to}");
    }
}
