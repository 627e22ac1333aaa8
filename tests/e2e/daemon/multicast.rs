// SPDX-License-Identifier: MIT OR Apache-2.0
//! Multicast between containers: a group reaches who has joined it, and nobody else, without a querier.

use super::apart::{Capture, send};
use super::reach::fixed_network;
use super::{Container, Daemon};
use crate::lab::{Lab, Running, script};

const GROUPS: [&str; 2] = ["239.1.2.3", "ff15::4:5"];

/// A role of `multicast.py` for [`GROUPS`] on a container's interface.
fn start(container: &Container, role: &str, interface: &str) -> Running {
    let script = script("multicast.py");
    let line = format!("exec /usr/bin/python3 {script} {role} {interface} {}", GROUPS.join(" "));
    Running::start(&mut container.command(&line))
}

/// A listener that has joined.
fn join(container: &Container, interface: &str) -> Running {
    let mut listener = start(container, "listen", interface);
    assert_eq!(listener.line(), "ready");
    listener
}

/// Waits until it has heard both groups.
#[track_caller]
fn hears_both(mut listener: Running) {
    let mut heard = [listener.line(), listener.line()];
    heard.sort();
    assert_eq!(heard, GROUPS);
}

#[test]
fn a_group_reaches_who_has_joined_it_and_nobody_else() {
    let daemon = Daemon::up(Lab::new(), &fixed_network(1));
    let [one, two, three] = ["one", "two", "three"].map(|name| daemon.attached(&format!("--name {name}")));
    let at_three = Capture::start(&three);
    let listener = join(&two, "eth0");
    let sender = start(&one, "send", "eth0");
    hears_both(listener);
    drop(sender);
    send(&one, "broadcast", "end");
    assert_eq!(at_three.tags(), Vec::<String>::new());
}

#[test]
fn who_has_joined_before_its_port_was_attached_is_asked() {
    let daemon = Daemon::up(Lab::new(), &fixed_network(2));
    let (one, early) = (daemon.attached("--name one"), Container::new(&daemon.lab));
    early.says(
        "ip tuntap add dev blue mode tap; ip link set blue up
         ip addr add 10.0.2.66/24 dev blue; ip addr add 2001:db8:5::66/64 dev blue nodad",
    );
    let listener = join(&early, "blue");
    // RFC 3376 section 8.11: a report is repeated within a second, and then no more.
    early.says("sleep 3");
    daemon.attach(early.pid(), "--tap blue --name early --ip 10.0.2.66 --ip6 2001:db8:5::66").text();
    let _sender = start(&one, "send", "eth0");
    hears_both(listener);
}
